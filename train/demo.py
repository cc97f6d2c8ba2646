"""`pure train demo`: a model of PURE's family, stage by stage from a folder of photographs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from tokenizers import Tokenizer

from pure_jax.config import to_dict
from pure_jax.convert.opening import find, load
from pure_jax.errors import PureError
from pure_jax.files import replacing
from pure_jax.infer.decoding.generate import generate
from pure_jax.model import Model
from pure_jax.train.card import NETWORKS, how_it_began, model_card
from pure_jax.train.data.descriptions import all_descriptions, describe
from pure_jax.train.data.labels import load_thresholds
from pure_jax.train.data.rounds import TILES_PER_SIDE, RecordRounds, Records, build_records, region_at
from pure_jax.train.decoder import RestoredTiles, load_tiles, save_tiles
from pure_jax.train.language_model import tercile_thresholds
from pure_jax.train.measuring import chosen_sampling
from pure_jax.train.runs import Run, differences
from pure_jax.train.staged import StagedRun
from pure_jax.train.stages import THRESHOLDS, train_decoder, train_language_model, train_vqgan
from pure_jax.train.start import Start
from pure_jax.train.tokenizer import train_tokenizer
from pure_jax.vocabulary import load_vocabulary

console = Console(stderr=True)


@dataclass(frozen=True)
class DemoRun(StagedRun):
    """A run of a `Recipe`."""

    networks = NETWORKS
    chosen_from = ("guidance_scales", "temperatures", "top_k", "model.tile_overlap")

    def run(self, command: str) -> Path:
        if self.photos.is_dir():
            _ = self.start  # what is wrong with it is said before a folder is made
        return super().run(command)

    @property
    def stages(self) -> list[Callable[[], bool]]:
        return [self.tokenizer, self.vqgan, self.language_model, self.restored, self.decoder, self.sampling]

    @property
    def smallest_photo(self) -> int:
        return self.recipe.model.tile_size * TILES_PER_SIDE

    # ---- what is where ---------------------------------------------------------------------------------------------

    @property
    def tokenizer_file(self) -> Path:
        return self.out / "tokenizer.json"

    @property
    def vqgan_run(self) -> Run:
        return self.run_of("vqgan")

    @property
    def lm_run(self) -> Run:
        return self.run_of("lm")

    @property
    def decoder_run(self) -> Run:
        return self.run_of("decoder")

    @cached_property
    def start(self) -> Model | None:
        """The model whose training goes on, in float32.

        Raises:
            PureError: it has other sizes than the recipe; what `load` refuses.
        """
        if self.recipe.start is None:
            return None
        model = load(self.recipe.start, dtype="float32")
        own, theirs = to_dict(self.recipe.model), to_dict(model.config)
        for name, (mine, other) in sorted(differences(own, theirs).items()):
            if not name.startswith(("sampling.", "transformer.scan_layers", "tile_overlap", "colour_fix")):
                raise PureError(f"{self.recipe.start} has {name} {other}, but the recipe says {mine}")
        return model

    @property
    def vqgan_params(self) -> Any:
        """The image tokenizer that the language model reads and writes."""
        return self.vqgan_run.params() if self.start is None else self.start.params["vqgan"]

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
        return self.vqgan_params | self.decoder_run.params()

    # ---- stages: each returns whether it is done -------------------------------------------------------------------

    def tokenizer(self) -> bool:
        if not self.tokenizer_file.is_file():
            if self.start is not None:
                tokenizer = self.start.tokenizer
            else:
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
        if self.start is not None or self.vqgan_run.reached(recipe.vqgan.steps):
            return True
        return train_vqgan(self.train_photos, recipe.model, recipe.vqgan, self.vqgan_run)

    def language_model(self) -> bool:
        recipe = self.recipe
        if self.lm_run.reached(recipe.lm.steps):
            return True
        params, regions = self.vqgan_params, recipe.regions_per_round

        def records(first: int) -> Records:
            return build_records(
                self.train_photos, recipe.model, params, regions, recipe.seed, first=first, words=describe
            )

        rounds = RecordRounds(self.out / "records", regions, records)
        # Level borders are the terciles of the first round, and stay so when it is gone.
        stored = self.lm_run.out / THRESHOLDS
        thresholds = load_thresholds(stored) if stored.is_file() else tercile_thresholds(rounds.epoch(0))
        return train_language_model(
            rounds,
            thresholds,
            recipe.model,
            recipe.lm,
            self.tokenizer_file,
            params["quantizer"]["codebook"],
            self.lm_run,
            start=None if recipe.start is None else Start(recipe.start),
        )

    def restored(self) -> bool:
        """Tiles for the decoder's training, from regions that the language model has not read, part by part."""
        missing = [part for part in self.restored_parts if not part.is_file()]
        if self.decoder_run.reached(self.recipe.decoder.steps) or not missing:
            return True
        recipe, model = self.recipe, self.model(self.vqgan_params)
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
            # One of the ways that will be chosen from, in turns: the decoder is to stand all of them.
            sampling = replace(recipe.model.sampling, **self.settings[number % len(self.settings)])
            answers = generate(model, np.concatenate(codes), seed=recipe.seed + number, sampling=sampling)
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
            self.vqgan_params,
            self.decoder_run,
        )

    @property
    def settings(self) -> list[dict[str, float]]:
        """Fields of the sampling defaults that are tried."""
        recipe = self.recipe
        return [
            {"guidance_scale": scale, "temperature": temperature, "k_max": most}
            for scale in recipe.guidance_scales
            for temperature in recipe.temperatures
            for most in recipe.top_k
        ]

    def sampling(self) -> bool:
        return self.choose_sampling(self.model(self.final_vqgan()), self.settings)

    def result(self) -> tuple[Any, dict[str, Any], str]:
        config = replace(self.recipe.model, sampling=chosen_sampling(self.sampling_file, self.recipe.model.sampling))
        params = {"transformer": self.lm_run.params(), "vqgan": self.final_vqgan()}
        return config, params, self.tokenizer_file.read_text(encoding="utf-8")

    def table(self, pairs: Path, model: Any) -> str:
        return self.measuring.table_with_words(pairs, model, load_thresholds(self.lm_run.out / THRESHOLDS))

    def card(self, calls: list[dict[str, Any]], tables: dict[str, str]) -> str:
        begun = "" if self.recipe.start is None else how_it_began(self.recipe.start, find(self.recipe.start))
        return model_card(self.out, self.recipe, calls, tables, self.photos, begun)
