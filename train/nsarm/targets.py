"""What NSARM's two stages are trained on: residuals, inputs, labels, weights. Pure functions of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pure_jax.nsarm.bsq import decompose
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.nsarm.resize import patchify, resize

FLIP_STEPS = 100
"""Probabilities of flipped bits are multiples of a hundredth. Source: Infinity's code."""


def map_targets(features: Array, residuals: Sequence[Array], config: NsarmConfig) -> list[Array]:
    """Ground truth's features float32 [batch, H, W, d] -> what the map network has to say of its scales.

    Each is the residual before it is quantised, float32 [batch, side, side, d]. The scales before it are the ground
    truth's, quantised; where the network predicts latents, they are its own, as its `residuals` say.
    """
    scales = config.latent_scales
    if config.map_network.predicts == "residuals":
        return decompose(features, scales, next_input=config.next_input).residuals[: config.given_scales]
    own = decompose(None, scales[: config.given_scales], residuals, "area", scales[-1])
    before = [jnp.zeros(()), *jax.lax.stop_gradient(own.inputs)]
    return [resize(features, side, "area") - total for side, total in zip(scales, before, strict=False)]


def map_loss(residuals: Sequence[Array], targets: Sequence[Array], kind: str) -> Array:
    """Mean over scales (NSARM paper, Eq. 4) of the mean squared error, or of the logistic loss of the signs.

    kind: "squares" or "bits"; a residual divided by the targets' mean magnitude is a bit's logit then.
    """

    def of(residual: Array, target: Array) -> Array:
        if kind == "squares":
            return jnp.square(residual - target).mean()
        gap = residual / jnp.maximum(jnp.abs(target).mean(), 1e-6)
        return jax.nn.softplus(jnp.where(target > 0, -gap, gap)).mean()

    return jnp.stack([of(r, t) for r, t in zip(residuals, targets, strict=True)]).mean()


class Taught(NamedTuple):
    """A picture as the transformer is taught it."""

    tokens: Array
    """float32 [batch, n, bits of a token]: the sum so far at each scale but the first."""
    labels: Array
    """bool [batch, n + 1, bits of a token]: of every scale."""


def taught(
    features: Array,
    residuals: Sequence[Array],
    config: NsarmConfig,
    next_input: str,
    flips: Sequence[Array] | None = None,
) -> Taught:
    """The map network's scales, then the ground truth's residuals, which make its errors good (Algorithm 2).

    Args:
        features: of the ground truth, float32 [batch, H, W, d].
        residuals: of the map network, as many as it writes.
        flips: bool [batch, side, side, d] for each scale: bits that are written wrongly, while their labels stay right.
    """
    scaled = decompose(features, config.latent_scales, residuals, next_input, flips=flips)
    tokens, labels = ([patchify(x, config.patch) for x in own] for own in (scaled.inputs, scaled.bits))
    return Taught(jnp.concatenate(tokens, axis=1), jnp.concatenate(labels, axis=1))


def random_flips(key: Array, config: NsarmConfig, batch: int, largest: float) -> list[Array]:
    """Bitwise self-correction: for each scale one probability for the batch, from 0 up to `largest`."""
    strengths, bits = jax.random.split(key)
    most = round(largest * FLIP_STEPS)
    drawn = jax.random.randint(strengths, (len(config.sides),), 0, most + 1) / FLIP_STEPS
    shapes = [(batch, *side, config.vae.latent_channels) for side in config.latent_scales]
    keys = jax.random.split(bits, len(shapes))
    return [jax.random.bernoulli(k, p, shape) for k, p, shape in zip(keys, drawn, shapes, strict=True)]


def token_weights(config: NsarmConfig, first: int, reweight: bool) -> np.ndarray:
    """float32 [tokens], summing to 1: 0 before scale `first`; then equal, or so that a scale counts as its side."""
    sides = np.array(config.sides, np.float64)
    each = np.where(np.arange(len(sides)) >= first, 1.0 / sides if reweight else 1.0, 0.0)
    weights = np.repeat(each, [side**2 for side in config.sides])
    return (weights / weights.sum()).astype(np.float32)


def bit_loss(logits: Array, labels: Array, weights: Array) -> Array:
    """Cross entropy of bits: mean over a token's bits, weighted sum over tokens, mean over pictures. float32 [].

    logits: float32 [batch, n, bits, 2]; labels: bool [batch, n, bits]; weights: [n].
    """
    gap = logits[..., 1] - logits[..., 0]
    return (jax.nn.softplus(jnp.where(labels, -gap, gap)).mean(-1) * weights).sum(-1).mean()
