"""Photos are read by split; a crop depends on its generator alone and shows what is in the photo."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pure_jax.errors import PureError
from pure_jax.train.data.photos import Photo, load_photos, random_crop


def picture(height: int, width: int, blue: int = 0) -> np.ndarray:
    """Red counts the rows, green the columns: every pixel tells where it comes from."""
    out = np.full((height, width, 3), blue, np.uint8)
    out[..., 0], out[..., 1] = np.mgrid[:height, :width]
    return out


@pytest.fixture
def folder(tmp_path):
    rows = []
    photos = [("c.png", "train", 80), ("a.PNG", "train", 70), ("b.png", "val", 80), ("d.png", "train", 40)]
    for name, split, side in photos:
        Image.fromarray(picture(side, side)).save(tmp_path / name, format="PNG")
        rows.append({"file": name, "split": split, "caption": f"Photo   {name[0]}"})
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    (tmp_path / "notes.txt").write_text("not a photo")
    return tmp_path


def names(photos: list[Photo]) -> list[str]:
    return [photo.name for photo in photos]


def test_a_split_is_read_in_the_order_of_names_without_small_photos(folder):
    photos = load_photos(folder)
    assert names(photos) == ["a.PNG", "c.png"]
    assert [photo.caption for photo in photos] == ["Photo a.", "Photo c."]
    assert names(load_photos(folder, "val")) == ["b.png"]
    assert names(load_photos(folder, None)) == ["a.PNG", "b.png", "c.png"]
    assert names(load_photos(folder, minimum=40)) == ["a.PNG", "c.png", "d.png"]
    np.testing.assert_array_equal(photos[1].pixels, picture(80, 80))


def test_without_a_captions_file_every_photo_counts(folder):
    (folder / "captions.jsonl").unlink()
    photos = load_photos(folder)
    assert names(photos) == ["a.PNG", "b.png", "c.png"]
    assert {photo.caption for photo in photos} == {""}


def test_grey_and_turned_photos_become_upright_rgb(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # shown after a quarter turn to the right
    turned = Image.fromarray(picture(70, 90))
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(picture(70, 70)[..., 0]).save(tmp_path / "grey.png")
    grey, upright = load_photos(tmp_path)
    assert grey.pixels.shape == (70, 70, 3)
    np.testing.assert_array_equal(upright.pixels, np.rot90(picture(70, 90), k=-1))


def test_a_folder_that_gives_nothing_is_a_clear_mistake(folder, tmp_path):
    with pytest.raises(PureError, match="absent is not a folder"):
        load_photos(tmp_path / "absent")
    with pytest.raises(PureError, match="holds no photo of the split 'test'"):
        load_photos(folder, "test")
    with pytest.raises(PureError, match="at least 100 pixels"):
        load_photos(folder, minimum=100)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", None])
def test_a_broken_photo_is_named(folder, content):
    whole = (folder / "c.png").read_bytes()
    (folder / "c.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(PureError, match="c.png cannot be read"):
        load_photos(folder)


@pytest.mark.parametrize("line", ["{", "[1]", '{"caption": "no file"}', '{"file": "a.PNG", "caption": 3}'])
def test_a_broken_captions_line_is_named(folder, line):
    with open(folder / "captions.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(PureError, match="captions.jsonl line 6"):
        load_photos(folder)


def test_crops_depend_on_the_generator_alone():
    photos = [Photo("a", picture(100, 120), ""), Photo("b", picture(90, 90, blue=255), "")]
    draws = [[random_crop(photos, 32, np.random.default_rng([seed, i])) for i in range(20)] for seed in (0, 0, 1)]
    for (crop, index), (again, same) in zip(draws[0], draws[1], strict=True):
        assert crop.shape == (32, 32, 3) and crop.dtype == np.uint8
        np.testing.assert_array_equal(crop, again)
        assert index == same
        assert (crop[..., 2] == (0, 255)[index]).all()
    assert any((a != b).any() for (a, _), (b, _) in zip(draws[0], draws[2], strict=True))


def slopes(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median step of the row ramp (red) and the column ramp (green) along both axes of the crop, int [2] each."""
    crop = crop.astype(int)
    return tuple(np.array([np.median(np.diff(crop[..., k], axis=axis)) for axis in (0, 1)]) for k in (0, 1))


def test_crops_are_contiguous_flipped_half_and_turned_a_quarter_of_the_time():
    photos = [Photo("a", picture(60, 120), "")]  # 60 rows: no crop of 60 can be reduced
    draws = [slopes(random_crop(photos, 60, np.random.default_rng(i))[0]) for i in range(200)]
    down, across = (np.array([pair[k] for pair in draws]) for k in (0, 1))
    turned = down[:, 1] == 1  # the row ramp runs along the columns
    assert (down[turned] == (0, 1)).all() and (down[~turned] == (1, 0)).all()
    assert set(np.abs(across).sum(axis=1)) == {1}
    # 200 coins: 3 standard deviations are 0.11 and 0.09; the seeds are fixed.
    assert np.mean(across.sum(axis=1) == -1) == pytest.approx(0.5, abs=0.11)
    assert np.mean(turned) == pytest.approx(0.25, abs=0.09)


def test_half_of_the_crops_are_reduced_as_far_as_the_photo_allows():
    photos = [Photo("a", picture(100, 120), "")]
    crops = [random_crop(photos, 40, np.random.default_rng(i))[0] for i in range(200)]
    steps = np.array([max(np.abs(slopes(crop)[0])) for crop in crops])
    spans = np.array([np.ptp(crop[..., 0].astype(int)) for crop in crops])
    assert np.mean(spans == 39) == pytest.approx(0.5, abs=0.11)
    assert steps.max() <= 3 and spans.max() <= 99
    assert np.mean(spans == spans.max()) > 0.05  # reductions beyond 100 / 40 take the whole photo


def test_photos_are_drawn_by_the_root_of_their_area():
    photos = [Photo("small", picture(40, 40), ""), Photo("large", picture(80, 80), "")]
    rng = np.random.default_rng(0)
    share = np.mean([random_crop(photos, 32, rng)[1] for _ in range(400)])
    assert share == pytest.approx(2 / 3, abs=0.07)  # 3 standard deviations
