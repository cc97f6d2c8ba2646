"""JPEG compression without the file: the quantisation loss of DiffJPEG (BasicSR), for any real-valued quality.

Not libjpeg: colours are not rounded, the luminance table is transposed and never rounded or clamped.
"""

import numpy as np

from pure_jax.errors import PureError

_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
).T  # transposed, as in DiffJPEG
_CHROMINANCE = np.full((8, 8), 99, np.float32)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)


def _dct_matrix() -> np.ndarray:
    """float32 [64, 64]: the orthonormal 2-D DCT-II of a flattened 8x8 block, so its transpose inverts it."""
    frequency, position = np.mgrid[:8, :8]
    basis = np.cos((2 * position + 1) * frequency * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    return np.kron(basis, basis).astype(np.float32)


_DCT = _dct_matrix()


def quality_factor(quality: float) -> float:
    """Multiplier of the quantisation tables: 1 at quality 50, near 0 at 100. Quality in (0, 100), not rounded."""
    if not 0 < quality < 100:
        raise PureError(f"JPEG quality {quality} is outside the open range 0 to 100; choose one inside it")
    return 50 / quality if quality < 50 else (200 - 2 * quality) / 100


def _quantise(plane: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Round the DCT coefficients of float32 [H, W] (multiples of 8, centred on 0) to multiples of `table` [8, 8]."""
    height, width = plane.shape
    blocks = plane.reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2).reshape(-1, 64)
    steps = table.reshape(64)
    coefficients = np.round(blocks @ _DCT.T / steps) * steps
    return (coefficients @ _DCT).reshape(height // 8, width // 8, 8, 8).swapaxes(1, 2).reshape(height, width)


def jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """Compress and decompress with 4:2:0 chroma.

    image: planar float32 [3, H, W] in [0, 1], any size; quality in (0, 100). Returns float32 [3, H, W] in [0, 1].
    Raises PureError when the quality is out of range.
    """
    factor = quality_factor(quality)
    height, width = image.shape[1:]
    # black padding, so sides that are no multiple of 16 ring at that edge, as in the original
    padded = np.pad(image, ((0, 0), (0, -height % 16), (0, -width % 16)))
    shape = padded.shape[1:]
    luma, *chroma = (_TO_YCBCR @ padded.reshape(3, -1) * np.float32(255)).reshape(3, *shape)
    decoded = [_quantise(luma - 128, _LUMINANCE * factor) + 128]
    for plane in chroma:  # the +128 of Cb and Cr and the centring of the blocks cancel
        halved = plane.reshape(shape[0] // 2, 2, shape[1] // 2, 2).mean(axis=(1, 3))
        decoded.append(_quantise(halved, _CHROMINANCE * factor).repeat(2, axis=0).repeat(2, axis=1))
    rgb = (_TO_RGB @ np.stack(decoded).reshape(3, -1)).reshape(3, *shape)[:, :height, :width]
    return np.clip(rgb / 255, 0, 1)
