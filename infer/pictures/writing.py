"""Pictures into files: checked before the long work starts, and never half-written."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from pure_jax.errors import PureError
from pure_jax.files import not_writable, replacing
from pure_jax.infer.pictures import deep
from pure_jax.infer.pictures.large import LARGE, let_go, on_disk, strips
from pure_jax.infer.pictures.picture import Picture, samples, to_image
from pure_jax.infer.pictures.png import write_png
from pure_jax.infer.pictures.reading import Frames


@dataclass(frozen=True)
class _Encoder:
    """How Pillow writes a format, and what the format can hold."""

    format: str
    longest_side: int  # pixels
    options: dict[str, Any] = field(default_factory=dict)
    lossy: bool = False
    alpha: bool = True
    frames: bool = True
    deep: bool = False  # 16 bits a channel


_PNG = _Encoder("PNG", 2**31 - 1, deep=True)
_JPEG = _Encoder("JPEG", 65_500, {"quality": 95, "subsampling": 0}, lossy=True, alpha=False, frames=False)
_WEBP = _Encoder("WEBP", 16_383, {"quality": 95}, lossy=True)
_AVIF = _Encoder("AVIF", 65_535, {"quality": 90, "subsampling": "4:4:4"}, lossy=True)
_TIFF = _Encoder("TIFF", 2**31 - 1, {"compression": "tiff_adobe_deflate"}, deep=True)
_ENCODERS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".avif": _AVIF,
    ".tif": _TIFF,
    ".tiff": _TIFF,
}
_SUFFIXES = ".png, .jpg, .jpeg, .webp, .avif, .tif or .tiff"
_XMP_TAG = 700
_LARGEST_PROFILE_IN_PNG = 1 << 20  # bytes; Pillow, and what is built on it, reads no PNG file with a larger one
_LARGEST_IN_JPEG = 65_400  # bytes of a block, with room for its header
_DIRECTORIES = {0x8769, 0x8825}  # of EXIF: exposure, place


def is_output_name(path: str | os.PathLike[str]) -> bool:
    """Whether a name ends like one of the formats that pictures are written in."""
    return Path(path).suffix.lower() in _ENCODERS


def check_kind(
    path: str | os.PathLike[str],
    *,
    has_alpha: bool = False,
    size: tuple[int, int] | None = None,
    frames: int = 1,
    quality: int | None = None,
) -> None:
    """Make sure that the format of `path`'s suffix can hold a picture; looks at no disk.

    size: (width, height) in pixels, if known; JPEG, WebP and AVIF have limits. quality: 1 ... 100, of lossy formats.
    Raises PureError if the suffix is of no format, or if the format cannot hold the picture.
    """
    name = repr(str(path))
    encoder = _ENCODERS.get(Path(path).suffix.lower())
    if encoder is None:
        raise PureError(f"output {name} needs a name that ends in {_SUFFIXES}")
    if encoder.format in ("AVIF", "WEBP") and not features.check(encoder.format.lower()):
        raise PureError(
            f"output {name} cannot be written, as this Pillow was built without {encoder.format}; write .png"
        )
    if has_alpha and not encoder.alpha:
        raise PureError(f"output {name} cannot hold transparency, which the picture has; write .png or .webp instead")
    if frames > 1 and not encoder.frames:
        raise PureError(f"output {name} cannot hold {frames} frames; write .png, .webp, .avif or .tif instead")
    if size and max(size) > encoder.longest_side:
        raise PureError(
            f"output {name} cannot hold {size[0]}x{size[1]} pixels ({encoder.format} ends at {encoder.longest_side} "
            "a side); write .png instead"
        )
    if quality is not None and not encoder.lossy:
        raise PureError(f"--quality has no meaning for output {name}, which loses nothing; leave it out")
    if quality is not None and not 1 <= quality <= 100:
        raise PureError(f"the quality is {quality}, but it must lie in 1 ... 100")


def check_frames(
    path: str | os.PathLike[str], frames: Frames, sizes: Sequence[tuple[int, int]], quality: int | None = None
) -> None:
    """Make sure that the format of `path`'s suffix can hold the results of all frames, which will have these sizes.

    Raises PureError as `check_kind` does, or if they differ in size and the format has no pages of their own for them.
    """
    has_alpha = any(picture.alpha is not None for picture in frames.pictures)
    check_kind(path, has_alpha=has_alpha, size=sizes[0], frames=len(sizes), quality=quality)
    if len(set(sizes)) > 1 and _ENCODERS[Path(path).suffix.lower()] is not _TIFF:
        raise PureError(f"output {str(path)!r} cannot hold frames of different sizes; write .tif instead")


def check_output(path: str | os.PathLike[str], *, has_alpha: bool, size: tuple[int, int] | None = None) -> None:
    """Make sure, before work starts, that a picture can be written to `path`: `check_kind` and `check_place`."""
    check_kind(path, has_alpha=has_alpha, size=size)
    check_place(path)


def check_place(path: str | os.PathLike[str]) -> None:
    """Raises PureError if a file cannot be written to `path`; leaves nothing behind."""
    path = Path(path)
    name = repr(str(path))
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


def encode(file: BinaryIO, suffix: str, frames: Frames, quality: int | None = None) -> None:
    """Write a file of the suffix's format: PNG, JPEG, WebP, AVIF or TIFF, with all that its Pictures hold.

    JPEG and WebP have a quality of 95 by default, AVIF of 90, and keep the full resolution of colours. 16 bits a
    channel stay so in PNG, and in TIFF if the extra `photos` is installed. Several frames become an animation, or pages
    of a TIFF file. What the format cannot hold is for `check_kind` to refuse. A single large picture, and one of 16
    bits, goes into PNG and JPEG strip by strip; the other formats' encoders take pictures whole.

    file: open for writing and reading, empty.
    """
    encoder = _ENCODERS[suffix.lower()]
    pictures = [_with_fitting_profile(encoder, picture) for picture in frames.pictures]
    first, alone = pictures[0], len(pictures) == 1
    large = first.rgb.shape[0] * first.rgb.shape[1] > LARGE
    options = encoder.options | ({} if quality is None else {"quality": quality})
    if encoder is _TIFF and deep.available() and all(picture.fine is not None for picture in pictures):
        deep.write_tiff(file, pictures)
    elif encoder is _PNG and alone and (large or first.fine is not None):
        _write_png(file, first)
    elif encoder is _JPEG and large:
        image, array = _mapped(first)
        image.save(_target(file, array), encoder.format, **options | _about(encoder, first))
    else:
        if not alone:
            options = options | {"save_all": True, "append_images": [to_image(picture) for picture in pictures[1:]]}
            if encoder is not _TIFF:
                options |= {"duration": frames.durations or 1000}
                options |= {} if encoder is _AVIF else {"loop": frames.loop}
        to_image(first).save(_target(file), encoder.format, **options | _about(encoder, first))


def _write_png(file: BinaryIO, picture: Picture) -> None:
    height, width = picture.rgb.shape[:2]
    chunks = []
    if picture.icc:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc)))
    if picture.exif:
        chunks.append((b"eXIf", picture.exif.removeprefix(b"Exif\0\0")))
    if picture.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp))
    write_png(file, (width, height), _parts(picture, deep=picture.fine is not None), chunks)


def _parts(picture: Picture, *, deep: bool = False) -> Iterator[np.ndarray]:
    """Strips of a picture, as `samples` gives them, whose pages do not stay in memory."""
    for first, behind in strips(*picture.rgb.shape[:2]):
        yield samples(picture, first, behind, deep=deep)
        for array in (picture.rgb, picture.alpha, picture.fine):
            if array is not None:
                let_go(array)


def _mapped(picture: Picture) -> tuple[Image.Image, np.ndarray]:
    """A picture without transparency as an image whose pixels Pillow reads where they lie: in the array on the disk."""
    height, width = picture.rgb.shape[:2]
    array = on_disk((height, width) if picture.grey else (height, width, 4), np.uint8)
    place = array[..., None] if picture.grey else array[..., :3]
    top = 0
    for strip in _parts(picture):
        place[top : top + len(strip)] = strip
        top += len(strip)
        let_go(array)
    mode = "L" if picture.grey else "RGBX"  # of RGB, it would make a copy in memory
    return Image.frombuffer(mode, (width, height), array, "raw", mode, 0, 1), array


class _Target:
    """Has no descriptor."""

    def __init__(self, file: BinaryIO, array: np.ndarray | None) -> None:
        self.read, self.seek, self.tell, self.flush = file.read, file.seek, file.tell, file.flush
        self._file, self._array = file, array

    def write(self, data: bytes) -> int:
        if self._array is not None:
            let_go(self._array)
        return self._file.write(data)


def _target(file: BinaryIO, array: np.ndarray | None = None) -> BinaryIO:
    """A file for Pillow without a descriptor: Pillow would write to that by itself, and not say how it failed.

    array: its pages do not stay in memory while it is written.
    """
    return cast(BinaryIO, _Target(file, array))


def lost_by(suffix: str, picture: Picture) -> list[str]:
    """What a format cannot keep of what a picture says about itself, a remark each."""
    if _with_fitting_profile(_ENCODERS[suffix.lower()], picture) is picture:
        return []
    assert picture.icc is not None
    return [f"its colour profile of {len(picture.icc) / 1e6:.1f} MB was left out, as PNG readers refuse it; write .tif"]


def fitting_profile_for(format: str, icc: bytes | None) -> bytes | None:
    """A colour profile, or None where the format, by Pillow's name, has no room for it."""
    return None if format.upper() == "PNG" and len(icc or b"") > _LARGEST_PROFILE_IN_PNG else icc


def _with_fitting_profile(encoder: _Encoder, picture: Picture) -> Picture:
    profile = fitting_profile_for(encoder.format, picture.icc)
    return picture if profile is picture.icc else replace(picture, icc=profile)


def write_image(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Write a PIL image of mode L, LA, RGB or RGBA in the format of the suffix, with its colour profile.

    `path` holds either all of it or what it held before. Raises PureError as `check_output` does, and for a full disk
    or any other failure to write.
    """
    check_output(path, has_alpha=image.has_transparency_data, size=image.size)
    encoder = _ENCODERS[Path(path).suffix.lower()]
    profile = fitting_profile_for(encoder.format, image.info.get("icc_profile"))
    with replacing(Path(path)) as beside, beside.open("x+b") as file:
        image.save(_target(file), encoder.format, icc_profile=profile, **encoder.options)


def _about(encoder: _Encoder, picture: Picture) -> dict[str, Any]:
    """Pillow's options for the profile and what the picture says about itself."""
    about: dict[str, Any] = {"icc_profile": picture.icc}
    largest = _LARGEST_IN_JPEG if encoder is _JPEG else 1 << 30
    exif = Image.Exif()
    if picture.exif and len(picture.exif) <= largest:
        exif.load(picture.exif)
    if not picture.xmp or len(picture.xmp) > largest:
        pass
    elif encoder is _PNG:
        about["pnginfo"] = PngInfo()
        about["pnginfo"].add_itxt("XML:com.adobe.xmp", picture.xmp.decode())
    elif encoder is _TIFF:
        exif[_XMP_TAG] = picture.xmp
    else:
        about["xmp"] = picture.xmp
    if encoder is _TIFF and _DIRECTORIES & set(exif):
        about["compression"] = "raw"  # what Pillow compresses through libtiff cannot hold directories in a directory
    return about | ({"exif": exif} if len(exif) else {})
