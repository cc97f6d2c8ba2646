"""Photographs for training: read a folder with its captions file, and cut crops by (seed, index)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pure_jax.errors import PureError
from pure_jax.sequence import normalise_caption
from pure_jax.train.data.regions import cut_region, draw_region

LARGEST_REDUCTION = 3.0
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Photo:
    """One photograph: file name, pixels uint8 [H, W, 3], caption (may be empty)."""

    name: str
    pixels: np.ndarray
    caption: str


def load_photos(folder: Path, split: str | None = "train", minimum: int = 64) -> list[Photo]:
    """Read every photograph of `folder`, sorted by name, into memory.

    A `captions.jsonl` beside them gives, per line, `file`, `caption` and `split`; with it, only the photos of `split`
    are kept (None keeps all). Pictures with a side under `minimum` pixels are left out.

    Raises:
        PureError: no such folder, no photo of that split in it, or a file in it that cannot be read.
    """
    if not folder.is_dir():
        raise PureError(f"{folder} is not a folder of photos; give one with --photos")
    entries = read_captions(folder / "captions.jsonl")
    photos = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        entry = entries.get(path.name, {})
        if split is not None and entry.get("split", split) != split:
            continue
        try:
            pixels = read_photo(path)
        except Exception as error:  # broken files make Pillow raise OSError, SyntaxError, struct.error and more
            raise PureError(f"{path} cannot be read as a picture ({error}); remove it from the folder") from error
        if min(pixels.shape[:2]) >= minimum:
            photos.append(Photo(path.name, pixels, normalise_caption(entry.get("caption", ""))))
    if not photos:
        raise PureError(f"{folder} holds no photo of the split {split!r} of at least {minimum} pixels a side")
    return photos


def read_photo(path: Path) -> np.ndarray:
    """The upright photo as uint8 [H, W, 3]. Raises what Pillow raises: OSError, SyntaxError, struct.error and more."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def read_captions(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a captions file by file name; empty without that file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    entries = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            entries[entry["file"]] = entry
            valid = isinstance(entry.get("caption", ""), str)
        except (ValueError, KeyError, TypeError):
            valid = False
        if not valid:
            raise PureError(f'{path} line {number} is no JSON object with a "file" and a text; mend or remove the line')
    return entries


def random_crop(photos: list[Photo], size: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """A uint8 [size, size, 3] crop and the index of its photo; flipped left-right half, turned a quarter of the time.

    Photos are drawn by the square root of their area: large ones have more to show, small ones are more. Half of the
    crops are taken at a scale between 1 and 1 / LARGEST_REDUCTION, as far as the photo allows it, which shows the model
    sharper edges and larger structures.
    """
    sides = np.sqrt([photo.pixels.shape[0] * photo.pixels.shape[1] for photo in photos])
    index = int(rng.choice(len(photos), p=sides / sides.sum()))
    pixels = photos[index].pixels
    height, width = pixels.shape[:2]
    region = draw_region(height, width, size, rng, largest_reduction=LARGEST_REDUCTION, turned=0.25)
    return cut_region(pixels, region, size), index
