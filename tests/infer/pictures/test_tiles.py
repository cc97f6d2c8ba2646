"""Facts about tile plans, cutting and blending, checked over random sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pure_jax.errors import PureError
from pure_jax.infer.pictures.tiles import TilePlan, blend, cut, plan_tiles


@st.composite
def plans(draw: st.DrawFn, longest: int = 120) -> tuple[TilePlan, int]:
    multiple = draw(st.sampled_from([1, 2, 4, 8]))
    tile = multiple * draw(st.integers(2, 6))
    overlap = draw(st.integers(0, tile // 2))
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    return plan_tiles(height, width, tile, overlap, multiple), multiple


def random_image(plan: TilePlan, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((plan.height, plan.width, channels), np.float32)


@settings(max_examples=200, deadline=None)
@given(plans())
def test_tiles_cover_everything_on_the_grid_with_the_overlap_and_evenly(drawn: tuple[TilePlan, int]) -> None:
    plan, multiple = drawn
    for length, starts in ((plan.height, plan.tops), (plan.width, plan.lefts)):
        gaps = np.diff(starts)
        assert starts[0] == 0
        assert length <= starts[-1] + plan.tile < max(length, plan.tile - multiple + 1) + multiple
        assert all(start % multiple == 0 for start in starts)
        assert (gaps > 0).all() and (plan.tile - gaps >= plan.overlap).all()
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= multiple


@settings(max_examples=100, deadline=None)
@given(plans())
def test_no_smaller_number_of_tiles_would_do(drawn: tuple[TilePlan, int]) -> None:
    plan, multiple = drawn
    step = plan.tile - -(-plan.overlap // multiple) * multiple
    for length, starts in ((plan.height, plan.tops), (plan.width, plan.lefts)):
        assert len(starts) == 1 or plan.tile + (len(starts) - 2) * step < length


@settings(max_examples=100, deadline=None)
@given(plans())
def test_blending_what_was_cut_gives_the_image_back(drawn: tuple[TilePlan, int]) -> None:
    plan, _ = drawn
    image = random_image(plan)
    tiles = cut(image, plan)
    assert tiles.shape == (len(plan.tops) * len(plan.lefts), plan.tile, plan.tile, 3) and tiles.dtype == image.dtype
    blended = blend(tiles, plan)
    assert blended.dtype == np.float32 and blended.shape == image.shape
    np.testing.assert_allclose(blended, image, rtol=0, atol=5e-7)  # measured 2.4e-7


@settings(max_examples=100, deadline=None)
@given(plans())
def test_bytes_come_back_exactly_and_one_tile_is_not_touched(drawn: tuple[TilePlan, int]) -> None:
    plan, _ = drawn
    image = np.random.default_rng(1).integers(0, 256, (plan.height, plan.width, 3), dtype=np.uint8)
    blended = blend(cut(image, plan), plan)
    np.testing.assert_array_equal(np.rint(blended), image)
    if len(plan.corners) == 1:
        np.testing.assert_array_equal(blended, image)


@settings(max_examples=50, deadline=None)
@given(plans(longest=16))  # the cost grows with the square of the number of tiles
def test_weights_are_positive_inside_the_tile_nil_outside_and_sum_to_one(drawn: tuple[TilePlan, int]) -> None:
    plan, _ = drawn
    shape = (plan.height, plan.width)
    total = np.zeros(shape)
    for index, (top, left) in enumerate(plan.corners):
        one_hot = [np.full((plan.tile, plan.tile), float(tile == index)) for tile in range(len(plan.corners))]
        weight = blend(one_hot, plan)
        inside = np.zeros(shape, bool)
        inside[top : top + plan.tile, left : left + plan.tile] = True
        assert (weight[inside] > 0).all() and (weight[~inside] == 0).all()
        total += weight
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=4e-7)  # measured 1.8e-7


def test_the_transition_between_two_tiles_is_a_raised_cosine() -> None:
    plan = plan_tiles(8, 24, 16, 8)
    assert plan.lefts == (0, 8)
    step = blend([np.zeros((16, 16)), np.ones((16, 16))], plan)[0]
    place = (np.arange(8) + 0.5) / 8
    expected = np.concatenate([np.zeros(8), np.sin(np.pi / 2 * place) ** 2, np.ones(8)])
    np.testing.assert_allclose(step, expected, rtol=0, atol=5e-8)  # measured 2.2e-8


def test_two_shifted_flat_tiles_meet_without_a_seam() -> None:
    plan = plan_tiles(64, 500, 64, 16)
    levels = np.random.default_rng(2).random(len(plan.corners))
    blended = blend([np.full((64, 64, 1), level) for level in levels], plan)[0, :, 0]
    # Steepest slope of a raised cosine over n pixels and a jump of at most 1: pi / (2 n).
    shared = 64 - int(np.diff(plan.lefts).max())
    assert np.abs(np.diff(blended)).max() <= np.pi / (2 * shared)


def test_small_images_are_continued_by_reflection() -> None:
    plan = plan_tiles(3, 4, 8, 2)
    image = np.arange(12).reshape(3, 4)
    tile = cut(image, plan)[0]
    assert tile[:, 0].tolist() == [0, 4, 8, 4, 0, 4, 8, 4]
    assert tile[0].tolist() == [0, 1, 2, 3, 2, 1, 0, 1]


def test_a_plan_scaled_down_blends_maps_of_one_value_per_token() -> None:
    plan = plan_tiles(100, 203, 32, 8, multiple=4)
    tokens = plan.scaled_down(4)
    assert (tokens.height, tokens.width, tokens.tile, tokens.overlap) == (25, 51, 8, 2)
    assert [(4 * top, 4 * left) for top, left in tokens.corners] == plan.corners
    entropy = random_image(tokens, channels=1)[..., 0]
    np.testing.assert_allclose(blend(cut(entropy, tokens), tokens), entropy, rtol=0, atol=5e-7)


def test_a_plan_off_the_grid_cannot_be_scaled_down() -> None:
    with pytest.raises(ValueError, match="grid"):
        plan_tiles(100, 100, 32, 9).scaled_down(4)


def test_a_wrong_number_of_tiles_or_a_wrong_image_is_noticed() -> None:
    plan = plan_tiles(32, 48, 32, 8)
    with pytest.raises(ValueError):
        blend(np.zeros((1, 32, 32, 3)), plan)
    with pytest.raises(ValueError):
        blend(np.zeros((3, 32, 32, 3)), plan)
    with pytest.raises(ValueError, match="does not fit"):
        cut(np.zeros((48, 32, 3)), plan)


@pytest.mark.parametrize("overlap", [-1, 33, 64, 1000])
def test_overlaps_out_of_range_are_refused(overlap: int) -> None:
    with pytest.raises(PureError, match=f"overlap {overlap} .* 0 to 32"):
        plan_tiles(100, 100, 64, overlap)


@pytest.mark.parametrize(
    "lengths", [(0, 10, 8, 2, 1), (10, -1, 8, 2, 1), (10, 10, 0, 0, 1), (10, 10, 9, 2, 4), (10, 10, 8, 1, 8)]
)
def test_lengths_that_cannot_be_tiled_are_refused(lengths: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(PureError):
        plan_tiles(*lengths)
