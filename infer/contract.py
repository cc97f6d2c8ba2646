"""What the rest of this folder knows of a family's way to restore: tiles go in, restored tiles come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pure_jax.errors import PureError

Progress = Callable[[str, int, int], None]
"""Called again and again with (stage, done, total): the stage in one word, total 0 where nothing can be counted.

A family's stages are "encode", counted in tiles, "compile", "restore", counted in tokens, and "decode", in tiles again.
"""


@dataclass(frozen=True)
class RestoredTile:
    """One restored tile.

    image: uint8 [tile, tile, 3]. entropy: float32 [tile / stride, tile / stride], nats per token.
    text: what the model said it sees, as `pure_jax.sequence.split_reading` takes it apart; "" if it says nothing.
    """

    image: np.ndarray
    entropy: np.ndarray
    text: str = ""


class RestoredTiles(NamedTuple):
    """All tiles in their order; and what went otherwise than usual, one sentence each."""

    tiles: list[RestoredTile]
    remarks: list[str]


Preview = Callable[[np.ndarray, float, Callable[[], np.ndarray]], None]
"""Called now and then with (places of tiles, int [n]; the share of them that is written, 1.0 when they are complete; a
function that makes them, uint8 [n, tile, tile, 3], as far as they are, and is to be called at once or never)."""

RestoreTiles = Callable[..., RestoredTiles]
"""A family's function. It draws with noise that depends on the seed and a tile's number only, not on the batch.

Args:
    model: the family's.
    tiles: uint8 [n, side, side, 3], the photo at 1 / magnification of the result's size, cut into tiles; side is
        tile_size / magnification of the model's configuration.
    seed, batch, progress (by name): 0 ... 2**32 - 1; tiles worked on together, None chooses; see `Progress`.
    first (by name): the first tile's number in its photo; 0 by default.
    sampling (by name): how to draw, of the class of config.sampling; None takes that.
    And options of the family's own, by name; one that is called preview, a `Preview`, if it can show tiles early.

Raises:
    PureError: an option out of range.
"""


def silent(stage: str, done: int, total: int) -> None:
    """A `Progress` that nobody sees."""


def check_seed(seed: int) -> None:
    """Raises PureError unless seed lies in 0 ... 2**32 - 1."""
    if not 0 <= seed < 2**32:
        raise PureError(f"the seed is {seed}, but it must lie in 0 ... {2**32 - 1}")


def check_strength(strength: float) -> None:
    """Raises PureError unless strength lies in 0 ... 1."""
    if not 0.0 <= strength <= 1.0:  # so NaN ends here too
        raise PureError(f"the strength is {strength}, but it must lie in 0 ... 1")


def override(sampling: Any, **values: float | int | None) -> Any:
    """A family's sampling defaults with every value that is not None replaced; PureError if one is unknown or bad."""
    given = {name: value for name, value in values.items() if value is not None}
    unknown = given.keys() - {field.name for field in dataclasses.fields(sampling)}
    if unknown:
        raise PureError(f"{min(unknown)} has no meaning for this model; leave it out")
    return dataclasses.replace(sampling, **given)
