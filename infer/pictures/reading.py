"""Picture files, and whatever else holds a photo, as Pictures.

Reading accepts what people have (palettes, 16 bit, EXIF orientation, CMYK) and refuses what cannot be read whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import stat
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pure_jax.errors import PureError
from pure_jax.infer.pictures import deep
from pure_jax.infer.pictures.metadata import orientation_of
from pure_jax.infer.pictures.picture import (
    UNFITTING_PROFILE,
    Picture,
    check_size,
    damaged,
    fitting_profile,
    from_image,
    opaque_is_none,
    reason_of,
    to_eight_bit,
    too_large,
    turned_upright,
)

MAX_BYTES = 1 << 30
"""Of a picture file."""
MAX_FRAMES_PIXELS = 256_000_000
"""Of all frames of a file together, as they come out."""
MAX_PAGES = 1000
"""Of a TIFF file, as far as they are counted: each takes longer to find than the one before."""

# An allow-list: Pillow's EPS, PDF, PSD and FITS readers have a history of holes and no photographs.
_READABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
_FORMATS = "PNG, JPEG, WebP, AVIF, HEIC, BMP, TIFF, GIF or PPM"
SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm .avif .heic .heif".split()
)
"""Names of pictures end so, in small letters; what is read counts by its content."""
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Of these, further frames are previews and depth maps of the one photo.
_ONE_PHOTO = ("MPO", "HEIF")
_PNG_BEGINNING = b"\x89PNG\r\n\x1a\n"
_TIFF_BEGINNINGS = (b"II*\0", b"MM\0*")

Photo = Image.Image | Picture | np.ndarray | str | os.PathLike[str]
"""What `as_picture` takes."""


@dataclass(frozen=True, eq=False)
class Frames:
    """The pictures of one file; of an animation, how long each is shown in ms and how often all are (0 is for ever)."""

    pictures: list[Picture]
    durations: list[int] = field(default_factory=list)
    loop: int = 0


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
    """Read the first frame of a picture file; see `read_file` and `decode`, and what they refuse."""
    return decode(read_file(path), repr(os.fspath(path))).pictures[0]


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of a picture file.

    Raises PureError if the path is missing, unreadable, not a regular file, empty or over 1 GiB.
    """
    path, name = Path(path), repr(os.fspath(path))
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PureError(f"{name} is a directory; give the name of a picture file")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise PureError(f"{name} is not a regular file; give the name of a picture file")
        if status.st_size > MAX_BYTES:
            raise PureError(f"{name} has more than {MAX_BYTES >> 30} GiB; give a smaller file")
        with path.open("rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise PureError(f"{name} does not exist; check the name of the picture") from None
    except OSError as error:
        raise PureError(f"{name} cannot be read ({reason_of(error)}); check its permissions") from error
    if not data:
        raise PureError(f"{name} is empty (0 bytes); get a fresh copy of the picture")
    return data


def decode(data: bytes, name: str, *, every: bool = False, keep_gps: bool = False) -> Frames:
    """The first frame, or every one, of the bytes of a PNG, JPEG, WebP, AVIF, HEIC, BMP, TIFF, GIF or PPM file.

    HEIC and colour of 16 bits a channel need the extra `photos`; without, the latter is read as 8, with a remark.

    Args:
        name: stands for the file in error messages.
        keep_gps: keep the place where the photo was taken.

    Raises:
        PureError: the content is not such a picture, is truncated or fails its checksums; it has fewer than 16 pixels
            on a side, or more than 100 million altogether (known from the header, before any pixel is decoded), or all
            frames together have more than 256 million, or are more than 1,000 pages of a TIFF file.
    """
    formats = _formats_for(data, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks about broken metadata, and sizes below our own limit
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
            check_size(image, name)
            image.verify()  # PNG checksums, which decoding alone does not look at
            image = Image.open(io.BytesIO(data), formats=formats)
            count = _frames_in(image)
            counted = f"{count:,}" if count <= MAX_PAGES else f"more than {MAX_PAGES:,}"
            if not every or count == 1:
                picture = _frame(image, data, 0, name, keep_gps)
                if count > 1:
                    remark = f"it has {counted} frames, of which the first was taken; --frames all takes all"
                    picture = dataclasses.replace(picture, remarks=(*picture.remarks, remark))
                return Frames([picture])
            if image.format == "TIFF" and count > MAX_PAGES:
                raise PureError(f"{name} has {counted} pages; cut it into parts")
            return _all_frames(image, data, count, name, keep_gps)
        except PureError:
            raise
        except UnidentifiedImageError:
            if data.startswith(_TIFF_BEGINNINGS):
                kinds = "save it as grey, RGB or RGBA of 8 or 16 bits"
                raise PureError(f"{name} is a damaged TIFF, or of a kind that is not read; {kinds}") from None
            raise PureError(f"{name} is not a readable picture; give a {_FORMATS} file") from None
        except Image.DecompressionBombError:
            raise too_large(name) from None
        except Exception as error:  # a decoder fed with damaged bytes may raise anything
            smaller = _without_profile(data) if "MAX_TEXT_CHUNK" in str(error) else data
            if smaller is data:
                raise damaged(name, error) from error
    frames = decode(smaller, name, every=every, keep_gps=keep_gps)
    remark = "its colour profile of more than 1 MiB was left out"
    pictures = [dataclasses.replace(own, remarks=(remark, *own.remarks)) for own in frames.pictures]
    return dataclasses.replace(frames, pictures=pictures)


def _without_profile(data: bytes) -> bytes:
    """A PNG file without iCCP chunks, which Pillow unpacks up to a limit; the same object where it has none."""
    place = len(_PNG_BEGINNING)
    kept = [data[:place]]
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")  # length, kind, content, checksum
        if data[place + 4 : place + 8] != b"iCCP":
            kept.append(data[place:end])
        place = end
    smaller = b"".join(kept)
    return smaller if len(smaller) < len(data) else data


def silence_decoders() -> None:
    """Let the libraries that read files log nothing, for a command, which has a sentence for what cannot be read."""
    for library in ("PIL", "imagecodecs", "tifffile"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


def _frames_in(image: Image.Image) -> int:
    """How many frames an opened file has; of a TIFF file more than MAX_PAGES are one more."""
    if image.format in _ONE_PHOTO:
        return 1
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    count = 0
    with contextlib.suppress(EOFError):
        while count <= MAX_PAGES:
            image.seek(count)
            count += 1
    image.seek(0)
    return count


def _all_frames(image: Image.Image, data: bytes, count: int, name: str, keep_gps: bool) -> Frames:
    pictures, durations = [], []
    expected, pixels = count * image.width * image.height, 0
    for place in range(count):
        image.seek(place)
        pixels += image.width * image.height  # pages of a TIFF file may be larger than the first
        if max(expected, pixels) > MAX_FRAMES_PIXELS:
            raise PureError(
                f"{name} has {count} frames with more than {MAX_FRAMES_PIXELS // 1_000_000} million pixels "
                "together; cut it into parts"
            )
        pictures.append(_frame(image, data, place, f"frame {place + 1} of {name}", keep_gps))
        durations.append(round(image.info.get("duration", 0)))
    loop = image.info.get("loop", 0 if any(durations) else 1)
    return Frames(pictures, durations if any(durations) else [], loop)


def _frame(image: Image.Image, data: bytes, place: int, name: str, keep_gps: bool) -> Picture:
    """The frame that an opened file is at."""
    check_size(image, name)
    orientation = orientation_of(image)  # Pillow forgets that of a TIFF when it loads it
    is_deep = deep.is_deep(image, data)
    picture = from_image(image, name, keep_gps=keep_gps)
    if not is_deep:
        return picture
    samples = deep.read_samples(data, place) if deep.available() else None
    if samples is None:
        why = "" if deep.available() else '; pip install "pure-jax[photos]" keeps them'
        return dataclasses.replace(picture, remarks=(*picture.remarks, f"its 16 bits a channel were read as 8{why}"))
    samples = turned_upright(samples, orientation)
    channels = samples.shape[-1]
    fine = samples[..., :3] if channels > 2 else np.repeat(samples[..., :1], 3, axis=-1)
    changes: dict[str, Any] = {"rgb": to_eight_bit(fine), "fine": fine}
    if channels in (2, 4):
        changes["alpha"] = opaque_is_none(to_eight_bit(samples[..., -1]))
    if channels < 3:  # Pillow reads grey with transparency as colour
        icc = image.info.get("icc_profile")
        own = fitting_profile(icc, grey=True)
        others = [remark for remark in picture.remarks if remark != UNFITTING_PROFILE]
        remarks = (*others, UNFITTING_PROFILE) if icc and own is None else tuple(others)
        changes |= {"grey": True, "icc": own, "remarks": remarks}
    return dataclasses.replace(picture, **changes)


def _formats_for(data: bytes, name: str) -> tuple[str, ...]:
    """What Pillow may take the file for; HEIC is read by a plug-in."""
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIF_BRANDS or b"avif" in data[16:64]:
        return _READABLE
    if find_spec("pillow_heif") is None:
        raise PureError(f'{name} is a HEIC picture, which needs: pip install "pure-jax[photos]"')
    import pillow_heif

    pillow_heif.register_heif_opener()
    return (*_READABLE, "HEIF")
