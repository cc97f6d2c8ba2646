"""`pure restore`: check everything first, work and say what is being done, then write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pure_jax.errors import PureError
from pure_jax.infer.options import Draft, Way, said

if TYPE_CHECKING:
    from pure_jax.infer.contract import Progress
    from pure_jax.infer.pictures.reading import Frames
    from pure_jax.infer.pictures.sizing import Size
    from pure_jax.infer.restore import Restoration
    from pure_jax.progress import Reporter

SOME_FAILED = 1
"""Exit status where pictures of a folder could not be restored, and the others are."""
_NOT_IN_PIXELS = {
    *("paths", "entropy_map", "side_by_side", "report", "format", "shard", "allow_inside"),
    *("model", "captions", "batch", "device", "overwrite", "quiet", "json"),
}
"""Options of `pure restore` that do not decide what a result looks like, or are written down otherwise."""
_NOT_SHOWN = {"paths", "entropy_map", "side_by_side", "report", "overwrite", "quiet", "json"}
"""Options that a report does not name, as they do not decide what a result looks like."""


@dataclass(frozen=True)
class Restore:
    """Restore a low-quality photo, or all photos of folders."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IN [IN ...] [OUT]")] = ()
    """A photo from 16x16 pixels up: PNG, JPEG, WebP, AVIF, BMP, TIFF, GIF, PPM, and HEIC with the extra photos. Then
    the result's name, which ends in .png, .jpg, .webp, .avif or .tif; by default IN-restored.png beside the input.
    "-" stands for standard input and output. Or folders, photos and 'patterns*', and last the folder for results."""
    model: Path | None = None
    """Model directory, hub id, or demo-nsarm, which ships with this package like the default, demo."""
    scale: float | None = None
    """The result's side over the input's, 1 to 16, by default 4."""
    width: int | None = None
    """Instead of a scale: the result's width in pixels; with --height the box that it is to fit into."""
    height: int | None = None
    """Instead of a scale: the result's height in pixels."""
    long_side: int | None = None
    """Instead of a scale: the longer of both."""
    megapixels: float | None = None
    """Instead of a scale: million pixels of the result."""
    seed: int = 0
    """The same seed gives the same picture; every picture of a folder has it."""
    temperature: float | None = None
    """0 is greedy; by default the model's."""
    guidance_scale: float | None = None
    """1 switches guidance off; by default the model's."""
    k_max: float | None = None
    """Upper end of the entropy-based top-k; by default the model's."""
    fidelity: float | None = None
    """0 (detail) to 1 (fidelity), 0.5 being the model's own: k_max, temperature and entropy centre by one curve; what
    is given beside it counts more."""
    candidates: int = 1
    """Restore with so many seeds, from --seed on, and keep what agrees best with the photo; at most 64."""
    strength: float = 1.0
    """Share of the result, 0 to 1; the rest is the photo, enlarged by bicubic interpolation."""
    unchecked: bool = False
    """Keep tiles too that show something else than the photo; else they are drawn again, or left to interpolation."""
    text: str = ""
    """Words the model's answer must begin with, such as "Large blur, small noise."; what an NSARM model is told of the
    photo, instead of its own prompt."""
    guidance: Literal["full", "perception", "understanding", "none"] | None = None
    """What the model writes before the picture: how degraded the photo is and what it shows (full, the default), one
    of both, or nothing."""
    blur: Literal["small", "medium", "large"] | None = None
    """How blurred the photo is, instead of the model's reading."""
    noise: Literal["small", "medium", "large"] | None = None
    """How noisy the photo is, instead of the model's reading."""
    description: str = ""
    """What the photo shows, instead of the model's words; with --text not at all."""
    one_description: bool = False
    """Tell all tiles what the model says of most of them, instead of each its own."""
    ask: bool = False
    """Show how degraded the model takes the photo to be and what it takes it to show, and ask for corrections, before
    it draws. Of a single photo."""
    captions: Path | None = None
    """File with one JSON object a line, of image_path and long_caption: the photo's own is its --text."""
    faithful: bool = False
    """Decode as the original does: unmasked text, picture size drawn by the model, one token a step."""
    decode: Way | None = None
    """How codes are decoded: one a pass; in windows, with the same codes (jacobi) or codes of the same distribution
    (coupled); lossy, in windows that keep what is likely (relaxed) or with several rows side by side (staggered); or as
    the original's speculative sampler does (sjd_compat). By default plain or jacobi, whichever is faster."""
    fast: bool = False
    """Decode in the fastest lossy way, which is staggered."""
    window: int | None = None
    """Tokens of a window, 2 to 256, by default 16; or codes that a row is ahead (staggered), by default a quarter."""
    draft: Draft | None = None
    """First guess of a code: any, that of the input in the same place, of the row above (the default), the one
    before, or a neighbour's where the input has the same code in both places."""
    colour_fix: Literal["none", "wavelet", "adain", "adain+wavelet", "lab"] | None = None
    """Take colours from the input; by default the model's choice."""
    alpha: Literal["bicubic", "model"] = "bicubic"
    """How transparency is enlarged: by bicubic interpolation, or restored by the model like the colours."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share; by default the model's."""
    batch: int | None = None
    """Tiles decoded together; by default as many as keep the caches within 1 GiB, at most 64."""
    memory: str | None = None
    """What weights, caches and programs of the transformer may take, such as 8GB; it decides the batch, and where not
    even one tile would fit, and neither --weights nor --cache is given, it makes them int8."""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """What computes; by default JAX's choice."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The transformer computes in it; auto is float32 on CPU and bfloat16 elsewhere."""
    weights: Literal["float", "int8"] | None = None
    """int8 rounds the transformer's kernels while they are read, to a quarter of float32's size."""
    cache: Literal["float", "int8"] | None = None
    """int8 rounds keys and values, which is less to be read at each step."""
    frames: Literal["first", "all"] = "first"
    """Of animations and documents, restore the first frame or all, into one file."""
    keep_gps: bool = False
    """Carry over where the photo was taken, too; what else EXIF and XMP say is carried over anyway."""
    quality: int | None = None
    """Of JPEG and WebP, by default 95, or AVIF, by default 90: 1 to 100."""
    format: Literal["png", "jpg", "webp", "avif", "tif"] | None = None
    """Of results whose name is not given: in a folder, or on standard output; by default png."""
    shard: str | None = None
    """Restore the i-th of n parts of a folder, such as 1/4; each process or machine another one. "cluster" takes both
    numbers from SLURM, Open MPI or a TPU slice."""
    allow_inside: bool = False
    """Let the folder for the results be an input folder, or lie in one."""
    entropy_map: Path | None = None
    """Write the entropy of every code as a heat map to this PNG file; of a single photo."""
    side_by_side: Path | None = None
    """Write the input, enlarged by bicubic interpolation, and the result beside it to this picture file."""
    report: Path | None = None
    """Write a page that shows both under a slider, with a loupe, the entropy map and all that is told, to this HTML
    file, which needs no other one."""
    overwrite: bool = False
    """Replace outputs that exist already; never the input. What a folder holds already of the same input, settings and
    model is left as it is."""
    quiet: bool = False
    """Print nothing but errors, and the object of --json."""
    json: bool = False
    """Print one JSON object on stdout instead: input, output, entropy_map (null without), width, height, scale, seed,
    degradation ({"blur", "noise"} or null) and description as the model says, remarks (a list). Of a folder: output,
    report (its file), restored, skipped, ignored (numbers), failed (sentences by picture)."""

    @property
    def interrupted(self) -> str | None:
        from pure_jax.infer.arguments import arrange

        arranged = arrange(self.paths)
        if not arranged.is_folder:
            return None
        return f"{arranged.output} holds what was restored until then; the same command goes on from there"

    def run(self) -> None:
        from pure_jax.infer.arguments import arrange
        from pure_jax.infer.contract import check_seed, check_strength
        from pure_jax.infer.control.candidates import check_candidates
        from pure_jax.infer.control.device import use_device
        from pure_jax.infer.pictures.reading import silence_decoders

        silence_decoders()
        if self.device is not None:
            use_device(self.device)
        check_seed(self.seed)
        check_strength(self.strength)
        check_candidates(self.candidates, self.seed)
        if self.captions is not None and self.text:
            raise PureError("the photo has one text; give --text or --captions, not both")
        arranged = arrange(self.paths)
        if arranged.is_folder:
            self._restore_folder(arranged.inputs, Path(str(arranged.output)))
        else:
            self._restore_photo(arranged.inputs[0], arranged.output)

    def _restore_photo(self, source: str, named: str | None) -> None:
        from pure_jax.files import refuse_existing, replacing
        from pure_jax.infer.arguments import STREAM
        from pure_jax.infer.control.guidance import once
        from pure_jax.infer.facts import facts_of
        from pure_jax.infer.pictures.heatmap import entropy_heatmap
        from pure_jax.infer.pictures.reading import Frames, decode, read_file
        from pure_jax.infer.pictures.writing import (
            check_frames,
            check_output,
            check_place,
            encode,
            lost_by,
            write_image,
        )
        from pure_jax.infer.restore import output_size
        from pure_jax.infer.seeing.outputs import Shown
        from pure_jax.infer.stages import StageClock
        from pure_jax.infer.streams import read_input, require_output, write_output
        from pure_jax.progress import Reporter

        _refuse(self, "of a single photo", "shard", "allow_inside")
        if named not in (None, STREAM) and self.format is not None:
            raise PureError(f"--format has no meaning for output {named!r}, whose name says it; leave it out")
        suffix = f".{self.format or 'png'}"
        if self.ask and source == STREAM:
            raise PureError(
                "--ask reads answers from standard input, where the photo comes from; name the photo's file"
            )
        to_stream = named == STREAM or (named is None and source == STREAM)
        output = Path(f"standard output{suffix}") if to_stream else _default_output(source, suffix, named)
        if to_stream:
            require_output(self.json)
        data = read_input() if source == STREAM else read_file(source)
        name = "standard input" if source == STREAM else repr(source)
        photo = decode(data, name, every=self.frames == "all", keep_gps=self.keep_gps)
        first = photo.pictures[0]
        scale = self._size().scale_for(first.rgb.shape[1], first.rgb.shape[0])
        sizes = [output_size(picture, scale) for picture in photo.pictures]
        check_frames(output, photo, sizes, self.quality)
        if not to_stream:
            check_place(output)
            if _same_file(output, Path(source)):
                raise PureError(f"output {str(output)!r} is the input, which would be lost; choose another name")
            refuse_existing(output, self.overwrite)
        entropy_map = self.entropy_map
        if entropy_map is not None:
            check_output(entropy_map, has_alpha=False)
            if entropy_map.suffix.lower() != ".png":
                raise PureError(f"the entropy map {str(entropy_map)!r} must be a .png file")
            if _same_file(entropy_map, output) or _same_file(entropy_map, Path(source)):
                raise PureError(
                    f"the entropy map {str(entropy_map)!r} would replace the photo; give it a name of its own"
                )
            refuse_existing(entropy_map, self.overwrite)
        shown = Shown(self.side_by_side, self.report)
        taken = [Path(source), output, *([entropy_map] if entropy_map is not None else [])]
        shown.check(taken, first, sizes[0], self.overwrite)
        own = self._own_settings(Path(source))
        with Reporter(self.quiet) as reporter, StageClock(reporter) as report:
            if self.ask:
                own["ask"] = once(partial(_ask, reporter, report))
            restore, model, remarks = self._opened(report)
            results = restore(photo, scale, own, report)
            report("write")
            restored = Frames([result.picture for result in results], photo.durations, photo.loop)
            result = results[0]
            if not to_stream:
                with replacing(output) as beside, beside.open("x+b") as file:
                    encode(file, output.suffix, restored, self.quality)
            if entropy_map is not None:
                write_image(entropy_map, entropy_heatmap(result.entropy, model.config.max_entropy, sizes[0]))
            own_remarks = [r for one in results for r in (*one.remarks, *lost_by(output.suffix, one.picture))]
            remarks = [*dict.fromkeys(own_remarks), *remarks]
            told = facts_of(result, scale=scale, seed=result.seed, seconds=report.seconds) | {"remarks": remarks}
            settings = {name.replace("_", " "): value for name, value in vars(self).items() if name not in _NOT_SHOWN}
            shown.write(Path(source).name, first, result, model.config.max_entropy, told, settings)
            if to_stream:
                write_output(lambda file: encode(file, output.suffix, restored, self.quality))
        width, height = sizes[0]
        if self.json:
            facts = {
                "input": source,
                "output": str(output),
                "entropy_map": None if entropy_map is None else str(entropy_map),
                "width": width,
                "height": height,
                "scale": scale,
                "seed": result.seed,
                "degradation": result.degradation,
                "description": result.description,
                "remarks": remarks,
            }
            print(json.dumps(facts))
        elif not self.quiet:
            said = sys.stderr if to_stream else sys.stdout
            for remark in remarks:
                print(f"note: {remark}", file=said)
            reading = ", ".join(f"{level} {name}" for name, level in (result.degradation or {}).items())
            print(f"the model reads: {reading or 'no degradation'}", file=said)
            print(f"the model says: {result.description or 'nothing'}", file=said)
            print(f"{'standard output' if to_stream else output}: {width}x{height}", file=said)

    def _restore_folder(self, inputs: Sequence[str], folder: Path) -> None:
        from functools import cache

        import pure_jax
        from pure_jax.checkpoint import demo_directory
        from pure_jax.files import directory_sha256
        from pure_jax.infer.contract import silent
        from pure_jax.infer.folders.books import results_in
        from pure_jax.infer.folders.listing import check_folders, list_pictures
        from pure_jax.infer.folders.run import FolderRun, restore_folder
        from pure_jax.infer.nsarm.captions import read_captions
        from pure_jax.infer.pictures.writing import check_kind
        from pure_jax.progress import Reporter
        from pure_jax.shards import read_shard

        _refuse(self, "of a folder", "entropy_map", "side_by_side", "report", "ask")
        suffix = f".{self.format or 'png'}"
        check_kind(f"a{suffix}", quality=self.quality)
        check_folders(inputs, folder, self.allow_inside)
        size = self._size()
        listing = list_pictures(inputs, folder, results_in(folder))
        shard = None if self.shard is None else read_shard(self.shard)
        if self.captions is not None:
            read_captions(self.captions)
        with Reporter(self.quiet) as report:
            report("check")
            model = directory_sha256(pure_jax.find(demo_directory() if self.model is None else self.model))
            run = FolderRun(
                folder,
                suffix,
                model,
                self._settings(),
                size,
                self.seed,
                self.quality,
                every=self.frames == "all",
                keep_gps=self.keep_gps,
                overwrite=self.overwrite,
                shard=shard,
                own_settings=self._own_settings,
            )

            @cache  # the first picture that is not done yet opens the model
            def opened() -> Callable[..., list[Restoration]]:
                restore, _, remarks = self._opened(report)
                for remark in () if self.quiet else remarks:
                    report.say(f"note: {remark}")
                return restore

            summary = restore_folder(
                run,
                listing.jobs,
                lambda frames, scale, own: opened()(frames, scale, own, silent),
                report,
                failed=lambda name, reason: report.say(reason),
            )
            for reason in listing.unreadable.values():
                report.say(reason)
        failed = summary.failed | listing.unreadable
        if self.json:
            facts = {
                "output": str(folder),
                "report": str(summary.report),
                "restored": summary.restored,
                "skipped": summary.skipped,
                "ignored": listing.ignored,
                "failed": failed,
            }
            print(json.dumps(facts))
        elif not self.quiet:
            ignored = f", {listing.ignored} other files passed over" if listing.ignored else ""
            counts = f"{summary.restored} restored, {summary.skipped} done already, {len(failed)} failed{ignored}"
            print(f"{folder}: {counts}; see {summary.report}")
        if failed:
            sys.exit(SOME_FAILED)

    def _size(self) -> Size:
        from pure_jax.infer.pictures.sizing import Size

        return Size(self.scale, self.width, self.height, self.long_side, self.megapixels)

    def _settings(self) -> dict[str, Any]:
        """Of the options that decide the pixels, those that were given another value than the default."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_IN_PIXELS}
        return {name: value for name, value in given.items() if value != type(self).__dataclass_fields__[name].default}

    def _own_settings(self, photo: Path) -> dict[str, Any]:
        """What is said of one photo: its caption."""
        from pure_jax.infer.nsarm.captions import caption_of

        return {} if self.captions is None else {"text": caption_of(self.captions, photo)}

    def _opened(self, report: Progress) -> tuple[Callable[..., list[Restoration]], Any, list[str]]:
        """What restores the frames of a file as the options say, the model that does it, and remarks about that."""
        import pure_jax
        from pure_jax.infer.contract import override
        from pure_jax.infer.control.candidates import best_of
        from pure_jax.infer.control.fidelity import at_fidelity
        from pure_jax.infer.decoding.memory import read_bytes
        from pure_jax.infer.families import choose_precision
        from pure_jax.infer.restore import Restorer

        options = said(
            self, "text", "guidance", "description", "one_description", "faithful", "decode", "fast", "window", "draft"
        )
        reading = said(self, "blur", "noise")
        if reading:
            options["reading"] = reading
        precision: dict[str, Any] = {"weights": self.weights, "cache": self.cache}
        chosen: dict[str, str] = {}
        if self.memory is not None:
            options["memory"] = memory = read_bytes(self.memory)
            if self.weights is self.cache is None:
                chosen = choose_precision(pure_jax.load_config(self.model), self.dtype, memory)
        report("load", 0, 0)
        model = pure_jax.load(self.model, dtype=self.dtype, **precision | chosen)
        sampling = override(
            model.config.sampling if self.fidelity is None else at_fidelity(model.config.sampling, self.fidelity),
            temperature=self.temperature,
            guidance_scale=self.guidance_scale,
            k_max=self.k_max,
        )
        restorer = Restorer(model, options)

        def restore(frames: Frames, scale: float, own: dict[str, Any], progress: Progress) -> list[Restoration]:
            settings = {
                "scale": scale,
                "sampling": sampling,
                "colour_fix": self.colour_fix,
                "alpha": self.alpha,
                "overlap": self.overlap,
                "strength": self.strength,
                "unchecked": self.unchecked,
                "batch": self.batch,
                "progress": progress,
                **own,
            }
            return [
                best_of(partial(restorer.restore, picture, **settings), picture, self.seed, self.candidates)
                for picture in frames.pictures
            ]

        return restore, model, [f"--memory {self.memory}: {name} in {chosen[name]}" for name in chosen]


def _refuse(command: Any, kind: str, *names: str) -> None:
    """Raises PureError for an option that was given a value and has no meaning."""
    for name in said(command, *names):
        raise PureError(f"--{name.replace('_', '-')} has no meaning for the restoration {kind}; leave it out")


def _ask(reporter: Reporter, report: Progress, reading: Mapping[str, str], description: str | None) -> Any:
    from pure_jax.infer.control.asking import ask_on_terminal

    report("ask", 0, 0)
    with reporter.paused():
        return ask_on_terminal(reading, description)


def _default_output(source: str, suffix: str, named: str | None) -> Path:
    path = Path(source)
    return path.with_name(f"{path.stem}-restored{suffix}") if named is None else Path(named)


def _same_file(a: Path, b: Path) -> bool:
    """Whether both names lead to one file, be it there or not."""
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))
