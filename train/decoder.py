"""Training of the image tokenizer's decoder alone, on codes as they come at inference; encoder and codebook stay.

A decoder that has seen only the codes of sharp photos shows every mistake of the language model as a pattern. Here half
of its codes are the language model's own answers, and an adversarial term makes it crisp. What a code means to the
language model does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pure_jax.config import VQGANConfig
from pure_jax.errors import PureError
from pure_jax.files import replacing, require_writable
from pure_jax.train import adversarial
from pure_jax.train.adversarial import AdversarialState
from pure_jax.train.config import DecoderTrainConfig
from pure_jax.vqgan import VQGAN, from_pixels

PARTS = ("decoder", "post_quant_conv")
"""The parameters that are trained."""


@dataclass(frozen=True)
class RestoredTiles:
    """Tiles of training photos and what the language model made of their degraded versions.

    codes: uint16 [n, h, w], sampled; pixels: uint8 [n, tile, tile, 3], the photo.
    """

    codes: np.ndarray
    pixels: np.ndarray


def save_tiles(path: Path, tiles: RestoredTiles) -> None:
    """Write beside and rename."""
    require_writable(path)
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez(file, codes=tiles.codes, pixels=tiles.pixels)


def load_tiles(paths: Sequence[Path]) -> RestoredTiles:
    """Read what `save_tiles` wrote, one file after the other. Raises PureError if that is not it."""
    parts = []
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as file:
                parts.append((file["codes"], file["pixels"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise PureError(f"{path} cannot be read ({error}); remove it, and the next run makes it again") from error
    codes, pixels = zip(*parts, strict=True)
    return RestoredTiles(np.concatenate(codes), np.concatenate(pixels))


def batch_at(
    tiles: RestoredTiles, crops_at: Callable[[int], np.ndarray], config: DecoderTrainConfig, step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fresh crops uint8 [batch, tile, tile, 3], restored codes int32 [batch, h, w] and their photos' pixels."""
    chosen = np.random.default_rng([config.seed, step, 2]).integers(len(tiles.codes), size=config.batch)
    return crops_at(step), tiles.codes[chosen].astype(np.int32), tiles.pixels[chosen]


def init_state(vqgan_params: Any, config: DecoderTrainConfig, tile: int) -> AdversarialState:
    """The trained tokenizer's decoder and a fresh discriminator for tiles of `tile` pixels."""
    return adversarial.init_state({name: vqgan_params[name] for name in PARTS}, config, tile)


def make_step(
    model_config: VQGANConfig, vqgan_params: Any, config: DecoderTrainConfig, perceptual_params: Any | None
) -> Callable[[AdversarialState, tuple], tuple[AdversarialState, dict[str, Array]]]:
    """The jitted update (state, what `batch_at` gives) -> (state, metrics); see `pure_jax.train.adversarial.update`."""
    model: Any = VQGAN(model_config)
    frozen = {name: value for name, value in vqgan_params.items() if name not in PARTS}

    @jax.jit
    def step_fn(state: AdversarialState, batch: tuple) -> tuple[AdversarialState, dict[str, Array]]:
        crops, restored, pixels = batch
        encoded = model.apply({"params": frozen | state.params}, from_pixels(crops), method="encode")
        codes = jnp.concatenate([encoded, restored])
        x = from_pixels(jnp.concatenate([crops, pixels]))

        def decode(params: Any) -> tuple[tuple[Array, Array], dict[str, Array]]:
            return (model.apply({"params": frozen | params}, codes, method="decode"), jnp.zeros(())), {}

        state, metrics, distances = adversarial.update(config, perceptual_params, state, x, decode)
        fresh, own = jnp.split(distances, 2)
        return state, metrics | {"perceptual_fresh": fresh.mean(), "perceptual_restored": own.mean()}

    return step_fn
