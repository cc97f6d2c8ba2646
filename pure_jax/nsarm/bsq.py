"""Binary spherical quantisation, and a picture's latent as a sum of quantised scales.

A code is a corner of the cube on the unit sphere: its entries are +-1 / sqrt(d), one bit each, and no table is needed.
Source: NSARM paper, Eq. 1 and 2; Infinity's multi-scale quantiser as a checkpoint fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from pure_jax.nsarm.resize import resize


def quantise(v: Array) -> tuple[Array, Array]:
    """Vectors float [..., d] -> (codes float32 [..., d], bits bool [..., d]).

    A bit says whether its entry is above 0. The codes' gradient is that of v / |v|: straight through the quantiser, but
    not through the normalisation.
    """
    v = v.astype(jnp.float32)
    unit = v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
    bits = v > 0
    return bits_to_codes(bits) + (unit - lax.stop_gradient(unit)), bits  # in this order the codes are exact


def bits_to_codes(bits: Array) -> Array:
    """bool [..., d] -> float32 [..., d] of length 1."""
    return jnp.where(bits, 1.0, -1.0).astype(jnp.float32) * jnp.float32(bits.shape[-1] ** -0.5)


def bits_to_ints(bits: Array) -> Array:
    """bool [..., d] -> int32 [...], the first bit the most significant; 0 is an integer like any other."""
    return jnp.sum(bits.astype(jnp.int32) << jnp.arange(bits.shape[-1] - 1, -1, -1), axis=-1)


def ints_to_bits(ints: Array, bits: int) -> Array:
    """int32 [...] -> bool [..., bits], the inverse of `bits_to_ints`."""
    return (ints[..., None] >> jnp.arange(bits - 1, -1, -1)) & 1 == 1


class Scaled(NamedTuple):
    """A latent as scales; lists go over them, coarse to fine."""

    total: Array
    """float32 [batch, H, W, d]: the sum of all scales' codes, each enlarged to the latent's size."""
    residuals: list[Array]
    """float32 [batch, h, w, d]: what each scale was quantised from."""
    bits: list[Array]
    """bool [batch, h, w, d]"""
    inputs: list[Array]
    """float32 [batch, h, w, d]: what the transformer is shown of the sum before each scale but the first, at that
    scale's size."""


def decompose(
    features: Array | None,
    sides: Sequence[tuple[int, int]],
    given: Sequence[Array] = (),
    next_input: str = "area",
    size: tuple[int, int] | None = None,
    flips: Sequence[Array] | None = None,
) -> Scaled:
    """Quantise a latent scale by scale, each from what the scales before have left of it.

    Args:
        features: float32 [batch, H, W, d]; None where all scales are given.
        sides: (height, width) of each scale in latent positions, not in tokens.
        given: residuals of the first scales, float32 [batch, h, w, d], taken as they are, whatever the features are:
            the map network's, whose errors the later scales then make good (NSARM paper, Algorithm 2).
        size: (H, W) of the latent; None: the last scale is as large.
        next_input: how the sum is made as small as the next scale, one of `pure_jax.nsarm.resize.KINDS`.
        flips: for each scale bits, bool [batch, h, w, d], that are written wrongly, so that the scales behind make them
            good; `bits` stay those that would have been right.

    Gradients flow into the total and the inputs through the codes (`quantise`), and not through the residuals.
    """
    size = size or sides[-1]
    total = jnp.zeros(())
    residuals, bits, inputs = [], [], []
    for i, side in enumerate(sides):
        if i:
            inputs.append(resize(total, side, next_input))
        if i < len(given):
            residual = given[i]
        else:
            assert features is not None, "there are more scales than residuals given"
            residual = resize(features - lax.stop_gradient(total), side, "area")
        codes, own = quantise(residual)
        if flips is not None:
            codes = bits_to_codes(own ^ flips[i])
        total = total + resize(codes, size, "linear")
        residuals.append(residual)
        bits.append(own)
    return Scaled(total, residuals, bits, inputs)


def compose(bits: Sequence[Array]) -> Array:
    """Bits of all scales, bool [batch, h, w, d] -> their sum at the last one's size, float32 [batch, H, W, d]."""
    _, height, width, _ = bits[-1].shape
    return sum((resize(bits_to_codes(own), (height, width), "linear") for own in bits), jnp.zeros(()))
