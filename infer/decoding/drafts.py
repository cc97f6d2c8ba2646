"""First guesses of codes that no pass has seen yet. A better guess is accepted sooner; none changes an exact result."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from pure_jax.sampling import position_keys

Draft = Callable[[Array, Array, Array, Array, tuple[int, int]], Array]
"""(images int32 [batch], places int32 [batch, n], codes so far int32 [batch, h * w], LQ codes likewise, (latent width,
codebook size)) -> codes int32 [batch, n] for the places, which follow each other in raster order. Of the codes so far,
those before the first place are known or guessed by a pass; the others mean nothing."""


def _at(codes: Array, places: Array) -> Array:
    return jnp.take_along_axis(codes, jnp.clip(places, 0, codes.shape[1] - 1), axis=1)


def same_place(images: Array, places: Array, codes: Array, lq: Array, size: tuple[int, int]) -> Array:
    """The low-quality picture's code of the same place."""
    return _at(lq, places)


def above(images: Array, places: Array, codes: Array, lq: Array, size: tuple[int, int]) -> Array:
    """The code one row higher; in the first row, and where that is a guess of this very call, the low-quality one."""
    width = size[0]
    known = (places >= width) & (places - width < places[:, :1])
    return jnp.where(known, _at(codes, places - width), _at(lq, places))


def left(images: Array, places: Array, codes: Array, lq: Array, size: tuple[int, int]) -> Array:
    """The last code before the places, for all of them."""
    first = jnp.broadcast_to(places[:, :1], places.shape)
    return jnp.where(first > 0, _at(codes, first - 1), _at(lq, places))


def like_neighbour(images: Array, places: Array, codes: Array, lq: Array, size: tuple[int, int]) -> Array:
    """A neighbour's code where the low-quality picture has the same code in both places, else `same_place`."""
    here, width = _at(lq, places), size[0]
    guess = jnp.where(_at(lq, places[:, :1] - 1) == here, left(images, places, codes, lq, size), here)
    same = (_at(lq, places - width) == here) & (places >= width)
    return jnp.where(same, above(images, places, codes, lq, size), guess)


def anything(images: Array, places: Array, codes: Array, lq: Array, size: tuple[int, int]) -> Array:
    """Any code, the same one for a place of a picture whenever it is asked."""
    batch, n = places.shape
    keys = position_keys(0, jnp.repeat(images, n), places.reshape(-1))
    drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, size[1]))(keys)
    return drawn.reshape(batch, n).astype(jnp.int32)


DRAFTS: dict[str, Draft] = {
    "lq": same_place,
    "above": above,
    "left": left,
    "like": like_neighbour,
    "random": anything,
}
