"""`pure train demo`: from a folder of photographs to a model directory with its card, stage by stage.

Every stage leaves its result in the run's folder and is not done again; a stage that time cuts short goes on from what
it has. All data follow from the recipe's seed.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from tokenizers import Tokenizer

import pure_jax
from pure_jax.checkpoint import save
from pure_jax.config import to_dict
from pure_jax.errors import PureError
from pure_jax.files import replacing
from pure_jax.infer.decoding.generate import generate
from pure_jax.model import Model
from pure_jax.train.card import model_card, photo_credits
from pure_jax.train.data.descriptions import all_descriptions, describe
from pure_jax.train.data.labels import load_thresholds
from pure_jax.train.data.photos import Photo, load_photos
from pure_jax.train.data.records import TILES_PER_SIDE, RecordRounds, Records, build_records, region_at
from pure_jax.train.decoder import RestoredTiles, load_tiles, save_tiles
from pure_jax.train.journal import Journal
from pure_jax.train.language_model import tercile_thresholds
from pure_jax.train.measuring import Measuring, chosen_sampling
from pure_jax.train.recipes import Recipe
from pure_jax.train.runs import Run, run_folder
from pure_jax.train.stages import THRESHOLDS, train_decoder, train_language_model, train_vqgan
from pure_jax.train.tokenizer import train_tokenizer
from pure_jax.vocabulary import load_vocabulary

console = Console(stderr=True)

MAY_CHANGE = ("vqgan.steps", "lm.steps", "decoder.steps")
"""Of the recipe, when a run goes on: behind a constant rate, another number changes only what is not trained yet."""

COMPARED = 16
"""Photos of the train split whose table stands beside that of val."""


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

    def run(self, command: str) -> Path:
        """All stages; returns the model directory. command: how it was called, for the card.

        Raises:
            TimeIsUp: the deadline came first; call again.
            PureError: photos missing or broken; `out` belongs to another recipe, or is being written by another run.
        """
        if not self.photos.is_dir():
            raise PureError(f"{self.photos} is not a folder of photos; give one with --photos")
        with self.held():
            journal = Journal(self.out / "calls.jsonl", command)
            for stage in (self.tokenizer, self.vqgan, self.language_model, self.restored, self.decoder, self.sampling):
                console.print(f"stage {stage.__name__}")
                done = stage()
                journal.update()
                if not done:
                    raise TimeIsUp(stage.__name__)
            console.print("stage export")
            self.export(journal)
            journal.update()
        return self.directory

    def held(self) -> AbstractContextManager[None]:
        """The run's folder, ours for the block, with the recipe in it."""
        return run_folder(self.out, to_dict(self.recipe), may_change=MAY_CHANGE, file="recipe.json")

    # ---- what is where ---------------------------------------------------------------------------------------------

    @property
    def tokenizer_file(self) -> Path:
        return self.out / "tokenizer.json"

    @property
    def vqgan_run(self) -> Run:
        return Run(self.out / "vqgan", deadline=self.deadline)

    @property
    def lm_run(self) -> Run:
        return Run(self.out / "lm", deadline=self.deadline)

    @property
    def decoder_run(self) -> Run:
        return Run(self.out / "decoder", deadline=self.deadline)

    @property
    def sampling_file(self) -> Path:
        return self.out / "sampling.json"

    @property
    def directory(self) -> Path:
        """The finished model."""
        return self.out / "model"

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

    @cached_property
    def measuring(self) -> Measuring:
        return Measuring(self.photos, self.recipe.seed, self.niqe)

    def model(self, vqgan_params: Any) -> Model:
        """The language model as trained so far, with an image tokenizer."""
        config, path = self.recipe.model, self.tokenizer_file
        return Model(
            config,
            jax.device_put({"transformer": self.lm_run.params(), "vqgan": vqgan_params}),
            Tokenizer.from_file(str(path)),
            load_vocabulary(path, config.codes_per_grid, config.vqgan.codebook_size),
        )

    def final_vqgan(self) -> Any:
        """The image tokenizer with the decoder that was trained behind it."""
        return self.vqgan_run.params() | self.decoder_run.params()

    # ---- stages: each returns whether it is done -------------------------------------------------------------------

    def tokenizer(self) -> bool:
        if not self.tokenizer_file.is_file():
            tokenizer = train_tokenizer(
                all_descriptions(),
                codebook_size=self.recipe.model.vqgan.codebook_size,
                text_vocab=self.recipe.text_vocab,
            )
            with replacing(self.tokenizer_file) as beside:
                tokenizer.save(str(beside))
        return True

    def vqgan(self) -> bool:
        recipe = self.recipe
        return self.vqgan_run.reached(recipe.vqgan.steps) or train_vqgan(
            self.train_photos, recipe.model, recipe.vqgan, self.vqgan_run
        )

    def language_model(self) -> bool:
        recipe = self.recipe
        if self.lm_run.reached(recipe.lm.steps):
            return True
        params, regions = self.vqgan_run.params(), recipe.regions_per_round

        def records(first: int) -> Records:
            return build_records(
                self.train_photos, recipe.model, params, regions, recipe.seed, first=first, words=describe
            )

        rounds = RecordRounds(self.out / "records", regions, records)
        # Level borders are the terciles of the first round, and stay so when it is gone.
        stored = self.lm_run.out / THRESHOLDS
        thresholds = load_thresholds(stored) if stored.is_file() else tercile_thresholds(rounds.epoch(0))
        codebook = params["quantizer"]["codebook"]
        return train_language_model(
            rounds, thresholds, recipe.model, recipe.lm, self.tokenizer_file, codebook, self.lm_run
        )

    def restored(self) -> bool:
        """Tiles for the decoder's training, from regions that the language model has not read, part by part."""
        missing = [part for part in self.restored_parts if not part.is_file()]
        if self.decoder_run.reached(self.recipe.decoder.steps) or not missing:
            return True
        recipe, model = self.recipe, self.model(self.vqgan_run.params())
        for number, path in enumerate(self.restored_parts):
            if path.is_file():
                continue
            if self.deadline is not None and time.monotonic() > self.deadline:
                return False
            codes, pixels = [], []
            for index in range(number * recipe.regions_per_part, (number + 1) * recipe.regions_per_part):
                lq, hq, *_ = region_at(self.train_photos, recipe.model.tile_size, recipe.seed + 1, index)
                codes.append(model.encode(lq))
                pixels.append(hq)
            answers = generate(model, np.concatenate(codes), seed=recipe.seed + number)
            tiles = np.stack([answer.codes for answer in answers]).astype(np.uint16)
            save_tiles(path, RestoredTiles(tiles, np.concatenate(pixels)))
            console.print(f"restored {number + 1} of {len(self.restored_parts)} parts")
        return True

    @property
    def restored_parts(self) -> list[Path]:
        parts = -(-self.recipe.decoder_regions // self.recipe.regions_per_part)
        return [self.out / "restored" / f"part-{number:03}.npz" for number in range(parts)]

    def decoder(self) -> bool:
        recipe = self.recipe
        return self.decoder_run.reached(recipe.decoder.steps) or train_decoder(
            self.train_photos,
            load_tiles(self.restored_parts),
            recipe.model,
            recipe.decoder,
            self.vqgan_run.params(),
            self.decoder_run,
        )

    def sampling(self) -> bool:
        pairs = self.measuring.pairs(self.out / "tuning", "train", self.tuning_names, self.recipe.tuning_crop)
        model = self.model(self.final_vqgan())
        return self.measuring.choose_sampling(model, self.recipe, pairs, self.sampling_file, self.deadline)

    def export(self, journal: Journal) -> None:
        """The model directory, with the tables of val and of some train photos in its card."""
        if self.directory.exists():
            return
        recipe = self.recipe
        config = replace(recipe.model, sampling=chosen_sampling(self.sampling_file, recipe.model.sampling))
        params = {"transformer": self.lm_run.params(), "vqgan": self.final_vqgan()}
        tokenizer = self.tokenizer_file.read_text(encoding="utf-8")
        draft = self.out / "draft"
        if not draft.exists():
            save(draft, config, params, tokenizer, "# A draft\n", dtype="bfloat16")
        # Measured as it will be shipped: in bfloat16, from the disk.
        model, thresholds = pure_jax.load(draft), load_thresholds(self.lm_run.out / THRESHOLDS)
        train = [photo.name for photo in self.train_photos]
        train = train[:: max(1, len(train) // COMPARED)][:COMPARED]
        tables = {}
        for split, names in (("val", self.val_names), ("train", train)):
            pairs = self.measuring.pairs(self.out / f"pairs-{split}", split, names, recipe.evaluation_crop)
            tables[split] = self.measuring.table(pairs, model, thresholds)
            print(tables[split])
        card = model_card(self.out, recipe, journal.update(), tables, self.photos)
        save(self.directory, config, params, tokenizer, card, dtype="bfloat16")
        (self.directory / "PHOTOS.md").write_text(photo_credits(self.photos), encoding="utf-8")
