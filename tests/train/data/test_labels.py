"""Blur and noise scores: their distribution, their agreement with measurements, and their levels."""

import dataclasses

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import spearmanr

import pure_jax.train.data.labels as labels
from pure_jax.errors import PureError
from pure_jax.train.data.degradation import REAL_ESRGAN, Noise, apply, degrade, draw
from pure_jax.train.data.kernels import DELTA, Kernel, cubic
from pure_jax.train.data.labels import (
    PARAMS_THRESHOLDS,
    SPEC_PARAMS_THRESHOLDS,
    SPEC_TWIN_THRESHOLDS,
    blur_score,
    cubic_response,
    levels,
    noise_score,
    twin_scores,
)

QUANTILES = [0.1, 0.25, 1 / 3, 0.5, 2 / 3, 0.75, 0.9, 0.95]


@pytest.fixture(scope="module")
def draws():
    return [draw(REAL_ESRGAN, np.random.default_rng(seed)) for seed in range(2000)]


def test_blur_quantiles_without_interpolation_responses(draws, monkeypatch):
    monkeypatch.setattr(labels, "_resize_response", lambda f, *_: np.ones_like(f))
    expected = [0.587, 0.731, 0.774, 0.835, 0.878, 0.898, 0.935, 0.955]  # 8,000 independent draws
    quantiles = np.quantile([blur_score(d) for d in draws], QUANTILES)
    np.testing.assert_allclose(quantiles, expected, rtol=0.03)  # measured 1.3 %


def test_noise_quantiles(draws):
    expected = [4.60, 6.58, 7.57, 9.64, 12.29, 13.89, 18.41, 21.39]  # 8,000 independent draws
    quantiles = np.quantile([noise_score(d, 0.45) for d in draws], QUANTILES)
    np.testing.assert_allclose(quantiles, expected, rtol=0.03)  # measured 1.7 %


def test_thresholds_split_the_draws_in_thirds(draws):
    pairs = [levels(blur_score(d), noise_score(d, 0.45), PARAMS_THRESHOLDS) for d in draws]
    for which in range(2):
        for level in ("small", "medium", "large"):
            # 2,000 draws: standard error 1.1 %
            assert np.mean([pair[which] == level for pair in pairs]) == pytest.approx(1 / 3, abs=0.03)


def test_blur_and_noise_are_anticorrelated(draws):
    blur, noise = [blur_score(d) for d in draws], [noise_score(d, 0.45) for d in draws]
    assert np.corrcoef(blur, noise)[0, 1] == pytest.approx(-0.3, abs=0.08)


def test_cubic_response_is_the_fourier_integral():
    for f in (0.004, 0.2, 0.5, 1.3):
        integral = 2 * sum(
            quad(lambda x, f=f: float(cubic(x)) * np.cos(2 * np.pi * f * x), a, a + 1)[0] for a in (0, 1)
        )
        assert float(cubic_response(np.array(f))) == pytest.approx(integral, abs=1e-9)


def _without_resizing(kernel):
    base = draw(REAL_ESRGAN, np.random.default_rng(0))
    first = dataclasses.replace(base.stages[0], kernel=kernel, scale=1.0)
    second = dataclasses.replace(base.stages[1], kernel=DELTA, scale=1.0, mode="area")
    return dataclasses.replace(base, stages=(first, second), kernel=DELTA, mode="area")


def test_blur_score_of_known_filters():
    # the power response of a Gaussian, exp(-(2 pi sigma f)^2), times that of the box, integrated over |f| < 1/8
    sigma = 3.0
    one_axis = 8 * quad(lambda f: np.exp(-((2 * np.pi * sigma * f) ** 2)) * np.sinc(4 * f) ** 2, 0, 1 / 8)[0]
    score = blur_score(_without_resizing(Kernel("gaussian", 21, (sigma, sigma))))
    # 16 midpoints an axis, and taps cut off at 3.3 sigma
    assert score == pytest.approx(1 - one_axis**2, abs=4e-04)  # measured 2.2e-04
    weaker, none = (blur_score(_without_resizing(kernel)) for kernel in (Kernel("gaussian", 21, (1.0, 1.0)), DELTA))
    assert score > weaker > none


def test_noise_score_predicts_noise_sent_through_the_pipeline():
    """A grey image with grey Gaussian noise and next to no compression: the formula gives its standard deviation."""
    image = np.full((256, 256, 3), 0.5, np.float32)
    ratios = []
    for seed in range(40):
        drawn = draw(REAL_ESRGAN, np.random.default_rng(seed))
        stages = tuple(
            dataclasses.replace(s, noise=Noise("gaussian", 20.0, True, seed + i), jpeg_quality=None)
            for i, s in enumerate(drawn.stages)
        )
        drawn = dataclasses.replace(drawn, stages=stages, jpeg_quality=99.9999, jpeg_last=True)
        measured = np.std(apply(drawn, image).astype(np.float32) - apply(drawn, image, noise=False))
        ratios.append(measured / noise_score(drawn, 0.5))
    assert np.median(ratios) == pytest.approx(1, abs=0.05)  # measured 1.02


def test_poisson_noise_grows_with_the_root_of_the_intensity():
    drawn = draw(REAL_ESRGAN, np.random.default_rng(0))
    noise = Noise("poisson", 2.0, False, 0)
    stages = tuple(dataclasses.replace(stage, noise=noise, jpeg_quality=None) for stage in drawn.stages)
    drawn = dataclasses.replace(drawn, stages=stages, jpeg_quality=99.9999)
    assert noise_score(drawn, 0.8) / noise_score(drawn, 0.2) == pytest.approx(2, rel=1e-3)


def test_twin_scores_of_a_clean_and_of_a_noisy_image():
    gt = np.random.default_rng(0).random((64, 64, 3), np.float32)
    lq, drawn = degrade(gt, REAL_ESRGAN, 1)
    twin = apply(drawn, gt, noise=False)
    assert twin_scores(gt, twin, drawn)[1] == 0
    assert twin_scores(gt, lq, drawn)[1] == pytest.approx(np.std(lq.astype(float) - twin), rel=1e-5)
    flat = np.full_like(gt, 0.5)
    assert twin_scores(flat, apply(drawn, flat, noise=False), drawn) == (0.0, 0.0)


def test_formula_and_twin_rank_photos_alike(shared_data):
    from PIL import Image

    rows = []
    for seed, path in enumerate(sorted((shared_data / "photos").glob("*.jpg"))[:60]):
        with Image.open(path) as image:
            gt = np.asarray(image.convert("RGB").crop((100, 100, 356, 356)), np.float32) / 255
        lq, drawn = degrade(gt, REAL_ESRGAN, seed)
        rows.append((blur_score(drawn), *twin_scores(gt, lq, drawn), noise_score(drawn, float(gt.mean()))))
    blur, blur_twin, noise_twin, noise = np.array(rows).T
    assert spearmanr(blur, blur_twin)[0] > 0.6  # 0.74 over 300 crops of 512 pixels
    assert spearmanr(noise, noise_twin)[0] > 0.65  # 0.79


def test_levels_are_cut_at_the_thresholds():
    t = SPEC_TWIN_THRESHOLDS
    assert levels(t.blur[0] - 1e-9, t.noise[1], t) == ("small", "large")
    assert levels(t.blur[0], t.noise[1] - 1e-9, t) == ("medium", "medium")
    assert levels(0.9, 1.0, SPEC_PARAMS_THRESHOLDS) == ("large", "small")
    with pytest.raises(PureError, match="noise score is nan"):
        levels(0.5, float("nan"), t)
