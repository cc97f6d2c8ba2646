"""What the machine can do: bytes a second that it reads, operations a second that it multiplies; measured."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pure_jax.infer.benchmark.timing import repeated, seconds


@dataclass(frozen=True)
class Sizes:
    """How much is read, and how large the matrices are: beyond every cache, within every memory."""

    read: int
    """Bytes of the array that is summed up; the matrices of the products by a vector are as many together."""
    vector: int
    """Side of the matrices that a vector is multiplied by."""
    matrix: int
    """Side of the matrices that are multiplied by each other."""


CPU = Sizes(2**29, 2048, 2048)
ACCELERATOR = Sizes(2**32, 8192, 8192)


@dataclass(frozen=True)
class Machine:
    """Of one device: its platform and kind; in bytes a second and operations a second."""

    platform: str
    kind: str
    read: float
    """Bytes a second that a sum over a large array of float32 reads."""
    multiply_vectors: float
    """Bytes of matrices a second, in a chain of products by one vector: what a pass at batch 1 mostly does."""
    multiply: float
    """Floating-point operations a second of a product of two large matrices."""

    @property
    def bandwidth(self) -> float:
        """The larger of the two, the roofline's slope."""
        return max(self.read, self.multiply_vectors)

    def roofline_s(self, bytes_: float, flops: float) -> float:
        """Seconds below which nothing that reads and computes so much can be done."""
        return max(bytes_ / self.bandwidth, flops / self.multiply)


def measure_machine(dtype: Any, sizes: Sizes | None = None) -> Machine:
    """Measure the first device, with numbers of this dtype; takes some seconds. sizes: None takes the platform's."""
    device = jax.local_devices()[0]
    sizes = sizes or (CPU if device.platform == "cpu" else ACCELERATOR)
    read = _rate(sizes.read, _sum, jnp.ones((sizes.read // 4096, 1024), jnp.float32))
    matrix_bytes = sizes.vector**2 * jnp.dtype(dtype).itemsize
    count = max(2, sizes.read // matrix_bytes)
    matrices = [_keeping_lengths(jax.random.key(i), sizes.vector, dtype) for i in range(count)]
    vectors = _rate(count * matrix_bytes, _chain, jnp.ones((1, sizes.vector), dtype), matrices)
    del matrices
    square = _keeping_lengths(jax.random.key(0), sizes.matrix, dtype)
    multiply = _rate(2 * sizes.matrix**3, _chain, square, [square])
    return Machine(device.platform, device.device_kind, read, vectors, multiply)


def peak_memory() -> int | None:
    """Bytes that were in use at most until now: of the first device, or, where it does not say, of this process.

    None where neither is known.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    try:
        import resource
    except ImportError:  # on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _rate(amount: int, work: Callable[..., Array], *args: Any) -> float:
    """How much of it a second, where a call does so much; the fastest call counts, as it is a bound that is wanted."""
    return amount / min(repeated(lambda: seconds(lambda: work(*args))))


@jax.jit
def _sum(array: Array) -> Array:
    return array.sum()


@jax.jit
def _chain(x: Array, matrices: list[Array]) -> Array:
    for matrix in matrices:
        x = x @ matrix
    return x


@partial(jax.jit, static_argnums=(1, 2))
def _keeping_lengths(key: Array, side: int, dtype: Any) -> Array:
    """A random matrix of such a spread that a product by it keeps a vector's length, about."""
    return jax.random.normal(key, (side, side), dtype) * side**-0.5
