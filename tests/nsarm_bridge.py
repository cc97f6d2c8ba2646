"""From the PyTorch networks of the parity report to parameters of this library, through the converter's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from torch import nn

from pure_jax.convert.tables import Row, from_torch
from pure_jax.tensors import LazyTensor, in_memory


def lazy(module: nn.Module) -> dict[str, LazyTensor]:
    """A module's parameters, without its buffers, by their names."""
    return {name: in_memory(p.detach().numpy()) for name, p in module.named_parameters()}


def params_of(module: nn.Module, rows: Sequence[Row], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """A module's parameters as nested dicts of this library's."""
    tensors, unused = from_torch(lazy(module), rows, shapes, "test")
    assert unused == []
    return nested(tensors)


def nested(tensors: Mapping[str, LazyTensor]) -> dict[str, Any]:
    """Parameters by path, as nested dicts in memory."""
    return traverse_util.unflatten_dict({p: jax.device_put(np.asarray(t)) for p, t in tensors.items()}, sep=".")
