"""Tensors that lie in files and have not been read yet: slices, transpositions, stacks and casts of them cost nothing
until somebody reads. So a 7B model is converted with a few tensors in memory, and every device reads its own part only.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from pure_jax.errors import PureError

Index = tuple[slice, ...]
"""One slice of step 1 per axis."""

FLOATS = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}
"""What a safetensors file calls the dtypes that parameters may have."""
STORED = FLOATS | {"I8": np.dtype(np.int8)}
"""Those of a model directory of this library: kernels may be int8, see `pure_jax.quantisation`."""

PIECE_BYTES = 4 << 20
"""Of a file read at a time: much for the disk, little for the processor's cache."""
_BLOCK = 128  # rows and columns
_PART = 1 << 19  # entries


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when asked for, as a whole or in part.

    read: one slice of step 1 per axis -> a numpy array of that part. Raises PureError naming file and tensor if the
        file cannot be read or holds NaN or infinity there.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]
    step: int = 1
    """How many entries of the first axis to read at a time where memory matters: layers of a stack, say."""

    @property
    def nbytes(self) -> int:
        """Of the whole tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self.read(tuple(slice(0, n) for n in self.shape))
        return whole if dtype is None else whole.astype(dtype)

    def indices(self) -> Iterator[Index]:
        """Indices of parts along the first axis, `step` entries each; together they are the whole tensor in C order."""
        if not self.shape:
            yield ()
            return
        rest = tuple(slice(0, n) for n in self.shape[1:])
        for start in range(0, self.shape[0], max(1, self.step)):
            yield (slice(start, min(start + self.step, self.shape[0])), *rest)

    def pieces(self) -> Iterator[np.ndarray]:
        """What lies at `indices`, one after the other."""
        return map(self.read, self.indices())


def total_bytes(tensors: Mapping[str, LazyTensor]) -> int:
    """Of all tensors together."""
    return sum(tensor.nbytes for tensor in tensors.values())


# ---- views ---------------------------------------------------------------------------------------------------------


def in_memory(array: Any) -> LazyTensor:
    """A numpy or jax array (or anything np.asarray takes) as a LazyTensor; a LazyTensor stays what it is."""
    if isinstance(array, LazyTensor):
        return array
    return LazyTensor(
        array.shape, np.dtype(array.dtype), lambda index: np.asarray(array)[index], array.shape[0] if array.shape else 1
    )


def transposed(tensor: LazyTensor, axes: Sequence[int]) -> LazyTensor:
    """As np.transpose; the result is contiguous."""

    def read(index: Index) -> np.ndarray:
        own: list[slice] = [slice(0)] * len(axes)
        for to, axis in enumerate(axes):
            own[axis] = index[to]
        if tuple(axes) == (1, 0):
            return _transposed_matrix(tensor, own[0], own[1])
        return np.ascontiguousarray(tensor.read(tuple(own)).transpose(axes))

    shape = tuple(tensor.shape[axis] for axis in axes)
    # Its first axis is not the file's: parts of it would read the file in crumbs, so it is read at once.
    return LazyTensor(shape, tensor.dtype, read, shape[0] if shape else 1)


def _transposed_matrix(tensor: LazyTensor, rows: slice, columns: slice) -> np.ndarray:
    """tensor[rows, columns].T, contiguous, read `step` rows at a time.

    Block by block: 6 times as fast as numpy, whose strides of whole rows miss the processor's cache. A block is copied
    first, for rows that lie a power of two apart would push each other out of that cache.
    """
    out = np.empty((columns.stop - columns.start, rows.stop - rows.start), tensor.dtype)
    for start in range(rows.start, rows.stop, tensor.step):
        some = tensor.read((slice(start, min(start + tensor.step, rows.stop)), columns))
        for i in range(0, some.shape[0], _BLOCK):
            to = slice(start - rows.start + i, start - rows.start + min(i + _BLOCK, some.shape[0]))
            for j in range(0, some.shape[1], _BLOCK):
                out[j : j + _BLOCK, to] = some[i : i + _BLOCK, j : j + _BLOCK].copy().T
    return out


def stacked(tensors: Sequence[LazyTensor]) -> LazyTensor:
    """Tensors of one shape behind a new first axis; of several dtypes, they become float32, which holds them all."""
    dtypes = {tensor.dtype for tensor in tensors}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    tensors = [cast(tensor, dtype, "a layer") for tensor in tensors]

    def read(index: Index) -> np.ndarray:
        chosen = tensors[index[0]]
        first = chosen[0].read(index[1:])
        if len(chosen) == 1:
            return first[None]
        out = np.empty((len(chosen), *first.shape), first.dtype)
        out[0] = first
        for place, tensor in enumerate(chosen[1:], 1):
            out[place] = tensor.read(index[1:])
        return out

    return LazyTensor((len(tensors), *tensors[0].shape), dtype, read)


def entry(tensor: LazyTensor, i: int) -> LazyTensor:
    """tensor[i]: without the first axis."""
    shape = tensor.shape[1:]
    return LazyTensor(
        shape, tensor.dtype, lambda index: tensor.read((slice(i, i + 1), *index))[0], shape[0] if shape else 1
    )


def cast(tensor: LazyTensor, dtype: Any, name: str) -> LazyTensor:
    """Rounded to nearest, ties to even. Reading raises PureError, which says `name`, where a value is too large."""
    target = np.dtype(dtype)
    if target == tensor.dtype:
        return tensor

    def read(index: Index) -> np.ndarray:
        with np.errstate(over="ignore"):
            part = tensor.read(index).astype(target)
        if not all_finite(part):
            raise PureError(f"{name} has values too large for {target.name}; choose bfloat16 or float32")
        return part

    return LazyTensor(tensor.shape, target, read, tensor.step)


def all_finite(array: np.ndarray) -> bool:
    """No NaN and no infinity; for 16-bit floats by their exponent bits, since numpy converts those one by one."""
    if array.ndim == 0:
        array = array[None]
    # In parts that stay in the processor's cache.
    rows = max(1, _PART // max(1, math.prod(array.shape[1:])))
    parts = (array[i : i + rows] for i in range(0, array.shape[0], rows))
    if array.dtype.itemsize == 2:
        exponent = 0x7F80 if array.dtype == ml_dtypes.bfloat16 else 0x7C00
        return all((part.view(np.uint16) & exponent).max(initial=0) < exponent for part in parts)
    return all(np.isfinite(part).all() for part in parts)


# ---- safetensors ---------------------------------------------------------------------------------------------------


def open_safetensors(file: Path, dtypes: Mapping[str, np.dtype] = FLOATS) -> dict[str, LazyTensor]:
    """Every tensor of a safetensors file by name; only the header is read now.

    Raises:
        PureError: the file is missing, truncated or damaged (the library checks sizes and offsets), or a tensor's
            dtype is not among `dtypes`.
    """
    try:
        with safe_open(file, "numpy"):  # checks that sizes and offsets are those of the file, without gap or overlap
            pass
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
    except FileNotFoundError as error:
        raise PureError(f"{file} is missing") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise PureError(f"{file} is broken and cannot be read ({error}); get the file again") from error
    header.pop("__metadata__", None)
    for name, entry_ in header.items():
        if entry_["dtype"] not in dtypes:
            raise PureError(f"{file}: tensor {name!r} holds {entry_['dtype']}, but parameters are {', '.join(dtypes)}")
    return {
        name: _from_file(file, name, tuple(e["shape"]), dtypes[e["dtype"]], 8 + length + e["data_offsets"][0])
        for name, e in header.items()
    }


def _from_file(file: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> LazyTensor:
    stride = math.prod(shape[1:]) * dtype.itemsize  # bytes

    def read(index: Index) -> np.ndarray:
        try:
            if all(len(range(n)[part]) == n for n, part in zip(shape[1:], index[1:], strict=True)):
                rows = range(shape[0])[index[0]] if shape else range(1)
                start = offset + rows.start * stride
                array = np.fromfile(file, dtype, len(rows) * stride // dtype.itemsize, offset=start)
                array = array.reshape(len(rows), *shape[1:]) if shape else array.reshape(())
            else:
                # Mapped anew each time, since its pages count as ours for as long as the map is there.
                array = np.memmap(file, dtype, "r", offset, shape)[index].view(np.ndarray)
        except (OSError, ValueError) as error:
            raise PureError(f"{file}: tensor {name!r} cannot be read ({error}); get the file again") from error
        if not all_finite(array):
            raise PureError(f"{file}: tensor {name!r} holds values that are not finite; get the file again")
        return array

    return LazyTensor(shape, dtype, read, max(1, PIECE_BYTES // max(1, stride)))


def write_safetensors(
    file: Path,
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> str:
    """Write tensors one after the other, each in pieces; the next is read while the last is written.

    progress: called with the number of bytes of each piece. Returns the file's sha256, hexadecimal. Raises OSError.
    """
    names = {dtype: name for name, dtype in STORED.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    digest = hashlib.sha256()
    pending: deque[Future] = deque()
    # One thread each, since writing and hashing take longer than reading.
    with file.open("wb") as out, ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as hasher:

        def put(data: Any) -> None:
            while len(pending) > 2:  # so that two pieces are on their way while the third is read
                pending.popleft().result()
            pending.extend((writer.submit(out.write, data), hasher.submit(digest.update, data)))

        put(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            for piece in tensor.pieces():
                put(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
                progress(piece.nbytes)
        for future in pending:
            future.result()
    return digest.hexdigest()
