"""A model made in stages from a folder of photographs: what runs of every family have in common.

Every stage leaves its result in the run's folder and is not done again; a stage that time cuts short goes on from what
it has. All data follow from the recipe's seed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.console import Console

import pure_jax
from pure_jax.checkpoint import save
from pure_jax.config import to_dict
from pure_jax.errors import PureError
from pure_jax.train.card import photo_credits
from pure_jax.train.data.photos import Photo, load_photos
from pure_jax.train.journal import Journal
from pure_jax.train.measuring import Measuring
from pure_jax.train.runs import Run, run_folder

console = Console(stderr=True)

MEASURED_SEED = 0
"""Of the degradations that are measured, whatever the run's own: tables of all models are of the same pairs."""
COMPARED = 16
"""Photos of the train split whose table stands beside that of val."""


class TimeIsUp(Exception):
    """The budget ended inside a stage; everything needed to go on is on the disk."""


@dataclass(frozen=True)
class StagedRun(ABC):
    """One run in the folder `out`.

    photos: folder of photographs with captions.jsonl (`file`, `split` train or val, `license`, `author`).
    val_names: file names of the photos for the table; None takes all of the val split.
    deadline: by the clock of `time.monotonic`. allow_change: see `pure_jax.train.runs.run_folder`.
    """

    networks: ClassVar[dict[str, str]]
    """Fields of the recipe that are a network's run, and what the card calls them. Their numbers of steps may change
    when a run goes on: behind a constant rate, another number changes only what is not trained yet."""
    chosen_from: ClassVar[tuple[str, ...]] = ("temperatures",)
    """Fields of the recipe that only the finished model's defaults depend on. They may change, too."""

    photos: Path
    out: Path
    recipe: Any
    val_names: list[str] | None = None
    niqe: Path | None = None
    deadline: float | None = None
    allow_change: bool = False

    @property
    @abstractmethod
    def stages(self) -> list[Callable[[], bool]]:
        """In their order; each goes on from where it was left and returns whether it is done."""

    @property
    @abstractmethod
    def smallest_photo(self) -> int:
        """Side in pixels that a photo needs to be of use."""

    @abstractmethod
    def result(self) -> tuple[Any, dict[str, Any], str]:
        """(configuration, parameters, tokenizer.json's text) of the finished model."""

    @abstractmethod
    def card(self, calls: list[dict[str, Any]], tables: dict[str, str]) -> str:
        """The model card; see `pure_jax.train.card`."""

    def table(self, pairs: Path, model: Any) -> str:
        """Markdown: the metrics on pairs."""
        return self.measuring.table(pairs, model)

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
            try:
                for stage in self.stages:
                    console.print(f"stage {stage.__name__}")
                    done = stage()
                    journal.update()
                    if not done:
                        raise TimeIsUp(stage.__name__)
                console.print("stage export")
                self.export(journal)
            finally:  # the time of a call that is interrupted counts, too
                journal.update()
        return self.directory

    def held(self) -> AbstractContextManager[None]:
        """The run's folder, ours for the block, with the recipe in it."""
        may_change = [*(f"{name}.steps" for name in self.networks), *self.chosen_from]
        recipe, allow = to_dict(self.recipe), self.allow_change
        return run_folder(self.out, recipe, may_change=may_change, allow_change=allow, file="recipe.json")

    def run_of(self, name: str) -> Run:
        """The run of a network, below the folder."""
        return Run(self.out / name, deadline=self.deadline, allow_change=self.allow_change)

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
        return load_photos(self.photos, minimum=self.smallest_photo)

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
        return Measuring(self.photos, MEASURED_SEED, self.niqe)

    # ---- the last stages -------------------------------------------------------------------------------------------

    def choose_sampling(self, model: Any, settings: list[dict[str, float]]) -> bool:
        """See `Measuring.choose_sampling`; on the photos for tuning."""
        recipe = self.recipe
        pairs = self.measuring.pairs(self.out / "tuning", "train", self.tuning_names, recipe.tuning_crop)
        return self.measuring.choose_sampling(
            model, settings, recipe.largest_psnr_loss, pairs, self.sampling_file, self.deadline
        )

    def export(self, journal: Journal) -> None:
        """The model directory, with the tables of val and of some train photos in its card."""
        if self.directory.exists():
            return
        config, params, tokenizer = self.result()
        draft = self.out / "draft"
        if not draft.exists():
            save(draft, config, params, tokenizer, "# A draft\n", dtype="bfloat16")
        # Measured as it will be shipped: in bfloat16, from the disk.
        model = pure_jax.load(draft)
        train = [photo.name for photo in self.train_photos]
        train = train[:: max(1, len(train) // COMPARED)][:COMPARED]
        tables = {}
        for split, names in (("val", self.val_names), ("train", train)):
            pairs = self.measuring.pairs(self.out / f"pairs-{split}", split, names, self.recipe.evaluation_crop)
            tables[split] = self.table(pairs, model)
            print(tables[split])
        save(self.directory, config, params, tokenizer, self.card(journal.update(), tables), dtype="bfloat16")
        (self.directory / "PHOTOS.md").write_text(photo_credits(self.photos), encoding="utf-8")
