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


def test_crops_are_contiguous_and_flipped_left_right_half_the_time():
    photos = [Photo("a", picture(100, 120), "")]
    crops = [random_crop(photos, 60, np.random.default_rng(i))[0].astype(int) for i in range(200)]  # 2 * 60 > 100
    down, across = (np.array([np.unique(np.diff(c[..., k], axis=k)) for c in crops]).ravel() for k in (0, 1))
    assert (down == 1).all()
    assert set(across) == {-1, 1}
    # 200 fair coins: 3 standard deviations are 0.11; the seeds are fixed.
    assert np.mean(across == -1) == pytest.approx(0.5, abs=0.11)
    tops, lefts = np.array([(c[..., 0].min(), c[..., 1].min()) for c in crops]).T
    assert (tops.min(), tops.max(), lefts.min(), lefts.max()) == (0, 40, 0, 60)


def test_half_of_the_crops_are_taken_at_half_resolution_where_they_fit():
    photos = [Photo("a", picture(100, 120), "")]
    crops = [random_crop(photos, 30, np.random.default_rng(i))[0].astype(int) for i in range(200)]
    rows_per_row = np.array([np.median(np.diff(c[..., 0], axis=0)) for c in crops])
    assert set(rows_per_row) == {1, 2}
    assert np.mean(rows_per_row == 2) == pytest.approx(0.5, abs=0.11)


def test_photos_are_drawn_by_area():
    photos = [Photo("small", picture(40, 40), ""), Photo("large", picture(80, 60), "")]
    rng = np.random.default_rng(0)
    share = np.mean([random_crop(photos, 32, rng)[1] for _ in range(400)])
    assert share == pytest.approx(4800 / 6400, abs=0.065)  # 3 standard deviations
