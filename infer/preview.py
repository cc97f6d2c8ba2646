"""The photo as far as it is restored, for those who watch."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from pure_jax.infer.pictures.tiles import TilePlan, blend

REST = 4.0
"""How many times as long as a preview took no other one is made."""


class Canvas:
    """Begins with the enlarged photo's tiles; tiles that are being written take their places now and then.

    tiles: uint8 [n, tile, tile, 3], as `plan` cuts them. fix: of the colours. show: gets uint8 [H, W, 3].
    """

    def __init__(
        self,
        tiles: np.ndarray,
        plan: TilePlan,
        fix: Callable[[np.ndarray, np.ndarray], np.ndarray],
        show: Callable[[np.ndarray], None],
    ) -> None:
        self._tiles = tiles.copy()
        self._plan = plan
        self._fix = fix
        self._source = blend(tiles, plan) / 255.0
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
        tiles = make()
        own = numbers[places]
        here = own < len(self._tiles)
        self._tiles[own[here]] = tiles[here]
        image = self._fix(blend(self._tiles, self._plan) / 255.0, self._source)
        self._show((np.clip(image, 0, 1) * 255).round().astype(np.uint8))
        now = time.monotonic()
        self._rests_until = now + REST * (now - began)
