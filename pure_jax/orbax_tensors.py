"""Orbax checkpoints of one network, read and written a few pieces of tensors at a time.

Orbax itself takes whole arrays. When writing, it keeps the folder, the names and the metadata here, so the result is an
ordinary checkpoint of its own; the bytes go through tensorstore, the library that Orbax stores arrays with.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import traverse_util

from pure_jax.errors import PureError
from pure_jax.tensors import STORED, Index, LazyTensor, all_finite

_ARRAY = "/.zarray"
_IN_FLIGHT = 16 << 20
"""Bytes that are being written while the next piece is read; or one piece, if that is larger."""

# ---- reading -------------------------------------------------------------------------------------------------------


def open_orbax(folder: Path) -> dict[str, LazyTensor]:
    """Every tensor of an Orbax checkpoint by its path joined by "."; only metadata is read now.

    Whatever part is asked for, whole stored chunks are read. A tensor's `step` is the first axis of its chunks: one
    layer of a stack that `write_orbax` wrote, the whole array if `StandardCheckpointer` was given a numpy array.

    Raises:
        PureError: the folder is missing, incomplete or damaged, or a tensor's dtype is not among STORED.
    """
    context = ocp.type_handlers.get_ts_context()
    # What Orbax writes by default: a database in the folder, which holds one zarr array per tensor. Orbax's own way
    # to ask for names and shapes opens all at once, and prints a traceback for each that is damaged.
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.resolve()}/"}}
    try:
        (folder / "_METADATA").read_bytes()  # Orbax writes it when all arrays are written
        keys = ts.KvStore.open(database, context=context).result().list().result()
        names = [key.decode().removesuffix(_ARRAY) for key in keys if key.decode().endswith(_ARRAY)]
        stores = {
            name: ts.open(
                {"driver": "zarr", "kvstore": database | {"path": f"{name}/"}, "fill_missing_data_reads": False},
                read=True,
                context=context,
            ).result()
            for name in names
        }
    except (ValueError, OSError) as error:
        raise PureError(f"{folder} is no complete Orbax checkpoint; get the directory again") from error
    if not stores:
        raise PureError(f"{folder} is no complete Orbax checkpoint; get the directory again")
    for name, store in stores.items():
        if store.dtype.numpy_dtype not in STORED.values():
            raise PureError(
                f"{folder}: tensor {name!r} holds {store.dtype.name}, but parameters must be {', '.join(STORED)}"
            )
    return {name: _from_store(folder, name, store) for name, store in stores.items()}


def _from_store(folder: Path, name: str, store: ts.TensorStore) -> LazyTensor:
    def read(index: Index) -> np.ndarray:
        try:
            array = store[index].read().result()
        except (ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise PureError(f"{folder}: tensor {name!r} cannot be read ({reason}); get the directory again") from error
        if not all_finite(array):
            raise PureError(f"{folder}: tensor {name!r} holds values that are not finite; get the directory again")
        return array

    chunk: Any = store.chunk_layout.read_chunk.shape
    return LazyTensor(store.shape, store.dtype.numpy_dtype, read, chunk[0] if chunk else 1)


# ---- writing -------------------------------------------------------------------------------------------------------


def write_orbax(
    folder: Path, tensors: Mapping[str, LazyTensor], progress: Callable[[int], None] = lambda count: None
) -> None:
    """Write a checkpoint that `StandardCheckpointer.restore` reads as a nested dict of arrays, bit for bit.

    Each piece of a tensor becomes one stored chunk; the next is read while the last is written. One process only.

    Args:
        folder: must not exist yet.
        tensors: by path joined by ".".
        progress: called with the number of bytes of each piece.

    Raises:
        OSError: the folder exists or cannot be written; what then lies beside it is the caller's to remove.
    """
    types = ocp.type_handlers
    # Orbax warns about a registry that does not know jax.Array.
    registry = types.create_type_handler_registry((LazyTensor, _Pieces(progress)), (jax.Array, types.ArrayHandler()))
    # Uncompressed like safetensors: zstd, Orbax's default, doubles the time and saves a fifth of the bytes.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
    tree = traverse_util.unflatten_dict(dict(tensors), sep=".")
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(folder.resolve(), args=ocp.args.PyTreeSave(tree))
    except ValueError as error:  # how the two libraries report a full disk
        raise OSError(str(error).splitlines()[0]) from error


class _Pieces(ocp.type_handlers.NumpyHandler):
    """Writes LazyTensors as what Orbax later takes for numpy arrays."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        super().__init__()
        self._progress = progress

    async def serialize(self, values: Sequence[LazyTensor], infos: Sequence[Any], args: Any = None) -> list[Any]:
        """Writes one tensor after the other; nothing is left for Orbax to wait for."""
        # What goes on at the same time shares commits, and one takes the disk as long as megabytes of data: so all
        # arrays are created at once, and many small pieces written.
        created = [self._create(tensor, info) for tensor, info in zip(values, infos, strict=True)]
        pending: deque[tuple[ts.Future, int]] = deque()
        try:
            for tensor, store in zip(values, created, strict=True):
                array = await store
                start = 0
                for piece in tensor.pieces():
                    while pending and sum(size for _, size in pending) + piece.nbytes > _IN_FLIGHT:
                        await pending.popleft()[0]
                    stop = start + len(piece) if tensor.shape else 0
                    part = array[start:stop] if tensor.shape else array
                    future = part.write(piece, can_reference_source_data_indefinitely=True).commit
                    future.force()  # starts now rather than when awaited
                    pending.append((future, piece.nbytes))
                    self._progress(piece.nbytes)
                    start = stop
            while pending:
                await pending.popleft()[0]
        finally:  # nothing may be under way any more when the caller removes the folder
            await asyncio.gather(*created, *(future for future, _ in pending), return_exceptions=True)
        return []

    @staticmethod
    def _create(tensor: LazyTensor, info: Any) -> ts.Future:
        """An empty array whose chunks are the tensor's pieces."""
        chunk = (min(tensor.step, tensor.shape[0]), *tensor.shape[1:]) if tensor.shape else ()
        spec = ocp.type_handlers.get_json_tspec_write(
            info, use_ocdbt=True, global_shape=tensor.shape, local_shape=chunk, dtype=tensor.dtype, process_index=0
        )
        return ts.open(ts.Spec(spec), create=True, context=info.ts_context)
