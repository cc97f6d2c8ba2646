"""Colour of 16 bits a channel, which Pillow cannot hold: read and written by tifffile and imagecodecs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
from PIL import Image

from pure_jax.infer.pictures.picture import Picture

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow's own conversion to grey
_XMP_TAG = 700
_UNSIGNED, _BYTES, _TEXT = 1, 1, 2  # sample format; types of tags


def available() -> bool:
    """Whether the libraries are installed (extra `photos`)."""
    return find_spec("tifffile") is not None and find_spec("imagecodecs") is not None


def is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether a file, opened as a PNG or TIFF, has two or more channels of 16 bits; Pillow reads their high bytes."""
    if image.format == "PNG":
        return data[24] == 16 and data[25] in (2, 4, 6)  # bit depth and colour type of the header
    if image.format != "TIFF":
        return False
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, samples = tags.get(258, (1,)), tags.get(277, 1)
    return samples > 1 and set(bits) == {16} and set(tags.get(339, (_UNSIGNED,))) == {_UNSIGNED}


def read_samples(data: bytes, page: int = 0) -> np.ndarray | None:
    """uint16 [H, W, channels] of such a file, its transparency last and its colours not multiplied with it; None for
    colours other than grey and RGB."""
    import imagecodecs
    import tifffile

    if data.startswith(b"\x89PNG"):
        samples = imagecodecs.png_decode(data)
    else:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            found = file.pages[page].aspage()
            if found.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
                return None
            samples = found.asarray()
            if found.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
                samples = np.moveaxis(samples, 0, -1)
            if samples.ndim == 3 and found.extrasamples:
                samples = _straight(samples, found.extrasamples[0])
    return samples if samples.dtype == np.uint16 and samples.ndim == 3 and samples.shape[-1] <= 4 else None


def _straight(samples: np.ndarray, kind: int) -> np.ndarray:
    """Samples whose last channel is of a kind of tifffile.EXTRASAMPLE: without it where it says nothing, and with
    colours divided by it where they were multiplied."""
    import tifffile

    if kind == tifffile.EXTRASAMPLE.UNSPECIFIED:
        return samples[..., :-1]
    if kind != tifffile.EXTRASAMPLE.ASSOCALPHA:
        return samples
    straight = samples.copy()
    for row in straight:  # one at a time, as all together in floats would be many times the picture
        alpha = row[:, -1:]
        divided = np.where(alpha > 0, row[:, :-1] * (65535 / np.maximum(alpha, 1)), 0)
        row[:, :-1] = np.rint(np.minimum(divided, 65535))
    return straight


def encode_png(picture: Picture) -> bytes:
    """A PNG file of 16 bits a channel, with the picture's profile and what it says about itself."""
    import imagecodecs

    file = bytes(imagecodecs.png_encode(_samples(picture), level=6))
    chunks = b""
    if picture.icc:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc))
    if picture.exif:
        chunks += _chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    if picture.xmp:
        chunks += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp)
    end = 33  # of the signature (8) and the header (8 + 13 + 4)
    return file[:end] + chunks + file[end:]


def encode_tiff(pictures: Sequence[Picture]) -> bytes:
    """A TIFF file of 16 bits a channel, one page for each picture, with profile and XMP.

    Of EXIF it holds camera, date, names and rights; the directories of exposure and place find no place in it.
    """
    import tifffile

    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for picture in pictures:
            if picture.alpha is not None and picture.grey:  # which few programs read from a TIFF file, so: as colour
                picture = replace(picture, grey=False, icc=None)
            samples = _samples(picture)
            file.write(
                samples,
                photometric="minisblack" if picture.grey else "rgb",
                planarconfig="contig" if samples.ndim == 3 else None,
                extrasamples=None if picture.alpha is None else ["unassalpha"],
                compression="zlib",
                predictor=True,
                iccprofile=picture.icc,
                extratags=_tags(picture),
                metadata=None,
                software=False,
            )
    return buffer.getvalue()


def _samples(picture: Picture) -> np.ndarray:
    """uint16 [H, W] or [H, W, channels], grey with one colour channel, transparency last."""
    assert picture.fine is not None
    fine = picture.fine
    channels = [np.rint(fine @ _LUMA).astype(np.uint16)] if picture.grey else [fine[..., i] for i in range(3)]
    if picture.alpha is not None:
        channels.append(picture.alpha.astype(np.uint16) * 257)
    return channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)


def _tags(picture: Picture) -> list[tuple[int, int, int, bytes | str, bool]]:
    """Further tags of a TIFF page: (tag, type, count, value, whether it is the first page's only)."""
    tags: list[tuple[int, int, int, bytes | str, bool]] = []
    if picture.xmp:
        tags.append((_XMP_TAG, _BYTES, len(picture.xmp), picture.xmp, True))
    exif = Image.Exif()
    exif.load(picture.exif or b"")
    return tags + [(tag, _TEXT, 0, value, True) for tag, value in exif.items() if isinstance(value, str)]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
