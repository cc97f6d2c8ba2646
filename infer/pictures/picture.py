"""A picture as plain arrays, made of any PIL image and turned into one again; files are in `reading` and `writing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from pure_jax.errors import PureError
from pure_jax.infer.pictures.large import array_for, let_go, strips
from pure_jax.infer.pictures.metadata import kept_exif, kept_xmp, orientation_of
from pure_jax.infer.pictures.profiles import cmyk_to_rgb

MIN_SIDE = 16
MAX_PIXELS = 100_000_000

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow's own conversion to grey
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture as plain arrays.

    rgb: uint8 [H, W, 3], encoded (gamma) values 0..255; a grey source has three equal channels.
    alpha: uint8 [H, W], 0 transparent .. 255 opaque, or None where every pixel is opaque.
    grey: the source had one channel, so it is written with one channel again.
    icc: the colour profile that belongs to these channels, or None.
    fine: uint16 [H, W, 3], the same colours in steps of 1/65535, where the source has 16 bits a channel; else None.
    exif, xmp: what the source says about itself, without its orientation, or None.
    remarks: what of the source could not be kept, one sentence each.

    The arrays of a large one lie on the disk (`pure_jax.infer.pictures.large`).
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    icc: bytes | None = None
    fine: np.ndarray | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    remarks: tuple[str, ...] = ()


UNFITTING_PROFILE = "its colour profile is damaged or of other channels, and was left out"
"""A remark."""


def from_image(image: Image.Image, name: str = "the picture", *, keep_gps: bool = False) -> Picture:
    """Turn a PIL image of mode 1, L, LA, P, PA, RGB, RGBA, RGBX, CMYK, YCbCr, HSV, I;16 or 16-bit I into a Picture.

    EXIF orientation is applied, 16-bit samples are scaled to 8 bits with rounding (and kept beside them), transparent
    colours become alpha, CMYK goes through its own profile. `name` stands for the picture in error messages; keep_gps
    keeps the place where it was taken. Raises PureError for other modes and for sizes out of range.
    """
    check_size(image, name)
    try:
        image.load()
    except Exception as error:  # a lazily opened file is decoded here, and a decoder fed with damage may raise anything
        raise damaged(name, error) from error
    remarks: list[str] = []
    icc = image.info.get("icc_profile")
    exif, xmp = kept_exif(image, keep_gps, remarks), kept_xmp(image, keep_gps, remarks)
    method = _UPRIGHT.get(orientation_of(image))
    image = image if method is None else image.transpose(method)
    image, fine = _eight_bit(image, name)
    grey = image.mode in _GREY_MODES
    if not grey and image.mode not in _COLOUR_MODES:
        raise PureError(f"{name} has the unsupported colour mode {image.mode}; convert it to RGB first")
    if image.mode == "CMYK":
        image = cmyk_to_rgb(image, remarks)
    elif icc and fitting_profile(icc, grey) is None:
        remarks.append(UNFITTING_PROFILE)
    return Picture(
        rgb=_pixels(image, "RGB"),
        alpha=opaque_is_none(_pixels(image, "A")) if image.has_transparency_data else None,
        grey=grey,
        icc=fitting_profile(image.info.get("icc_profile"), grey),
        fine=fine,
        exif=exif,
        xmp=xmp,
        remarks=tuple(remarks),
    )


def to_image(picture: Picture) -> Image.Image:
    """The PIL image of a Picture: mode L, LA, RGB or RGBA; the colour profile lies in `info["icc_profile"]`."""
    image = Image.fromarray(picture.rgb)
    if picture.grey:
        image = image.convert("L")
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    return image


def samples(picture: Picture, first: int, behind: int, *, deep: bool = False) -> np.ndarray:
    """Rows first ... behind - 1 as a file holds them: uint8, or where deep uint16, [rows, W, channels], grey with one
    channel of colour, transparency last."""
    opacity = None if picture.alpha is None else picture.alpha[first:behind]
    if not deep:
        part = to_image(Picture(picture.rgb[first:behind], opacity, picture.grey))
        return np.asarray(part).reshape(*part.size[::-1], -1)
    assert picture.fine is not None
    fine = picture.fine[first:behind]
    colours = np.rint(fine @ _LUMA)[..., None] if picture.grey else fine
    parts = [colours.astype(np.uint16)]
    if opacity is not None:
        parts.append(opacity[..., None].astype(np.uint16) * 257)
    return np.concatenate(parts, axis=-1)


def fitting_profile(icc: bytes | None, grey: bool) -> bytes | None:
    """A colour profile, or None where it is of other channels: one of CMYK must not travel on with RGB pixels."""
    return icc if icc and icc[16:20] == (b"GRAY" if grey else b"RGB ") else None  # there it names its colour space


def _pixels(image: Image.Image, channels: Literal["RGB", "A"]) -> np.ndarray:
    """uint8 [H, W, 3] or [H, W]; strip by strip, as Pillow's copies of an image in another mode are as large as it."""
    width, height = image.size
    array = array_for((height, width, 3) if channels == "RGB" else (height, width), np.uint8)
    for first, behind in strips(height, width):
        strip = image.crop((0, first, width, behind))
        array[first:behind] = np.asarray(strip.convert("RGBA").getchannel("A") if channels == "A" else _in_rgb(strip))
        let_go(array)
    return array


def _in_rgb(image: Image.Image) -> Image.Image:
    return (image.convert("RGBA") if image.has_transparency_data else image).convert("RGB")


def opaque_is_none(alpha: np.ndarray | None) -> np.ndarray | None:
    """Transparency uint8 [H, W], or None where there is none to be seen."""
    return None if alpha is None or alpha.min() == 255 else alpha


def to_eight_bit(samples: np.ndarray) -> np.ndarray:
    """uint8 of samples 0..65535, rounded to nearest, one level being 257 of them."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def turned_upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Samples [H, W, ...] of any dtype as they are to be seen, for an EXIF orientation of 1 ... 8."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)


def check_size(image: Image.Image, name: str) -> None:
    """Raises PureError for under 16 pixels a side or over 100 million pixels."""
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise PureError(
            f"{name} has {width}x{height} pixels; pictures from {MIN_SIDE}x{MIN_SIDE} pixels up can be restored"
        )
    if width * height > MAX_PIXELS:
        raise too_large(name)


def _eight_bit(image: Image.Image, name: str) -> tuple[Image.Image, np.ndarray | None]:
    """Grey of 16 bits in 8, and as it was, uint16 [H, W, 3]; others as they are. Pillow itself would truncate."""
    if not image.mode.startswith(("I", "F")):
        return image, None
    samples = np.asarray(image)
    if image.mode == "F" or samples.min() < 0 or samples.max() > 65_535:
        raise PureError(f"{name} has 32-bit samples of unknown range; save it with 8 or 16 bits a channel first")
    grey = Image.fromarray(to_eight_bit(samples))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8)))
    if "icc_profile" in image.info:
        grey.info["icc_profile"] = image.info["icc_profile"]
    return grey, np.repeat(samples.astype(np.uint16)[..., None], 3, axis=-1)


def too_large(name: str) -> PureError:
    """The sentence for a picture of more than 100 million pixels."""
    return PureError(f"{name} has more than {MAX_PIXELS // 1_000_000} million pixels; crop it or make it smaller first")


def damaged(name: str, error: Exception) -> PureError:
    """The sentence for a picture that a decoder stumbles over."""
    return PureError(f"{name} is damaged or incomplete ({reason_of(error)}); get a fresh copy of the picture")


def reason_of(error: Exception) -> str:
    """The error in a few words on one line, without the path that system errors repeat."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
