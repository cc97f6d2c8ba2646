"""Reading and writing `.pt` files. Only weights ever come out of one: no code in it is executed."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import ml_dtypes
import numpy as np

from pure_jax.errors import PureError
from pure_jax.tensors import Index, LazyTensor, all_finite

if TYPE_CHECKING:
    import torch


def import_torch(why: str) -> Any:
    """The torch package. Raises PureError, saying how to install it, where it is missing."""
    try:
        import torch
    except ImportError as error:
        raise PureError(f"{why} needs PyTorch; install it with `pip install torch`") from error
    return torch


def open_pt(file: Path, weights: str | None = None) -> tuple[dict[str, LazyTensor], list[str]]:
    """The tensors of a LlamaGen `.pt` file by name, and what else the file holds.

    A training checkpoint has several sets of weights. As PURE does, "model" is preferred, then "ema"; else the file
    is taken for the dict of tensors itself.

    Args:
        weights: "model" or "ema" takes that set; None the preferred one.

    Raises:
        PureError: torch is not installed; the file is missing, broken or holds code; the set is not there; reading
            a tensor that is not finite.
    """
    torch = import_torch(f"reading {file.name}")
    if not file.is_file():
        raise PureError(f"{file} is no file; give LlamaGen's, vq_ds8_c2i.pt for PURE")
    content = load_pt(file)
    if not isinstance(content, Mapping):
        raise PureError(f"{file} holds a {type(content).__name__} instead of tensors by name")
    chosen = weights or next((name for name in ("model", "ema", "state_dict") if name in content), None)
    if chosen is not None and not isinstance(content.get(chosen), Mapping):
        held = [*map(repr, content)]
        shown = ", ".join(held[:5]) + (", ..." if len(held) > 5 else "")
        raise PureError(f"{file} has no weights under {chosen!r}; it holds {shown or 'nothing'}")
    found = content if chosen is None else content[chosen]
    others = [] if chosen is None else [str(name) for name in content if name != chosen]
    wrong = next((name for name, value in found.items() if not isinstance(value, torch.Tensor)), None)
    if wrong is not None:
        raise PureError(
            f"{file}: {wrong!r} is a {type(found[wrong]).__name__}, not a tensor; is it another model's file?"
        )
    return {str(name): from_torch_tensor(value, f"{file}: tensor {name!r}") for name, value in found.items()}, others


def load_pt(file: Path, stream: BinaryIO | None = None) -> Any:
    """What `torch.load` finds in a file, weights and plain records only; mapped, not read.

    stream: read instead of the file, which then only names it.

    Raises:
        PureError: torch is not installed; the file is broken or holds code.
    """
    torch = import_torch(f"reading {file.name}")
    # Training checkpoints hold their command line in a Namespace, a plain record.
    with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
        try:
            with file.open("rb") as opened:
                archive = opened.read(2) == b"PK"
            # Mapped, so that an optimiser's state beside the weights costs no memory; old files cannot be mapped.
            if stream is not None:
                return torch.load(stream, map_location="cpu", weights_only=True)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=archive)
        except pickle.UnpicklingError as error:
            raise PureError(
                f"{file} holds more than weights (code that loading would run, or it is no PyTorch file); "
                "it was not executed: get the file from its publisher"
            ) from error
        except Exception as error:  # damage meets torch anywhere: assertions, struct errors, type errors, ...
            raise PureError(f"{file} is broken and cannot be read; get the file again") from error


def from_torch_tensor(tensor: torch.Tensor, what: str) -> LazyTensor:
    """A torch tensor on the CPU as a LazyTensor, bit for bit. what: its name in messages.

    Raises:
        PureError: now, if it is not dense or not float32, bfloat16 or float16; when read, if a value is not finite.
    """
    import torch

    dtypes = {
        torch.float32: np.dtype(np.float32),
        torch.float16: np.dtype(np.float16),
        torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    }
    if tensor.dtype not in dtypes:
        raise PureError(f"{what} holds {str(tensor.dtype).removeprefix('torch.')}, but parameters must be floats")
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise PureError(f"{what} is no dense tensor; get the file from its publisher")

    def read(index: Index) -> np.ndarray:
        part = tensor[index] if index else tensor
        # numpy knows no bfloat16 of torch's, but their bits are the same
        whole = part.detach().contiguous()
        array = whole.view(torch.int16).numpy().view(dtypes[tensor.dtype]) if whole.itemsize == 2 else whole.numpy()
        if not all_finite(array):
            raise PureError(f"{what} holds values that are not finite; get the file again")
        return array

    return LazyTensor(tuple(tensor.shape), dtypes[tensor.dtype], read, tensor.shape[0] if tensor.ndim else 1)


def to_torch_tensor(array: np.ndarray) -> torch.Tensor:
    """A numpy array as a torch tensor, bit for bit, sharing its memory where possible."""
    import torch

    array = np.ascontiguousarray(array)
    if not array.flags.writeable:
        array = array.copy()
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def write_pt(file: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write {"model": tensors by name}, all of them in memory at once (an image tokenizer is small). Raises OSError."""
    torch = import_torch(f"writing {file.name}")
    content = {"model": {name: to_torch_tensor(np.asarray(tensor)) for name, tensor in tensors.items()}}
    try:
        torch.save(content, file)
    except RuntimeError as error:  # how torch reports a full disk
        raise OSError(str(error).splitlines()[0]) from error
