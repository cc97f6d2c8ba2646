"""`pure evaluate`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pure_jax.errors import PureError
from pure_jax.infer.options import Way, said


@dataclass(frozen=True)
class Evaluate:
    """Compare bicubic, the tokenizer's round trip and the model on a folder of pairs."""

    pairs: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder with lq/NAME.png and, for the full-reference metrics, gt/NAME.png (see `pure degrade`)."""
    model: Path | None = None
    """Model directory, hub id, or demo-nsarm, which ships with this package like the default, demo."""
    scale: int = 4
    """The ground truths' sides over those of the low-quality pictures."""
    seed: int = 0
    """The same seed gives the same pictures."""
    decode: Way | None = None
    """How codes are decoded, as in `pure restore`."""
    fast: bool = False
    """Decode in the fastest lossy way, as in `pure restore`."""
    window: int | None = None
    """As in `pure restore`."""
    weights: Literal["float", "int8"] | None = None
    """int8 rounds the transformer's kernels while they are read."""
    cache: Literal["float", "int8"] | None = None
    """int8 rounds keys and values."""
    against: Path | None = None
    """Model directory of the full model, say: evaluate it too, and compare the distributions that codes are drawn
    from."""
    niqe: Path | None = None
    """NIQE's pristine model, an .npz file; by default BasicSR's, which ships with this package."""
    csv: Path | None = None
    """Write one row per picture and method."""
    save_images: Path | None = None
    """Write bicubic, ours and ground truth side by side into this folder."""
    overwrite: bool = False
    """Replace outputs that exist already."""
    quiet: bool = False
    """Print nothing but errors, and the object of --json."""
    json: bool = False
    """Print one JSON object on stdout instead: pairs, scale, seed, images (their number), means (by method and metric),
    rows (image, method and metrics of each; null where there is none), skipped and remarks (lists), against (codes, kl,
    agreement, psnr and means; null without)."""

    @property
    def interrupted(self) -> str | None:
        return f"{self.save_images} holds the pictures that were compared until then" if self.save_images else None

    def run(self) -> None:
        import pure_jax
        from pure_jax.files import check_output_file, refuse_existing
        from pure_jax.infer.contract import check_seed
        from pure_jax.infer.deltas import compare, format_deltas, to_json
        from pure_jax.infer.evaluate import METHODS, METRICS, evaluate, format_table, write_csv
        from pure_jax.infer.metrics.niqe import load_niqe_params
        from pure_jax.infer.metrics.perceptual import load_params
        from pure_jax.infer.restore import Restorer
        from pure_jax.progress import Reporter

        check_seed(self.seed)
        if self.against is not None and self.save_images is not None:
            raise PureError("pictures are saved of one model at a time; leave --against or --save-images out")
        if self.csv is not None:
            check_output_file(self.csv, self.overwrite)
        if self.save_images is not None and self.save_images.is_dir() and any(self.save_images.iterdir()):
            refuse_existing(self.save_images, self.overwrite)
        niqe_params = load_niqe_params(self.niqe)
        way = said(self, "decode", "fast", "window")
        with Reporter(self.quiet) as report:
            report("load")
            model = pure_jax.load(self.model, weights=self.weights, cache=self.cache)
            options: dict[str, Any] = {
                "scale": self.scale,
                "seed": self.seed,
                "perceptual_params": load_params,
                "niqe_params": niqe_params,
                "on_image": lambda done, total, name: report("evaluate", done, total),
            }
            deltas = None
            if self.against is None:
                restorer = Restorer(model, way, unchecked=True)
                result = evaluate(Path(self.pairs), restorer, save_images=self.save_images, **options)
            else:
                deltas = compare(Path(self.pairs), model, pure_jax.load(self.against), way=way, **options)
                result = deltas.model
            if self.csv is not None:
                report("write")
                write_csv(result, self.csv)
        if self.json:
            facts = {
                "pairs": str(self.pairs),
                "scale": self.scale,
                "seed": self.seed,
                "images": result.images,
                "means": {method: {name: result.mean(method, name) for name in METRICS} for method in METHODS},
                "rows": [asdict(row) for row in result.rows],
                "skipped": result.skipped,
                "remarks": result.remarks,
                "against": None if deltas is None else to_json(deltas),
            }
            print(json.dumps(facts))
        elif not self.quiet:
            print(format_table(result))
            if deltas is not None:
                print(format_deltas(deltas))
