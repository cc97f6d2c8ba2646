"""PSNR and SSIM between a restored picture and its ground truth, as pyiqa computes them for the field's tables.

Pixels are 8-bit RGB; no border is cropped. No learned weights.
"""

import numpy as np
from numpy.typing import NDArray

from pure_jax.errors import PureError

Pixels = NDArray[np.uint8]

_LUMA = np.array([65.481, 128.553, 24.966]) / 255  # ITU-R BT.601, studio range: Y runs from 16 to 235
_SSIM_SIGMA = 1.5
_SSIM_RADIUS = 5  # window of 11x11
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(image: Pixels) -> NDArray[np.float64]:
    """Y of YCbCr (BT.601) of uint8 [H, W, 3]: float64 [H, W] in 8-bit units, 16 to 235, not rounded."""
    return image @ _LUMA + 16


def psnr_y(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio of the luma in dB, 80 for equal images; a, b: uint8 [H, W, 3].

    10 log10(1 / (mse + 1e-8)) with Y scaled by 1/255 and not rounded.

    Raises:
        PureError: the two sizes differ.
    """
    _require_same_size(a, b)
    return _psnr(luma(a), luma(b))


def psnr_rgb(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio over the three channels in dB, 80 for equal images; a, b: uint8 [H, W, 3].

    Raises:
        PureError: the two sizes differ.
    """
    _require_same_size(a, b)
    return _psnr(a.astype(np.float64), b.astype(np.float64))


def ssim_y(a: Pixels, b: Pixels) -> float:
    """Structural similarity of the luma, 1 for equal images; a, b: uint8 [H, W, 3], at least 11x11.

    Wang et al. 2004: Gaussian window of 11x11 with sigma 1.5, valid region only, Y rounded to 8 bits, no
    down-sampling; as pyiqa does, the contrast-structure term is cut off at 0.

    Raises:
        PureError: the two sizes differ, or a side is shorter than the window.
    """
    from scipy.ndimage import gaussian_filter

    _require_same_size(a, b)
    if min(a.shape[:2]) < 2 * _SSIM_RADIUS + 1:
        raise PureError(f"SSIM needs images of at least 11x11 pixels, but this one is {_size(a)}")
    x, y = np.round(luma(a)), np.round(luma(b))
    inside = slice(_SSIM_RADIUS, -_SSIM_RADIUS)

    def blur(z: NDArray[np.float64]) -> NDArray[np.float64]:
        return gaussian_filter(z, _SSIM_SIGMA, radius=_SSIM_RADIUS)[inside, inside]

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    contrast_structure = np.maximum((2 * covariance + _C2) / (variances + _C2), 0)
    return float(np.mean((2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1) * contrast_structure))


def _psnr(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(10 * np.log10(1 / (np.mean(((x - y) / 255) ** 2) + 1e-8)))


def _size(image: Pixels) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _require_same_size(a: Pixels, b: Pixels) -> None:
    if a.shape != b.shape:
        raise PureError(f"the images to compare must have one size, but they are {_size(a)} and {_size(b)}")
