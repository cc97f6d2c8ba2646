"""A picture finished strip by strip is the one that would be finished whole."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from pure_jax.infer.pictures import large
from pure_jax.infer.pictures.colour import COLOUR_FIXES, mix
from pure_jax.infer.pictures.enlarge import enlarge_fine
from pure_jax.infer.pictures.finishing import finished
from pure_jax.infer.pictures.large import strips
from pure_jax.infer.pictures.tiles import blend, cut, plan_tiles

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 203, 90
EXACT = ("none", "wavelet")
"""Fixes that need to know nothing of the whole."""


@pytest.fixture
def small_strips(monkeypatch):
    monkeypatch.setattr(large, "STRIP_PIXELS", 1)
    assert strips(HEIGHT, WIDTH) == [(0, 64), (64, 128), (128, 192), (192, 203)]


def noise(*shape: int) -> np.ndarray:
    """Darker from above to below, so that strips have other means than the whole."""
    picture = RNG.integers(0, 256, shape) * np.linspace(1.0, 0.3, shape[0])[:, None, None]
    return picture.round().astype(np.uint8)


@pytest.mark.parametrize("overlap", [0, 16])
def test_rows_are_blended_as_in_the_whole(overlap):
    plan = plan_tiles(HEIGHT, WIDTH, 32, overlap)
    tiles = RNG.integers(0, 256, (len(plan.corners), 32, 32, 3), dtype=np.uint8)
    whole = blend(tiles, plan)
    for rows in ((0, 203), (0, 1), (31, 33), (100, 203)):
        assert np.array_equal(blend(tiles, plan, rows), whole[slice(*rows)])


@pytest.mark.parametrize("fix", sorted(COLOUR_FIXES))
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_strips_are_the_whole(small_strips, fix, strength):
    photo, restored = noise(HEIGHT, WIDTH, 3), noise(HEIGHT, WIDTH, 3) // 2 + 90
    plan = plan_tiles(HEIGHT, WIDTH, 32, 8)
    tiles = cut(restored, plan)
    image = blend(tiles, plan) / 255.0
    whole = mix(COLOUR_FIXES[fix](image, photo), photo, strength)
    levels, fine = np.empty((HEIGHT, WIDTH, 3), np.uint8), np.empty((HEIGHT, WIDTH, 3), np.uint16)
    source = lambda first, behind: photo[first:behind]  # noqa: E731
    finished(list(tiles), plan, source, fix, strength, levels=levels, fine=fine)
    if fix in EXACT:
        assert np.array_equal(levels, (whole * 255).round()) and np.array_equal(fine, (whole * 65_535).round())
    else:  # sums in another order; measured: no level and at most one step differs
        assert np.abs(levels - (whole * 255).round()).max() <= 1
        assert np.abs(fine - (whole * 65_535).round()).max() <= 2


def test_moments_of_parts_are_those_of_the_whole():
    image, source = RNG.random((2, 40, 30, 3), np.float32) + np.linspace(0, 50, 40, dtype=np.float32)[:, None, None]
    fix = COLOUR_FIXES["adain"]
    one, other = (fix.measure(image[rows], source[rows]) for rows in (slice(0, 7), slice(7, 40)))
    for found, part in zip((one[0].joined(other[0]), one[1].joined(other[1])), (image, source), strict=True):
        np.testing.assert_allclose(found.mean, part.mean((0, 1), np.float64), rtol=1e-12)
        np.testing.assert_allclose(found.squares, found.pixels * part.var((0, 1), np.float64), rtol=1e-12)


def test_floats_of_a_strip_are_all_that_is_held(small_strips):
    plan = plan_tiles(1500, 1000, 500, 0)
    tiles = [np.broadcast_to(np.uint8(90), (500, 500, 3))] * len(plan.corners)
    photo = np.broadcast_to(np.uint8(100), (1500, 1000, 3))
    tracemalloc.start()
    try:
        levels = np.empty((1500, 1000, 3), np.uint8)
        finished(tiles, plan, lambda first, behind: photo[first:behind], "adain+wavelet", levels=levels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # measured 19.6e6, of which 4.5e6 are the result; in one piece 167e6


@pytest.mark.parametrize("height", [60, 61, 91, 240])
def test_rows_of_sixteen_bits_are_enlarged_as_in_the_whole(height):
    photo = RNG.integers(0, 65_536, (60, 17, 3), dtype=np.uint16)
    whole = enlarge_fine(photo, height, 40)
    for rows in ((0, height), (0, 1), (17, 33), (height - 5, height)):
        # Pillow's places are float32, and fractions of a row here; measured 6.0e-7
        np.testing.assert_allclose(enlarge_fine(photo, height, 40, rows), whole[slice(*rows)], rtol=0, atol=1.2e-6)
