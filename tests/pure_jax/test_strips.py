"""Work noted down on strips of a picture gives what it gives on the whole picture."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from pure_jax.strips import Strips

PICTURE = np.random.default_rng(0).normal(size=(2, 14, 3, 4)).astype(np.float32)


def spread(x: Array) -> Array:
    """A convolution of rows only: one above, one below, n + 2 rows to n."""
    return x[:, :-2] + 10 * x[:, 1:-1] + 100 * x[:, 2:]


def whole(x: np.ndarray) -> np.ndarray:
    return np.asarray(spread(np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))))


def two_below(x: Array) -> Array:
    """A convolution of rows of stride 2: 2 n + 1 rows to n."""
    return x[:, :-2:2] + 10 * x[:, 1:-1:2] + 100 * x[:, 2::2]


@pytest.mark.parametrize("rows", [1, 4, 14, 16])
@pytest.mark.parametrize(
    ("note", "wanted"),
    [
        (lambda x: x, lambda x: x),
        (lambda x: x.map(jnp.exp), np.exp),
        (lambda x: x.map(lambda y: y[..., :1]).convolve(spread), lambda x: whole(x[..., :1])),
        # zeros beyond the edges, not the exponential of zero
        (lambda x: x.convolve(spread).map(jnp.tanh).convolve(spread), lambda x: whole(np.tanh(whole(x)))),
        (lambda x: x.upsample().convolve(spread), lambda x: whole(x.repeat(2, 1).repeat(2, 2))),
        (lambda x: x.halve(two_below), lambda x: two_below(np.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))))),
        (lambda x: x + x.convolve(spread), lambda x: x + whole(x)),
        (lambda x: x.convolve(spread).settle().convolve(spread), lambda x: whole(whole(x))),
    ],
)
def test_a_noted_picture_is_computed_as_a_whole_one(
    note: Callable[[Strips], Strips], wanted: Callable[[np.ndarray], np.ndarray], rows: int
) -> None:
    picture = note(Strips(jnp.asarray(PICTURE), rows))
    assert picture.shape == wanted(PICTURE).shape
    np.testing.assert_allclose(picture.settle().base, wanted(PICTURE), rtol=1e-5, atol=1e-4)


def test_a_picture_may_be_lower_than_what_its_rows_depend_on() -> None:
    row = PICTURE[:, :1]
    picture = Strips(jnp.asarray(row), 16).upsample().convolve(spread).convolve(spread).convolve(spread)
    wanted = whole(whole(whole(row.repeat(2, 1).repeat(2, 2))))
    np.testing.assert_allclose(picture.settle().base, wanted, rtol=1e-5)


@pytest.mark.parametrize("rows", [4, 16])
def test_moments_keep_their_digits_far_from_zero(rows: int) -> None:
    mean, variance = jax.jit(lambda x: Strips(x, rows).moments(2))(PICTURE + 300)
    groups = (PICTURE.astype(np.float64) + 300).reshape(2, -1, 2, 2)
    np.testing.assert_allclose(mean, groups.mean(axis=(1, 3)), rtol=1e-6)
    np.testing.assert_allclose(variance, groups.var(axis=(1, 3)), rtol=1e-3)  # the picture itself is rounded to 3e-5
