"""Records hold the codes of the right tiles of the right region, and survive the way to the disk and back."""

from __future__ import annotations

import numpy as np
import pytest

import pure_jax.train.data.rounds
from pure_jax.errors import PureError
from pure_jax.train.data.labels import blur_score, noise_score
from pure_jax.train.data.photos import Photo
from pure_jax.train.data.rounds import RecordRounds, Records, build_records, load_records, region_at, save_records
from tests.models import tiny_config, tiny_model

TILE = 16
SIDE = 4 * TILE


def position_photo(side: int = SIDE) -> Photo:
    """Red counts the rows, green the columns; just as large as a region, so no crop is reduced."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.mgrid[:side, :side]
    return Photo("position", pixels, "A ramp.")


def test_tiles_are_the_cut_of_one_region_in_reading_order():
    for index in range(4):
        lq, hq, *_ = region_at([position_photo()], TILE, seed=0, index=index)
        assert lq.shape == hq.shape == (16, TILE, TILE, 3)
        assert lq.dtype == hq.dtype == np.uint8
        region, degraded = (
            np.concatenate([np.concatenate(list(tiles[4 * row : 4 * row + 4]), axis=1) for row in range(4)])
            for tiles in (hq, lq)
        )
        if (np.diff(region[..., 0].astype(int), axis=0) == 0).all():  # turned
            region, degraded = region.swapaxes(0, 1), degraded.swapaxes(0, 1)
        assert (np.diff(region[..., 0].astype(int), axis=0) == 1).all()
        across = np.unique(np.diff(region[..., 1].astype(int), axis=1))
        assert across in (-1, 1)
        # The degraded tiles show the same place: means over 64 pixels follow the ramps in spite of the noise.
        for channel, axis in ((0, 1), (1, 0)):
            means = [image[..., channel].mean(axis=axis, dtype=float) for image in (region, degraded)]
            assert np.corrcoef(*means)[0, 1] > 0.9
        assert (degraded != region).any()


def test_regions_follow_from_seed_and_index():
    photos = [position_photo()]

    def same(a, b) -> bool:
        return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    first = region_at(photos, TILE, 0, 5)
    assert same(first, region_at(photos, TILE, 0, 5))
    assert not same(first, region_at(photos, TILE, 0, 6))
    assert not same(first, region_at(photos, TILE, 1, 5))


def test_scores_are_those_of_the_draws(monkeypatch):
    draws = []

    def spy(image, *args, **kwargs):
        out = original(image, *args, **kwargs)
        draws.append((out[1], float(image.mean())))
        return out

    original = pure_jax.train.data.rounds.degrade
    monkeypatch.setattr(pure_jax.train.data.rounds, "degrade", spy)
    _, _, blur, noise, photo = region_at([position_photo()], TILE, 0, 0)
    [(draw, mean)] = draws
    assert (blur, noise, photo) == (blur_score(draw, scale=4), noise_score(draw, mean), 0)
    assert 0 < mean < 1  # of pixels in [0, 1]


@pytest.fixture(scope="module")
def records() -> Records:
    photos = [position_photo(), Photo("flat", np.full((90, 90, 3), 99, np.uint8), "Écluse, Дунаю.")]
    return build_records(photos, tiny_config(tile_size=TILE), tiny_model(tile_size=TILE).params["vqgan"], 3, seed=0)


def test_records_hold_the_codes_of_every_tile(records):
    model = tiny_model(tile_size=TILE)
    assert len(records) == 48
    assert records.lq_codes.shape == records.hq_codes.shape == (48, 4, 4)
    assert records.lq_codes.dtype == records.hq_codes.dtype == np.uint16
    photos = [position_photo(), Photo("flat", np.full((90, 90, 3), 99, np.uint8), "Écluse, Дунаю.")]
    for index in range(3):
        lq, hq, blur, noise, photo = region_at(photos, TILE, 0, index)
        own = slice(16 * index, 16 * index + 16)
        codes = model.encode(np.concatenate([lq, hq]))
        np.testing.assert_array_equal(np.concatenate([records.lq_codes[own], records.hq_codes[own]]), codes)
        np.testing.assert_array_equal(records.blur[own], np.float32(blur))
        np.testing.assert_array_equal(records.noise[own], np.float32(noise))
        assert {records.captions[i] for i in records.caption[own]} == {photos[photo].caption}
    assert (records.lq_codes != records.hq_codes).any()


def test_no_region_is_a_mistake():
    params = tiny_model(tile_size=TILE).params["vqgan"]
    with pytest.raises(PureError, match="0 regions give no records"):
        build_records([position_photo()], tiny_config(tile_size=TILE), params, 0, 0)


def test_save_and_load_are_the_identity(records, tmp_path):
    path = tmp_path / "new" / "records.npz"
    save_records(path, records)
    again = load_records(path)
    assert again.captions == records.captions == ["A ramp.", "Écluse, Дунаю."]
    for name in ("lq_codes", "hq_codes", "blur", "noise", "caption"):
        before, after = getattr(records, name), getattr(again, name)
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    assert [file.name for file in path.parent.iterdir()] == ["records.npz"]


@pytest.mark.parametrize("damage", ["absent", "empty", "text", "half", "flipped", "array", "fields"])
def test_a_file_that_holds_no_records_is_refused(records, tmp_path, damage):
    path = tmp_path / "records.npz"
    save_records(path, records)
    whole = bytearray(path.read_bytes())
    if damage == "absent":
        path.unlink()
    elif damage == "array":
        path.unlink()
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "fields":
        np.savez(path, lq_codes=records.lq_codes, captions=np.array(["A."]), more=np.zeros(1))
    else:
        whole[200] ^= 255
        content = {"empty": b"", "text": b"no records", "half": whole[: len(whole) // 2], "flipped": whole}
        path.write_bytes(content[damage])
    with pytest.raises(PureError, match="cannot be read as a round of records; remove it"):
        load_records(path)


def test_words_of_a_tile_come_from_its_sharp_pixels():
    config, params = tiny_config(tile_size=TILE), tiny_model(tile_size=TILE).params["vqgan"]
    found = build_records([position_photo()], config, params, 1, 0, words=lambda tile: f"{tile.mean():.4f}")
    _, hq, *_ = region_at([position_photo()], TILE, 0, 0)
    assert [found.captions[i] for i in found.caption] == [f"{tile.mean():.4f}" for tile in hq]


def numbered(made: list[int]):
    """Records of two regions whose scores are the region's number; notes what was made."""

    def make(first: int) -> Records:
        made.append(first)
        codes = np.zeros((32, 4, 4), np.uint16)
        score = np.repeat(np.float32([first, first + 1]), 16)
        return Records(codes, codes, score, score, np.zeros(32, np.int32), ["A."])

    return make


def test_every_round_holds_regions_of_its_own(tmp_path):
    rounds = RecordRounds(tmp_path, 2, numbered([]))
    assert len(rounds) == 32
    for number in range(3):
        assert set(rounds.epoch(number).blur) == {2 * number, 2 * number + 1}


def test_a_run_that_goes_on_finds_its_round_on_the_disk(tmp_path):
    before: list[int] = []
    rounds = RecordRounds(tmp_path, 2, numbered(before))
    for number in range(3):
        rounds.epoch(number)
    rounds.epoch(2)
    after: list[int] = []
    again = RecordRounds(tmp_path, 2, numbered(after))
    assert set(again.epoch(2).blur) == {4, 5}
    assert 4 not in after  # made by the first run; the next one may have been on its way
    assert before[:3] == [0, 2, 4]


def test_rounds_that_are_over_do_not_pile_up(tmp_path):
    rounds = RecordRounds(tmp_path, 2, numbered([]))
    for number in range(6):
        rounds.epoch(number)
    assert len(list(tmp_path.glob("round-*.npz"))) <= 4
