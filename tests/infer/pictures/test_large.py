"""Large pictures lie on the disk, and their files are written strip by strip."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace
from tempfile import TemporaryFile

import numpy as np
import pytest
from PIL import Image, ImageCms

from pure_jax.errors import PureError
from pure_jax.infer.pictures import large, writing
from pure_jax.infer.pictures.enlarge import Enlarged, enlarge
from pure_jax.infer.pictures.large import let_go, on_disk
from pure_jax.infer.pictures.picture import Picture, from_image
from pure_jax.infer.pictures.reading import Frames
from tests.disk import files_limited_to
from tests.pictures import encoded

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(height: int = 90, width: int = 130) -> Picture:
    y, x = np.mgrid[:height, :width]
    rgb = on_disk((height, width, 3), np.uint8)
    rgb[:] = np.stack([x, y, x + y], axis=-1) % 256
    exif = Image.Exif()
    exif[271] = "a camera"
    return Picture(rgb, icc=PROFILE, exif=exif.tobytes(), xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_it_is_the_file_that_pillow_writes_of_a_small_one(monkeypatch, suffix, grey):
    one = replace(picture(), grey=grey, icc=None if grey else PROFILE)
    usual = opened(encoded(suffix, Frames([one]), None))
    monkeypatch.setattr(writing, "LARGE", 1000)
    monkeypatch.setattr(writing, "strips", lambda height, width: [(i, min(i + 8, height)) for i in range(0, height, 8)])
    strip_by_strip = opened(encoded(suffix, Frames([one]), None))
    assert strip_by_strip.mode == usual.mode and np.array_equal(np.asarray(strip_by_strip), np.asarray(usual))
    assert strip_by_strip.info.get("icc_profile") == usual.info.get("icc_profile") == one.icc
    assert dict(strip_by_strip.getexif()) == dict(usual.getexif()) == {271: "a camera"}
    assert strip_by_strip.info["xmp"] == usual.info["xmp"] == one.xmp


def test_transparency_goes_with_it(monkeypatch):
    alpha = np.linspace(0, 255, 90, dtype=np.uint8)[:, None].repeat(130, axis=1)
    one = replace(picture(), alpha=alpha)
    monkeypatch.setattr(writing, "LARGE", 1000)
    found = np.asarray(opened(encoded(".png", Frames([one]))))
    assert np.array_equal(found, np.concatenate([one.rgb, alpha[..., None]], axis=-1))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_memory_holds_a_strip_of_it(monkeypatch, tmp_path, suffix):
    side = 1500
    one = picture(side, side)
    monkeypatch.setattr(writing, "LARGE", 1000)
    monkeypatch.setattr(large, "STRIP_PIXELS", 1 << 15)
    with (tmp_path / f"a{suffix}").open("wb") as file:
        tracemalloc.start()
        try:
            writing.encode(file, suffix, Frames([one]))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 3 * side * side  # less than the picture


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_a_large_photo_is_read_onto_the_disk(monkeypatch, mode):
    noise = np.random.default_rng(0).integers(0, 256, (200, 40, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    if mode == "P":
        image.info["transparency"] = 7
    whole = from_image(image)
    monkeypatch.setattr(large, "LARGE", 1000)
    monkeypatch.setattr(large, "STRIP_PIXELS", 1)
    strip_by_strip = from_image(image)
    assert isinstance(strip_by_strip.rgb, np.memmap) and not isinstance(whole.rgb, np.memmap)
    assert np.array_equal(strip_by_strip.rgb, whole.rgb)
    assert (strip_by_strip.alpha is None) == (whole.alpha is None) == (mode not in ("LA", "P", "RGBA"))
    if whole.alpha is not None:
        assert np.array_equal(strip_by_strip.alpha, whole.alpha)


@pytest.mark.parametrize("magnification", [1, 4])
def test_a_photo_of_the_wanted_size_is_that_photo(magnification):
    photo = np.random.default_rng(0).integers(0, 256, (33, 21, 3), dtype=np.uint8)
    size = 33 * magnification, 21 * magnification, magnification
    assert np.array_equal(enlarge(photo, *size), photo)
    assert np.array_equal(Enlarged(photo, *size, whole=False).rows(3, 9), photo[3:9])


def test_an_array_on_the_disk_keeps_what_is_let_go():
    array = on_disk((3, 1 << 20), np.uint16)
    assert not array.any()
    array[1] = 7
    let_go(array[1:2])  # a view will do
    let_go(np.zeros(3))
    with TemporaryFile() as file:
        file.write(bytes(4096))
        file.flush()
        of_somebody_else = np.memmap(file, mode="c")
        of_somebody_else[:] = 3
        let_go(of_somebody_else)
        assert (of_somebody_else == 3).all()
    assert (array[1] == 7).all() and not array[0].any()


def test_a_full_disk_is_told_of():
    with (
        files_limited_to(1 << 20),
        pytest.raises(PureError, match="a large picture cannot be kept in .*make room there"),
    ):
        on_disk((2000, 2000, 3), np.uint8)
