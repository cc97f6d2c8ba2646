"""How the bits of a scale are drawn from their logits, and the random numbers for it.

A bit is 1 where (l1 - l0) / temperature exceeds logistic noise, which is a draw from the softmax of both. Noise is
keyed by seed, picture and scale, and has its place by token and bit: it depends neither on the batch nor on other
scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from pure_jax.errors import PureError
from pure_jax.infer.contract import check_seed

Noise = Callable[[Array, int, tuple[int, int]], Array]
"""(pictures int32 [batch], the scale's number, (tokens, bits)) -> float32 [batch, tokens, bits]; a traceable pytree."""


def draw_bits(gaps: Array, noise: Array, temperature: float, top_p: float) -> Array:
    """bool [...]: bits for gaps l1 - l0 between their logits, float32 [...]; temperature 0 is greedy.

    A value whose probability, at this temperature, is 1 - top_p or less is never drawn. Source: checkpoint fact.
    """
    if temperature == 0.0:
        return gaps > 0
    gaps = gaps / temperature
    if top_p == 1.0:
        return gaps > noise
    certain = jnp.abs(gaps) >= math.log(top_p / (1.0 - top_p))
    return jnp.where(certain, gaps > 0, gaps > noise)


def bit_entropy(gaps: Array) -> Array:
    """Nats, float32 [...], of bits at temperature 1."""
    p = jax.nn.sigmoid(gaps)
    return -(p * jax.nn.log_sigmoid(gaps) + (1 - p) * jax.nn.log_sigmoid(-gaps))


class SeedNoise(struct.PyTreeNode):
    """Logistic noise of a key from (seed, picture, scale)."""

    seed: Array
    """uint32 []"""

    def __call__(self, images: Array, scale: int, shape: tuple[int, int]) -> Array:
        def one(image: Array) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), image), scale)
            return jax.random.logistic(key, shape, jnp.float32)

        return jax.vmap(one)(images)


class GivenNoise(struct.PyTreeNode):
    """Numbers that somebody else drew."""

    values: dict[int, Array]
    """By scale, counted from 0: float32 [pictures, tokens, bits]."""

    def __call__(self, images: Array, scale: int, shape: tuple[int, int]) -> Array:
        return self.values[scale][images]


def noise_of(given: Any, seed: int, first: int, shapes: Sequence[tuple[int, ...]]) -> Noise:
    """What a caller may give: None (the seed decides), or an array for each scale that is drawn, coarse to fine.

    first: number of the first of these scales. shapes: (pictures, tokens, bits) of each.

    Raises:
        PureError: the seed is out of range, or an array has another shape.
    """
    check_seed(seed)
    if given is None:
        return SeedNoise(jnp.uint32(seed))
    values = [np.asarray(own, np.float32) for own in given]
    if [own.shape for own in values] != [tuple(shape) for shape in shapes]:
        raise PureError(f"the noise has the shapes {[own.shape for own in values]}; give {[tuple(s) for s in shapes]}")
    return GivenNoise({first + i: jnp.asarray(own) for i, own in enumerate(values)})
