"""Regions of photographs: squares that are drawn, cut out, degraded as a whole and parted into tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from einops import rearrange
from PIL import Image

SCALE = 4
"""How many times smaller the low-quality picture is, along each side."""


@dataclass(frozen=True)
class Region:
    """A square of a photo. top, left, side: in the photo's pixels. flipped: left-right; turned: rows as columns."""

    top: int
    left: int
    side: int
    flipped: bool = False
    turned: bool = False


SMALLEST = 0.75
"""Of a region's side: the side of the smallest square photo that is padded (SeeSR's 384 of 512 pixels)."""


def padded(pixels: np.ndarray, size: int) -> np.ndarray:
    """A photo uint8 [H, W, 3], mirrored at the right and below to at least `size`, without repeating the edge pixel.

    One whose area is below that of SMALLEST * size squared stays as it is.
    """
    height, width = pixels.shape[:2]
    if height * width < (SMALLEST * size) ** 2 or min(height, width) >= size:
        return pixels
    return np.pad(pixels, ((0, max(0, size - height)), (0, max(0, size - width)), (0, 0)), mode="reflect")


def draw_region(
    height: int, width: int, size: int, rng: np.random.Generator, *, largest_reduction: float, turned: float
) -> Region:
    """A region to be shown at `size` pixels: half of them flipped, a share of `turned` turned.

    Half of the regions are larger than `size`, up to `largest_reduction` times, as far as the photo allows it.
    """
    reduction = rng.uniform(1, largest_reduction) if rng.random() < 0.5 else 1.0
    side = min(round(size * reduction), height, width)
    return Region(
        top=int(rng.integers(height - side + 1)),
        left=int(rng.integers(width - side + 1)),
        side=side,
        flipped=bool(rng.random() < 0.5),
        turned=bool(rng.random() < turned),
    )


def cut_region(pixels: np.ndarray, region: Region, size: int) -> np.ndarray:
    """The region of a photo uint8 [H, W, 3] as uint8 [size, size, 3]."""
    crop = pixels[region.top : region.top + region.side, region.left : region.left + region.side]
    if region.side != size:
        crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.LANCZOS))
    if region.flipped:
        crop = crop[:, ::-1]
    if region.turned:
        crop = crop.swapaxes(0, 1)
    return np.ascontiguousarray(crop)


def enlarged(lq: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] -> [SCALE h, SCALE w, 3] by Pillow's bicubic on 8-bit values, as at inference."""
    height, width = lq.shape[:2]
    return np.asarray(Image.fromarray(lq).resize((SCALE * width, SCALE * height), Image.Resampling.BICUBIC))


def cut_tiles(image: np.ndarray, tile: int) -> np.ndarray:
    """uint8 [r * tile, c * tile, 3] -> [r * c, tile, tile, 3], in reading order."""
    return rearrange(np.ascontiguousarray(image), "(r y) (c x) d -> (r c) y x d", y=tile, x=tile)
