"""The random numbers of decoding: a function of picture and position that goes into the compiled loops as a value.

A code is drawn as argmax(logits / T + noise); with standard Gumbel noise that is a draw from the softmax. Noise that is
keyed by picture and position, and by nothing else, makes every exact way of decoding write the same codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from pure_jax.errors import PureError
from pure_jax.infer.contract import check_seed
from pure_jax.sampling import gumbel_noise, position_keys

Noise = Callable[[Array, Array, int], Array]
"""(images int32 [batch], absolute positions int32 [batch], n) -> float32 [batch, n]; a pytree, and traceable."""


class SeedNoise(struct.PyTreeNode):
    """Gumbel noise of `pure_jax.sampling.position_keys`."""

    seed: Array
    """uint32 []"""

    def __call__(self, images: Array, positions: Array, n: int) -> Array:
        return gumbel_noise(position_keys(self.seed, images, positions), n)


class GivenNoise(struct.PyTreeNode):
    """Numbers that somebody else drew."""

    values: Array
    """float32 [images, positions, codes]; positions count from the beginning of the prompt."""

    def __call__(self, images: Array, positions: Array, n: int) -> Array:
        return self.values[images, jnp.minimum(positions, self.values.shape[1] - 1), :n]


def noise_of(given: Any, seed: int, codes: int) -> Noise:
    """What a caller may give: None (the seed decides), an array as in `GivenNoise`, or a traceable function.

    Raises:
        PureError: the seed is out of range, or the array has another shape than [images, positions, codes].
    """
    check_seed(seed)
    if given is None:
        return SeedNoise(jnp.uint32(seed))
    if callable(given):
        return given if isinstance(given, SeedNoise | GivenNoise) else jax.tree_util.Partial(given)
    values = np.asarray(given, np.float32)
    if values.ndim != 3 or values.shape[2] < codes:
        raise PureError(f"the noise has the shape {values.shape}; give [pictures, positions, at least {codes} codes]")
    return GivenNoise(jnp.asarray(values))
