"""A photo of a wanted size, where there is none: the embedded sample, enlarged or made smaller."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from pure_jax.checkpoint import demo_directory
from pure_jax.errors import PureError
from pure_jax.infer.pictures.picture import MAX_PIXELS, MIN_SIDE, Picture


def read_size(text: str) -> tuple[int, int]:
    """ "640x480" -> (640, 480), width and height.

    Raises:
        PureError: it is no size, or one that no photo may have.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text)
    if match is None:
        raise PureError(f"the size is {text!r}, but it must be width and height in pixels, such as 640x480")
    width, height = int(match[1]), int(match[2])
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        raise PureError(
            f"the size is {text!r}, but photos have at least {MIN_SIDE} pixels a side and at most "
            f"{MAX_PIXELS // 1_000_000} million altogether"
        )
    return width, height


def sample_of(width: int, height: int) -> Picture:
    """The embedded sample photo in this size, whatever its shape."""
    with Image.open(demo_directory() / "sample.png") as photo:
        return Picture(np.asarray(photo.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)))
