"""NIQE: quality of one picture without a reference (Mittal et al. 2013, "Completely blind image quality analyzer").

Statistics of locally normalised luma in blocks of 96x96 at two scales, compared with those of pristine photographs.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pure_jax.errors import PureError
from pure_jax.infer.metrics.distortion import Pixels, luma

Floats = NDArray[np.float64]

BLOCK = 96  # pixels; the pristine model was fitted with this block
_FEATURES = 18  # per block and scale
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True)
class NiqeParams:
    """The pristine model: mean float64 [36], covariance float64 [36, 36], Gaussian window float64 [7, 7]."""

    mean: Floats
    covariance: Floats
    window: Floats


def load_niqe_params(path: Path | None = None) -> NiqeParams:
    """Read the pristine model from an .npz with mu_pris_param, cov_pris_param and gaussian_window.

    None is BasicSR's file, which ships with this package (pure_jax/assets/niqe says under which licences); the figures
    of papers rest on it.

    Raises:
        PureError: the file is missing, is not an .npz, or lacks an array of the right shape.
    """
    path = path or Path(str(files("pure_jax") / "assets" / "niqe" / "niqe_pris_params.npz"))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            params = NiqeParams(
                mean=arrays["mu_pris_param"].reshape(2 * _FEATURES),
                covariance=arrays["cov_pris_param"].reshape(2 * _FEATURES, 2 * _FEATURES),
                window=arrays["gaussian_window"].reshape(7, 7),
            )
    except FileNotFoundError as error:
        raise PureError(f"there is no NIQE parameter file {path}: give the path of niqe_pris_params.npz") from error
    except Exception as error:  # np.load raises a different class for each way of being broken
        raise PureError(
            f"{path} is not a NIQE parameter file (an .npz with mu_pris_param, cov_pris_param and gaussian_window)"
        ) from error
    return params


def niqe(image: Pixels, params: NiqeParams) -> float:
    """NIQE of one picture; lower is better, good photographs lie around 3 to 5.

    The luma (BT.601) is rounded to 8 bits; columns and rows beyond the last whole block are not read. The second scale
    is MATLAB's antialiased bicubic reduction by two.

    Args:
        image: uint8 [H, W, 3], RGB. At least two blocks of 96x96 (192x96 or 96x192), since the covariance over blocks
            is part of the measure; below some ten blocks the value is noisy and depends on the size.
        params: what `load_niqe_params` returns.

    Raises:
        PureError: fewer than two blocks, or fewer than two with any texture.
    """
    rows, columns = image.shape[0] // BLOCK, image.shape[1] // BLOCK
    if rows * columns < 2:
        raise PureError(
            f"NIQE needs at least two blocks of {BLOCK}x{BLOCK} pixels, but the image is only "
            f"{image.shape[1]}x{image.shape[0]}"
        )
    y = np.round(luma(image[: rows * BLOCK, : columns * BLOCK]))
    features = np.concatenate(
        [_scale_features(y, BLOCK, params.window), _scale_features(_halve(y), BLOCK // 2, params.window)], axis=1
    )
    textured = features[~np.isnan(features).any(axis=1)]
    if len(textured) < 2:
        raise PureError("NIQE needs at least two blocks with texture, but the image is flat")
    difference = params.mean - np.nanmean(features, axis=0)
    covariance = (params.covariance + np.cov(textured, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))


def _scale_features(y: Floats, block: int, window: Floats) -> Floats:
    """Luma [H, W] of whole blocks -> features [blocks, 18] of one scale."""
    normalised = _normalise(y, window)
    rows, columns = y.shape[0] // block, y.shape[1] // block
    blocks = normalised.reshape(rows, block, columns, block).swapaxes(1, 2).reshape(-1, block, block)
    return np.array([_block_features(b) for b in blocks])


def _normalise(y: Floats, window: Floats) -> Floats:
    """Mean-subtracted, contrast-normalised coefficients (equation 1): local mean out, local deviation + 1 below."""
    from scipy.ndimage import correlate

    mean = correlate(y, window, mode="nearest")
    variance = correlate(y * y, window, mode="nearest") - mean**2
    return (y - mean) / (np.sqrt(np.abs(variance)) + 1)


def _block_features(block: Floats) -> list[float]:
    """Shape and mean width of the coefficients; shape, mean and two widths of the products with four neighbours."""
    from scipy.special import gamma

    shape, left, right = fit_aggd(block)
    features = [shape, (left + right) / 2]
    for shift in _NEIGHBOURS:
        shape, left, right = fit_aggd(block * np.roll(block, shift, axis=(0, 1)))
        features += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return features


def fit_aggd(samples: Floats) -> tuple[float, float, float]:
    """Moment-matching fit of an asymmetric generalised Gaussian distribution.

    The shape is searched on the grid 0.2, 0.201, ..., 10 as in the reference implementation, so that values agree.

    Returns:
        Shape, left scale and right scale; the scales are nan where one side has no samples.
    """
    from scipy.special import gamma

    shapes, ratios = _shape_table()
    negative, positive = samples[samples < 0], samples[samples > 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.sqrt(np.sum(negative**2) / np.float64(negative.size))
        right = np.sqrt(np.sum(positive**2) / np.float64(positive.size))
        skew = left / right
        ratio = np.mean(np.abs(samples)) ** 2 / np.mean(samples**2)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = shapes[np.argmin((ratios - ratio) ** 2)]
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return float(shape), float(left * width), float(right * width)


@cache
def _shape_table() -> tuple[Floats, Floats]:
    """Shapes to choose from, and the squared mean modulus over the mean square that each would give."""
    from scipy.special import gamma

    shapes = np.arange(0.2, 10.001, 0.001)
    return shapes, gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))


def _halve(y: Floats) -> Floats:
    """MATLAB's imresize(y, 0.5): bicubic kernel (a = -1/2) stretched by two, edges mirrored. Even sides only."""
    from scipy.ndimage import correlate1d

    distance = np.abs(np.arange(-3.5, 4)) / 2  # of the eight source pixels from the target's centre, in target pixels
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance <= 1, near, far) / 2
    for axis in (0, 1):
        y = correlate1d(y, weights, axis=axis, mode="reflect")
    # scipy centres an even kernel right of its middle, so the target between pixels 2i and 2i + 1 lies at 2i + 1
    return y[1::2, 1::2]
