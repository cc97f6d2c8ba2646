"""`pure train demo --recipe nsarm`: a model of NSARM's family, stage by stage from a folder of photographs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from pure_jax.config import to_dict
from pure_jax.infer.metrics.perceptual import load_params
from pure_jax.nsarm.model import NsarmModel
from pure_jax.train.card import figure, how_it_was_made, measurements
from pure_jax.train.config import require_discriminated
from pure_jax.train.measuring import chosen_sampling
from pure_jax.train.nsarm import vae
from pure_jax.train.nsarm.pairs import crops_at
from pure_jax.train.nsarm.recipes import NsarmRecipe
from pure_jax.train.nsarm.stages import train_map, train_scales
from pure_jax.train.staged import StagedRun


def prompt_features(recipe: NsarmRecipe) -> np.ndarray:
    """Features float32 [length, text_size] of the caption that all pictures have: fixed noise, there being no encoder.

    The transformer learns what they mean.
    """
    config = recipe.model
    shape = (config.prompt_length, config.transformer.text_size)
    return np.random.default_rng(recipe.seed).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class NsarmRun(StagedRun):
    """A run of an `NsarmRecipe`."""

    networks = {"vae": "image tokenizer", "map_network": "map network (stage 1)", "scales": "both (stage 2)"}

    @property
    def stages(self) -> list[Callable[[], bool]]:
        return [self.vae, self.map_network, self.scales, self.sampling]

    @property
    def smallest_photo(self) -> int:
        # A picture that is shown degraded is twice as large as a tile before.
        return max(2, self.recipe.map_network.region, self.recipe.scales.region) * self.recipe.model.tile_size

    def vae(self) -> bool:
        config, options, run = self.recipe.model, self.recipe.vae, self.run_of("vae")
        if run.reached(options.steps):
            return True
        require_discriminated(config.tile_size, options.discriminator_layers, options.discriminator_width)
        perceptual = load_params() if options.perceptual_weight else None
        with run.held({"model": to_dict(config), "train": asdict(options)}):
            state = vae.init_state(config, options)
            step_fn = vae.make_step(config, options, perceptual)
            batch_at = partial(crops_at, self.train_photos, config, options)
            return int(run.train(state, step_fn, batch_at, options.steps).step) >= options.steps

    def map_network(self) -> bool:
        """Stage 1."""
        options, run = self.recipe.map_network, self.run_of("map_network")
        return run.reached(options.steps) or train_map(
            self.train_photos, self.recipe.model, options, {"vae": self.run_of("vae").params()}, run
        )

    def scales(self) -> bool:
        """Stage 2."""
        options, run = self.recipe.scales, self.run_of("scales")
        if run.reached(options.steps):
            return True
        resting = {"vae": self.run_of("vae").params(), "prompt": {"features": prompt_features(self.recipe)}}
        mapped = self.run_of("map_network").params()["map_network"]
        return train_scales(self.train_photos, self.recipe.model, options, resting, run, mapped)

    def sampling(self) -> bool:
        config, params, _ = self._model()
        model = NsarmModel(config, jax.device_put(params), None, None)
        return self.choose_sampling(model, [{"temperature": t} for t in self.recipe.temperatures])

    def _model(self) -> tuple[Any, dict[str, Any], str]:
        networks = self.run_of("scales").params()
        prompt = {"features": prompt_features(self.recipe)}
        return self.recipe.model, networks | {"vae": self.run_of("vae").params(), "prompt": prompt}, ""

    def result(self) -> tuple[Any, dict[str, Any], str]:
        config, params, tokenizer = self._model()
        return replace(config, sampling=chosen_sampling(self.sampling_file, config.sampling)), params, tokenizer

    def card(self, calls: list[dict[str, Any]], tables: dict[str, str]) -> str:
        config = self.recipe.model
        sampling = json.loads(self.sampling_file.read_text(encoding="utf-8"))
        tried = "\n".join(
            f"| {t['temperature']} | {t['psnr_y']:.2f} | {t['perceptual']:.3f} | {figure(t['niqe'])} |"
            for t in sampling["tried"]
        )
        sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(own)) for name, own in self._model()[1].items()}
        return f"""# pure-jax demo model of NSARM's family

A tiny model that restores by next-scale prediction of bits (NSARM): a map network writes the first
{config.given_scales} of {len(config.sides)} scales from the low-quality picture, a transformer draws the others, one
pass each. It exists so that everything in pure-jax runs at once on any machine. It is not a substitute for a large
model.

## What it is

- Transformer: {config.transformer.num_layers} layers, width {config.transformer.hidden_size}; \
{sizes["transformer"]:,} parameters. Map network: {sizes["map_network"]:,}, of this library's layout (channels last).
- Image tokenizer: {sizes["vae"]:,} parameters, stride {config.vae.stride}, {config.vae.latent_channels} bits each.
- Tiles of {config.low_quality_size} pixels become {config.tile_size}. One fixed caption, whose features lie in the
directory; no text encoder. Weights are stored in bfloat16.

## How it was made

{how_it_was_made(self.out, self.networks, calls, self.photos)}

Sampling: temperature {sampling["chosen"]["temperature"]}, chosen on {self.recipe.tuning_photos} photos of the train
split that no stage trained on:

| temperature | PSNR-Y [dB] | perceptual distance | NIQE |
|---:|---:|---:|---:|
{tried}

## Measured

{measurements(self.recipe.evaluation_crop, tables)}
"""
