"""A photo's tiles portion by portion: whole rows of them, as many as memory is to hold, and what comes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pure_jax.infer.contract import Progress, RestoredTile
from pure_jax.infer.pictures.enlarge import Enlarged
from pure_jax.infer.pictures.large import LARGE
from pure_jax.infer.pictures.tile_file import TileFile
from pure_jax.infer.pictures.tiles import TilePlan, cut

PIXELS = LARGE
"""Of the tiles of a portion, at most; one row of tiles is never divided."""


@dataclass(frozen=True, eq=False)
class Portion:
    """Some rows of tiles, first those of the photo, then those of its transparency, if that is restored, too.

    tiles: uint8 [n, side, side, 3], what the model reads. shown: uint8 [n, tile, tile, 3], the photo in their places.
    before, all: tiles in the portions before this one, and in all of them. rows: numbers of the first row of tiles, and
    of that behind the last one.
    """

    tiles: np.ndarray
    shown: np.ndarray
    before: int
    all: int
    rows: tuple[int, int]

    def part_of(self, progress: Progress, written: int) -> Progress:
        """What is told of this portion, of which `written` tiles are written, as a part of the whole. Where there are
        other portions, too, only the writing is told of: the short stages beside it would alternate with it."""
        own = len(self.tiles)
        if own == self.all:
            return progress

        def tell(stage: str, done: int, total: int) -> None:
            if stage == "restore" and total:
                tokens = total // written
                progress(stage, (self.before + own - written) * tokens + done, self.all * tokens)

        return tell


class PhotoTiles:
    """The tiles of a photo, and of what else has its size: uint8 [h, w, 3] each.

    together: hold all of them at once, however many they are.
    """

    def __init__(
        self, sources: Sequence[np.ndarray], plan: TilePlan, magnification: int, *, together: bool = False
    ) -> None:
        self._plan, self._magnification = plan, magnification
        rows, each = len(plan.tops), len(sources) * len(plan.lefts)
        most = rows if together else max(1, PIXELS // (each * plan.tile**2))
        self._starts = range(0, rows, most)
        self.whole = len(self._starts) == 1
        size = plan.height, plan.width
        self.large = [Enlarged(source, *size, whole=self.whole) for source in sources]
        self._small = self.large
        if magnification > 1:
            self._small = [Enlarged(source, *size, magnification, whole=self.whole) for source in sources]

    def portions(self) -> Iterator[Portion]:
        plan, scale = self._plan, self._magnification
        all_tiles, before = len(self.large) * len(plan.corners), 0
        for start in self._starts:
            rows = start, min(start + self._starts.step, len(plan.tops))
            own, top = plan.rows(*rows), plan.tops[start]
            shown = tiles = _cut(self.large, own, top)
            if scale > 1:
                tiles = _cut(self._small, own.scaled_down(scale), top // scale)
            yield Portion(tiles, shown, before, all_tiles, rows)
            before += len(tiles)


def _cut(copies: Sequence[Enlarged], plan: TilePlan, top: int) -> np.ndarray:
    return np.concatenate([cut(copy.rows(top, top + plan.height), plan) for copy in copies])


class Kept:
    """Restored tiles of a photo: in memory, or on the disk where they come in portions. side: of a tile in tokens."""

    def __init__(self, tile: int, side: int, *, whole: bool) -> None:
        self.images: Any = [] if whole else TileFile((tile, tile, 3), np.uint8)
        self.entropies: Any = [] if whole else TileFile((side, side), np.float32)
        self.texts: list[str] = []

    def add(self, tiles: Sequence[RestoredTile]) -> None:
        for tile in tiles:
            self.images.append(tile.image)
            self.entropies.append(tile.entropy)
            self.texts.append(tile.text)
