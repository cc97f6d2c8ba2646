"""What a trained model is measured by: fixed pairs, the choice of its sampling defaults, tables, true words."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from pure_jax.files import replacing
from pure_jax.infer.evaluate import Evaluation, evaluate, format_table
from pure_jax.infer.metrics.niqe import load_niqe_params
from pure_jax.infer.metrics.perceptual import load_params
from pure_jax.infer.pictures.picture import from_image
from pure_jax.infer.restore import Restorer
from pure_jax.model import Model
from pure_jax.sequence import LEVELS, split_reading
from pure_jax.train.data.degrade import degrade_folder
from pure_jax.train.data.descriptions import ASPECTS, aspects, describe
from pure_jax.train.data.labels import Thresholds, levels
from pure_jax.train.data.regions import SCALE

console = Console(stderr=True)


@dataclass(frozen=True)
class Measuring:
    """Measures with one seed for degradations and restorations.

    photos: folder of photographs with captions.jsonl. niqe: NIQE's pristine model; None takes the one that ships.
    """

    photos: Path
    seed: int
    niqe: Path | None = None

    @cached_property
    def networks(self) -> dict[str, Any]:
        return {"perceptual_params": load_params(), "niqe_params": load_niqe_params(self.niqe)}

    def pairs(self, folder: Path, split: str, names: Sequence[str] | None, crop: int) -> Path:
        """Degrade the photos' centres into `folder`, once; returns it."""
        if not (folder / "pairs.jsonl").is_file():
            degrade_folder(self.photos, folder, crop=crop, split=split, seed=self.seed, names=names)
        return folder

    def evaluate(self, pairs: Path, restorer: Any) -> Evaluation:
        return evaluate(pairs, restorer, scale=SCALE, seed=self.seed, **self.networks)

    def choose_sampling(
        self,
        model: Any,
        settings: Sequence[dict[str, float]],
        largest_psnr_loss: float,
        pairs: Path,
        path: Path,
        deadline: float | None,
    ) -> bool:
        """Try settings (fields of the model's sampling) on pairs; `path` gets their figures, and the choice when all
        are there.

        Of those that lose at most `largest_psnr_loss` dB against bicubic, the one nearest to the photos by the
        perceptual distance is chosen. Returns False where the deadline came first; settings that were tried stay.
        """
        done = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"tried": []}
        if "chosen" in done:
            return True
        tried: list[dict[str, float]] = done["tried"]
        for setting in settings[len(tried) :]:
            if deadline is not None and time.monotonic() > deadline:
                return False
            sampling = replace(model.config.sampling, **setting)
            result = self.evaluate(
                pairs, Restorer(replace(model, config=replace(model.config, sampling=sampling)), unchecked=True)
            )
            figures = {name: result.mean("ours", name) or 0.0 for name in ("psnr_y", "perceptual", "niqe")}
            bicubic = {"bicubic_psnr_y": result.mean("bicubic", "psnr_y") or 0.0}
            tried.append(setting | figures | bicubic)
            console.print(tried[-1])
            _write(path, {"tried": tried})
        good = [t for t in tried if t["psnr_y"] >= t["bicubic_psnr_y"] - largest_psnr_loss] or tried
        _write(path, {"chosen": min(good, key=lambda entry: entry["perceptual"]), "tried": tried})
        return True

    def table(self, pairs: Path, model: Any) -> str:
        """Markdown: the metrics' means."""
        return format_table(self.evaluate(pairs, Restorer(model, unchecked=True)))

    def table_with_words(self, pairs: Path, model: Model, thresholds: Thresholds) -> str:
        """The same, and how often the model's words were true."""
        recorder = Recorder(Restorer(model, unchecked=True))
        metrics = format_table(self.evaluate(pairs, recorder))
        words = [f"| {name} | {share:.1%} |" for name, share in true_words(pairs, recorder, thresholds).items()]
        return "\n".join([metrics, "", "| words of a tile | true |", "|---|---:|", *words])


class Recorder:
    """A restorer that keeps what was said about each tile."""

    def __init__(self, restorer: Restorer):
        self.restorer, self.model, self.texts = restorer, restorer.model, list[tuple[list[str], Any]]()

    def restore(self, image: Any, *, scale: int, seed: int) -> Any:
        result = self.restorer.restore(image, scale=scale, seed=seed)
        self.texts.append((result.texts, self.restorer.plan(from_image(image), scale)))
        return result


def true_words(pairs: Path, recorder: Recorder, thresholds: Thresholds) -> dict[str, float]:
    """How often the words of a tile are true: levels against the draw, aspects against the photo's pixels."""
    hits: dict[str, list[bool]] = {}
    rows = [json.loads(line) for line in (pairs / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: Path(row["file"]).stem)  # the order in which they are evaluated
    for row, (texts, plan) in zip(rows, recorder.texts, strict=True):
        with Image.open(pairs / "gt" / f"{Path(row['file']).stem}.png") as image:
            gt = np.asarray(image.convert("RGB"))
        scores = row["scores"]["params"]
        true = dict(zip(("blur", "noise"), levels(scores["blur"], scores["noise"], thresholds), strict=True))
        for text, (top, left) in zip(texts, plan.corners, strict=True):
            if not text:  # a flat tile, which the model has not seen
                continue
            reading, description = split_reading(text)
            for name, level in true.items():
                said = LEVELS.index(reading[name]) if reading else -9
                hits.setdefault(f"{name}, exact", []).append(said == LEVELS.index(level))
                hits.setdefault(f"{name}, within one level", []).append(abs(said - LEVELS.index(level)) <= 1)
            seen = aspects(describe(gt[top : top + plan.tile, left : left + plan.tile])) or {}
            words = aspects(description) or {}
            for aspect in ASPECTS:
                hits.setdefault(aspect, []).append(words.get(aspect) == seen.get(aspect))
    return {name: round(float(np.mean(values)), 3) for name, values in hits.items()}


def chosen_sampling(path: Path, sampling: Any) -> Any:
    """`sampling` with what `choose_sampling` chose."""
    chosen = json.loads(path.read_text(encoding="utf-8"))["chosen"]
    return replace(sampling, **{field.name: chosen[field.name] for field in fields(sampling) if field.name in chosen})


def _write(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
