"""The two resizes of NSARM, and the order in which positions of the latent become channels of a token.

Both resizes are linear along each axis, so each is a dense matrix, applied in full float32: in the reduced precision of
an accelerator's default the signs of small values, which are the bits, would flip.
"""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array, lax

KINDS = ("area", "linear")
"""area: adaptive average pooling; output i averages the cells floor(i in / out) ... ceil((i + 1) in / out).
linear: two taps around (i + 1/2) in / out - 1/2, without antialiasing; beyond the edge the edge counts."""


@lru_cache
def resize_matrix(kind: str, size: int, new: int) -> np.ndarray:
    """float32 [new, size]; its rows sum to 1."""
    place = np.arange(new)
    matrix = np.zeros((new, size))
    if kind == "area":
        first, last = place * size // new, -(-(place + 1) * size // new)
        cells = np.arange(size)
        matrix[(cells >= first[:, None]) & (cells < last[:, None])] = 1.0
        matrix /= matrix.sum(axis=1, keepdims=True)
    else:
        # In float32, as PyTorch computes the weights that the published models were trained with.
        source = np.maximum(np.float32(size / new) * (place.astype(np.float32) + 0.5) - 0.5, np.float32(0))
        left = np.minimum(source.astype(int), size - 1)
        right = np.minimum(left + 1, size - 1)
        np.add.at(matrix, (place, left), 1.0 - (source - left))
        np.add.at(matrix, (place, right), source - left)
    return matrix.astype(np.float32)


def resize(x: Array, size: tuple[int, int], kind: str) -> Array:
    """float32 [batch, height, width, channels] -> [batch, *size, channels]. Source: checkpoint fact."""
    if x.shape[1:3] == size:
        return x
    rows, columns = (resize_matrix(kind, old, new) for old, new in zip(x.shape[1:3], size, strict=True))
    x = jnp.einsum("yh,bhwc->bywc", rows, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("xw,bywc->byxc", columns, x, precision=lax.Precision.HIGHEST)


def patchify(x: Array, patch: int) -> Array:
    """[batch, patch * h, patch * w, c] -> tokens [batch, h * w, c * patch**2], row by row.

    Channel c * patch**2 + patch * dy + dx of a token is channel c at (dy, dx) of its patch. Source: checkpoint fact.
    """
    return rearrange(x, "b (h p) (w q) c -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens: Array, scale: tuple[int, int], patch: int) -> Array:
    """The inverse of `patchify`, for a scale of (h, w) tokens."""
    return rearrange(tokens, "b (h w) (c p q) -> b (h p) (w q) c", h=scale[0], w=scale[1], p=patch, q=patch)
