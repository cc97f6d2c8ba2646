"""Large pictures: they lie on the disk, and are worked on strip by strip."""

from __future__ import annotations

import mmap
import tempfile
from typing import Any

import numpy as np

from pure_jax.errors import PureError

LARGE = 1 << 24
"""Pixels. A picture with more lies on the disk, and its file is written strip by strip."""
STRIP_PIXELS = 1 << 20
_BLOCK = 1 << 20


def strips(height: int, width: int) -> list[tuple[int, int]]:
    """(first row, that behind the last one) of parts of about STRIP_PIXELS pixels, but of 64 to 1024 rows."""
    rows = min(max(64, STRIP_PIXELS // width), 1024)
    return [(first, min(first + rows, height)) for first in range(0, height, rows)]


def array_for(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of zeros for a picture [H, W, ...]: in memory, or on the disk (`on_disk`) if it is a large one."""
    return on_disk(shape, dtype) if shape[0] * shape[1] > LARGE else np.zeros(shape, dtype)


def on_disk(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of zeros in a file without a name, which goes with the array, or with the process.

    The file lies in the folder for temporary files (TMPDIR). All of it is written at once: a disk that is found full
    when a page of a mapped file goes there ends the process.

    Raises:
        PureError: the disk is full.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile() as file:
            for start in range(0, size, _BLOCK):
                file.write(bytes(min(_BLOCK, size - start)))
            file.flush()
            return np.memmap(file, dtype, mode="r+", shape=shape)  # keeps a handle of its own
    except OSError as error:
        raise PureError(
            f"a large picture cannot be kept in {tempfile.gettempdir()} ({error.strerror or error}); make room there, "
            "or name another folder in TMPDIR"
        ) from error


def let_go(array: np.ndarray) -> None:
    """Take the pages of an array of `on_disk`, or of a part of it, out of this process's memory; what they hold is in
    the file. Does nothing to other arrays, and on systems that know no such advice."""
    mapped = getattr(array, "_mmap", None)
    # Of other modes is an array of somebody else's; "c" would lose what was written.
    if mapped is not None and getattr(array, "mode", "") == "r+" and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
