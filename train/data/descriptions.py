"""Words that a reader can check: what a tile looks like, measured on its pixels.

"Dark, brown and green, strong texture, clear edges.": light, main colours, texture and edges of the high-quality tile.
All of it can be inferred from the low-quality one too, if not always; captions of whole photos cannot.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy import ndimage

ASPECTS = ("light", "colour", "second colour", "texture", "edges")
LIGHTS = ("Dark", "Medium light", "Bright")
COLOURS = ("black", "grey", "white", "red", "orange", "brown", "yellow", "green", "turquoise", "blue", "purple", "pink")
TEXTURES = ("smooth", "fine texture", "strong texture")
EDGES = ("no edges", "soft edges", "clear edges")

# Borders in 8-bit units, about the terciles over tiles of 64x64 pixels of this project's training photos.
_LIGHT_BORDERS = (95.0, 145.0)
_TEXTURE_BORDERS = (2.5, 11.0)
_EDGE_BORDERS = (45.0, 100.0)
_SECOND_SHARE = 0.25
"""Share of the tile that a second colour needs to be named."""


def describe(tile: np.ndarray) -> str:
    """One sentence on a tile uint8 [h, w, 3]."""
    luma = tile.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    shares = np.bincount(_colours(tile).ravel(), minlength=len(COLOURS)) / luma.size
    first, second = np.argsort(-shares, kind="stable")[:2]
    colour = COLOURS[first] + (f" and {COLOURS[second]}" if shares[second] >= _SECOND_SHARE else "")
    # Median of the local contrast: an edge through a plain tile is no texture. Its 99th percentile: the edges.
    contrast = np.abs(luma - ndimage.gaussian_filter(luma, 1.5, mode="nearest"))
    slope = np.hypot(*(ndimage.sobel(luma, axis=axis, mode="nearest") / 4 for axis in (0, 1)))
    light = LIGHTS[_level(float(luma.mean()), _LIGHT_BORDERS)]
    texture = TEXTURES[_level(float(np.median(contrast)) * 2, _TEXTURE_BORDERS)]
    edges = EDGES[_level(float(np.percentile(slope, 98)), _EDGE_BORDERS)]
    return f"{light}, {colour}, {texture}, {edges}."


def aspects(description: str) -> dict[str, str] | None:
    """The inverse of `describe`: its word for each of ASPECTS ("none" for no second colour); None for other texts."""
    parts = description.strip().removesuffix(".").split(", ")
    if len(parts) != 4:
        return None
    light, colours, texture, edges = parts
    first, _, second = colours.partition(" and ")
    return dict(zip(ASPECTS, (light, first, second or "none", texture, edges), strict=True))


def all_descriptions() -> list[str]:
    """Every sentence that `describe` can give, for training the text tokenizer."""
    pairs = [a if a == b else f"{a} and {b}" for a, b in product(COLOURS, repeat=2)]
    return [f"{', '.join(words)}." for words in product(LIGHTS, pairs, TEXTURES, EDGES)]


def _level(value: float, borders: tuple[float, float]) -> int:
    return sum(value >= border for border in borders)


def _colours(tile: np.ndarray) -> np.ndarray:
    """Index into COLOURS of every pixel, by lightness, saturation and hue."""
    rgb = tile.astype(np.float32) / 255
    value, low = rgb.max(-1), rgb.min(-1)
    chroma = value - low
    saturation = chroma / np.maximum(value, 1e-6)
    r, g, b = np.moveaxis(rgb, -1, 0)
    sector = np.where(value == r, ((g - b) / np.maximum(chroma, 1e-6)) % 6, 0)
    sector = np.where((value == g) & (value != r), (b - r) / np.maximum(chroma, 1e-6) + 2, sector)
    sector = np.where((value == b) & (value != r) & (value != g), (r - g) / np.maximum(chroma, 1e-6) + 4, sector)
    hue = sector * 60  # degrees
    named = np.select(
        [hue < 15, hue < 45, hue < 70, hue < 165, hue < 195, hue < 260, hue < 300, hue < 340],
        [COLOURS.index(n) for n in ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")],
        COLOURS.index("red"),
    )
    dim_orange = (named == COLOURS.index("orange")) & (value < 0.7)
    named = np.where(dim_orange | ((named == COLOURS.index("red")) & (value < 0.4)), COLOURS.index("brown"), named)
    plain = (saturation < 0.18) | (value < 0.15)
    black, grey, white = (COLOURS.index(name) for name in ("black", "grey", "white"))
    shade = np.select([value < 0.2, value < 0.8], [black, grey], white)
    return np.where(plain, shade, named)
