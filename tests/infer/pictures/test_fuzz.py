"""Damaged picture files of every format are a picture or one sentence: no other error, no hang, at most 1 GiB."""

from __future__ import annotations

import io
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from pure_jax.errors import PureError
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.pictures.reading import Frames, decode
from tests.pictures import encoded

SECONDS = 60  # for one file; on a quick machine the slowest takes less than 2
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a xmlns:t="http://ns.adobe.com/tiff/1.0/" t:Orientation="6"/></x:xmpmeta>'


@cache
def whole_files() -> dict[str, bytes]:
    """A small file of every kind, with everything beside the pixels that its format can hold."""
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 65_536, (24, 32, 3)).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769], exif[0x8825] = 6, "Maker", {0x829A: (1, 250)}, {1: "N"}
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = (fine // 257).astype(np.uint8)
    alpha = rng.integers(0, 256, (24, 32), dtype=np.uint8)
    picture = Picture(rgb, None, False, icc, None, exif.tobytes(), XMP)
    deep = Picture(rgb, alpha, False, icc, fine, exif.tobytes(), XMP)
    files = {suffix: encoded(suffix, Frames([picture])) for suffix in (".png", ".jpg", ".webp", ".avif", ".tif")}
    files |= {f"16 bits {suffix}": encoded(suffix, Frames([deep])) for suffix in (".png", ".tif")}
    files |= {f"frames {s}": encoded(s, Frames([picture, picture], [50, 60])) for s in (".png", ".webp", ".tif")}
    image = Image.fromarray(rgb)
    for format in ("BMP", "GIF", "PPM", "TIFF"):
        options = {"compression": "tiff_lzw"} if format == "TIFF" else {}
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        files[format] = buffer.getvalue()
    buffer = io.BytesIO()
    image.convert("CMYK").save(buffer, "JPEG", icc_profile=icc[:16] + b"CMYK" + icc[20:], progressive=True)
    files["CMYK"] = buffer.getvalue()
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, fine, photometric="rgb", compression="lzw")
    files["16 bits LZW"] = buffer.getvalue()
    try:
        import pillow_heif
    except ImportError:
        return files
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image.resize((64, 64))).save(buffer, exif=exif.tobytes())
    return files | {"HEIC": buffer.getvalue()}


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Other bytes in a few places, most of them near the beginning; at times a part missing, or there twice."""
    found = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        place = int(len(found) * rng.random() ** 2)
        found[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
    start, end = sorted(rng.integers(0, len(found), 2))
    kind = rng.integers(8)
    if kind == 0:
        return bytes(found[:end])
    if kind == 1:
        return bytes(found[:start] + found[end:])
    return bytes(found[:end] + found[start:]) if kind == 2 else bytes(found)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{seconds} s have passed")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def survive(cases: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names, suffixes = sorted(whole_files()), [".png", ".tif", ".webp", ".jpg", ".avif"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = refused = 0
    for case in range(cases):
        data = damage(whole_files()[names[case % len(names)]], rng)
        try:
            with at_most(SECONDS):
                frames = decode(data, "the file", every=bool(case % 2), keep_gps=bool(case % 3))
        except PureError as error:
            assert "\n" not in str(error)
            assert not isinstance(error.__cause__, TimeoutError), "a hang"
            refused += 1
        else:
            assert all(picture.rgb.dtype == np.uint8 for picture in frames.pictures)
            suffix, picture = suffixes[case % len(suffixes)], frames.pictures[0]
            if picture.rgb.size < 1_000_000 and (picture.alpha is None or suffix != ".jpg"):
                assert encoded(suffix, Frames([picture]))  # behind it lies long work: it must not fail to be written
            read += 1
    assert min(read, refused) > cases // 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1 << 20  # KiB


def test_the_files_are_whole_before_they_are_damaged():
    for name, data in whole_files().items():
        assert decode(data, name, every=True).pictures[0].rgb.shape[2] == 3


def test_a_few_hundred_damaged_files():
    survive(400, seed=0)


@pytest.mark.slow
@pytest.mark.long
def test_twenty_thousand_damaged_files():
    survive(20_000, seed=1)
