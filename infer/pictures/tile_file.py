"""Tiles that lie on the disk: more of them than memory is to hold."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from pure_jax.errors import PureError


class TileFile(Sequence[np.ndarray]):
    """Arrays of one shape and dtype, read from a file without a name each time they are asked for.

    The file goes with the object, or with the process. It lies in the folder for temporary files (TMPDIR).
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._size = self._dtype.itemsize * int(np.prod(shape))
        self._file = tempfile.TemporaryFile()
        self._count = 0

    def append(self, tile: np.ndarray) -> None:
        """Raises PureError where the disk is full."""
        try:
            self._file.write(np.ascontiguousarray(tile, self._dtype).tobytes())
            self._file.flush()  # a full disk is told of here, not when a tile is read
        except OSError as error:
            raise PureError(
                f"restored tiles cannot be kept in {tempfile.gettempdir()} ({error.strerror}); make room there, or "
                "name another folder in TMPDIR"
            ) from error
        self._count += 1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        read = os.pread(self._file.fileno(), self._size, index % self._count * self._size)
        return np.frombuffer(read, self._dtype).reshape(self._shape)
