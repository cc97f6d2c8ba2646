"""PyTorch <-> Flax: published checkpoints to this library's parameters, by tables of names.

A table has one row per kind of tensor. `translate` walks it and leaves nothing to chance: every source name matches
exactly one row, every leaf of the model is filled exactly once, with its exact shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import traverse_util

from pure_jax.errors import PureError

Transform = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
"""(source tensor, shape of the leaf) -> the leaf. Raises ValueError, saying why, where that is impossible."""

SHOWN = 5
"""Problems spelled out in an error; a wrong file has hundreds, and they all look alike."""


@dataclass(frozen=True)
class Row:
    """One kind of tensor: torch names that fully match `source` go, transformed, to the path `target`, or nowhere."""

    source: str
    target: str | None
    transform: Transform


def keep(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return x


def linear_kernel(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[out, in] -> [in, out]."""
    return np.ascontiguousarray(x.T)


def conv_kernel(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[out, in, height, width] -> [height, width, in, out]."""
    if x.ndim != 4:
        raise ValueError(f"a convolution kernel has 4 axes, not {x.ndim}")
    return np.ascontiguousarray(x.transpose(2, 3, 1, 0))


def translate(tensors: Mapping[str, np.ndarray], rows: Sequence[Row], shapes: Any, model: str) -> dict[str, Any]:
    """Torch tensors by name -> nested dict of arrays with the structure of `shapes`, dtypes unchanged.

    shapes: nested dict whose leaves have `.shape` (from `jax.eval_shape`). model: what error messages call it.
    Raises one PureError that lists unknown names, wrong shapes, leaves filled twice and leaves left empty.
    """
    leaves = traverse_util.flatten_dict(shapes, sep="/")
    filled: dict[str, np.ndarray] = {}
    problems = []
    for name, tensor in tensors.items():
        matches = [(row, m) for row in rows if (m := re.fullmatch(row.source, name))]
        if len(matches) != 1:
            problems.append(f"tensor {name!r} is " + ("described twice" if matches else "unknown"))
            continue
        row, match = matches[0]
        if row.target is None:
            continue
        path = match.expand(row.target)
        if path not in leaves:
            problems.append(f"tensor {name!r} has no place in a model of this size")
        elif path in filled:
            problems.append(f"tensor {name!r} would fill {path} a second time")
        else:
            try:
                filled[path] = row.transform(tensor, leaves[path].shape)
            except ValueError as e:
                problems.append(f"tensor {name!r}: {e}")
                filled[path] = tensor  # told already, so not missing too
                continue
            if filled[path].shape != leaves[path].shape:
                problems.append(f"tensor {name!r} of shape {tensor.shape} does not fit {path} {leaves[path].shape}")
    problems += [f"nothing fills {path}" for path in leaves if path not in filled]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise PureError(
            f"these tensors are not a {model} checkpoint of the configured size: {'; '.join(problems[:SHOWN])}{more}"
        )
    return traverse_util.unflatten_dict(filled, sep="/")
