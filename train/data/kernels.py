"""The linear parts of the degradation: blur kernels, reflect-padded correlation and resize matrices.

All on planar float32 images [3, H, W] on the host; kernels as in Real-ESRGAN, resizing as in PyTorch's `interpolate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange

if TYPE_CHECKING:
    from scipy.sparse import csr_array

KERNEL_KINDS = ("gaussian", "plateau", "sinc", "delta")
KERNEL_SIZES = (7, 9, 11, 13, 15, 17, 19, 21)
CUBIC_A = -0.75  # PyTorch's bicubic; Pillow and jax.image use -0.5
RESIZE_MODES = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class Kernel:
    """One drawn low-pass filter. `kind` is one of KERNEL_KINDS; the rest are its parameters.

    size: odd side in pixels. sigma: standard deviations along the kernel's own axes, pixels. theta: rotation, radians.
    beta: exponent (1 makes "gaussian" a plain Gaussian). cutoff: angular frequency of "sinc", radians per pixel.
    """

    may_be_absent = frozenset({"size", "sigma", "theta", "beta", "cutoff"})

    kind: str
    size: int = 1
    sigma: tuple[float, float] = (1.0, 1.0)
    theta: float = 0.0
    beta: float = 1.0
    cutoff: float = math.pi

    def taps(self) -> np.ndarray:
        """float64 [size, size] with sum 1.

        Real-ESRGAN zero-pads every kernel to 21x21 and the image by 10; with reflection at the border the
        result is the same without the zeros, so they are left out.
        """
        if self.kind == "delta":
            return np.ones((1, 1))
        offsets = np.arange(self.size) - (self.size - 1) / 2
        y, x = np.meshgrid(offsets, offsets, indexing="ij")
        if self.kind == "sinc":
            taps = _circular_low_pass(np.hypot(x, y), self.cutoff)
        else:
            cos, sin = math.cos(self.theta), math.sin(self.theta)
            u, v = (cos * x + sin * y) / self.sigma[0], (cos * y - sin * x) / self.sigma[1]
            q = (u * u + v * v) ** self.beta
            taps = np.exp(-q / 2) if self.kind == "gaussian" else 1 / (1 + q)
        return taps / taps.sum()


DELTA = Kernel("delta")


def _circular_low_pass(radius: np.ndarray, cutoff: float) -> np.ndarray:
    """Impulse response of the ideal circular low-pass: w J1(w r) / (2 pi r), at the centre w^2 / (4 pi)."""
    from scipy.special import j1

    safe = np.where(radius == 0, 1.0, radius)
    return np.where(radius == 0, cutoff**2 / (4 * math.pi), cutoff * j1(cutoff * safe) / (2 * math.pi * safe))


def correlate(image: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Correlate every channel with a square odd kernel; borders are reflected without repeating the edge pixel.

    image: float32 [C, H, W]; taps: [k, k]. Returns float32 [C, H, W]. By FFT: the cost hardly depends on k.
    """
    from scipy import fft

    height, width = image.shape[1:]
    radius = taps.shape[0] // 2
    padded = np.pad(image, ((0, 0), (radius, radius), (radius, radius)), mode="reflect")
    shape = (fft.next_fast_len(padded.shape[1], real=True), fft.next_fast_len(padded.shape[2], real=True))
    spectrum = fft.rfft2(padded, shape) * np.conj(fft.rfft2(taps.astype(np.float32), shape))
    # wrap-around only reaches rows and columns beyond H and W, which are cut here
    return fft.irfft2(spectrum, shape)[:, :height, :width]


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.75 at distance x (in pixels)."""
    x = np.abs(x)
    near = ((CUBIC_A + 2) * x - (CUBIC_A + 3)) * x * x + 1
    far = CUBIC_A * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resize_weights(size: int, out: int, mode: str, step: float | None = None) -> csr_array:
    """The matrix that resizes one axis as `torch.nn.functional.interpolate` does, without antialiasing.

    size, out: pixels before and after. mode: "area", "bilinear" or "bicubic". step: distance of output pixels in input
    pixels, size / out unless given (PyTorch uses 1 / scale_factor when called with a factor; area ignores it).
    Returns float32 [out, size], rows summing to 1: a band, as an output pixel sees few input pixels.
    """
    from scipy.sparse import csr_array

    rows = np.arange(out)
    if mode == "area":
        start, stop = rows * size // out, -(-(rows + 1) * size // out)
        count = stop - start
        ends = np.concatenate([[0], np.cumsum(count)])
        columns = np.arange(ends[-1]) + np.repeat(start - ends[:-1], count)
        return csr_array((np.repeat(1 / count, count).astype(np.float32), columns, ends), (out, size))
    rows = rows[:, None]
    source = (rows + 0.5) * (size / out if step is None else step) - 0.5
    base = np.floor(source)
    offsets = np.arange(-1, 3) if mode == "bicubic" else np.arange(2)
    distance = source - base - offsets
    values = cubic(distance) if mode == "bicubic" else 1 - np.abs(distance)
    columns = np.clip(base + offsets, 0, size - 1).astype(int)
    # a pixel at the border may be named twice in a row: its weights add up
    ends = np.arange(0, values.size + 1, values.shape[1])
    return csr_array((values.astype(np.float32).ravel(), columns.ravel(), ends), (out, size))


def resize(image: np.ndarray, shape: tuple[int, int], mode: str, step: float | None = None) -> np.ndarray:
    """Resize planar float32 [C, H, W] to float32 [C, *shape]; `mode` and `step` as in `resize_weights`."""
    if image.shape[1:] == shape and step in (None, 1.0):
        return image
    vertical = resize_weights(image.shape[1], shape[0], mode, step)
    horizontal = resize_weights(image.shape[2], shape[1], mode, step)
    tall = np.stack([vertical @ channel for channel in image])
    wide = horizontal @ rearrange(tall, "c h w -> w (c h)")
    return np.ascontiguousarray(rearrange(wide, "w (c h) -> c h w", h=shape[0]))
