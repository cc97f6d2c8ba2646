"""Animations and documents: the first frame with a remark, or all of them; and pictures of the newer formats."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from pure_jax.errors import PureError
from pure_jax.infer.pictures import reading
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.pictures.reading import Frames, as_picture, decode, read_file
from pure_jax.infer.pictures.writing import check_frames, check_kind
from tests.infer.pictures.test_fuzz import at_most
from tests.pictures import encoded

COLOURS = [(255, 0, 0), (0, 160, 0), (0, 0, 255)]
DURATIONS = [100, 200, 300]


def animation(format: str) -> bytes:
    images = [Image.new("RGB", (24, 20), colour) for colour in COLOURS]
    buffer = io.BytesIO()
    timing = {} if format == "TIFF" else {"duration": DURATIONS}
    lossless = {"lossless": True} if format == "WEBP" else {}
    images[0].save(buffer, format, save_all=True, append_images=images[1:], **timing, **lossless)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_comes_with_a_remark_about_the_others(format):
    [picture] = decode(animation(format), "the animation").pictures
    assert picture.remarks == ("it has 3 frames, of which the first was taken; --frames all takes all",)
    assert (picture.rgb == COLOURS[0]).all()


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".avif"])
def test_all_frames_go_into_one_file_with_their_timing(format, suffix):
    frames = decode(animation(format), "the animation", every=True)
    assert [tuple(picture.rgb[9, 9]) for picture in frames.pictures] == COLOURS
    assert frames.durations == ([] if format == "TIFF" else DURATIONS)
    with Image.open(io.BytesIO(encoded(suffix, frames))) as written:
        assert written.n_frames == 3
        for place, colour in enumerate(COLOURS):
            written.seek(place)
            written.load()
            if frames.durations and suffix != ".tif":
                assert written.info["duration"] == DURATIONS[place]
            assert np.abs(np.asarray(written.convert("RGB"))[9, 9].astype(int) - colour).max() <= 6  # of lossy ones


def test_pages_of_different_sizes_go_into_a_tiff_only():
    pages = [Picture(np.full((20 + i, 24, 3), 50 * i, np.uint8)) for i in range(3)]
    sizes = [(24, 20), (24, 21), (24, 22)]
    for name in ("a.png", "a.webp", "a.avif"):
        with pytest.raises(PureError, match="frames of different sizes; write .tif"):
            check_frames(name, Frames(pages), sizes)
    check_frames("a.tif", Frames(pages), sizes)
    again = decode(encoded(".tif", Frames(pages)), "the pages", every=True)
    assert all((one.rgb == other.rgb).all() for one, other in zip(again.pictures, pages, strict=True))


def test_one_frame_is_no_animation():
    frames = decode(encoded(".png", Frames([Picture(np.zeros((20, 24, 3), np.uint8))])), "the photo", every=True)
    assert len(frames.pictures) == 1 and frames.pictures[0].remarks == ()


def test_frames_of_too_many_pixels_together_are_refused(monkeypatch):
    monkeypatch.setattr(reading, "MAX_FRAMES_PIXELS", 3 * 24 * 20 - 1)
    with pytest.raises(PureError, match="'a.gif' has 3 frames with more than"):
        decode(animation("GIF"), "'a.gif'", every=True)
    assert len(decode(animation("GIF"), "'a.gif'").pictures) == 1


def test_pages_that_grow_are_counted_by_what_they_are(monkeypatch):
    monkeypatch.setattr(reading, "MAX_FRAMES_PIXELS", 5000)
    pages = [Picture(np.zeros((side, side, 3), np.uint8)) for side in (16, 64, 64)]
    with pytest.raises(PureError, match="'a.tif' has 3 frames with more than"):
        decode(encoded(".tif", Frames(pages)), "'a.tif'", every=True)


def test_pages_without_end_are_counted_up_to_a_thousand():
    """Pillow finds each page by walking past all before it."""
    directory = struct.pack("<H", 9) + b"".join(
        struct.pack("<HHII", tag, 3 if tag != 273 else 4, 1, value)
        for tag, value in (
            (256, 16),
            (257, 16),
            (258, 8),
            (259, 1),
            (262, 1),
            (273, 8),
            (277, 1),
            (278, 16),
            (279, 256),
        )
    )
    first, length, count = 8 + 256, len(directory) + 4, 60_000
    chain = b"".join(
        directory + struct.pack("<I", first + (place + 1) * length if place < count - 1 else 0)
        for place in range(count)
    )
    data = b"II*\0" + struct.pack("<I", first) + bytes(256) + chain
    with at_most(20):  # else it takes minutes
        [picture] = decode(data, "'a.tif'").pictures
        assert picture.remarks[0].startswith("it has more than 1,000 frames, of which the first was taken")
        with pytest.raises(PureError, match="'a.tif' has more than 1,000 pages; cut it into parts"):
            decode(data, "'a.tif'", every=True)


def test_jpeg_holds_one_frame():
    with pytest.raises(PureError, match="cannot hold 3 frames"):
        check_kind("a.jpg", frames=3)
    check_kind("a.webp", frames=3)


def test_formats_that_pillow_was_built_without_are_refused_before_the_work(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    for name in ("a.avif", "a.webp"):
        with pytest.raises(PureError, match="this Pillow was built without"):
            check_kind(name)
    check_kind("a.png")


def test_avif_is_read_and_written_close_to_the_original():
    y, x = np.mgrid[:64, :80]
    smooth = np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8)
    again = decode(encoded(".avif", Frames([Picture(smooth)])), "the photo").pictures[0]
    assert np.abs(again.rgb.astype(int) - smooth).mean() < 2


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read_upright(tmp_path, orientation):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = orientation
    y, x = np.mgrid[:64, :80]
    smooth = np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8)
    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(Image.fromarray(smooth)).save(path, quality=95, exif=exif.tobytes())
    picture = as_picture(path)
    expected = smooth if orientation == 1 else np.rot90(smooth, -1)
    assert picture.rgb.shape == expected.shape
    assert np.abs(picture.rgb.astype(int) - expected).mean() < 4


def test_heic_without_the_plug_in_says_what_to_install(monkeypatch):
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    with pytest.raises(PureError, match=r"'a.heic' is a HEIC picture, which needs: pip install \"pure-jax\[photos\]\""):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "'a.heic'")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_quality_makes_files_larger(suffix):
    noise = Frames([Picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))])
    assert len(encoded(suffix, noise, 20)) < len(encoded(suffix, noise, 60)) < len(encoded(suffix, noise))


@pytest.mark.parametrize(("suffix", "quality"), [("a.png", 90), ("a.tif", 90), ("a.jpg", 0), ("a.webp", 101)])
def test_qualities_without_meaning_are_refused(suffix, quality):
    with pytest.raises(PureError, match="quality"):
        check_kind(suffix, quality=quality)


def test_files_of_more_than_a_gibibyte_are_refused_unread(tmp_path: Path):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(PureError, match="more than 1 GiB"):
        read_file(path)
