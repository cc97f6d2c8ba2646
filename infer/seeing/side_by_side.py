"""Before and after in one picture."""

from __future__ import annotations

from PIL import Image

from pure_jax.infer.pictures.enlarge import enlarge
from pure_jax.infer.pictures.picture import Picture, to_image
from pure_jax.infer.restore import Restoration

GAP = 8
"""Pixels between both."""


def before(picture: Picture, result: Restoration) -> Image.Image:
    """The input, enlarged to the result's size by bicubic interpolation, in the result's kind."""
    size = result.image.height, result.image.width
    alpha = None if picture.alpha is None else enlarge(picture.alpha, *size)
    return to_image(Picture(enlarge(picture.rgb, *size), alpha, picture.grey, picture.icc))


def side_by_side(picture: Picture, result: Restoration) -> Image.Image:
    """The input (enlarged, left) and the result (right), with a white gap; their colour profile goes along."""
    left, right = before(picture, result), result.image
    both = Image.new(right.mode, (2 * right.width + GAP, right.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (right.width + GAP, 0))
    if picture.icc:
        both.info["icc_profile"] = picture.icc
    return both
