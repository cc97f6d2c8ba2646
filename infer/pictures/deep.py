"""Colour of 16 bits a channel, which Pillow cannot hold: read by tifffile and imagecodecs, written to TIFF, too."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import BinaryIO

import numpy as np
from PIL import Image

from pure_jax.infer.pictures.picture import Picture, samples

_XMP_TAG = 700
_STRIP_BYTES = 1 << 18
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


def write_tiff(file: BinaryIO, pictures: Sequence[Picture]) -> None:
    """Write a TIFF file of 16 bits a channel, one page for each picture, with profile and XMP, strip by strip.

    Of EXIF it holds camera, date, names and rights; the directories of exposure and place find no place in it.
    """
    import tifffile

    with tifffile.TiffWriter(file) as writer:
        for picture in pictures:
            if picture.alpha is not None and picture.grey:  # which few programs read from a TIFF file, so: as colour
                picture = replace(picture, grey=False, icc=None)
            height, width = picture.rgb.shape[:2]
            rows = max(1, _STRIP_BYTES // (6 * width))
            channels = (1 if picture.grey else 3) + (picture.alpha is not None)
            parts = ((top, min(top + rows, height)) for top in range(0, height, rows))
            writer.write(
                (_compressed(samples(picture, *part, deep=True)) for part in parts),
                shape=(height, width, channels) if channels > 1 else (height, width),
                dtype=np.uint16,
                rowsperstrip=rows,
                photometric="minisblack" if picture.grey else "rgb",
                planarconfig="contig" if channels > 1 else None,
                extrasamples=None if picture.alpha is None else ["unassalpha"],
                compression="zlib",
                predictor=True,
                iccprofile=picture.icc,
                extratags=_tags(picture),
                metadata=None,
                software=False,
            )


def _compressed(strip: np.ndarray) -> bytes:
    """A strip of a TIFF file: differences to the pixel before it, as predictor 2 says, deflated."""
    return zlib.compress(np.diff(strip, axis=1, prepend=strip.dtype.type(0)).tobytes())


def _tags(picture: Picture) -> list[tuple[int, int, int, bytes | str, bool]]:
    """Further tags of a TIFF page: (tag, type, count, value, whether it is the first page's only)."""
    tags: list[tuple[int, int, int, bytes | str, bool]] = []
    if picture.xmp:
        tags.append((_XMP_TAG, _BYTES, len(picture.xmp), picture.xmp, True))
    exif = Image.Exif()
    exif.load(picture.exif or b"")
    return tags + [(tag, _TEXT, 0, value, True) for tag, value in exif.items() if isinstance(value, str)]
