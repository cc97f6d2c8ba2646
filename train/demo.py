"""`pure train demo`: from a folder of photographs to a model directory with its card, stage by stage.

Every stage leaves its result in the run's folder and is not done again; a stage that time cuts short goes on from its
checkpoint. All data follow from the recipe's seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from rich.console import Console
from tokenizers import Tokenizer

import pure_jax
from pure_jax.checkpoint import save
from pure_jax.config import SamplingConfig, to_dict
from pure_jax.errors import PureError
from pure_jax.files import replacing
from pure_jax.infer.decoding.generate import generate
from pure_jax.infer.evaluate import Evaluation, evaluate, format_table
from pure_jax.infer.metrics.niqe import load_niqe_params
from pure_jax.infer.metrics.perceptual import load_params
from pure_jax.infer.pictures.picture import from_image
from pure_jax.infer.restore import Restorer
from pure_jax.model import Model
from pure_jax.sequence import LEVELS, split_reading
from pure_jax.train.card import model_card, photo_credits
from pure_jax.train.data.degrade import degrade_folder
from pure_jax.train.data.descriptions import ASPECTS, all_descriptions, aspects, describe
from pure_jax.train.data.labels import Thresholds, levels
from pure_jax.train.data.photos import Photo, load_photos
from pure_jax.train.data.records import SCALE, TILES_PER_SIDE, RecordRounds, Records, build_records, region_at
from pure_jax.train.decoder import RestoredTiles, load_tiles, save_tiles
from pure_jax.train.language_model import tercile_thresholds
from pure_jax.train.loop import newest_step, newest_tree
from pure_jax.train.recipes import Recipe
from pure_jax.train.runs import run_folder
from pure_jax.train.stages import train_decoder, train_language_model, train_vqgan, trained_vqgan
from pure_jax.train.tokenizer import train_tokenizer
from pure_jax.vocabulary import load_vocabulary

console = Console(stderr=True)


class TimeIsUp(Exception):
    """The budget ended inside a stage; everything needed to go on is on the disk."""


@dataclass(frozen=True)
class DemoRun:
    """One run in the folder `out`.

    photos: folder of photographs with captions.jsonl (`file`, `split` train or val, `license`, `author`).
    val_names: file names of the photos for the table; None takes all of the val split.
    deadline: by the clock of `time.monotonic`.
    """

    photos: Path
    out: Path
    recipe: Recipe
    val_names: list[str] | None = None
    niqe: Path | None = None
    deadline: float | None = None

    # ---- data ------------------------------------------------------------------------------------------------------

    @cached_property
    def all_train_photos(self) -> list[Photo]:
        return load_photos(self.photos, minimum=self.recipe.model.tile_size * TILES_PER_SIDE)

    @cached_property
    def tuning_names(self) -> list[str]:
        """Spread evenly over the names, so that every source gives some."""
        names = [photo.name for photo in self.all_train_photos]
        places = (np.arange(self.recipe.tuning_photos) + 0.5) * len(names) / self.recipe.tuning_photos
        return [names[int(place)] for place in places]

    @cached_property
    def train_photos(self) -> list[Photo]:
        return [photo for photo in self.all_train_photos if photo.name not in set(self.tuning_names)]

    def records(self, seed: int, regions: int, vqgan_params: Any) -> Callable[[int], Records]:
        """first region -> records of `regions` regions."""
        return lambda first: build_records(
            self.train_photos, self.recipe.model, vqgan_params, regions, seed, first=first, words=describe
        )

    # ---- stages ----------------------------------------------------------------------------------------------------

    def run(self, command: str) -> Path:
        """All stages; returns the model directory. command: how it was called, for the card.

        Raises:
            TimeIsUp: the deadline came first; call again.
            PureError: photos missing or broken; `out` belongs to another recipe, or is being written by another run.
        """
        if not self.photos.is_dir():
            raise PureError(f"{self.photos} is not a folder of photos; give one with --photos")
        with self.folder():
            return self.all_stages(command)

    def folder(self) -> AbstractContextManager[None]:
        """The run's folder, ours for the block, with the recipe in it."""
        # Behind a constant rate, more or fewer steps change only what has not been trained yet.
        steps = ("vqgan.steps", "lm.steps", "decoder.steps")
        return run_folder(self.out, to_dict(self.recipe), may_change=steps, file="recipe.json")

    def all_stages(self, command: str) -> Path:
        began = time.monotonic()
        call = {"command": command, "commit": _commit(), "hardware": _hardware()}
        for stage in (self.tokenizer, self.vqgan, self.language_model, self.decoder, self.sampling, self.export):
            console.print(f"stage {stage.__name__}")
            # Written before the last stage, which puts it into the card; again behind each that may take long.
            self.log(call | {"seconds": round(time.monotonic() - began, 1)})
            done = stage()
            self.log(call | {"seconds": round(time.monotonic() - began, 1)})
            if not done:
                raise TimeIsUp(stage.__name__)
        return self.out / "model"

    @cached_property
    def earlier_calls(self) -> list[dict[str, Any]]:
        path = self.out / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def log(self, call: dict[str, Any]) -> None:
        """Put this call behind the earlier ones in calls.jsonl."""
        with replacing(self.out / "calls.jsonl") as beside:
            beside.write_text("".join(json.dumps(c) + "\n" for c in [*self.earlier_calls, call]), encoding="utf-8")

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "calls.jsonl").read_text(encoding="utf-8").splitlines()]

    def tokenizer(self) -> bool:
        path = self.out / "tokenizer.json"
        if not path.is_file():
            tokenizer = train_tokenizer(
                all_descriptions(),
                codebook_size=self.recipe.model.vqgan.codebook_size,
                text_vocab=self.recipe.text_vocab,
            )
            with replacing(path) as beside:
                tokenizer.save(str(beside))
        return True

    def vqgan(self) -> bool:
        if newest_step(self.out / "vqgan") >= self.recipe.vqgan.steps:
            return True
        return train_vqgan(
            self.train_photos, self.recipe.model, self.recipe.vqgan, self.out / "vqgan", deadline=self.deadline
        )

    def language_model(self) -> bool:
        if newest_step(self.out / "lm") >= self.recipe.lm.steps:
            return True
        recipe, params = self.recipe, trained_vqgan(self.out / "vqgan")
        rounds = RecordRounds(
            self.out / "records",
            recipe.regions_per_round,
            self.records(recipe.seed, recipe.regions_per_round, params),
        )
        return train_language_model(
            rounds,
            self.thresholds(rounds),
            recipe.model,
            recipe.lm,
            self.out / "tokenizer.json",
            params,
            self.out / "lm",
            save_every=200,
            deadline=self.deadline,
        )

    def thresholds(self, rounds: RecordRounds | None = None) -> Thresholds:
        """Level borders: terciles of the first round, kept for all others."""
        path = self.out / "thresholds.json"
        if rounds is not None and not path.is_file():
            with replacing(path) as beside:
                beside.write_text(json.dumps(asdict(tercile_thresholds(rounds.epoch(0)))) + "\n")
        values = json.loads(path.read_text())
        return Thresholds(values["kind"], tuple(values["blur"]), tuple(values["noise"]))

    def model(self, vqgan_params: Any, sampling: SamplingConfig | None = None) -> Model:
        """The language model as trained so far, with an image tokenizer."""
        config, path = self.recipe.model, self.out / "tokenizer.json"
        return Model(
            config if sampling is None else replace(config, sampling=sampling),
            jax.device_put({"transformer": newest_tree(self.out / "lm")["ema"], "vqgan": vqgan_params}),
            Tokenizer.from_file(str(path)),
            load_vocabulary(path, config.codes_per_grid, config.vqgan.codebook_size),
        )

    def restored_tiles(self) -> RestoredTiles:
        """Tiles for the decoder's training, from regions that the language model has not read."""
        path = self.out / "restored.npz"
        if not path.is_file():
            recipe = self.recipe
            model = self.model(trained_vqgan(self.out / "vqgan"))
            codes, pixels = [], []
            for index in range(recipe.decoder_regions):
                lq, hq, *_ = region_at(self.train_photos, recipe.model.tile_size, recipe.seed + 1, index)
                codes.append(model.encode(lq))
                pixels.append(hq)
            answers = generate(model, np.concatenate(codes), seed=recipe.seed)
            save_tiles(
                path, RestoredTiles(np.stack([a.codes for a in answers]).astype(np.uint16), np.concatenate(pixels))
            )
        return load_tiles(path)

    def decoder(self) -> bool:
        if newest_step(self.out / "decoder") >= self.recipe.decoder.steps:
            return True
        return train_decoder(
            self.train_photos,
            self.restored_tiles,
            self.recipe.model,
            self.recipe.decoder,
            trained_vqgan(self.out / "vqgan"),
            self.out / "decoder",
            deadline=self.deadline,
        )

    def final_vqgan(self) -> Any:
        return trained_vqgan(self.out / "vqgan") | trained_vqgan(self.out / "decoder")

    def pairs(self, name: str, split: str, names: list[str] | None, crop: int) -> Path:
        folder = self.out / name
        if not (folder / "pairs.jsonl").is_file():
            degrade_folder(self.photos, folder, crop=crop, split=split, seed=self.recipe.seed, names=names)
        return folder

    @cached_property
    def perceptual(self) -> Any:
        return load_params()

    def measure(self, pairs: Path, restorer: Any) -> Evaluation:
        return evaluate(
            pairs,
            restorer,
            scale=SCALE,
            seed=self.recipe.seed,
            perceptual_params=self.perceptual,
            niqe_params=load_niqe_params(self.niqe),
        )

    def sampling(self) -> bool:
        """Try the recipe's settings on the tuning photos; sampling.json gets all their figures and the choice."""
        path, recipe = self.out / "sampling.json", self.recipe
        if path.is_file():
            return True
        pairs = self.pairs("tuning", "train", self.tuning_names, recipe.tuning_crop)
        model = self.model(self.final_vqgan())
        tried: list[dict[str, float]] = []
        for temperature in recipe.temperatures:
            for k_max in recipe.top_k:
                if self.deadline is not None and time.monotonic() > self.deadline:
                    return False
                sampling = replace(recipe.model.sampling, temperature=temperature, k_max=k_max)
                config = replace(model.config, sampling=sampling)
                result = self.measure(pairs, Restorer(replace(model, config=config)))
                figures = {name: result.mean("ours", name) or 0.0 for name in ("psnr_y", "perceptual", "niqe")}
                tried.append({"temperature": temperature, "k_max": k_max, **figures})
                console.print(tried[-1])
        limit = (result.mean("bicubic", "psnr_y") or 0.0) - recipe.largest_psnr_loss
        good = [entry for entry in tried if entry["psnr_y"] >= limit] or tried
        chosen = min(good, key=lambda entry: entry["perceptual"])
        with replacing(path) as beside:
            beside.write_text(json.dumps({"chosen": chosen, "tried": tried}, indent=1) + "\n")
        return True

    def export(self) -> bool:
        """The model directory, with the tables of val and of as many train photos in its card."""
        directory, recipe = self.out / "model", self.recipe
        if directory.exists():
            return True
        chosen = json.loads((self.out / "sampling.json").read_text())["chosen"]
        sampling = replace(recipe.model.sampling, temperature=chosen["temperature"], k_max=chosen["k_max"])
        config, vqgan = replace(recipe.model, sampling=sampling), self.final_vqgan()
        params = {"transformer": newest_tree(self.out / "lm")["ema"], "vqgan": vqgan}
        tokenizer = (self.out / "tokenizer.json").read_text(encoding="utf-8")
        draft = self.out / "draft"
        if not draft.exists():
            save(draft, config, params, tokenizer, "# A draft\n", dtype="bfloat16")
        tables = {}
        train = [photo.name for photo in self.train_photos]
        for title, split, names in (
            ("val", "val", self.val_names),
            ("train", "train", train[:: max(1, len(train) // 16)][:16]),
        ):
            recorder = Recorder(Restorer(pure_jax.load(draft)))
            pairs = self.pairs(f"pairs-{title}", split, names, recipe.evaluation_crop)
            table = format_table(self.measure(pairs, recorder))
            words = [f"| {name} | {share:.1%} |" for name, share in self.accuracy(pairs, recorder).items()]
            tables[title] = "\n".join([table, "", "| words of a tile | true |", "|---|---:|", *words])
            print(tables[title])
        card = model_card(self.out, recipe, self.calls(), tables, self.photos)
        save(directory, config, params, tokenizer, card, dtype="bfloat16")
        (directory / "PHOTOS.md").write_text(photo_credits(self.photos), encoding="utf-8")
        return True

    def accuracy(self, pairs: Path, recorder: Recorder) -> dict[str, float]:
        """How often the words of a tile are true: levels against the draw, aspects against the photo's pixels."""
        thresholds, hits = self.thresholds(), dict[str, list[bool]]()
        rows = [json.loads(line) for line in (pairs / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
        for row in sorted(rows, key=lambda row: Path(row["file"]).stem):
            texts, plan = recorder.texts.pop(0)
            gt = _read(pairs / "gt" / f"{Path(row['file']).stem}.png")
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


class Recorder:
    """A restorer that keeps what was said about each tile."""

    def __init__(self, restorer: Restorer):
        self.restorer, self.model, self.texts = restorer, restorer.model, list[tuple[list[str], Any]]()

    def restore(self, image: Any, *, scale: int, seed: int) -> Any:
        result = self.restorer.restore(image, scale=scale, seed=seed)
        self.texts.append((result.texts, self.restorer.plan(from_image(image), scale)))
        return result


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _commit() -> str:
    """The commit of the source tree, "-dirty" behind it where the tree differs; the version where there is no tree."""
    git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found = ""
    return found or f"of version {pure_jax.__version__}"


def _hardware() -> str:
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return f"{os.cpu_count()} CPU cores"
    return f"{len(devices)} x {devices[0].device_kind}"
