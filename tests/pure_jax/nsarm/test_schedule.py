"""The schedules have the published numbers of tokens."""

from __future__ import annotations

import pytest

from pure_jax.nsarm.schedule import ASPECTS, SIDES_1M, SIZES, ends, square, transposed


@pytest.mark.parametrize(("size", "tokens"), [("0.06M", 521), ("0.25M", 2521), ("0.60M", 6425), ("1M", 10_521)])
def test_sizes_are_prefixes_of_one_schedule(size, tokens):
    assert ends(square(SIDES_1M)[: SIZES[size]])[-1] == tokens


@pytest.mark.parametrize("ratio", ASPECTS)
def test_schedules_of_other_aspect_ratios_end_near_their_ratio_and_size(ratio):
    scales = ASPECTS[ratio]
    height, width = scales[-1]
    assert len(scales) == 13 and scales[:2] == ((1, 1), (2, 2))
    assert list(scales) == sorted(scales)
    assert height / width == pytest.approx(float(ratio), rel=0.01)
    assert height * width == pytest.approx(4096, rel=0.06)


def test_the_inverse_ratio_is_the_transpose():
    assert transposed(((1, 1), (4, 3))) == ((1, 1), (3, 4))
