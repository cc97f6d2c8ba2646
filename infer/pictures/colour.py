"""Colour fixes: give a restored picture the colours of its low-quality source while keeping the new detail.

All act on encoded RGB and change no pixel's neighbourhood relation beyond what their statistics say. A picture can be
corrected in strips of rows: with what was measured of the whole before, and with `reach` rows more on either side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

WAVELET_LEVELS = 5


class Moments(NamedTuple):
    """Of each channel of a picture: float64 [3]."""

    pixels: int
    mean: np.ndarray
    squares: np.ndarray
    """The sum of the squared deviations from the mean."""

    def joined(self, other: Moments) -> Moments:
        """Of two parts of a picture together (Chan, Golub and LeVeque 1979)."""
        pixels = self.pixels + other.pixels
        gap = other.mean - self.mean
        squares = self.squares + other.squares + gap**2 * (self.pixels * other.pixels / pixels)
        return Moments(pixels, self.mean + gap * (other.pixels / pixels), squares)


Measured = tuple[Moments, Moments]
"""Of the image and its source."""


def joined(one: Measured, other: Measured) -> Measured:
    """Of two parts of an image and its source together."""
    return one[0].joined(other[0]), one[1].joined(other[1])


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


def adain_fix(image: np.ndarray, source: np.ndarray, measured: Measured | None = None) -> np.ndarray:
    """Give each channel of `image` the mean and standard deviation of that channel of `source`.

    Shapes, dtypes, ranges and errors as in `wavelet_fix`. The variance is the unbiased one plus 1e-5. measured: of the
    pictures that these are parts of; None: they are whole.
    Source: adaptive instance normalisation (Huang and Belongie 2017), applied to pixels.
    """
    image, source = _same_size(image, source)
    return np.clip(_moved(image, measured or (_moments(image), _moments(source))), 0.0, 1.0)


def no_fix(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Leave the colours alone. Shapes, dtypes, ranges and errors as in `wavelet_fix`."""
    return np.clip(_same_size(image, source)[0], 0.0, 1.0)


def adain_wavelet_fix(image: np.ndarray, source: np.ndarray, measured: Measured | None = None) -> np.ndarray:
    """`adain_fix`, then `wavelet_fix` of what it gives. Shapes, dtypes, ranges, arguments and errors as there.

    Source: NSARM's default. Its scripts truncate to 8 bits after each stage, on average half a level darker each time;
    here the stages are float, and the caller rounds once.
    """
    return wavelet_fix(adain_fix(image, source, measured), source)


def lab_fix(image: np.ndarray, source: np.ndarray, measured: Measured | None = None) -> np.ndarray:
    """`adain_fix` in CIELAB instead of RGB: lightness and both colour axes get the source's mean and deviation.

    Shapes, dtypes, ranges, arguments (measured in CIELAB) and errors as there. Where the channels of RGB vary together,
    as they do in photos, their spread is corrected without a cast. Source: Reinhard et al. 2001, with CIELAB (D65) in
    place of their axes.
    """
    image, source = (_to_lab(picture) for picture in _same_size(image, source))
    return _from_lab(_moved(image, measured or (_moments(image), _moments(source))))


def mix(image: np.ndarray, source: np.ndarray, strength: float) -> np.ndarray:
    """strength 0..1 parts of `image`, the rest of `source`. Shapes, dtypes, ranges and errors as in `wavelet_fix`."""
    image, source = _same_size(image, source)
    if strength != 1.0:
        image = source + np.float32(strength) * (image - source)
    return np.clip(image, 0.0, 1.0)


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


def _moments(image: np.ndarray) -> Moments:
    """Summed in float64, as large pictures need."""
    pixels = image.shape[0] * image.shape[1]
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    return Moments(pixels, mean, pixels * image.var(axis=(0, 1), dtype=np.float64))


def _moved(image: np.ndarray, measured: Measured) -> np.ndarray:
    """float32 [H, W, 3] with the source's mean and deviation."""
    (mean, deviation), (source_mean, source_deviation) = (
        (own.mean.astype(np.float32), np.sqrt(own.squares / (own.pixels - 1) + 1e-5).astype(np.float32))
        for own in measured
    )
    return np.asarray((image - mean) / deviation * source_deviation + source_mean)


@dataclass(frozen=True)
class ColourFix:
    """A colour fix, and what it needs to work on strips."""

    apply: Callable[..., np.ndarray]
    """(image, source), and what `measure` gives if that is needed -> float32 [H, W, 3] in 0..1."""
    reach: int = 0
    """How many rows above and below a pixel it looks at, beside the measured."""
    measured_in: Callable[[np.ndarray], np.ndarray] | None = None
    """The colour space of what is to be known of the whole picture; None: nothing is."""

    def __call__(self, image: np.ndarray, source: np.ndarray, measured: Measured | None = None) -> np.ndarray:
        return self.apply(image, source) if measured is None else self.apply(image, source, measured)

    def measure(self, image: np.ndarray, source: np.ndarray) -> Measured:
        """Of an image and its source, or of parts of them, which are to be `joined` then; where something is needed."""
        assert self.measured_in is not None, "nothing is to be known of the whole picture"
        one, other = (_moments(self.measured_in(part)) for part in _same_size(image, source))
        return one, other


_REACH = 2**WAVELET_LEVELS - 1
COLOUR_FIXES = {
    "none": ColourFix(no_fix),
    "wavelet": ColourFix(wavelet_fix, _REACH),
    "adain": ColourFix(adain_fix, measured_in=_unit_range),
    "adain+wavelet": ColourFix(adain_wavelet_fix, _REACH, _unit_range),
    "lab": ColourFix(lab_fix, measured_in=_to_lab),
}
"""By the names of `pure_jax.config.COLOUR_FIXES`."""
