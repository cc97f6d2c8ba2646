"""Colour fixes: give a restored picture the colours of its low-quality source while keeping the new detail.

Both act on encoded RGB and change no pixel's neighbourhood relation beyond what their statistics say.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

WAVELET_LEVELS = 5


def wavelet_fix(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Replace the low frequencies of `image` by those of `source`, with a five-level a-trous wavelet transform.

    Both [H, W, 3] of one size, uint8 0..255 or float 0..1. Returns float32 [H, W, 3], clipped to 0..1. Raises
    ValueError if the shapes differ. Source: the wavelet colour fix of StableSR, as the PURE scripts use it.
    """
    image, source = _same_size(image, source)
    # high(image) + low(source) = image - low(image) + low(source), and the transform is linear: one pass is enough.
    return np.clip(image + low_band(source - image), 0.0, 1.0)


def low_band(image: np.ndarray, levels: int = WAVELET_LEVELS) -> np.ndarray:
    """What is left of float32 [H, W, C], of any range, below the a-trous wavelets of so many levels: the same shape.

    Level i blurs both axes with [1/4, 1/2, 1/4], taps 2**i pixels apart; the border is repeated outwards.
    """
    for level in range(levels):
        image = _blur(_blur(image, 2**level, axis=0), 2**level, axis=1)
    return image


def high_band(image: np.ndarray, levels: int = WAVELET_LEVELS) -> np.ndarray:
    """The sum of the a-trous wavelets of all levels: image = high_band(image) + low_band(image), see `low_band`."""
    return image - low_band(image, levels)


def adain_fix(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Give each channel of `image` the mean and standard deviation of that channel of `source`.

    Shapes, dtypes, ranges and errors as in `wavelet_fix`. The variance is the unbiased one plus 1e-5.
    Source: adaptive instance normalisation (Huang and Belongie 2017), applied to pixels.
    """
    image, source = _same_size(image, source)
    mean, deviation = _statistics(image)
    source_mean, source_deviation = _statistics(source)
    return np.clip((image - mean) / deviation * source_deviation + source_mean, 0.0, 1.0)


def no_fix(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Leave the colours alone. Shapes, dtypes, ranges and errors as in `wavelet_fix`."""
    return np.clip(_same_size(image, source)[0], 0.0, 1.0)


def adain_wavelet_fix(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """`adain_fix`, then `wavelet_fix` of what it gives. Shapes, dtypes, ranges and errors as there.

    Source: NSARM's default. Its scripts truncate to 8 bits after each stage, on average half a level darker each time;
    here the stages are float, and the caller rounds once.
    """
    return wavelet_fix(adain_fix(image, source), source)


def lab_fix(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """`adain_fix` in CIELAB instead of RGB: lightness and both colour axes get the source's mean and deviation.

    Shapes, dtypes, ranges and errors as there. Where the channels of RGB vary together, as they do in photos, their
    spread is corrected without a cast. Source: Reinhard et al. 2001, with CIELAB (D65) in place of their axes.
    """
    image, source = (_to_lab(picture) for picture in _same_size(image, source))
    mean, deviation = _statistics(image)
    source_mean, source_deviation = _statistics(source)
    return _from_lab((image - mean) / deviation * source_deviation + source_mean)


def mix(image: np.ndarray, source: np.ndarray, strength: float) -> np.ndarray:
    """strength 0..1 parts of `image`, the rest of `source`. Shapes, dtypes, ranges and errors as in `wavelet_fix`."""
    image, source = _same_size(image, source)
    if strength != 1.0:
        image = source + np.float32(strength) * (image - source)
    return np.clip(image, 0.0, 1.0)


COLOUR_FIXES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "none": no_fix,
    "wavelet": wavelet_fix,
    "adain": adain_fix,
    "adain+wavelet": adain_wavelet_fix,
    "lab": lab_fix,
}
"""By the names of `pure_jax.config.COLOUR_FIXES`."""


# IEC 61966-2-1 (sRGB) and CIE 15: linear RGB -> XYZ over the white point D65, whose rows sum up to 1.
_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]], np.float32
) / np.array([[0.95047], [1.0], [1.08883]], np.float32)
_LINEAR_BELOW = 6 / 29


def _to_lab(image: np.ndarray) -> np.ndarray:
    """Encoded sRGB 0..1 -> CIELAB (L* 0..100), float32 [H, W, 3]."""
    linear = np.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    xyz = linear @ _TO_XYZ.T
    x, y, z = np.moveaxis(np.where(xyz > _LINEAR_BELOW**3, np.cbrt(xyz), xyz / (3 * _LINEAR_BELOW**2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def _from_lab(lab: np.ndarray) -> np.ndarray:
    """The way back, clipped to 0..1."""
    y = (lab[..., 0] + 16) / 116
    cubed = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(cubed > _LINEAR_BELOW, cubed**3, 3 * _LINEAR_BELOW**2 * (cubed - 4 / 29))
    linear = np.clip(xyz @ np.linalg.inv(_TO_XYZ).T, 0.0, 1.0)
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return np.clip(encoded, 0.0, 1.0).astype(np.float32)


def _same_size(image: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if image.shape != source.shape:
        raise ValueError(f"image {image.shape} and source {source.shape} must have the same shape")
    return _unit_range(image), _unit_range(source)


def _unit_range(image: np.ndarray) -> np.ndarray:
    """float32 0..1."""
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32)


def _blur(image: np.ndarray, radius: int, axis: int) -> np.ndarray:
    """Convolve one axis with [1/4, 1/2, 1/4], taps `radius` pixels apart; the border pixels are repeated outwards."""
    length = image.shape[axis]
    place = np.arange(length)
    before = np.take(image, np.maximum(place - radius, 0), axis)
    after = np.take(image, np.minimum(place + radius, length - 1), axis)
    return 0.25 * before + 0.5 * image + 0.25 * after


def _statistics(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel, float32 [3]; summed in float64, as large pictures need."""
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    variance = image.var(axis=(0, 1), dtype=np.float64, ddof=1)
    return mean.astype(np.float32), np.sqrt(variance + 1e-5).astype(np.float32)
