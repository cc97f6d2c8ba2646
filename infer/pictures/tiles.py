"""Overlapping tiles: where they lie, how to cut them out, how to blend them back without seams.

The blending window is separable and sums to one over all tiles at every pixel, so tiles are simply added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pure_jax.errors import PureError


@dataclass(frozen=True)
class TilePlan:
    """Places of square tiles on an image, lengths in pixels.

    tops, lefts: rising; the tiles are numbered row by row.
    overlap: the least number of rows or columns that neighbours share. Where the last tile ends beyond the image
    (an image smaller than a tile, or off the grid of `plan_tiles`), `cut` continues the image by reflection at the
    bottom and right, and `blend` leaves that margin out.
    """

    height: int
    width: int
    tile: int
    overlap: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @property
    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of every tile, row by row."""
        return [(top, left) for top in self.tops for left in self.lefts]

    def rows(self, first: int, behind: int) -> TilePlan:
        """Of some rows of tiles, a picture of their own: that between the first one's top and the last one's bottom."""
        top = self.tops[first]
        tops = tuple(own - top for own in self.tops[first:behind])
        height = min(self.tops[behind - 1] + self.tile, self.height) - top
        return replace(self, height=height, tops=tops)

    def scaled_down(self, stride: int) -> TilePlan:
        """The same plan on a map with one value per stride x stride pixels, such as the entropy of each token.

        Raises ValueError unless tile, tops and lefts are multiples of the stride (see `multiple` of `plan_tiles`).
        """
        if any(length % stride for length in (self.tile, *self.tops, *self.lefts)):
            raise ValueError(f"tile {self.tile} at {self.tops} x {self.lefts} is not on a grid of {stride}")
        return TilePlan(
            height=-(-self.height // stride),
            width=-(-self.width // stride),
            tile=self.tile // stride,
            overlap=self.overlap // stride,
            tops=tuple(top // stride for top in self.tops),
            lefts=tuple(left // stride for left in self.lefts),
        )


def plan_tiles(height: int, width: int, tile: int, overlap: int, multiple: int = 1) -> TilePlan:
    """Spread as few tiles as possible evenly over an image, neighbours sharing at least `overlap` pixels.

    All places are multiples of `multiple` (the tokenizer's stride), and so must be `tile`. Raises PureError if a length
    is not positive, or the overlap is negative or more than half a tile: beyond that, tiles cost much and gain nothing.
    """
    if min(height, width, tile, multiple) < 1 or tile % multiple:
        raise PureError(
            f"cannot tile {height}x{width} pixels by {tile} on a grid of {multiple}: "
            "give positive lengths and a tile that is a multiple of the grid"
        )
    largest = tile // 2 if tile > multiple else 0
    if not 0 <= overlap <= largest:
        raise PureError(f"tile overlap {overlap} is out of range; give 0 to {largest} pixels for tiles of {tile}")
    return TilePlan(
        height, width, tile, overlap, _spread(height, tile, overlap, multiple), _spread(width, tile, overlap, multiple)
    )


def cut(image: np.ndarray, plan: TilePlan) -> np.ndarray:
    """Cut an image [H, W, ...] into tiles [n, tile, tile, ...] of the same dtype, in the order of `plan.corners`."""
    if image.shape[:2] != (plan.height, plan.width):
        raise ValueError(f"image {image.shape[:2]} does not fit the plan for {(plan.height, plan.width)}")
    margins = [
        (0, max(0, plan.tops[-1] + plan.tile - plan.height)),
        (0, max(0, plan.lefts[-1] + plan.tile - plan.width)),
    ]
    padded = np.pad(image, margins + [(0, 0)] * (image.ndim - 2), mode="reflect")
    return np.stack([padded[top : top + plan.tile, left : left + plan.tile] for top, left in plan.corners])


def blend(tiles: Sequence[np.ndarray] | np.ndarray, plan: TilePlan, rows: tuple[int, int] | None = None) -> np.ndarray:
    """Blend tiles [n, tile, tile, ...] (any real dtype; only those that are needed are asked for) into a float32 image
    [H, W, ...].

    A weighted mean with positive weights that rise and fall as raised cosines over the pixels neighbours share; pixels
    of one tile only keep their value. So `blend(cut(x, plan), plan)` is x, up to rounding in float32. rows: (first,
    behind the last) of those that are wanted, bit for bit as in the whole; None wants all.
    """
    first, behind = rows or (0, plan.height)
    if len(tiles) != len(plan.tops) * len(plan.lefts):
        raise ValueError(f"{len(tiles)} tiles do not fit the plan, which has {len(plan.tops) * len(plan.lefts)}")
    heights, widths = _windows(plan.tops, plan.tile), _windows(plan.lefts, plan.tile)
    image = np.zeros((behind - first, plan.width, *tiles[0].shape[2:]), np.float32)
    for index, (top, left) in enumerate(plan.corners):
        start, stop = max(top, first), min(top + plan.tile, behind)
        if start >= stop:
            continue
        tile = tiles[index]
        place = image[start - first : stop - first, left : left + plan.tile]  # a view, cut short at the image's border
        shown = np.s_[start - top : stop - top, : place.shape[1]]
        row, column = divmod(index, len(plan.lefts))
        weight = (heights[row][:, None] * widths[column])[shown]
        place += weight.reshape(*weight.shape, *[1] * (place.ndim - 2)) * np.asarray(tile[shown], np.float32)
    return image


def _spread(length: int, tile: int, overlap: int, multiple: int) -> tuple[int, ...]:
    """Evenly spread starts of the fewest tiles that cover `length`, counted in steps of the grid."""
    length, tile, overlap = (-(-value // multiple) for value in (length, tile, overlap))
    if length <= tile:
        return (0,)
    gaps = -(-(length - tile) // (tile - overlap))
    # Rounded down, two neighbouring starts differ by at most the rounded-up mean gap, which is <= tile - overlap.
    return tuple(multiple * (index * (length - tile) // gaps) for index in range(gaps + 1))


def _windows(starts: tuple[int, ...], tile: int) -> np.ndarray:
    """float32 [len(starts), tile]: positive weights along one axis, which sum to 1 over the tiles at every place."""
    windows = np.ones((len(starts), tile))
    for index, (start, following) in enumerate(zip(starts, starts[1:], strict=False)):
        shared = start + tile - following
        rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(shared) + 0.5) / max(shared, 1))
        windows[index + 1, :shared] *= rise
        windows[index, tile - shared :] *= rise[::-1]
    total = np.zeros(starts[-1] + tile)
    for start, window in zip(starts, windows, strict=True):
        total[start : start + tile] += window
    return np.stack([w / total[s : s + tile] for s, w in zip(starts, windows, strict=True)]).astype(np.float32)
