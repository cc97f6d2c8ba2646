"""A broken tile is drawn again with the next seed, then left to interpolation; good tiles and their pixels stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pure_jax.infer.contract import RestoredTile, RestoredTiles
from pure_jax.infer.control.sentinels import fault, watch
from pure_jax.infer.families import RESTORE_TILES
from pure_jax.infer.restore import Restorer
from tests import toy
from tests.models import tiny_model

SIDE = 64
ENTROPY = np.ones((4, 4), np.float32)


def picture(seed: int = 0) -> np.ndarray:
    """Soft shapes of much contrast, uint8 [SIDE, SIDE, 3]."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def tile(image: np.ndarray, entropy: np.ndarray = ENTROPY) -> RestoredTile:
    return RestoredTile(image, entropy)


def noisy(image: np.ndarray) -> np.ndarray:
    drawn = np.random.default_rng(1).normal(0, 25, image.shape)
    return (image + drawn).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "restored",
    [picture(), noisy(picture()), (picture() * 0.7).astype(np.uint8), (picture() // 2 + 90).astype(np.uint8)],
    ids=["equal", "with more detail", "darker", "paler"],
)
def test_a_picture_of_the_same_thing_has_no_fault(restored):
    assert fault(tile(restored), picture()) is None


@pytest.mark.parametrize(
    ("restored", "why"),
    [
        (np.full((SIDE, SIDE, 3), int(picture().mean()), np.uint8), "one flat colour"),
        (picture(5), "another picture"),
    ],
)
def test_what_has_nothing_to_do_with_the_photo_has_a_fault(restored, why):
    assert fault(tile(restored), picture()) == why


def test_a_result_without_numbers_has_a_fault():
    assert fault(tile(picture(), np.full((4, 4), np.nan, np.float32)), picture()) == "no numbers"


def test_a_photo_with_little_to_recognise_need_not_be_recognised_but_be_as_bright():
    faint = (128 + picture().astype(int) // 16).astype(np.uint8)
    assert fault(tile(255 - faint), faint) is None
    assert fault(tile(np.zeros_like(faint)), faint) == "another brightness"


def test_good_tiles_are_handed_on_as_they_are():
    first = RestoredTiles([tile(noisy(picture()))], ["as always"])

    def again(places: np.ndarray, seed: int) -> RestoredTiles:
        raise AssertionError("nothing is to be drawn again")

    assert watch(first, picture()[None], again, 0) is first


@pytest.mark.parametrize(("seed", "following"), [(7, 8), (2**32 - 1, 0)])
def test_broken_tiles_are_drawn_again_with_the_next_seed_and_then_left_to_interpolation(seed, following):
    shown = np.stack([picture(i) for i in range(4)])
    black = np.zeros_like(shown[0])
    first = RestoredTiles([tile(black), tile(shown[1]), tile(black), tile(shown[3])], ["as always"])
    calls: list[Any] = []

    def again(places: np.ndarray, seed: int) -> RestoredTiles:
        calls.append((places.tolist(), seed))
        return RestoredTiles([tile(noisy(shown[0])), tile(black)], [])

    tiles, remarks = watch(first, shown, again, seed)
    assert calls == [([0, 2], following)]
    for restored, expected in zip(tiles, [noisy(shown[0]), shown[1], shown[2], shown[3]], strict=True):
        np.testing.assert_array_equal(restored.image, expected)
    assert remarks[0] == "as always"
    assert remarks[1].startswith("2 of 4 tiles came out as ") and "next seed" in remarks[1]
    assert remarks[2].startswith("1 of 4 tiles came out as ") and "interpolation" in remarks[2]


@pytest.fixture
def broken(monkeypatch) -> Iterator[Restorer]:
    """The toy restores every third tile to black, whatever the seed."""
    with toy.registered():

        def restore_tiles(model: Any, tiles: np.ndarray, **options: Any) -> RestoredTiles:
            restored, remarks = toy.restore_tiles(model, tiles, **options)
            some = [tile(np.zeros_like(t.image), t.entropy) if i % 3 == 0 else t for i, t in enumerate(restored)]
            return RestoredTiles(some, remarks)

        monkeypatch.setitem(RESTORE_TILES, "toy", restore_tiles)
        yield Restorer(toy.ToyModel(toy.ToyConfig(), toy.params(), None, "", None))


def test_no_black_tile_leaves_the_restorer_unsaid(broken):
    photo = Image.fromarray(picture())
    result = broken.restore(photo, scale=2)
    enlarged = np.asarray(photo.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC), int)
    assert np.abs(np.asarray(result.image) - enlarged).mean() < 8
    assert any("interpolation" in remark for remark in result.remarks)
    raw = broken.restore(photo, scale=2, unchecked=True)
    assert np.abs(np.asarray(raw.image) - enlarged).mean() > 20 and raw.remarks == ["seed 0"]


@pytest.mark.parametrize("decode", ["plain", "jacobi"])
def test_a_model_that_computes_no_numbers_is_left_to_interpolation(decode):
    model = tiny_model(num_layers=1)
    head = model.params["transformer"]["lm_head"]["kernel"]
    params = model.params | {"transformer": model.params["transformer"] | {"lm_head": {"kernel": head * np.nan}}}
    photo = Image.fromarray(picture()[:24, :24])
    result = Restorer(replace(model, params=params)).restore(photo, scale=1, colour_fix="none", decode=decode)
    assert any("no numbers" in remark for remark in result.remarks)
    np.testing.assert_array_equal(result.picture.rgb, np.asarray(photo))


def test_a_restorer_that_measures_a_model_takes_its_tiles_as_they_are(broken):
    photo = Image.fromarray(picture())
    raw = Restorer(broken.model, unchecked=True).restore(photo, scale=2)
    assert raw.remarks == ["seed 0"] and raw.image == broken.restore(photo, scale=2, unchecked=True).image
