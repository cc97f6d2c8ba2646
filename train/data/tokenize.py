"""`pure tokenize`: photos -> records, by any number of processes, that go on where they were killed.

Which photos make which file of records follows from their names, and what a photo's records are from its name, the
options and the tokenizer alone. A file appears whole; one that is there is not made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pure_jax.errors import PureError
from pure_jax.files import not_writable, replacing, scratch
from pure_jax.sequence import normalise_caption
from pure_jax.train.config import TokenizeConfig
from pure_jax.train.data.degradation import PRESETS, VERSION, Degradation, apply_twice, draw, usm_sharpen
from pure_jax.train.data.degradation import apply as apply_draws
from pure_jax.train.data.image_tokenizer import ImageTokenizer
from pure_jax.train.data.labels import blur_score, energy_to_keep, measured_scores, noise_score
from pure_jax.train.data.photos import SUFFIXES, read_captions, read_photo
from pure_jax.train.data.records import (
    MANIFEST,
    Manifest,
    Record,
    file_name,
    manifest_values,
    read_manifest,
    write_records,
)
from pure_jax.train.data.regions import SCALE, Region, cut_region, cut_tiles, draw_region, enlarged
from pure_jax.train.runs import differences

OTHER = {"tokenizer": "another image tokenizer", "names": "other photos", "captions": "other captions"}
"""What it means when digests in a manifest differ."""

logger = logging.getLogger(__name__)


class Shard(NamedTuple):
    """The number-th of so many processes, from 0."""

    number: int
    processes: int


WHOLE = Shard(0, 1)


def read_shard(text: str | None) -> Shard:
    """ "1/4", or what jax.distributed says; one of one where it was not initialised.

    Raises:
        PureError: it is no such text.
    """
    if text is None:
        import jax

        return Shard(jax.process_index(), jax.process_count())
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise PureError(f"the shard is {text!r}; write 0/4 for the first of four processes, 3/4 for the last")
    return Shard(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Job:
    """All that the records of a folder of photos follow from. captions: by a photo's name, in captions_source."""

    photos: Path
    names: Sequence[str]
    captions: Mapping[str, str]
    captions_source: str
    tokenizer: ImageTokenizer
    options: TokenizeConfig

    def files(self, shard: Shard) -> list[tuple[str, Sequence[str]]]:
        """Name and photos of each file of records that is this shard's: every `shard.processes`-th one."""
        each = self.options.photos_per_file
        count = -(-len(self.names) // each)
        return [
            (file_name(index, count), self.names[index * each : (index + 1) * each])
            for index in range(shard.number, count, shard.processes)
        ]

    def photos_of(self, shard: Shard) -> int:
        return sum(len(names) for _, names in self.files(shard))

    @property
    def manifest(self) -> Manifest:
        options = self.options
        captions = json.dumps([self.captions.get(name, "") for name in self.names])
        return Manifest(
            tokenizer=self.tokenizer.fingerprint,
            codes_per_side=options.tile // self.tokenizer.config.stride,
            codebook_size=self.tokenizer.config.codebook_size,
            photos=len(self.names),
            names=hashlib.sha256("\n".join(self.names).encode()).hexdigest(),
            captions=hashlib.sha256(captions.encode()).hexdigest(),
            files=len(self.files(WHOLE)),
            options=asdict(options) | {"degrader": VERSION},
        )


def prepare(
    photos: Path,
    tokenizer: ImageTokenizer,
    options: TokenizeConfig,
    *,
    split: str = "train",
    captions: Path | None = None,
) -> Job:
    """List the photos below a folder, their captions beside them.

    captions: a file of JSON lines with `file`, `caption` and perhaps `split`; None takes captions.jsonl of the folder,
    if it is there. Photos that it puts into another split are left out.

    Raises:
        PureError: no folder, no photos, captions that name none of them; options that do not fit the tokenizer.
    """
    if not photos.is_dir():
        raise PureError(f"{photos} is not a folder of photos; give one with --photos")
    if captions is not None and not captions.is_file():
        raise PureError(f"{captions} is not a file of captions; give another with --captions")
    source = captions or photos / "captions.jsonl"
    rows = read_captions(source)
    there = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not there:
        raise PureError(f"{photos} holds no photos; it needs files ending in {', '.join(sorted(SUFFIXES))}")
    lost = sorted(rows.keys() - set(there))
    if lost and len(lost) == len(rows):
        raise PureError(
            f"{source} has captions for none of the photos in {photos}, but for {lost[0]!r}; mend the names"
        )
    if lost:
        logger.warning(
            "%s has captions for %d files that are not in %s, such as %s", source, len(lost), photos, lost[0]
        )
    names = [name for name in there if rows.get(name, {}).get("split", split) == split]
    if not names:
        raise PureError(f"{photos} holds none of the photos of the split {split!r}; give another with --split")
    said = {name: normalise_caption(rows[name].get("caption", "")) for name in names if name in rows}
    return Job(photos, names, said, source.name, tokenizer, _fitting(options, tokenizer))


def _fitting(options: TokenizeConfig, tokenizer: ImageTokenizer) -> TokenizeConfig:
    """The options with the tokenizer's tile, where they name none."""
    tile, stride = options.tile or tokenizer.tile_size, tokenizer.config.stride
    if tile is None:
        raise PureError("the image tokenizer does not say how large tiles are; give their side with --tile")
    if tile % stride or tile % SCALE:
        raise PureError(f"the tile of {tile} pixels is no multiple of {stride} and of {SCALE}; choose another --tile")
    if options.preset not in PRESETS:
        raise PureError(f"there is no preset {options.preset!r}; choose one of {', '.join(PRESETS)}")
    replace(PRESETS[options.preset], usm_gt=options.sharpen)  # refuses a word that it does not know
    return replace(options, tile=tile)


class Report(NamedTuple):
    """Of one call: files and records that it made, photos it left out, files that were there already."""

    files: int
    records: int
    skipped: int
    there: int


def tokenize(
    job: Job, out: Path, shard: Shard = WHOLE, workers: int = 1, progress: Callable[[int], None] = lambda n: None
) -> Report:
    """Make the files of records that are this shard's and not there yet.

    A photo that cannot be read, or is smaller than a region, is reported and left out. progress: told the number of
    photos that are done, also those of files that are there.

    Raises:
        PureError: `out` was begun with other photos, options or another tokenizer, or cannot be written; another
            process makes the same file; no photo of the whole shard could be used.
    """
    _begin(out, job.manifest)
    made = Report(0, 0, 0, 0)
    with ThreadPoolExecutor(workers) as pool:
        for name, names in job.files(shard):
            path = out / name
            if path.is_file():
                made = made._replace(there=made.there + 1)
            else:
                records, skipped = _write_file(job, path, names, pool, workers)
                made = made._replace(
                    files=made.files + 1, records=made.records + records, skipped=made.skipped + skipped
                )
            progress(len(names))
    if made.files and not made.records and not made.there:
        raise PureError(f"none of the {made.skipped} photos of {job.photos} could be used; the warnings say why")
    return made


def _begin(out: Path, manifest: Manifest) -> None:
    """The folder with its manifest; the first process that comes writes it, all the others write the same."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / MANIFEST).is_file():
            changed = differences(manifest_values(read_manifest(out)), manifest_values(manifest))
            for name, words in OTHER.items():
                if name in changed:
                    raise PureError(f"{out} was begun with {words}; give the same or a new folder")
            for name, (stored, own) in sorted(changed.items()):
                raise PureError(f"{out} was begun with {name} {stored!r}, not {own!r}; give the same or a new folder")
        elif any(out.glob("*.array_record")):
            raise PureError(f"{out} holds records, but no {MANIFEST}; name a new folder")
        else:
            with replacing(out / MANIFEST) as beside:
                beside.write_text(json.dumps(manifest_values(manifest), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise not_writable(out, error) from error


def _write_file(job: Job, path: Path, names: Sequence[str], pool: ThreadPoolExecutor, workers: int) -> tuple[int, int]:
    """(records, photos left out) of one file, which appears when it is whole."""
    partial, skipped = path.with_name(f".{path.stem}.partial"), 0

    def records() -> Iterator[Record]:
        nonlocal skipped
        work = ((name, crop) for name in names for crop in range(job.options.crops))
        for name, made in _ahead(pool, lambda item: _pixels(job, *item), work, workers + 1):
            if isinstance(made, str):
                logger.warning("skipped %s: %s", job.photos / name, made)
                skipped += 1
            elif made is not None:
                yield from _encoded(job, made)

    try:
        with scratch(partial, path):
            count = write_records(partial / path.name, records())
            os.replace(partial / path.name, path)
    except OSError as error:
        raise not_writable(path, error) from error
    return count, skipped


def _ahead(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any], depth: int) -> Iterator[Any]:
    """work(item) of all items in their order, `depth` of them begun before they are wanted."""
    begun: deque[Future[Any]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > depth:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


class Pixels(NamedTuple):
    """A region before it is encoded. hq: uint8 [n, tile, tile, 3]; lq: uint8 [K, n, tile, tile, 3]; see `Record`."""

    photo: str
    crop: int
    region: Region
    hq: np.ndarray
    lq: np.ndarray
    draws: list[Degradation]
    params: list[tuple[float, float]]
    twin: list[tuple[float, float]]


def _pixels(job: Job, name: str, crop: int) -> tuple[str, Pixels | str | None]:
    """A photo's name, and one region of it; or why there is none, said once for each photo."""
    options, size = job.options, job.options.tile * job.options.tiles_per_side
    try:
        pixels = read_photo(job.photos / name)
    except Exception as error:  # broken files make Pillow raise OSError, SyntaxError, struct.error and more
        return name, None if crop else f"{error}"
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        return name, None if crop else f"its {width}x{height} pixels are fewer than a region's {size}x{size}"
    rng = np.random.default_rng(_seed(options.seed, name, crop))
    region = draw_region(height, width, size, rng, largest_reduction=options.largest_reduction, turned=0.0)
    hq, clean, source = sharpened(cut_region(pixels, region, size), options.sharpen)
    energy, mean = energy_to_keep(clean, SCALE), float(clean.mean())
    lq, draws, params, twins = [], [], [], []
    for _ in range(options.variants):
        drawn = draw(replace(PRESETS[options.preset], usm_gt=options.sharpen), rng)
        # what is degraded is sharpened already, once for all variants
        once = replace(drawn, sharpen=False)
        low, twin = apply_twice(once, source, SCALE) if options.twin else (apply_draws(once, source, SCALE), None)
        lq.append(cut_tiles(enlarged(low), options.tile))
        draws.append(drawn)
        params.append((blur_score(drawn, SCALE), noise_score(drawn, mean, SCALE)))
        twins.append((np.nan, np.nan) if twin is None else measured_scores(energy, low, twin))
    return name, Pixels(name, crop, region, cut_tiles(hq, options.tile), np.stack(lq), draws, params, twins)


def sharpened(crop: np.ndarray, usm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(target uint8, the same and what is to be degraded float32 in [0, 1]) of a crop uint8 [H, W, 3]."""
    clean = crop.astype(np.float32) / 255
    source = clean if usm == "none" else usm_sharpen(clean)
    if usm != "both":
        return crop, clean, source
    crop = np.round(np.clip(source, 0, 1) * 255).astype(np.uint8)
    return crop, crop.astype(np.float32) / 255, source


def _encoded(job: Job, made: Pixels) -> Iterator[Record]:
    """The records of a region, one for each tile."""
    variants, tiles = made.lq.shape[:2]
    codes = job.tokenizer.encode(np.concatenate([made.hq, made.lq.reshape(-1, *made.lq.shape[2:])]))
    hq, lq = codes[:tiles], codes[tiles:].reshape(variants, tiles, *codes.shape[1:])
    region, caption = made.region, job.captions.get(made.photo, "")
    for tile in range(tiles):
        row, column = divmod(tile, job.options.tiles_per_side)
        yield Record(
            key=f"{made.photo}#{made.crop}/{row},{column}",
            photo=made.photo,
            region=[region.top, region.left, region.side],
            flipped=region.flipped,
            turned=region.turned,
            tile=[row, column],
            hq_codes=hq[tile],
            lq_codes=np.ascontiguousarray(lq[:, tile]),
            params=np.array(made.params, np.float32),
            twin=np.array(made.twin, np.float32),
            draws=[asdict(drawn) for drawn in made.draws],
            caption=caption,
            caption_source=job.captions_source if caption else "",
            seed=job.options.seed,
            tokenizer=job.tokenizer.fingerprint,
            degrader=VERSION,
        )


def _seed(seed: int, name: str, crop: int) -> int:
    """128 bits of a hash: what a photo gives does not hang on which others there are."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}#{crop}".encode()).digest()[:16], "little")
