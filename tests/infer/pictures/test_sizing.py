"""Sizes of results: each way to say it gives the scale that fits, and nothing that makes a photo smaller."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pure_jax.errors import PureError
from pure_jax.infer.pictures.sizing import Size


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        (Size(), 4),
        (Size(scale=1.37), 1.37),
        (Size(scale=0.1), 0.1),  # for others to refuse, in their words
        (Size(width=300), 3),
        (Size(height=300), 1.5),
        (Size(width=500, height=400), 2),
        (Size(width=300, height=2000), 3),
        (Size(long_side=700), 3.5),
        (Size(megapixels=0.08), 2),
    ],
)
def test_the_scale_for_a_photo_of_100_by_200(size, scale):
    assert math.isclose(size.scale_for(100, 200), scale)


@given(st.integers(16, 8000), st.integers(16, 8000), st.integers(0, 15 * 16))
def test_a_side_that_is_asked_for_is_met_exactly(width, height, more):
    assert round(width * Size(width=width + more).scale_for(width, height)) == width + more
    assert round(height * Size(height=height + more).scale_for(width, height)) == height + more
    long_side = max(width, height)
    assert round(long_side * Size(long_side=long_side + more).scale_for(width, height)) == long_side + more


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"scale": 2.0, "width": 3}, "give --scale or --width, not both"),
        ({"height": 2, "megapixels": 3.0}, "give --megapixels or --height, not both"),
        ({"long_side": 2, "scale": 3.0}, "give --scale or --long-side"),
        ({"width": 0}, "--width is 0"),
        ({"long_side": -5}, "--long-side is -5"),
        ({"megapixels": float("nan")}, "--megapixels is nan"),
        ({"megapixels": float("inf")}, "--megapixels is inf"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options: dict[str, Any], complaint):
    with pytest.raises(PureError, match=complaint):
        Size(**options)


@pytest.mark.parametrize(
    ("size", "complaint"),
    [
        (Size(width=99), "--width 99 would make the photo of 100x200 pixels smaller"),
        (Size(width=150, height=150), "--width 150 --height 150 would make"),
        (Size(long_side=3300), "--long-side 3300 would enlarge the photo of 100x200 pixels 16.5 times"),
        (Size(megapixels=0.01), "--megapixels 0.01 would make"),
    ],
)
def test_a_photo_is_made_neither_smaller_nor_more_than_16_times_larger(size, complaint):
    with pytest.raises(PureError, match=complaint):
        size.scale_for(100, 200)
