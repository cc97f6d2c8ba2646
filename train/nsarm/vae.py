"""Training of the bitwise image tokenizer (BSQ-VAE): pictures through all scales, straight through the quantiser."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pure_jax.nsarm.bsq import Scaled, bits_to_codes, decompose
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.nsarm.resize import resize
from pure_jax.nsarm.vae import VAE
from pure_jax.train import adversarial
from pure_jax.train.adversarial import AdversarialState
from pure_jax.train.nsarm.config import VAETrainConfig
from pure_jax.vqgan import from_pixels


@partial(jax.jit, static_argnames=("config", "options"))
def init_state(config: NsarmConfig, options: VAETrainConfig) -> AdversarialState:
    """Fresh weights."""
    image = jnp.zeros((1, config.vae.stride, config.vae.stride, 3))
    params = VAE(config.vae).init(jax.random.key(options.seed), image)["params"]
    return adversarial.init_state(params, options, config.tile_size)


def commitment(features: Array, scaled: Scaled) -> Array:
    """Mean over scales of the features' mean squared distance to the sum up to each; moves the features only."""
    _, height, width, _ = features.shape
    total, distances = jnp.zeros(()), []
    for bits in scaled.bits:
        total = total + resize(bits_to_codes(bits), (height, width), "linear")
        distances.append(jnp.square(features - jax.lax.stop_gradient(total)).mean())
    return jnp.stack(distances).mean()


def bit_entropies(scaled: Scaled, inverse_temperature: float) -> tuple[Array, Array]:
    """(mean entropy of a bit, mean over bits of the entropy of its mean), nats, over all scales' positions.

    A bit's probability is a soft assignment by squared distance of its residual's direction to the two codes, which
    differ by 4 u / sqrt(d) (BSQ, Zhao et al. 2024, section 3.3).
    """
    each, means = [], []
    for residual in scaled.residuals:
        unit = residual / jnp.maximum(jnp.linalg.norm(residual, axis=-1, keepdims=True), 1e-12)
        p = jax.nn.sigmoid(inverse_temperature * 4 * unit * unit.shape[-1] ** -0.5)
        each.append(_entropy(p).mean())
        means.append(_entropy(p.mean(axis=(0, 1, 2))).mean())
    return jnp.stack(each).mean(), jnp.stack(means).mean()


def _entropy(p: Array) -> Array:
    return -(p * jnp.log(p + 1e-7) + (1 - p) * jnp.log(1 - p + 1e-7))


def make_step(
    config: NsarmConfig, options: VAETrainConfig, perceptual_params: Any | None
) -> Callable[[AdversarialState, Array], tuple[AdversarialState, dict[str, Array]]]:
    """The jitted update (state, uint8 crops [batch, tile, tile, 3]) -> (state, metrics)."""
    net: Any = VAE(config.vae)

    @jax.jit
    def step_fn(state: AdversarialState, crops: Array) -> tuple[AdversarialState, dict[str, Array]]:
        x = from_pixels(crops)

        def produce(params: Any) -> tuple[tuple[Array, Array], dict[str, Array]]:
            features = net.apply({"params": params}, x, method="encode")
            scaled = decompose(features, config.latent_scales, next_input=config.next_input)
            y = net.apply({"params": params}, scaled.total, method="decode_unbounded")
            each, mean = bit_entropies(scaled, options.inverse_temperature)
            near = commitment(features, scaled)
            bits = jnp.concatenate([b.reshape(-1, b.shape[-1]) for b in scaled.bits]).mean(axis=0)
            found = {"commitment": near, "bit_entropy": each, "bits_used": (_entropy(bits) / jnp.log(2.0)).mean()}
            return (y, options.commitment_weight * near + options.entropy_weight * (each - mean)), found

        state, metrics, distances = adversarial.update(options, perceptual_params, state, x, produce)
        return state, metrics | {"perceptual": distances.mean()}

    return step_fn
