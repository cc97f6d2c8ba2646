"""int8 in the place of floats: symmetric rounding with float32 scales, and products that leave the int8 in memory.

x is about values * scale, where values run from -127 to 127 and scale = max |x| / 127 along one axis. A layer's kernel
has a scale for each output channel: {"kernel": int8 [in, out], "scale": float32 [out]} stands in the parameters where
{"kernel": float [in, out]} stood. The cache has one for each head and token.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array, lax

LIMIT = 127
"""Largest magnitude; -128 is not used, so that the range is symmetric."""

_DIGITS = 3
_BASE = 2 * LIMIT
_FEW_ROWS = 128


@struct.dataclass
class Quantised:
    """About values * scale."""

    values: Any
    """int8"""
    scale: Any
    """float32, of the same shape but for the axis that was rounded together, which has length 1."""


def quantise(x: Any, axis: int = -1) -> Quantised:
    """Round to the nearest, ties to even, of 255 levels along `axis`; x: float, a numpy or jax array.

    The error is at most scale / 2. Where all is 0, so is the scale.
    """
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    x = x.astype(xp.float32)
    scale = xp.max(xp.abs(x), axis=axis, keepdims=True) / xp.float32(LIMIT)
    values = xp.round(x / xp.where(scale > 0, scale, xp.float32(1)))
    return Quantised(values.astype(xp.int8), scale)


def dequantise(x: Quantised) -> Any:
    """float32: the numbers that a `Quantised` stands for."""
    return x.values.astype(np.float32) * x.scale


def product(x: Array, layer: Mapping[str, Array]) -> Array:
    """x [..., in] times a layer without bias, {"kernel": [in, out]} or the int8 pair; float32 [..., out]."""
    kernel = layer["kernel"]
    if "scale" not in layer:
        return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)
    rows = x.reshape(-1, x.shape[-1])
    return (int8_einsum("nd,dv->nv", rows, kernel) * layer["scale"]).reshape(*x.shape[:-1], kernel.shape[-1])


def columns(layer: Mapping[str, Array], channels: Any) -> dict[str, Array]:
    """The layer with these output channels only: int32 [n], or a slice."""
    return {name: leaf[..., channels] for name, leaf in layer.items()}


def int8_einsum(spec: str, x: Array, values: Array) -> Array:
    """float32 einsum of float x with int8 values that are never held as floats, as far as the compiler can help it.

    x is [..., rows, summed] and the result [..., rows, columns]: the values have all axes but the rows.

    On an accelerator the values are converted on their way into the product. XLA's CPU products want their operands
    whole, in memory, and of one dtype: there x is written as three int8 digits to base 254, so that all products are of
    integers, exact, and as good as float32's. On two CPU cores, one to eight rows through layers of 1024 x 4096 take
    0.4 to 0.9 times as long as in float32; converted kernels, 3 to 5 times.
    """
    return lax.platform_dependent(x, values, cpu=partial(_on_cpu, spec), default=partial(_converted, spec))


def _converted(spec: str, x: Array, values: Array) -> Array:
    # Without the barrier the conversion, which is the same in every turn of a loop, would be done before the loop.
    x, values = lax.optimization_barrier((x, values))
    return jnp.einsum(spec, x, values.astype(x.dtype), preferred_element_type=jnp.float32)


def _on_cpu(spec: str, x: Array, values: Array) -> Array:
    if x.shape[-2] > _FEW_ROWS:  # as in a prefill; arithmetic is what takes the time then
        return _converted(spec, x, values)
    high = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=-1, keepdims=True) / LIMIT
    rest = x.astype(jnp.float32) / jnp.where(high > 0, high, 1.0)
    digits = []
    for _ in range(_DIGITS):
        digit = jnp.round(rest)
        digits.append(digit.astype(jnp.int8))
        rest = (rest - digit) * _BASE
    # As rows of one product: an axis of their own in front makes it twice as slow.
    sums = jnp.einsum(spec, jnp.concatenate(digits, axis=-2), values, preferred_element_type=jnp.int32)
    parts = jnp.split(sums.astype(jnp.float32), _DIGITS, axis=-2)
    return sum(part / _BASE**place for place, part in enumerate(parts)) * high


def is_pair(path: str, paths: Any) -> bool:
    """Whether a parameter, by its path joined by ".", is one half of a kernel with its scale."""
    layer, _, name = path.rpartition(".")
    return name in ("kernel", "scale") and f"{layer}.kernel" in paths and f"{layer}.scale" in paths
