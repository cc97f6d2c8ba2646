"""Reading a `.pth` file of any size, whole or in several parts, and writing one: a few rows in memory at a time.

PyTorch is asked for the file's plan only (tensors without data, and where the data of each lies in the file); the data
itself goes past it.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pure_jax.convert.torch_files import import_torch, load_pt, to_torch_tensor
from pure_jax.errors import PureError
from pure_jax.tensors import FLOATS, PIECE_BYTES, Index, LazyTensor, all_finite


class Joined(io.RawIOBase):
    """Files read as if they were one, in their order."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files, self._starts, self._place = files, [0], 0
        for file in files:
            self._starts.append(self._starts[-1] + file.stat().st_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._starts[-1])[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        i = bisect_right(self._starts, self._place) - 1
        if i >= len(self._files):
            return 0
        with self._files[i].open("rb") as part:
            part.seek(self._place - self._starts[i])
            count = part.readinto(buffer)
        self._place += count
        return count


def is_archive(file: Path) -> bool:
    """Whether a file is, or begins, a zip archive, as PyTorch's are since 2020: only these have a plan."""
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"


def load_joined(files: Sequence[Path]) -> Any:
    """What `torch.load` finds in an archive, whole or in parts, its tensors without data; see `lazy_tensor`.

    Raises:
        PureError: torch is not installed; the parts are broken or incomplete, or hold code.
    """
    import_torch(f"reading {files[0].name}")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return load_pt(files[0], io.BufferedReader(Joined(files)))


def lazy_tensor(tensor: Any, files: Sequence[Path], what: str) -> LazyTensor:
    """A tensor of `load_joined`, read when asked for. what: its name in messages.

    Raises:
        PureError: now, if it is no whole array of floats; when read, if a value is not finite.
    """
    name = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}.get(str(tensor.dtype).removeprefix("torch."))
    if name is None or not tensor.is_contiguous():
        raise PureError(f"{what} is not an array of floats in one piece; get the file from its publisher")
    dtype, shape = FLOATS[name], tuple(tensor.shape)
    start = tensor.untyped_storage()._checkpoint_offset + tensor.storage_offset() * dtype.itemsize
    row = math.prod(shape[1:]) * dtype.itemsize

    def read(index: Index) -> np.ndarray:
        rows = range(shape[0])[index[0]] if shape else range(1)
        joined = io.BufferedReader(Joined(files))
        joined.seek(start + rows.start * row)
        data = joined.read(len(rows) * row)
        array = np.frombuffer(data, dtype).reshape(len(rows), *shape[1:]) if shape else np.frombuffer(data, dtype)[0]
        array = np.asarray(array[(slice(None), *index[1:])] if shape else array)
        if not all_finite(array):
            raise PureError(f"{what} holds values that are not finite; get the file again")
        return array

    return LazyTensor(shape, dtype, read, max(1, PIECE_BYTES // max(1, row)))


def write_large(
    file: Path, tensors: Mapping[str, LazyTensor], under: str | None, progress: Callable[[int], None]
) -> None:
    """Write {name: tensor}, or {under: {name: tensor}}, as `torch.save` does, each tensor in pieces.

    The zip archive's checksums are those of empty data; `torch.load` does not look at them. progress: called with
    numbers of bytes. Raises OSError; PureError if torch is not installed.
    """
    torch = import_torch(f"writing {file.name}")
    from torch._subclasses.fake_tensor import FakeTensorMode

    def wrapped(own: dict) -> dict:
        return own if under is None else {under: own}

    with FakeTensorMode():
        plan = {
            name: torch.empty(tensor.shape, dtype=to_torch_tensor(np.zeros((), tensor.dtype)).dtype)
            for name, tensor in tensors.items()
        }
    try:
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(wrapped(plan), file)
    except RuntimeError as error:  # how torch reports a full disk
        raise OSError(str(error).splitlines()[0]) from error
    with FakeTensorMode():
        placed = torch.load(file, weights_only=True)
    placed = placed if under is None else placed[under]
    with file.open("r+b") as out:
        for name, tensor in tensors.items():
            out.seek(placed[name].untyped_storage()._checkpoint_offset)
            for piece in tensor.pieces():
                out.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
                progress(piece.nbytes)
