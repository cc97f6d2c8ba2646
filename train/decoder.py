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

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from pure_jax.config import VQGANConfig
from pure_jax.errors import PureError
from pure_jax.files import replacing, require_writable
from pure_jax.infer.metrics.perceptual import perceptual_distance
from pure_jax.train.config import DecoderTrainConfig
from pure_jax.train.discriminator import PatchDiscriminator
from pure_jax.train.optimiser import adamw, averaged
from pure_jax.vqgan import VQGAN, from_pixels

PARTS = ("decoder", "post_quant_conv")
"""The parameters that are trained."""


@flax.struct.dataclass
class DecoderState:
    """Everything a resumed run needs."""

    step: Array
    params: Any
    ema: Any
    opt_state: Any
    disc_params: Any
    disc_opt_state: Any


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


def _discriminator(config: DecoderTrainConfig) -> PatchDiscriminator:
    return PatchDiscriminator(config.discriminator_width, config.discriminator_layers)


def init_state(vqgan_params: Any, config: DecoderTrainConfig, tile: int) -> DecoderState:
    """The trained tokenizer's decoder and a fresh discriminator for tiles of `tile` pixels."""
    params = {name: vqgan_params[name] for name in PARTS}
    disc_params = _discriminator(config).init(jax.random.key(config.seed), jnp.zeros((1, tile, tile, 3)))["params"]
    tx = adamw(config.optimiser, config.steps)
    ema = jax.tree.map(jnp.copy, params)
    return DecoderState(jnp.zeros((), jnp.int32), params, ema, tx.init(params), disc_params, tx.init(disc_params))


def make_step(
    model_config: VQGANConfig, vqgan_params: Any, config: DecoderTrainConfig, perceptual_params: Any | None
) -> Callable[[DecoderState, tuple], tuple[DecoderState, dict[str, Array]]]:
    """The jitted update (state, what `batch_at` gives) -> (state, metrics): decoder, EMA, then discriminator.

    The adversarial gradient at the pixels is scaled to the length of the other terms' gradient there (the idea of
    VQGAN's adaptive weight, Esser et al. 2021, Eq. 7, at the output instead of the last layer), so that its share does
    not depend on how confident the discriminator is.
    """
    model: Any = VQGAN(model_config)
    disc: Any = _discriminator(config)
    tx = adamw(config.optimiser, config.steps)
    frozen = {name: value for name, value in vqgan_params.items() if name not in PARTS}

    def fidelity(y: Array, x: Array) -> tuple[Array, dict[str, Array]]:
        l1, l2 = jnp.abs(x - y).mean(), jnp.square(x - y).mean()
        distances = jnp.zeros(len(x))
        if perceptual_params is not None:
            distances = perceptual_distance(perceptual_params, (x + 1) / 2, (y + 1) / 2)
        loss = config.l1_weight * l1 + config.l2_weight * l2 + config.perceptual_weight * distances.mean()
        fresh, restored = jnp.split(distances, 2)
        return loss, {"loss": loss, "l1": l1, "perceptual_fresh": fresh.mean(), "perceptual_restored": restored.mean()}

    def discriminator_loss(disc_params: Any, x: Array, y: Array) -> Array:
        real, fake = (disc.apply({"params": disc_params}, image) for image in (x, y))
        return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean())

    @jax.jit
    def step_fn(state: DecoderState, batch: tuple) -> tuple[DecoderState, dict[str, Array]]:
        crops, restored, pixels = batch
        encoded = model.apply({"params": frozen | state.params}, from_pixels(crops), method="encode")
        codes = jnp.concatenate([encoded, restored])
        x = from_pixels(jnp.concatenate([crops, pixels]))

        def decode(params: Any) -> Array:
            return model.apply({"params": frozen | params}, codes, method="decode")

        y, backward = jax.vjp(decode, state.params)
        slope, metrics = jax.grad(fidelity, has_aux=True)(y, x)

        def fooled(y: Array) -> Array:
            return -disc.apply({"params": state.disc_params}, y).mean()

        adversarial_slope = jax.grad(fooled)(y)
        scale = optax.tree.norm(slope) / (optax.tree.norm(adversarial_slope) + 1e-12)
        begun = state.step >= config.adversarial_start
        (grads,) = backward(slope + jnp.where(begun, config.adversarial_weight * scale, 0.0) * adversarial_slope)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = averaged(state.ema, params, state.step, config.ema_decay)

        # It learns from the first step on, so that it is of use when its term begins.
        metrics["discriminator"], grads = jax.value_and_grad(discriminator_loss)(state.disc_params, x, y)
        updates, disc_opt = tx.update(grads, state.disc_opt_state, state.disc_params)
        disc_params = optax.apply_updates(state.disc_params, updates)
        return DecoderState(state.step + 1, params, ema, opt_state, disc_params, disc_opt), metrics

    return step_fn
