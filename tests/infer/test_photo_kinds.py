"""What a photo is, its result is too, from file to file through `pure restore` with the toy family's model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path

import numpy as np
import png
import pytest
from PIL import Image, ImageCms

from pure_jax.__main__ import main
from pure_jax.infer.command import _NOT_IN_PIXELS, Restore
from pure_jax.infer.contract import RestoredTiles
from pure_jax.infer.families import RESTORE_TILES
from tests.toy_restore import toy_command

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8)


@pytest.fixture
def pure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Runs `pure restore ... --quiet` in an empty folder; gives what it prints, or the error of status 2."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    with toy_command():

        def run(*arguments: object) -> str:
            try:
                main(["restore", *map(str, arguments), "--model", "model", "--quiet"])
            except SystemExit as end:
                assert end.code == 2
                return capsys.readouterr().err
            return capsys.readouterr().out

        yield run


def test_16_bits_stay_16_bits(pure):
    samples = RNG.integers(0, 65_536, (16, 24, 4)).astype(np.uint16)
    with open("in.png", "wb") as file:
        png.Writer(24, 16, bitdepth=16, greyscale=False, alpha=True).write(file, samples.reshape(16, -1).tolist())
    pure("in.png", "out.png", "--scale", 2)
    width, height, _, about = png.Reader("out.png").read()
    assert (width, height, about["bitdepth"], about["planes"]) == (48, 32, 16, 4)
    pure("out.png", "again.tif", "--scale", 1)
    with Image.open("again.tif") as image:
        assert image.tag_v2[258] == (16, 16, 16, 16) and image.size == (48, 32)


@pytest.mark.parametrize("wish", ["--entropy-map", "--report"])
def test_what_is_no_number_is_drawn_all_the_same(pure, monkeypatch, wish):
    own = RESTORE_TILES["toy"]

    @wraps(own)
    def broken(*arguments, **options):
        made = own(*arguments, **options)
        return RestoredTiles([replace(tile, entropy=np.full_like(tile.entropy, np.nan)) for tile in made.tiles], [])

    monkeypatch.setitem(RESTORE_TILES, "toy", broken)
    Image.fromarray(RGB).save("in.png")
    name = "map.png" if wish == "--entropy-map" else "page.html"
    assert "error" not in pure("in.png", "out.png", "--scale", 1, "--unchecked", wish, name)
    assert Path("out.png").is_file() and Path(name).is_file()
    assert wish == "--entropy-map" or "no number of nats per code" in Path(name).read_text(encoding="utf-8")


def test_profile_exif_and_orientation(pure):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8825] = 6, "Maker", {1: "N", 2: (48.0, 12.0, 30.0)}
    Image.fromarray(RGB).save("in.jpg", exif=exif, icc_profile=profile)
    for name, options in (("out.jpg", []), ("place.jpg", ["--keep-gps"])):
        pure("in.jpg", name, "--scale", 2, *options)
        with Image.open(name) as image:
            assert image.size == (32, 48) and image.info["icc_profile"] == profile
            found = image.getexif()
            assert found[0x010F] == "Maker" and found.get(0x0112, 1) == 1
            assert bool(found.get_ifd(0x8825)) == bool(options)


def test_animations(pure):
    images = [Image.new("RGB", (24, 16), colour) for colour in ("#ff0000", "#0000ff")]
    images[0].save("in.gif", save_all=True, append_images=images[1:], duration=[70, 90])
    found = json.loads(pure("in.gif", "first.png", "--scale", 1, "--json"))
    assert found["remarks"][0] == "it has 2 frames, of which the first was taken; --frames all takes all"
    found = json.loads(pure("in.gif", "all.webp", "--scale", 2, "--frames", "all", "--json"))
    assert not any("frames" in remark for remark in found["remarks"])
    with Image.open("all.webp") as image:
        assert (image.n_frames, image.size) == (2, (48, 32))
        for place, duration in enumerate([70, 90]):
            image.seek(place)
            image.load()
            assert image.info["duration"] == duration
    assert "cannot hold 2 frames" in pure("in.gif", "out.jpg", "--frames", "all") and not Path("out.jpg").exists()


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--scale", 1.37], (33, 22)),
        (["--width", 61], (61, 41)),
        (["--height", 61], (92, 61)),
        (["--width", 60, "--height", 33], (50, 33)),
        (["--long-side", 100], (100, 67)),
        (["--megapixels", 0.006], (95, 63)),
        ([], (96, 64)),
    ],
)
def test_sizes(pure, options, size):
    Image.fromarray(RGB).save("in.png")
    found = json.loads(pure("in.png", "out.avif", *options, "--json"))
    assert (found["width"], found["height"]) == size
    with Image.open("out.avif") as image:
        assert image.size == size


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--long-side", 23], "--long-side 23 would make the photo of 24x16 pixels smaller"),
        (["--width", 385], "--width 385 would enlarge the photo of 24x16 pixels 16.04 times"),
        (["--width", 50, "--megapixels", 1], "give --megapixels or --width, not both"),
        (["--quality", 200], "the quality is 200"),
    ],
)
def test_sizes_and_qualities_out_of_range_are_refused(pure, options, complaint):
    Image.fromarray(RGB).save("in.png")
    assert complaint in pure("in.png", "out.jpg", *options)
    assert sorted(path.name for path in Path().iterdir()) == ["in.png", "model"]


def test_quality_is_the_formats(pure):
    Image.fromarray(RGB).save("in.png")
    pure("in.png", "out.jpg", "--scale", 1, "--quality", 30)
    with Image.open("out.jpg") as image:
        found = image.quantization  # type: ignore[attr-defined]
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=30)
    with Image.open(buffer) as image:
        assert image.quantization == found  # type: ignore[attr-defined]


def test_options_that_do_not_decide_pixels_are_options():
    assert _NOT_IN_PIXELS < {field.name for field in fields(Restore)}
