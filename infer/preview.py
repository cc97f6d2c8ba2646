"""The photo as far as it is restored, for those who watch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from pure_jax.infer.pictures.finishing import finished
from pure_jax.infer.pictures.large import STRIP_PIXELS
from pure_jax.infer.pictures.tiles import TilePlan

REST = 4.0
"""How many times as long as a preview took no other one is made."""
OVERVIEW_PIXELS = 1 << 22
"""Of a preview of a photo that is restored in portions, about."""


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
        image = np.empty_like(photo)
        finished(tiles, self._plan, lambda first, behind: photo[first:behind], self._colour_fix, levels=image)
        self._show(image)
        now = time.monotonic()
        self._rests_until = now + REST * (now - began)


class Overview:
    """A photo made smaller by a whole factor, where its portions take their places.

    rows: (first, behind the last) -> those of the enlarged photo, uint8 [n, width, 3]. show: gets uint8 [h, w, 3].
    """

    def __init__(
        self,
        rows: Callable[[int, int], np.ndarray],
        height: int,
        width: int,
        show: Callable[[np.ndarray], None],
    ) -> None:
        self._factor = math.ceil(math.sqrt(height * width / OVERVIEW_PIXELS))
        step = self._factor * max(1, STRIP_PIXELS // (self._factor * width))
        parts = [self._small(rows(top, min(top + step, height))) for top in range(0, height, step)]
        self._image = np.concatenate(parts)
        self._show = show

    def show_from(self, top: int) -> Callable[[np.ndarray], None]:
        """For the `Canvas` of a portion, whose first row in the photo is `top`."""
        return partial(self._show_rows, top)

    def _show_rows(self, top: int, rows: np.ndarray) -> None:
        place = -(-top // self._factor)
        small = self._small(rows[place * self._factor - top :])
        self._image[place : place + len(small)] = small
        self._show(self._image.copy())

    def _small(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(rows).reduce(self._factor))
