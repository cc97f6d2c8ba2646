"""The photo as far as it is restored, for those who watch."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from pure_jax.infer.pictures.finishing import finished
from pure_jax.infer.pictures.tiles import TilePlan

REST = 4.0
"""How many times as long as a preview took no other one is made."""


class Canvas:
    """Begins with the enlarged photo's tiles; tiles that are being written take their places now and then.

    tiles: uint8 [n, tile, tile, 3], as `plan` cuts them out of the photo, uint8 [H, W, 3]. colour_fix: one of
    `pure_jax.config.COLOUR_FIXES`. show: gets uint8 [H, W, 3].
    """

    def __init__(
        self,
        tiles: np.ndarray,
        plan: TilePlan,
        photo: np.ndarray,
        colour_fix: str,
        show: Callable[[np.ndarray], None],
    ) -> None:
        self._tiles = tiles.copy()
        self._plan = plan
        self._photo = photo
        self._colour_fix = colour_fix
        self._show = show
        self._rests_until = 0.0

    def update(self, numbers: np.ndarray, places: np.ndarray, share: float, make: Callable[[], np.ndarray]) -> None:
        """A `pure_jax.infer.contract.Preview`. numbers: int, those of the canvas's tiles by place.

        Complete tiles are always taken over, as nobody brings them again. Numbers beyond the canvas are left out:
        transparency that is restored as tiles of its own.
        """
        began = time.monotonic()
        if share < 1.0 and began < self._rests_until:
            return
        made = make()
        own = numbers[places]
        here = own < len(self._tiles)
        self._tiles[own[here]] = made[here]
        photo = self._photo
        tiles = list(self._tiles)
        image, _ = finished(tiles, self._plan, lambda first, behind: photo[first:behind], self._colour_fix)
        self._show(image)
        now = time.monotonic()
        self._rests_until = now + REST * (now - began)
