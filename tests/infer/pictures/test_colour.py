"""The colour fixes against an independent implementation with torch convolutions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pure_jax.config
from pure_jax.infer.pictures.colour import COLOUR_FIXES, adain_fix, high_band, low_band, no_fix, wavelet_fix

RNG = np.random.default_rng(0)
SHAPES = [(16, 16), (20, 37), (75, 64)]  # 16 lies within the widest dilation


def pictures(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return RNG.random((*shape, 3), np.float32), RNG.random((*shape, 3), np.float32) * np.float32(0.5)


def to_torch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def from_torch(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def decompose(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    taps = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(taps, taps).expand(3, 1, 3, 3)
    high = torch.zeros_like(image)
    for level in range(5):
        radius = 2**level
        low = F.conv2d(F.pad(image, [radius] * 4, mode="replicate"), kernel, groups=3, dilation=radius)
        high += image - low
        image = low
    return high, image


@pytest.mark.parametrize("shape", SHAPES)
def test_wavelet_fix_equals_high_of_image_plus_low_of_source(shape: tuple[int, int]) -> None:
    image, source = pictures(shape)
    expected = from_torch((decompose(to_torch(image))[0] + decompose(to_torch(source))[1]).clamp(0, 1))
    fixed = wavelet_fix(image, source)
    assert fixed.dtype == np.float32
    np.testing.assert_allclose(fixed, expected, rtol=0, atol=4e-7)  # measured 1.8e-7


@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_is_the_sum_of_its_bands(shape: tuple[int, int]) -> None:
    image = 10 * pictures(shape)[0] - 5
    high, low = decompose(to_torch(image))
    np.testing.assert_allclose(high_band(image), from_torch(high), rtol=0, atol=1e-5)
    np.testing.assert_allclose(low_band(image), from_torch(low), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_adain_fix_transfers_mean_and_unbiased_deviation(shape: tuple[int, int]) -> None:
    image, source = pictures(shape)
    x, s = to_torch(image).double().flatten(2), to_torch(source).double().flatten(2)
    deviation = [(t.var(dim=2, keepdim=True, unbiased=True) + 1e-5).sqrt() for t in (x, s)]
    moved = (x - x.mean(2, keepdim=True)) / deviation[0] * deviation[1] + s.mean(2, keepdim=True)
    fixed = adain_fix(image, source)
    assert fixed.dtype == np.float32
    expected = from_torch(moved.clamp(0, 1).reshape(1, 3, *shape))
    np.testing.assert_allclose(fixed, expected, rtol=0, atol=2e-7)  # measured 0.7e-7


def test_adain_then_wavelet_is_one_after_the_other() -> None:
    image, source = pictures((24, 32))
    x, s = to_torch(image), to_torch(source)
    deviation = [(t.flatten(2).var(dim=2, unbiased=True) + 1e-5).sqrt()[..., None, None] for t in (x, s)]
    mean = [t.mean(dim=(2, 3), keepdim=True) for t in (x, s)]
    moved = ((x - mean[0]) / deviation[0] * deviation[1] + mean[1]).clamp(0, 1)
    expected = from_torch((decompose(moved)[0] + decompose(s)[1]).clamp(0, 1))
    np.testing.assert_allclose(COLOUR_FIXES["adain+wavelet"](image, source), expected, rtol=0, atol=1e-6)


def test_every_colour_fix_that_a_configuration_may_name_is_there() -> None:
    assert tuple(COLOUR_FIXES) == pure_jax.config.COLOUR_FIXES


@pytest.mark.parametrize("fix", ["wavelet", "adain"])
def test_a_colour_cast_is_removed(fix: str) -> None:
    source = RNG.random((64, 64, 3), np.float32) * np.float32(0.4) + np.float32(0.3)
    cast = source + np.array([0.1, 0.0, -0.1], np.float32)
    np.testing.assert_allclose(COLOUR_FIXES[fix](cast, source), source, rtol=0, atol=2e-7)  # measured 0.6e-7


def test_an_image_is_its_own_colour_source() -> None:
    image, _ = pictures((32, 32))
    for name, fix in COLOUR_FIXES.items():
        tolerance = 2e-5 if name == "lab" else 2e-7  # measured 0.4e-5, by its powers and roots, and 0.6e-7
        np.testing.assert_allclose(fix(image, image), image, rtol=0, atol=tolerance)


@pytest.mark.parametrize("fix", sorted(COLOUR_FIXES))
def test_bytes_and_floats_give_the_same_result_within_0_and_1(fix: str) -> None:
    image, source = RNG.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    from_bytes = COLOUR_FIXES[fix](image, source)
    from_floats = COLOUR_FIXES[fix](image / 255, source / 255)
    assert from_bytes.dtype == np.float32 and from_bytes.min() >= 0 and from_bytes.max() <= 1
    np.testing.assert_allclose(from_bytes, from_floats, rtol=0, atol=5e-7)


def test_flat_pictures_stay_finite() -> None:
    flat = np.full((16, 16, 3), 0.25, np.float32)
    for fix in (wavelet_fix, adain_fix):
        np.testing.assert_allclose(fix(np.zeros_like(flat), flat), flat, rtol=0, atol=1e-6)


def test_no_fix_only_clips() -> None:
    image = np.array([[[-0.5, 0.25, 1.5]]], np.float32)
    assert no_fix(image, image).tolist() == [[[0.0, 0.25, 1.0]]]


@pytest.mark.parametrize("fix", sorted(COLOUR_FIXES))
def test_unequal_sizes_are_refused(fix: str) -> None:
    with pytest.raises(ValueError, match="same shape"):
        COLOUR_FIXES[fix](np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8))


def test_lab_is_scikit_images_and_back():
    from skimage.color import rgb2lab

    from pure_jax.infer.pictures.colour import _from_lab, _to_lab

    image = np.random.default_rng(0).random((9, 11, 3)).astype(np.float32)
    np.testing.assert_allclose(_to_lab(image), rgb2lab(image), rtol=0, atol=1e-3)
    np.testing.assert_allclose(_from_lab(_to_lab(image)), image, rtol=0, atol=1e-4)


def test_the_lab_fix_gives_the_sources_mean_and_deviation_in_lab():
    from skimage.color import rgb2lab

    rng = np.random.default_rng(0)
    image, source = (centre + 0.05 * rng.random((32, 32, 3)).astype(np.float32) for centre in (0.3, 0.5))
    image, source = image * np.float32([1, 0.8, 0.9]), source * np.float32([0.8, 1, 1])
    fixed, wanted = rgb2lab(COLOUR_FIXES["lab"](image, source)), rgb2lab(source)
    np.testing.assert_allclose(fixed.mean(axis=(0, 1)), wanted.mean(axis=(0, 1)), rtol=0, atol=0.05)
    np.testing.assert_allclose(fixed.std(axis=(0, 1)), wanted.std(axis=(0, 1)), rtol=0.02)
