"""The arithmetic of drawing a code agrees with scipy, with float64 Python and with the layout of image blocks."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from pure_jax.config import SamplingConfig
from pure_jax.sampling import (
    CODE,
    END,
    NEW_LINE,
    _by_bisection,
    _by_indices,
    _by_threshold,
    body_kind,
    code_distribution,
    draw,
    dynamic_k,
    entropy,
    guide,
    gumbel_noise,
    keep_top_k,
    position_keys,
    sample_code,
)
from pure_jax.sequence import image_block
from tests.models import tiny_tokenizer

RELEASED = SamplingConfig()


def reference_k(e: float, config: SamplingConfig = RELEASED) -> int:
    """PURE's Eq. 2 in Python floats; round() is half to even."""
    e = min(max(e, 0.0), 10.0)
    span = config.k_max - config.k_min
    k = round(config.k_min + span / (1.0 + math.exp(-(e - config.entropy_center))))
    return int(min(max(k, config.k_min), config.k_max))


def lively_logits(shape: tuple[int, ...], seed: int = 0, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(np.float32)


# ---- entropy -> k --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "e, k",
    [(0, 14), (1, 37), (2, 96), (3, 239), (4, 539), (5, 1000), (6, 1462), (7, 1762), (8, 1905)]
    + [(math.log(16384), 1982), (10, 1987), (11, 1987), (-1, 14)],
)
def test_the_released_settings_give_the_known_k(e: float, k: int) -> None:
    # 5 nats is 1000.5, which rounds to the even 1000.
    assert int(dynamic_k(jnp.float32(e), RELEASED)) == k == reference_k(e)


@pytest.mark.parametrize(
    "config",
    [RELEASED, SamplingConfig(k_max=50.0), SamplingConfig(k_min=7.0, k_max=7.0), SamplingConfig(entropy_center=2.5)],
)
def test_float32_gives_the_k_of_float64(config: SamplingConfig) -> None:
    entropies = np.linspace(0.0, 10.0, 10_001, dtype=np.float32)
    expected = np.array([reference_k(float(e), config) for e in entropies])
    k = np.asarray(dynamic_k(jnp.asarray(entropies), config))
    # Within float32's rounding of half-way between two whole numbers, either is right.
    exact = config.k_min + (config.k_max - config.k_min) * scipy.special.expit(
        entropies.astype(float) - config.entropy_center
    )
    half_way = np.abs(exact % 1 - 0.5) < 1e-3
    np.testing.assert_array_equal(k[~half_way], expected[~half_way])
    assert np.abs(k - expected).max() <= 1 and half_way.mean() < 0.1


def test_k_stays_within_bounds_that_are_no_whole_numbers() -> None:
    k = dynamic_k(jnp.linspace(0.0, 10.0, 101), SamplingConfig(k_min=2.5, k_max=9.7, entropy_center=5.0))
    assert k.min() == 3 and k.max() == 9


# ---- entropy -------------------------------------------------------------------------------------------------------


def test_entropy_is_that_of_scipy() -> None:
    logits = lively_logits((64, 1024))
    expected = scipy.stats.entropy(scipy.special.softmax(logits.astype(np.float64), axis=-1), axis=-1)
    # Measured 6.8e-7; the 1e-10 under the logarithm takes 1e-7 off.
    np.testing.assert_allclose(entropy(jnp.asarray(logits)), expected, atol=1.4e-6)


def test_entropy_of_certainty_and_of_ignorance() -> None:
    assert abs(float(entropy(jnp.asarray([0.0, -jnp.inf, -jnp.inf])))) < 1e-6
    # ln(p + 1e-10) at p = 1 / 16384 takes 1.6e-6 off; measured 1.9e-6.
    assert float(entropy(jnp.zeros(16_384))) == pytest.approx(math.log(16_384), abs=4e-6)


def test_masked_ids_add_nothing_to_the_entropy() -> None:
    logits = lively_logits((64,))
    masked = np.concatenate([logits, np.full(1000, -np.inf, np.float32)])
    # Equal but for the order of summation; measured 2.4e-7.
    assert float(entropy(jnp.asarray(masked))) == pytest.approx(float(entropy(jnp.asarray(logits))), abs=5e-7)


def test_entropy_of_half_precision_logits_is_taken_in_float32() -> None:
    logits = jnp.asarray(lively_logits((4, 512)), jnp.bfloat16)
    assert entropy(logits).dtype == jnp.float32
    np.testing.assert_array_equal(entropy(logits), entropy(logits.astype(jnp.float32)))


# ---- guidance ------------------------------------------------------------------------------------------------------


def test_guidance_is_an_interpolation_below_one_and_the_conditional_at_one() -> None:
    c, u = lively_logits((2, 8), 1), lively_logits((2, 8), 2)
    # Two ways to write the formula differ by float32 rounding: measured 2.4e-7, and 4.8e-7 at 4.0.
    np.testing.assert_allclose(guide(jnp.asarray(c), jnp.asarray(u), 0.8), 0.8 * c + 0.2 * u, atol=5e-7)
    np.testing.assert_allclose(guide(jnp.asarray(c), jnp.asarray(u), 1.0), c, atol=5e-7)
    np.testing.assert_allclose(guide(jnp.asarray(c), jnp.asarray(u), 4.0), 4 * c - 3 * u, atol=1e-6)


# ---- top-k ---------------------------------------------------------------------------------------------------------


def kept(logits: np.ndarray, k: int | list[int], k_max: int) -> np.ndarray:
    return np.isfinite(np.asarray(keep_top_k(jnp.asarray(logits), jnp.asarray(k, jnp.int32), k_max)))


def test_ties_at_the_threshold_all_stay() -> None:
    logits = np.array([1.0, 3.0, 2.0, 2.0, 2.0, 0.0], np.float32)
    assert kept(logits, 1, 6).tolist() == [False, True, False, False, False, False]
    for k in (2, 3, 4):
        assert kept(logits, k, 6).tolist() == [False, True, True, True, True, False]
    assert kept(logits, 5, 6).tolist() == [True, True, True, True, True, False]


def test_k_beyond_the_number_of_codes_removes_nothing() -> None:
    assert kept(lively_logits((5,)), 7, 2000).all()
    assert kept(lively_logits((5,)), 5, 5).all()


def test_each_row_keeps_its_own_k_largest() -> None:
    logits, ks = lively_logits((40, 64)), list(range(1, 41))
    expected = [row >= np.sort(row)[-k] for row, k in zip(logits, ks, strict=True)]
    np.testing.assert_array_equal(kept(logits, ks, 50), expected)


# The three ways of which a device takes one, on the CPU; by itself that bisects the first codes, not the others.
@pytest.mark.parametrize("codes", [512, 8192])
def test_coarse_logits_keep_the_set_of_a_full_sort(codes: int) -> None:
    logits = np.asarray(jnp.asarray(lively_logits((20, codes)), jnp.bfloat16).astype(jnp.float32))
    expected = np.array([row >= np.sort(row)[-30] for row in logits])
    assert (expected.sum(axis=1) > 30).any()  # else the rows held no tie and the test showed nothing
    np.testing.assert_array_equal(kept(logits, [30] * 20, 100), expected)
    for way in (_by_bisection, partial(_by_indices, size=100), partial(_by_threshold, size=100)):
        np.testing.assert_array_equal(way(jnp.asarray(logits), jnp.full(20, 30)), expected)


# ---- drawing -------------------------------------------------------------------------------------------------------


def test_temperature_zero_is_greedy_and_takes_the_lowest_of_ties() -> None:
    logits = jnp.asarray([[0.0, 5.0, 5.0], [1.0, -1.0, 0.0]])
    noise = jnp.asarray([[900.0, 0.0, 900.0]] * 2)
    assert draw(logits, noise, 0.0).tolist() == [1, 0]
    assert draw(logits, noise, 1.0).tolist() == [2, 0]


@pytest.mark.parametrize("temperature", [0.9, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature: float) -> None:
    n, draws = 12, 40_000
    logits = lively_logits((n,), seed=3, scale=1.0)
    noise = gumbel_noise(position_keys(0, jnp.zeros(draws, jnp.int32), jnp.arange(draws)), n)
    codes = draw(jnp.broadcast_to(logits, (draws, n)), noise, temperature)
    expected = scipy.special.softmax(logits.astype(np.float64) / temperature) * draws
    # The seed fixes the draws, so this cannot flicker: p is 0.14 and 0.44 (without the temperature below 1e-100).
    assert scipy.stats.chisquare(np.bincount(codes, minlength=n), expected).pvalue > 0.01


def test_noise_depends_on_seed_image_and_position_only() -> None:
    def noise(seed: int, images: list[int], positions: list[int]) -> np.ndarray:
        return np.asarray(gumbel_noise(position_keys(seed, jnp.asarray(images), jnp.asarray(positions)), 16))

    together = noise(5, [0, 1, 2, 1], [10, 10, 30, 31])
    np.testing.assert_array_equal(noise(5, [2], [30]), together[2:3])
    np.testing.assert_array_equal(noise(5, [1, 1, 0, 2, 7], [31, 10, 10, 30, 7])[:4], together[[3, 1, 0, 2]])
    rows = np.concatenate([together, noise(6, [0], [10]), noise(5, [10], [0])])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_noise_is_the_same_inside_and_outside_of_jit() -> None:
    make = lambda seed, image, at: gumbel_noise(position_keys(seed, image, at), 8)  # noqa: E731
    arguments = (jnp.uint32(3), jnp.asarray([4]), jnp.asarray([9]))
    np.testing.assert_array_equal(jax.jit(make)(*arguments), make(*arguments))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_entropy_and_k_come_before_top_k_and_temperature(temperature: float) -> None:
    n = 200
    config = SamplingConfig(k_max=400.0, temperature=temperature)
    logits = lively_logits((n,), scale=1.5)
    e = scipy.stats.entropy(scipy.special.softmax(logits.astype(np.float64)))
    k = reference_k(e, config)
    too_late = scipy.stats.entropy(scipy.special.softmax(logits.astype(np.float64) / temperature))
    assert k != reference_k(too_late, config) and 1 < k < n  # else the order would not show
    # Row i's noise lifts code i above all others, so it is drawn exactly if top-k kept it.
    codes, entropies = sample_code(jnp.broadcast_to(logits, (n, n)), 1e4 * jnp.eye(n), config)
    np.testing.assert_array_equal(np.flatnonzero(codes == np.arange(n)), np.sort(np.argsort(logits)[-k:]))
    np.testing.assert_allclose(entropies, np.full(n, e), atol=1.4e-6)


# ---- layout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(4, 12), (12, 4), (8, 8)])
def test_the_body_has_the_layout_of_an_image_block(height: int, width: int) -> None:
    _, vocabulary = tiny_tokenizer(64)
    body = image_block(np.zeros((height, width), np.int32), vocabulary)[3:]
    kinds = np.select([body == vocabulary.new_line, body == vocabulary.image_end], [NEW_LINE, END], CODE)
    index = jnp.arange(len(body) + 5)
    expected = np.concatenate([kinds, np.full(5, END)])
    np.testing.assert_array_equal(body_kind(index, jnp.asarray(height), jnp.asarray(width)), expected)


# ---- the distribution that is drawn from ---------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.9, 0.25])
def test_the_distribution_is_that_of_numpy(temperature: float) -> None:
    config = SamplingConfig(temperature=temperature, k_max=40.0, entropy_center=3.0)
    logits = lively_logits((5, 64))
    found = code_distribution(jnp.asarray(logits), config)
    for row, e, k, kept, probabilities in zip(logits.astype(np.float64), *map(np.asarray, found), strict=True):
        p = scipy.special.softmax(row)
        assert e == pytest.approx(scipy.stats.entropy(p), abs=1e-5) and k == reference_k(float(e), config)
        np.testing.assert_array_equal(kept, row >= np.sort(row)[-k])
        wanted = np.zeros(64)
        wanted[kept] = scipy.special.softmax(row[kept] / temperature)
        np.testing.assert_allclose(probabilities, wanted, rtol=0, atol=1e-6)


def test_all_codes_that_equal_the_last_one_kept_are_kept() -> None:
    config = SamplingConfig(k_min=2.0, k_max=2.0)
    found = code_distribution(jnp.array([3.0, 1.0, 0.0, 1.0]), config)
    assert int(found.k) == 2 and found.kept.tolist() == [True, True, False, True]


def test_greedy_gives_the_likeliest_code_everything() -> None:
    logits = jnp.array([1.0, 4.0, 4.0, 0.0])  # the first of two equal ones, as `draw` takes it
    found = code_distribution(logits, SamplingConfig(temperature=0.0))
    assert found.probabilities.tolist() == [0, 1, 0, 0] and int(draw(logits, jnp.zeros(4), 0.0)) == 1


def test_codes_are_drawn_as_often_as_their_probabilities_say() -> None:
    config = SamplingConfig(k_max=10.0, entropy_center=2.0)
    logits = jnp.asarray(lively_logits((16,), scale=1.0))
    wanted = np.asarray(code_distribution(logits, config).probabilities)
    count = 20_000
    noise = gumbel_noise(position_keys(0, jnp.zeros(count, jnp.int32), jnp.arange(count)), 16)
    codes, _ = sample_code(jnp.broadcast_to(logits, (count, 16)), noise, config)
    frequencies = np.bincount(np.asarray(codes), minlength=16) / count
    assert (frequencies[wanted == 0] == 0).all() and (wanted == 0).any()
    # Five standard deviations of a share of 20,000 draws.
    assert (np.abs(frequencies - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / count)).all()


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_logits_that_say_nothing_give_a_code_all_the_same_and_an_entropy_that_tells(value):
    code, entropies = sample_code(jnp.full((1, 64), value), jnp.zeros((1, 64)), RELEASED)
    assert 0 <= int(code[0]) < 64 and not np.isfinite(float(entropies[0]))
