"""Colour of 16 bits a channel, read and written; PyPNG, tifffile and Pillow's headers are the independent readers."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import png
import pytest
import tifffile
from PIL import Image, ImageOps

from pure_jax.errors import PureError
from pure_jax.infer.pictures import deep
from pure_jax.infer.pictures.picture import Picture, turned_upright
from pure_jax.infer.pictures.reading import Frames, decode
from pure_jax.infer.restore import Restorer
from tests import toy
from tests.pictures import encoded

RNG = np.random.default_rng(0)
SAMPLES = RNG.integers(0, 65_536, (20, 24, 4)).astype(np.uint16)
PROFILE = b"\0" * 16 + b"RGB " + bytes(range(108))


def png_file(samples: np.ndarray, **options: Any) -> bytes:
    """Written by PyPNG. samples: uint16 [H, W, channels]."""
    height, width, channels = samples.shape
    buffer = io.BytesIO()
    writer = png.Writer(width, height, bitdepth=16, greyscale=channels < 3, alpha=channels in (2, 4), **options)
    writer.write(buffer, samples.reshape(height, -1).tolist())
    return buffer.getvalue()


def read_png(data: bytes) -> np.ndarray:
    """By PyPNG, as [H, W, channels] of its own depth."""
    width, height, rows, about = png.Reader(bytes=data).read()
    dtype = np.uint16 if about["bitdepth"] == 16 else np.uint8
    return np.array([list(row) for row in rows], dtype).reshape(height, width, about["planes"])


def tiff_file(samples: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, photometric="rgb", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_colours_are_read_in_full(channels, interlaced):
    samples = SAMPLES[..., :channels]
    picture = decode(png_file(samples, interlace=interlaced), "the photo").pictures[0]
    assert picture.fine is not None and picture.remarks == () and picture.grey == (channels == 2)
    np.testing.assert_array_equal(picture.fine, samples[..., :3] if channels > 2 else samples[..., :1].repeat(3, -1))
    np.testing.assert_array_equal(picture.rgb, np.rint(picture.fine / 257).astype(np.uint8))
    if channels in (2, 4):
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha, np.rint(samples[..., -1] / 257).astype(np.uint8))


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib", "predictor": True}, {"compression": "lzw"}, {"byteorder": ">"}],
    ids=["plain", "deflate", "lzw", "big endian"],
)
def test_tiff_colours_are_read_in_full(options):
    picture = decode(tiff_file(SAMPLES[..., :3], **options), "the photo").pictures[0]
    assert picture.fine is not None
    np.testing.assert_array_equal(picture.fine, SAMPLES[..., :3])


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha", "unspecified"])
def test_a_fourth_channel_of_a_tiff_is_what_its_tag_says(kind):
    alpha = np.resize(np.array([0, 1, 20_000, 40_000, 65_535], np.uint16), (20, 24))
    colours = SAMPLES[..., :3]
    stored = np.rint(colours * (alpha[..., None] / 65_535)).astype(np.uint16) if kind == "assocalpha" else colours
    data = tiff_file(np.concatenate([stored, alpha[..., None]], axis=-1), extrasamples=[kind])
    picture = decode(data, "the photo").pictures[0]
    with Image.open(io.BytesIO(tiff_file((SAMPLES >> 8).astype(np.uint8), extrasamples=[kind]))) as eight_bits:
        assert (picture.alpha is None) == (not eight_bits.has_transparency_data)
    assert picture.fine is not None
    if kind != "unspecified":
        np.testing.assert_array_equal(picture.alpha, np.rint(alpha / 257).astype(np.uint8))
    seen = alpha >= 20_000 if kind == "assocalpha" else np.ones_like(alpha, bool)
    # Half a level was lost when they were multiplied: 65,535 / 20,000 / 2 levels, and another half by rounding.
    np.testing.assert_allclose(picture.fine[seen].astype(int), colours[seen], rtol=0, atol=2.2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint32])
def test_other_samples_than_those_of_8_and_16_bits_are_refused_by_their_kind(dtype):
    samples = SAMPLES[..., :3].astype(dtype)
    samples[0, 0] = np.nan if np.issubdtype(dtype, np.floating) else 0
    with pytest.raises(PureError, match="'a.tif' is a damaged TIFF, or of a kind that is not read; save it as grey"):
        decode(tiff_file(samples), "'a.tif'")


@pytest.mark.parametrize(("space", "kept"), [(b"GRAY", True), (b"RGB ", False)])
def test_a_profile_of_grey_with_transparency_is_judged_as_grey(space, kept):
    profile = bytes(16) + space + bytes(108)
    data = png_file(SAMPLES[..., :2])
    content = b"iCCP" + b"p\0\0" + zlib.compress(profile)
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    picture = decode(data[:33] + chunk + data[33:], "the photo").pictures[0]
    assert picture.grey and (picture.icc == profile) == kept and len(picture.remarks) == (not kept)


def test_grey_of_16_bits_is_kept_beside_its_8():
    buffer = io.BytesIO()
    Image.fromarray(SAMPLES[..., 0]).save(buffer, "PNG")
    picture = decode(buffer.getvalue(), "the photo").pictures[0]
    assert picture.grey and picture.fine is not None
    np.testing.assert_array_equal(picture.fine[..., 1], SAMPLES[..., 0])
    np.testing.assert_array_equal(read_png(encoded(".png", Frames([picture])))[..., 0], SAMPLES[..., 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_fine_colours_are_turned_upright_like_the_others(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(SAMPLES[..., 0].astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    with Image.open(buffer) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(turned_upright(np.asarray(image), orientation), expected)
    tagged = tiff_file(SAMPLES[..., :3], extratags=[(274, 3, 1, orientation, True)])
    picture = decode(tagged, "the photo").pictures[0]
    assert picture.fine is not None
    np.testing.assert_array_equal(picture.fine, turned_upright(SAMPLES[..., :3], orientation))
    with Image.open(io.BytesIO(tagged)) as opened:
        assert np.abs(np.asarray(opened).astype(int) - picture.rgb).max() <= 1  # Pillow truncates where we round


@pytest.mark.parametrize("alpha", [None, SAMPLES[..., 3].astype(np.uint8)])
@pytest.mark.parametrize("grey", [False, True])
def test_png_and_tiff_are_written_with_16_bits(grey, alpha):
    fine = SAMPLES[..., :1].repeat(3, -1) if grey else SAMPLES[..., :3]
    picture = Picture((fine // 257).astype(np.uint8), alpha, grey, PROFILE, fine)
    channels = [
        fine[..., :1] if grey else fine,
        *([alpha[..., None].astype(np.uint16) * 257] if alpha is not None else []),
    ]
    expected = np.concatenate(channels, axis=-1)
    written = encoded(".png", Frames([picture]))
    np.testing.assert_array_equal(read_png(written), expected)
    tiff = encoded(".tif", Frames([picture]))
    if grey and alpha is not None:  # as colour, which every program reads
        expected = np.concatenate([fine, channels[1]], axis=-1)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(tiff)).reshape(expected.shape), expected)
    for data in (written, tiff):
        with Image.open(io.BytesIO(data)) as image:
            image.load()  # checksums too
            assert image.info.get("icc_profile") == (None if data is tiff and grey and alpha is not None else PROFILE)
    with Image.open(io.BytesIO(tiff)) as image:
        assert image.tag_v2[258] == (16,) * expected.shape[-1]  # type: ignore[attr-defined]


def test_other_formats_get_the_8_bits():
    picture = decode(png_file(SAMPLES[..., :3]), "the photo").pictures[0]
    with Image.open(io.BytesIO(encoded(".webp", Frames([picture])))) as image:
        assert image.mode == "RGB" and image.size == (24, 20)


def test_without_the_libraries_the_8_bits_are_read_with_a_remark(monkeypatch):
    monkeypatch.setattr(deep, "available", lambda: False)
    picture = decode(png_file(SAMPLES[..., :3]), "the photo").pictures[0]
    assert picture.fine is None and "were read as 8; pip install" in picture.remarks[0]
    assert read_png(encoded(".png", Frames([picture]))).dtype == np.uint8


def test_a_soft_gradient_stays_soft_when_restored():
    """Of a ramp over 8 levels, 8 bits keep 9 values and steps of 257."""
    ramp = np.linspace(20_000, 20_000 + 8 * 257, 64).astype(np.uint16)
    source = decode(png_file(np.broadcast_to(ramp[None, :, None], (32, 64, 3))), "the ramp").pictures[0]
    with toy.registered():
        model = toy.ToyModel(toy.ToyConfig(colour_fix="wavelet"), toy.params(), None, "", None)
        result = Restorer(model).restore(source, scale=2)
    assert result.picture.fine is not None and result.image.mode == "RGB"
    written = read_png(encoded(".png", Frames([result.picture])))
    assert written.dtype == np.uint16 and written.shape == (64, 128, 3)
    wanted = np.asarray(Image.fromarray(np.tile(ramp, (32, 1)).astype(np.float32)).resize((128, 64), 3))
    error = np.abs(written.astype(float) - wanted[..., None])[8:-8, 8:-8]
    assert error.max() < 257 and len(np.unique(written)) > 30
    assert np.abs(np.asarray(result.image).astype(int) - np.rint(written / 257)).max() <= 1
