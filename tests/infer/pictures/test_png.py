"""PNG files of our own against readers that others wrote."""

from __future__ import annotations

import io
import zlib

import numpy as np
import png
import pytest
from PIL import Image

from pure_jax.infer.pictures.png import write_png

HEIGHT, WIDTH = 37, 53


def content(channels: int, dtype: type) -> np.ndarray:
    """Rows for which each of the filters is the best one."""
    rng = np.random.default_rng(0)
    most = np.iinfo(dtype).max
    y, x = np.mgrid[:HEIGHT, :WIDTH] / max(HEIGHT, WIDTH)
    smooth = np.stack([np.sin(5 * x + 3 * y + i) for i in range(channels)], axis=-1) * 0.4 + 0.5
    noise = rng.random((HEIGHT, WIDTH, channels))
    part = np.arange(HEIGHT)[:, None, None]
    picture = np.where(part < 8, noise, np.where(part < 12, noise[8], np.where(part < 16, noise[:, :1], smooth)))
    picture[30:] = (smooth + 0.03 * noise)[30:]
    return (picture * most).clip(0, most).astype(dtype)


def written(picture: np.ndarray, rows: int, chunks: list[tuple[bytes, bytes]] | None = None) -> bytes:
    file = io.BytesIO()
    strips = (picture[top : top + rows] for top in range(0, len(picture), rows))
    write_png(file, picture.shape[1::-1], strips, chunks or [])
    return file.getvalue()


@pytest.mark.parametrize("rows", [1, 5, HEIGHT])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_independent_reader_finds_the_pixels(channels, dtype, rows):
    picture = content(channels, dtype)
    width, height, lines, info = png.Reader(bytes=written(picture, rows)).read()
    assert (width, height, info["planes"], info["bitdepth"]) == (WIDTH, HEIGHT, channels, 8 * picture.itemsize)
    assert np.array_equal(np.array([*map(list, lines)], dtype).reshape(picture.shape), picture)


def test_strips_make_no_difference_and_every_filter_is_used():
    picture = content(3, np.uint8)
    whole = written(picture, HEIGHT)
    used = set()
    for rows in (1, 4, HEIGHT):
        data = b"".join(data for kind, data in png.Reader(bytes=written(picture, rows)).chunks() if kind == b"IDAT")
        own = np.frombuffer(zlib.decompress(data), np.uint8).reshape(HEIGHT, -1)
        used |= {*own[:, 0].tolist()}
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(whole))), picture)
    assert used == {0, 1, 2, 3, 4}


def test_chunks_stand_before_the_pixels():
    profile = b"a profile of colours"
    data = written(content(3, np.uint8), 8, [(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))])
    assert [kind for kind, _ in png.Reader(bytes=data).chunks()][:3] == [b"IHDR", b"iCCP", b"IDAT"]
    assert Image.open(io.BytesIO(data)).info["icc_profile"] == profile
