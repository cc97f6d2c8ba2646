"""The photo as it is given to a model: enlarged, with colours where transparency hides them."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from PIL import Image

from pure_jax.infer.pictures.large import let_go

_REACH = 3
"""Rows of the photo that bicubic interpolation looks at beyond a place, and one more."""


def enlarge(
    image: np.ndarray, height: int, width: int, magnification: int = 1, rows: tuple[int, int] | None = None
) -> np.ndarray:
    """A photo, uint8 [h, w] or [h, w, 3], at 1 / magnification of height x width: Pillow's bicubic on 8-bit values.

    Sides are rounded up, and the photo's border is repeated there: each pixel stands for exactly magnification x
    magnification pixels of the result, and none is moved. The originals do the same, with magnification 1. rows:
    (first, behind the last) of those that are wanted, of a copy larger than the photo: the whole's, up to a level of
    rounding; None wants all.
    """
    result, photo = np.array([height, width]), np.array(image.shape[:2])
    size = -(-result // magnification)
    shown = size * magnification / result * photo  # the part of the photo, a little more than all of it
    right, below = np.ceil(shown - photo).astype(int)[::-1]

    def padded(top: int, bottom: int) -> Image.Image:
        part, missing = image[top:bottom], max(0, bottom - len(image))
        part = np.pad(part, [(0, missing), (0, right)] + [(0, 0)] * (image.ndim - 2), mode="edge")
        let_go(image)
        return Image.fromarray(part)

    box = (0.0, 0.0, float(shown[1]), float(shown[0]))
    resize = partial(Image.Image.resize, resample=Image.Resampling.BICUBIC)
    if rows is None:
        return np.asarray(resize(padded(0, len(image) + below), (int(size[1]), int(size[0])), box=box))
    step = box[3] / int(size[0])
    reach = math.ceil(_REACH * max(1.0, step))
    top, bottom = max(0, int(rows[0] * step) - reach), min(len(image) + below, math.ceil(rows[1] * step) + reach)
    # Pillow goes along the rows first, rounds, and then down the columns; of a few rows it might do otherwise.
    wide = resize(padded(top, bottom), (int(size[1]), bottom - top), box=(0, 0, box[2], bottom - top))
    box = (0, rows[0] * step - top, int(size[1]), rows[1] * step - top)
    return np.asarray(resize(wide, (int(size[1]), rows[1] - rows[0]), box=box))


class Enlarged:
    """A photo as `enlarge` makes it, by rows. whole: make it once and hold it, as is done with one that is not larger
    than the photo; else rows are made when they are asked for. One of the same size is the photo itself."""

    def __init__(self, photo: np.ndarray, height: int, width: int, magnification: int = 1, *, whole: bool) -> None:
        self._part = partial(enlarge, photo, height, width, magnification)
        own = magnification * photo.shape[0], magnification * photo.shape[1]
        larger, same = height > own[0] and width > own[1], (height, width) == own
        self._whole = photo if same else self._part() if whole or not larger else None

    def rows(self, first: int, behind: int) -> np.ndarray:
        if self._whole is None:
            return self._part((first, behind))
        part = np.array(self._whole[first:behind])
        let_go(self._whole)
        return part


def enlarge_fine(image: np.ndarray, height: int, width: int, rows: tuple[int, int] | None = None) -> np.ndarray:
    """A photo of 16 bits a channel, uint16 [h, w, 3]: float32 [height, width, 3] in 0 ... 1, bicubic, unrounded.

    height, width: at least the photo's. rows: (first, behind the last) of those that are wanted; None wants all.
    """
    first, behind = rows or (0, height)
    step = image.shape[0] / height
    top = max(0, int(first * step) - _REACH)
    photo = image[top : int(np.ceil(behind * step)) + _REACH].astype(np.float32) / np.float32(65_535)
    box = (0, first * step - top, image.shape[1], min(behind * step - top, len(photo)))
    size = (width, behind - first)
    channels = (Image.fromarray(photo[..., i]).resize(size, Image.Resampling.BICUBIC, box) for i in range(3))
    return np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), 0.0, 1.0)


def fill_hidden(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours [h, w, 3] of any dtype with those under alpha 0 (uint8 [h, w]) replaced by the nearest visible pixel's.

    What a file holds there is arbitrary, and enlarging would mix it into the visible edge. A picture without any
    visible pixel stays as it is.
    """
    from scipy.ndimage import distance_transform_edt

    hidden = alpha == 0
    if hidden.all():
        return rgb
    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return rgb[rows, columns]
