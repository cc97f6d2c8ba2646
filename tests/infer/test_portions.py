"""A photo restored in portions is the one that would be restored whole, and holds less."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pure_jax.errors import PureError
from pure_jax.infer import portions, preview
from pure_jax.infer.contract import RestoredTiles
from pure_jax.infer.families import RESTORE_TILES
from pure_jax.infer.pictures import large
from pure_jax.infer.pictures.enlarge import enlarge
from pure_jax.infer.restore import Restorer
from tests import toy
from tests.disk import files_limited_to
from tests.models import tiny_model

BATCH = 4
"""Of the tests with a network, so that they have their programs in common."""


def photo(mode: str = "RGB", size: tuple[int, int] = (44, 60)) -> Image.Image:
    """With a flat corner, whose tiles are not shown to a model."""
    noise = np.random.default_rng(0).integers(256, size=(size[1], size[0], 4), dtype=np.uint8)
    noise[..., 3] = np.linspace(0, 255, size[1], dtype=np.uint8)[:, None]
    noise[:20, :20] = (90, 80, 70, 255)
    return Image.fromarray(noise).convert(mode)


@pytest.fixture
def toys() -> Iterator[Restorer]:
    with toy.registered():
        yield Restorer(toy.ToyModel(toy.ToyConfig(), toy.params(), None, "", None))


def in_portions(monkeypatch: pytest.MonkeyPatch, many: int = 4, tile: int = 16) -> None:
    monkeypatch.setattr(portions, "PIXELS", many * tile**2)


def test_noise_goes_by_a_tiles_number_in_the_photo(monkeypatch):
    restorer = Restorer(tiny_model(num_layers=1), unchecked=True)
    whole = restorer.restore(photo(), scale=2, seed=5, batch=BATCH)
    in_portions(monkeypatch, tile=32)
    parted = restorer.restore(photo(), scale=2, seed=5, batch=BATCH)
    np.testing.assert_array_equal(parted.picture.rgb, whole.picture.rgb)
    np.testing.assert_allclose(
        parted.entropy, whole.entropy, atol=1e-5
    )  # batches of other sizes; as in test_generate.py
    assert parted.texts == whole.texts and parted.degradation == whole.degradation
    assert any(remark.startswith("in rows 1 to 1 of tiles, ") for remark in parted.remarks)


@pytest.mark.parametrize("fix", ["none", "wavelet", "adain"])
@pytest.mark.parametrize(
    ("mode", "alpha"), [("RGB", "bicubic"), ("RGBA", "bicubic"), ("RGBA", "model"), ("L", "model")]
)
def test_every_kind_of_photo_is_the_same(toys, monkeypatch, mode, alpha, fix):
    options = {"scale": 4, "colour_fix": fix, "alpha": alpha, "overlap": 4}
    whole = toys.restore(photo(mode), **options).picture
    in_portions(monkeypatch, 16)
    monkeypatch.setattr(large, "LARGE", 1000)
    parted = toys.restore(photo(mode), **options).picture
    assert isinstance(parted.rgb, np.memmap)
    np.testing.assert_array_equal(parted.rgb, whole.rgb)
    assert (parted.alpha is None) == (whole.alpha is None)
    if whole.alpha is not None:
        np.testing.assert_array_equal(parted.alpha, whole.alpha)


def test_a_scale_that_is_no_whole_number_leaves_a_level_to_rounding(toys, monkeypatch):
    whole = toys.restore(photo(), scale=2.37).picture
    in_portions(monkeypatch, 16)
    parted = toys.restore(photo(), scale=2.37).picture
    assert np.abs(parted.rgb.astype(int) - whole.rgb).max() <= 1


def test_tiles_that_are_drawn_again_are_numbered_through(toys, monkeypatch):
    called: list[tuple[int, int, int]] = []

    def broken(model: Any, tiles: np.ndarray, *, seed: int, first: int, **options: Any) -> RestoredTiles:
        called.append((seed, first, len(tiles)))
        restored, _ = toy.restore_tiles(model, tiles, seed=seed, first=first, **options)
        if seed == 0:  # every third tile is another picture
            for i in range(0, len(restored), 3):
                restored[i] = type(restored[i])(np.zeros_like(restored[i].image), restored[i].entropy)
        return RestoredTiles(restored, [])

    monkeypatch.setitem(RESTORE_TILES, "toy", broken)
    in_portions(monkeypatch, 16)
    toys.restore(photo(), scale=2)
    for wanted in (0, 1):
        calls = [(first, count) for seed, first, count in called if seed == wanted]
        assert len(calls) > 2
        ends = [first + count for first, count in calls]
        assert [first for first, _ in calls] == [0, *ends[:-1]]


@pytest.mark.parametrize(
    ("option", "value"), [("one_description", True), ("ask", lambda reading, description: ({}, ""))]
)
def test_options_that_look_at_all_tiles_get_them_at_once(toys, monkeypatch, option, value):
    counts: list[int] = []

    def counted(model: Any, tiles: np.ndarray, *, one_description: Any = None, ask: Any = None, **own: Any) -> Any:
        counts.append(len(tiles))
        return toy.restore_tiles(model, tiles, **own)

    monkeypatch.setitem(RESTORE_TILES, "toy", counted)
    in_portions(monkeypatch)
    toys.restore(photo(), scale=2, unchecked=True, **{option: value})
    assert len(counts) == 1
    toys.restore(photo(), scale=2, unchecked=True)
    assert len(counts) > 3


def test_progress_is_that_of_the_whole_photo(monkeypatch):
    in_portions(monkeypatch, tile=32)
    seen: list[tuple[str, int, int]] = []
    restorer = Restorer(tiny_model(num_layers=1), unchecked=True)
    restorer.restore(photo(), scale=2, batch=BATCH, progress=lambda *at: seen.append(at))
    written = [at for at in seen if at[0] == "restore"]
    assert [stage for stage, *_ in seen] == ["restore"] * len(written) + ["blend"]
    assert len({total for _, _, total in written}) == 1 and written[-1][1] == written[-1][2]
    assert [done for _, done, _ in written] == sorted(done for _, done, _ in written)


def test_memory_holds_one_portion(toys, monkeypatch):
    monkeypatch.setattr(large, "LARGE", 1 << 14)
    monkeypatch.setattr(large, "STRIP_PIXELS", 1)
    peaks = []
    for rows in (160, 640):
        image = np.random.default_rng(0).integers(256, size=(rows, 40, 3), dtype=np.uint8)
        in_portions(monkeypatch, 48)
        tracemalloc.start()
        try:
            toys.restore(image, scale=4, overlap=8)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]  # of four times the pixels; measured 1.01, held whole 3.7


def test_a_disk_without_room_for_the_result_is_told_of_before_the_work(toys, monkeypatch):
    monkeypatch.setattr(large, "LARGE", 1000)
    monkeypatch.setitem(RESTORE_TILES, "toy", lambda *_, **__: pytest.fail("it worked"))
    with files_limited_to(10_000), pytest.raises(PureError, match="a large picture cannot be kept in .*TMPDIR"):
        toys.restore(photo(), scale=4)


def test_what_is_shown_of_portions_is_the_photo_made_smaller(monkeypatch):
    monkeypatch.setattr(preview, "OVERVIEW_PIXELS", 90 * 130)  # a third of each side
    restorer = Restorer(tiny_model(num_layers=1), unchecked=True)
    seen: list[np.ndarray] = []
    options: dict[str, Any] = {"scale": 4, "overlap": 0, "colour_fix": "none", "batch": BATCH, "preview": seen.append}
    in_portions(monkeypatch, 36, tile=32)  # four rows of tiles
    image = restorer.restore(photo(size=(65, 96)), **options).image
    small = np.asarray(image.reduce(3))
    assert all(image.shape == small.shape for image in seen) and len(seen) >= 3
    other = (seen[-1] != small).any(axis=(1, 2))
    assert other.sum() <= 2  # rows of it that stand for rows of two portions
    before = Image.fromarray(enlarge(np.asarray(photo(size=(65, 96))), 384, 260)).reduce(3)
    assert np.abs(seen[0][-20:].astype(int) - np.asarray(before)[-20:]).max() <= 1  # what is still to come
