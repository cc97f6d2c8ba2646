"""Picture files in and out: everything between a path and plain uint8 arrays.

Reading accepts what people have (palettes, 16 bit, EXIF orientation, CMYK) and refuses what cannot be read whole.
Writing is checked before the long work starts and never leaves a half-written file.
"""

from __future__ import annotations

import os
import stat
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from pure_jax.errors import PureError
from pure_jax.files import not_writable, replacing

MIN_SIDE = 16
MAX_PIXELS = 64_000_000

# An allow-list: Pillow's EPS, PDF, PSD and FITS readers have a history of holes and no photographs.
_READABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")

_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Encoder(NamedTuple):
    format: str
    options: dict[str, Any]
    longest_side: int  # what the file format can hold, in pixels
    alpha: bool


_PNG = _Encoder("PNG", {}, 2**31 - 1, alpha=True)
_JPEG = _Encoder("JPEG", {"quality": 95, "subsampling": 0}, 65_500, alpha=False)
_WEBP = _Encoder("WEBP", {"quality": 95}, 16_383, alpha=True)
_ENCODERS = {".png": _PNG, ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": _WEBP}


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture as plain arrays.

    rgb: uint8 [H, W, 3], encoded (gamma) values 0..255; a grey source has three equal channels.
    alpha: uint8 [H, W], 0 transparent .. 255 opaque, or None where every pixel is opaque.
    grey: the source had one channel, so it is written with one channel again.
    icc: the colour profile that belongs to these channels, or None.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    icc: bytes | None = None


Photo = Image.Image | Picture | np.ndarray | str | os.PathLike[str]
"""What `as_picture` takes."""


def as_picture(photo: Photo) -> Picture:
    """A Picture of whatever holds a photo: a path, a PIL image, uint8 [H, W], [H, W, 3] or [H, W, 4], or a Picture.

    Raises PureError for anything else, and as `read_picture` and `from_image` do.
    """
    if isinstance(photo, Picture):
        return photo
    if isinstance(photo, Image.Image):
        return from_image(photo)
    if isinstance(photo, str | os.PathLike):
        return read_picture(photo)
    kinds = "a path, a PIL image, or an array of uint8 [H, W], [H, W, 3] or [H, W, 4]"
    if not hasattr(photo, "__array__"):
        raise PureError(f"a photo must be {kinds}, not of type {type(photo).__name__}")
    array = np.asarray(photo)
    if array.dtype != np.uint8 or not array.size or (array.ndim, *array.shape[2:]) not in ((2,), (3, 3), (3, 4)):
        raise PureError(f"a photo must be {kinds}, not {array.dtype} {list(array.shape)}")
    return from_image(Image.fromarray(array))


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read the first frame of a PNG, JPEG, WebP, BMP, TIFF, GIF or PPM file.

    Raises PureError if the path is missing, unreadable, not a regular file or empty; if the content is not such a
    picture, is truncated or fails its checksums; if it has fewer than 16 pixels on a side, or more than 64 million
    altogether (known from the header, before any pixel is decoded).
    """
    name = repr(os.fspath(path))
    with _open(Path(path), name) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks about broken metadata; the pixels are what counts
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=_READABLE)
            _check_size(image, name)
            image.verify()  # PNG checksums, which decoding alone does not look at
            file.seek(0)
            return from_image(Image.open(file, formats=_READABLE), name)
        except PureError:
            raise
        except UnidentifiedImageError:
            raise PureError(
                f"{name} is not a readable picture; give a PNG, JPEG, WebP, BMP, TIFF, GIF or PPM file"
            ) from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise _too_large(name) from None
        except Exception as error:  # a decoder fed with damaged bytes may raise anything
            raise _damaged(name, error) from error


def from_image(image: Image.Image, name: str = "the picture") -> Picture:
    """Turn a PIL image of mode 1, L, LA, P, PA, RGB, RGBA, RGBX, CMYK, YCbCr, HSV, I;16 or 16-bit I into a Picture.

    EXIF orientation is applied, 16-bit samples are scaled to 8 bits with rounding, transparent colours become alpha.
    `name` stands for the picture in error messages. Raises PureError for other modes and for sizes out of range.
    """
    _check_size(image, name)
    try:
        image.load()
    except Exception as error:  # as above: a lazily opened file is decoded here
        raise _damaged(name, error) from error
    image = _eight_bit(_upright(image), name)
    grey = image.mode in _GREY_MODES
    if not grey and image.mode not in _COLOUR_MODES:
        raise PureError(f"{name} has the unsupported colour mode {image.mode}; convert it to RGB first")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
    icc = image.info.get("icc_profile")
    return Picture(
        rgb=np.array(image.convert("RGB")),
        alpha=None if alpha is None or alpha.min() == 255 else alpha,
        grey=grey,
        # Bytes 16..19 of a profile name its colour space: a CMYK profile must not travel on with RGB pixels.
        icc=icc if icc and icc[16:20] == (b"GRAY" if grey else b"RGB ") else None,
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


def check_output(path: str | os.PathLike[str], *, has_alpha: bool, size: tuple[int, int] | None = None) -> None:
    """Make sure, before work starts, that a picture can be written to `path`; leaves nothing behind.

    size: (width, height) in pixels, if known; JPEG and WebP have limits. Raises PureError if the suffix is not .png,
    .jpg, .jpeg or .webp, if the format cannot hold the picture, or if the place cannot be written to.
    """
    path = Path(path)
    name = repr(str(path))
    encoder = _ENCODERS.get(path.suffix.lower())
    if encoder is None:
        raise PureError(f"output {name} needs a name that ends in .png, .jpg, .jpeg or .webp")
    if has_alpha and not encoder.alpha:
        raise PureError(f"output {name} cannot hold transparency, which the picture has; write .png or .webp instead")
    if size and max(size) > encoder.longest_side:
        raise PureError(
            f"output {name} cannot hold {size[0]}x{size[1]} pixels ({encoder.format} ends at {encoder.longest_side} "
            "a side); write .png instead"
        )
    try:
        if path.is_dir():
            raise PureError(f"output {name} is a directory; give the name of a file")
        if not path.parent.is_dir():
            raise PureError(f"the directory of output {name} does not exist; create it first")
        if path.exists() and not os.access(path, os.W_OK):
            raise PureError(f"output {name} exists and is write-protected; choose another name")
        # Trying is the only answer that holds for root, network shares and read-only mounts alike.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise not_writable(path, error) from error


def write_image(path: str | os.PathLike[str], image: Image.Image, icc: bytes | None = None) -> None:
    """Write `image` in the format of the suffix: PNG, JPEG (quality 95, no chroma subsampling) or WebP (quality 95).

    The file is written under a temporary name beside the target and renamed when complete, so `path` holds either
    the whole new picture or what it held before. icc: colour profile; default the one in `image.info`. Raises
    PureError as `check_output` does, and for a full disk or any other failure to write.
    """
    path = Path(path)
    check_output(path, has_alpha=image.has_transparency_data, size=image.size)
    encoder = _ENCODERS[path.suffix.lower()]
    profile = icc or image.info.get("icc_profile")
    with replacing(path) as beside, beside.open("xb") as file:
        image.save(file, encoder.format, icc_profile=profile, **encoder.options)


def _open(path: Path, name: str) -> BinaryIO:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PureError(f"{name} is a directory; give the name of a picture file")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise PureError(f"{name} is not a regular file; give the name of a picture file")
        if status.st_size == 0:
            raise PureError(f"{name} is empty (0 bytes); get a fresh copy of the picture")
        return path.open("rb")
    except FileNotFoundError:
        raise PureError(f"{name} does not exist; check the name of the picture") from None
    except OSError as error:
        raise PureError(f"{name} cannot be read ({_reason(error)}); check its permissions") from error


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise PureError(
            f"{name} has {width}x{height} pixels; pictures from {MIN_SIDE}x{MIN_SIDE} pixels up can be restored"
        )
    if width * height > MAX_PIXELS:
        raise _too_large(name)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Reads that one tag only, so damage elsewhere in the EXIF block does no harm."""
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # an unreadable EXIF block says nothing about orientation
        return image
    return image if method is None else image.transpose(method)


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Scale 16-bit grey to 8 bits, rounding to nearest; Pillow itself does so (by truncation) for 16-bit RGB only."""
    if not image.mode.startswith(("I", "F")):
        return image
    samples = np.asarray(image)
    if image.mode == "F" or samples.min() < 0 or samples.max() > 65_535:
        raise PureError(f"{name} has 32-bit samples of unknown range; save it with 8 or 16 bits a channel first")
    levels = (samples.astype(np.uint32) + 128) // 257
    grey = Image.fromarray(levels.astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8)))
    if "icc_profile" in image.info:
        grey.info["icc_profile"] = image.info["icc_profile"]
    return grey


def _too_large(name: str) -> PureError:
    return PureError(f"{name} has more than {MAX_PIXELS // 1_000_000} million pixels; crop it or make it smaller first")


def _damaged(name: str, error: Exception) -> PureError:
    return PureError(f"{name} is damaged or incomplete ({_reason(error)}); get a fresh copy of the picture")


def _reason(error: Exception) -> str:
    """The error in a few words on one line, without the path that system errors repeat."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
