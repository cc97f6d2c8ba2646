"""The watch over restored tiles: one that has nothing to do with its photo is drawn again, or left to interpolation.

A tile and its restoration are compared as small copies of 8x8 areas of mean luminance, which detail does not change and
a wrong picture does. The limits are far below what good tiles have; docs/control.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from pure_jax.infer.contract import RestoredTile, RestoredTiles

AREAS = 8
SOME_CONTRAST = 16.0
"""Standard deviation of a photo's small copy, in levels of 255, below which there is too little to recognise."""
LEAST_CONTRAST = 0.18
"""Share of it that a result must have."""
LEAST_CORRELATION = 0.2
MOST_DIFFERENCE = 64.0
"""Root mean square of the difference of both small copies, in levels, whatever the photo's contrast."""
LUMINANCE = np.array([0.299, 0.587, 0.114])

Restore = Callable[[np.ndarray, int], RestoredTiles]
"""(numbers of the tiles, int [n]; seed) -> these tiles, restored."""


def fault(tile: RestoredTile, shown: np.ndarray) -> str | None:
    """What is wrong with a restored tile, in words, or None. shown: uint8 [tile, tile, 3], the photo there."""
    if not (np.isfinite(tile.entropy).all() and np.isfinite(tile.image).all()):
        return "no numbers"
    small, photo = (_small(picture) for picture in (tile.image, shown))
    if np.sqrt(np.square(small - photo).mean()) > MOST_DIFFERENCE:
        return "another brightness"
    contrast = photo.std()
    if contrast < SOME_CONTRAST:
        return None
    if small.std() < LEAST_CONTRAST * contrast:
        return "one flat colour"
    if np.corrcoef(small.ravel(), photo.ravel())[0, 1] < LEAST_CORRELATION:
        return "another picture"
    return None


def watch(first: RestoredTiles, shown: Sequence[np.ndarray], again: Restore, seed: int) -> RestoredTiles:
    """The restored tiles; those with a fault drawn once more, with the next seed.

    The next seed is (seed + 1) modulo 2**32, and the tiles are numbered anew for it, in their order, as noise depends
    on their place. What has a fault then too becomes what is shown, the photo enlarged by interpolation. A remark tells
    of each.

    Args:
        first: restored with `seed`.
        shown: uint8 [tile, tile, 3] for each, the photo in their places.
        again: restores some of them.
    """
    faults = _faults(first.tiles, shown, range(len(shown)))
    if not faults:
        return first
    tiles = list(first.tiles)
    for place, tile in zip(faults, again(np.array(list(faults)), (seed + 1) % 2**32).tiles, strict=True):
        tiles[place] = tile
    left = _faults(tiles, shown, faults)
    for place in left:
        tiles[place] = replace(tiles[place], image=shown[place], entropy=np.zeros_like(tiles[place].entropy))
    of = f"of {len(shown)} tiles"
    remarks = [
        *first.remarks,
        f"{len(faults)} {of} came out as {_listed(faults)} and were drawn again with the next seed",
    ]
    if left:
        remarks.append(
            f"{len(left)} {of} came out as {_listed(left)} again and are the photo, enlarged by interpolation"
        )
    return RestoredTiles(tiles, remarks)


def _faults(tiles: list[RestoredTile], shown: Sequence[np.ndarray], places: Iterable[int]) -> dict[int, str]:
    """The faults of the tiles in these places, by place."""
    found = {place: fault(tiles[place], shown[place]) for place in places}
    return {place: why for place, why in found.items() if why is not None}


def _listed(faults: dict[int, str]) -> str:
    return ", ".join(dict.fromkeys(faults.values()))


def _small(picture: np.ndarray) -> np.ndarray:
    """float64 [AREAS, AREAS]: mean luminance of as many areas; pixels that they do not divide are left out."""
    height, width = (side // AREAS * AREAS for side in picture.shape[:2])
    grey = picture[:height, :width] @ LUMINANCE
    return np.asarray(grey.reshape(AREAS, height // AREAS, AREAS, width // AREAS).mean(axis=(1, 3)))
