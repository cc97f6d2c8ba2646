"""Pictures whose activations are too large to hold several of: computed a strip of rows at a time, and exactly.

A convolution needs its neighbours' rows, a group norm the statistics of the whole picture. So work on a picture is only
noted down; a norm runs through the strips for its statistics, and `settle` runs through them once more to store the
result, in the memory of what was stored before. What lies between two stored pictures is computed once for each run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def _as_stored(rows: Array, first: Any) -> Array:
    return rows


@dataclass(frozen=True, eq=False)
class Strips:
    """A picture [batch, scale * H, W', C'] of which `base` [batch, H, W, C] is stored; for use inside one jit.

    rows: of the base that a strip covers.
    compute: (rows of the base, index of the first) -> the picture's rows that follow from them, fewer by `reach` at
    either end. Rows beyond the picture's edges may hold anything: `convolve` takes them as zeros.
    """

    base: Array
    rows: int
    compute: Callable[[Array, Any], Array] = _as_stored
    scale: int = 1
    reach: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[batch, height, width, channels] of the picture."""
        halo = self._halo
        strip = jax.eval_shape(lambda base: self._strip(_rows(base, -halo, 1 + 2 * halo), 0, 1), self.base)
        batch, _, width, channels = strip.shape
        return batch, self.scale * self.base.shape[1], width, channels

    def map(self, f: Callable[[Array], Array]) -> Strips:
        """Note down a function of single pixels."""
        return dataclasses.replace(self, compute=lambda rows, first: f(self.compute(rows, first)))

    def convolve(self, f: Callable[[Array], Array]) -> Strips:
        """Note down a 3x3 convolution: f takes n + 2 rows to n, and keeps the width."""

        def compute(rows: Array, first: Any) -> Array:
            rows = self.compute(rows, first)
            index = self.scale * first + self.reach + jnp.arange(rows.shape[1])
            inside = (index >= 0) & (index < self.scale * self.base.shape[1])
            return f(jnp.where(inside[:, None, None], rows, 0))

        return dataclasses.replace(self, compute=compute, reach=self.reach + 1)

    def upsample(self) -> Strips:
        """Note down that every pixel is repeated twice along both sides."""

        def compute(rows: Array, first: Any) -> Array:
            return self.compute(rows, first).repeat(2, axis=1).repeat(2, axis=2)

        return dataclasses.replace(self, compute=compute, scale=2 * self.scale, reach=2 * self.reach)

    def halve(self, f: Callable[[Array], Array]) -> Strips:
        """Store a 3x3 convolution of stride 2 whose zeros lie below: f takes 2 n + 1 rows to n."""
        batch, height, width, channels = self.shape
        pairs = Strips(self.settle().base.reshape(batch, height // 2, 2 * width, channels), self.rows)
        return pairs.convolve(lambda rows: f(rows.reshape(batch, -1, width, channels)[:, 2:-1])).settle()

    def __add__(self, other: Strips) -> Strips:
        """The sum of two pictures with the same base and scale."""
        reach = max(self.reach, other.reach)

        def compute(rows: Array, first: Any) -> Array:
            one, two = (
                lax.slice_in_dim(part, reach - lost, part.shape[1] - (reach - lost), axis=1)
                for part, lost in ((self.compute(rows, first), self.reach), (other.compute(rows, first), other.reach))
            )
            return one + two

        return dataclasses.replace(self, compute=compute, reach=reach)

    def moments(self, groups: int) -> tuple[Array, Array]:
        """Mean and variance over the picture and the channels of each group: [batch, groups] both."""

        def step(start: Any, rows: int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            count, mean, squares = carry
            strip = self._strip(_rows(self.base, start - self._halo, rows + 2 * self._halo), start, rows)
            x = strip.reshape(strip.shape[0], -1, groups, strip.shape[-1] // groups)
            own = x.shape[1] * x.shape[3]
            own_mean = x.mean(axis=(1, 3))
            own_squares = jnp.square(x - own_mean[:, None, :, None]).sum(axis=(1, 3))
            # Parts are put together by their means and squared deviations (Chan et al. 1979): no digits are lost.
            share = own / (count + own)
            apart = own_mean - mean
            return count + own, mean + share * apart, squares + own_squares + apart**2 * count * share

        zeros = jnp.zeros((self.base.shape[0], groups))
        count, mean, squares = self._each(step, (jnp.zeros(()), zeros, zeros))
        return mean, squares / count

    def settle(self) -> Strips:
        """Compute and store the picture; a picture shaped like its base takes the base's place in memory."""
        if self.compute is _as_stored:
            return self
        halo = self._halo
        in_place = self.shape == self.base.shape

        def step(start: Any, rows: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            picture, above = carry
            below = _rows(picture if in_place else self.base, start, rows + halo)
            window = jnp.concatenate([above, below], axis=1)
            strip = self._strip(window, start, rows)
            picture = lax.dynamic_update_slice_in_dim(picture, strip, self.scale * start, axis=1)
            return picture, window[:, rows : rows + halo]

        # Filled with a value of the base: a constant would be made, and take its memory, long before the base is there.
        picture = self.base if in_place else jnp.full(self.shape, self.base[0, 0, 0, 0])
        # Rows that the next strip still needs are overwritten, so they travel with the loop.
        batch, _, width, channels = self.base.shape
        above = jnp.zeros((batch, halo, width, channels), self.base.dtype)
        return Strips(self._each(step, (picture, above))[0], self.rows)

    @property
    def _halo(self) -> int:
        """Rows of the base beyond a strip's own, at either end, that the strip depends on."""
        return -(-self.reach // self.scale)

    def _strip(self, window: Array, start: Any, rows: int) -> Array:
        """The picture's rows that belong to `rows` rows of the base from `start`; the window has the halo too."""
        surplus = self.scale * self._halo - self.reach
        return lax.slice_in_dim(self.compute(window, start - self._halo), surplus, surplus + self.scale * rows, axis=1)

    def _each(self, step: Callable[[Any, int, Any], Any], carry: Any) -> Any:
        """Run step(first row, number of rows, carry) -> carry over all strips, the last one shorter where need be."""
        full, rest = divmod(self.base.shape[1], self.rows)
        if full:
            carry = lax.fori_loop(0, full, lambda i, c: step(i * self.rows, self.rows, c), carry)
        return step(full * self.rows, rest, carry) if rest else carry


def _rows(picture: Array, start: Any, count: int) -> Array:
    """Rows start ... start + count of a picture; beyond its edges the last row is repeated."""
    return jnp.take(picture, start + jnp.arange(count), axis=1, mode="clip")
