"""PNG files written strip by strip: Pillow and imagecodecs want the whole picture, pypng compresses no differences."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels: grey, grey and alpha, RGB, RGB and alpha
_LEVEL = 6  # zlib's own middle, and Pillow's


def write_png(
    file: BinaryIO, size: tuple[int, int], strips: Iterable[np.ndarray], chunks: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Write a PNG file of 8 or 16 bits a channel.

    size: (width, height). strips: uint8 or uint16 [rows, width, 1 ... 4 channels], from top to bottom. chunks: kinds
    and contents of what stands before the pixels. Source: PNG specification (ISO/IEC 15948), filters of clause 9, one
    chosen for each row by the least sum of absolute differences (clause 12.8).
    """
    compressor = zlib.compressobj(_LEVEL, strategy=zlib.Z_FILTERED)
    above = None
    for strip in strips:
        if above is None:
            depth, kind = 8 * strip.itemsize, _COLOUR_TYPES[strip.shape[-1]]
            file.write(_SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0)))
            for chunk in chunks:
                file.write(_chunk(*chunk))
            above = np.zeros((size[0] * strip.shape[-1] * strip.itemsize,), np.uint8)
        rows = np.ascontiguousarray(strip, ">u2" if strip.itemsize == 2 else np.uint8).view(np.uint8)
        rows = rows.reshape(len(strip), -1)
        _write_data(file, compressor.compress(_filtered(rows, above, strip.shape[-1] * strip.itemsize)))
        above = rows[-1]
    _write_data(file, compressor.flush())
    file.write(_chunk(b"IEND", b""))


def _filtered(rows: np.ndarray, above: np.ndarray, pixel: int) -> bytes:
    """Rows, uint8 [n, bytes], as differences, each with the number of its filter before it. above: the row before them.
    pixel: bytes of one."""
    up = np.concatenate([above[None], rows[:-1]])
    left, corner = (np.pad(own[:, :-pixel], [(0, 0), (pixel, 0)]) for own in (rows, up))
    guesses = (None, left, up, _mean(left, up), _paeth(left, up, corner))
    best = np.zeros((len(rows), 1 + rows.shape[1]), np.uint8)
    least = np.full(len(rows), np.iinfo(np.int64).max)
    for number, guess in enumerate(guesses):
        made = rows if guess is None else rows - guess  # modulo 256
        cost = np.minimum(made, -made).sum(axis=1, dtype=np.int64)  # of the differences as signed numbers
        better = cost < least
        best[better, 0], best[better, 1:] = number, made[better]
        least = np.minimum(least, cost)
    return best.tobytes()


def _mean(left: np.ndarray, up: np.ndarray) -> np.ndarray:
    return (left & up) + ((left ^ up) >> 1)  # rounded down, without a carry


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """That of the three which is nearest to left + up - corner; of equal ones the first."""
    a, b, c = (own.astype(np.int16) for own in (left, up, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner))


def _write_data(file: BinaryIO, data: bytes) -> None:
    if data:
        file.write(_chunk(b"IDAT", data))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
