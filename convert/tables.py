"""Tables of names: which PyTorch tensor is which parameter here, and how one becomes the other.

A table has one row per kind of tensor and is read in both directions. Nothing is left to chance: every source name
matches exactly one row, every parameter is filled exactly once, with its exact shape; nothing is read while checking.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pure_jax.errors import PureError
from pure_jax.tensors import Index, LazyTensor, transposed

Shape = tuple[int, ...]
Change = Callable[[LazyTensor, Shape], LazyTensor]
"""(tensor, shape wanted) -> tensor, not read yet. Raises ValueError, saying why, where that is impossible."""


@dataclass(frozen=True)
class Transform:
    """What happens to a tensor on the way here, and on the way back."""

    forward: Change
    backward: Change


@dataclass(frozen=True)
class Row:
    """One kind of tensor.

    source: PyTorch name; target: path of the parameter, joined by ".", or None for what a model does not need.
    Both are templates: {field} stands for what the regular expression fields["field"] matches; {layer} and other
    fields without one stand for a number.
    """

    source: str
    target: str | None
    transform: Transform
    fields: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def source_pattern(self) -> re.Pattern[str]:
        return _pattern(self.source, self.fields)

    @cached_property
    def target_pattern(self) -> re.Pattern[str]:
        """Of a row that has a target."""
        return _pattern(str(self.target), self.fields)


def _kept(tensor: LazyTensor, shape: Shape) -> LazyTensor:
    return tensor


def _permuted(axes: Sequence[int], what: str) -> Change:
    def change(tensor: LazyTensor, shape: Shape) -> LazyTensor:
        if len(tensor.shape) != len(axes):
            raise ValueError(f"a {what} has {len(axes)} axes, not {len(tensor.shape)}")
        return transposed(tensor, axes)

    return change


KEEP = Transform(_kept, _kept)
LINEAR = Transform(_permuted((1, 0), "linear kernel"), _permuted((1, 0), "linear kernel"))
"""[out, in] <-> [in, out]."""
CONV = Transform(_permuted((2, 3, 1, 0), "convolution kernel"), _permuted((3, 2, 0, 1), "convolution kernel"))
"""[out, in, height, width] <-> [height, width, in, out]."""

MAP = Transform(_permuted((1, 2, 0), "map"), _permuted((2, 0, 1), "map"))
"""[channels, height, width] <-> [height, width, channels]."""


def squeezed(*axes: int) -> Transform:
    """Without these axes, which have length 1 in PyTorch; counted there, rising."""

    def forward(tensor: LazyTensor, shape: Shape) -> LazyTensor:
        if len(tensor.shape) <= axes[-1] or any(tensor.shape[axis] != 1 for axis in axes):
            raise ValueError(f"its axes {list(axes)} must have length 1")
        return _reindexed(
            tensor,
            tuple(n for axis, n in enumerate(tensor.shape) if axis not in axes),
            lambda index: _with_axes(index, axes, slice(0, 1)),
        )

    def backward(tensor: LazyTensor, shape: Shape) -> LazyTensor:
        return _reindexed(
            tensor,
            _with_axes(tensor.shape, axes, 1),
            lambda index: tuple(part for axis, part in enumerate(index) if axis not in axes),
        )

    return Transform(forward, backward)


def _with_axes(items: tuple, axes: Sequence[int], item: Any) -> tuple:
    out = list(items)
    for axis in axes:
        out.insert(axis, item)
    return tuple(out)


def _reindexed(tensor: LazyTensor, shape: Shape, index_of: Callable[[Index], Index]) -> LazyTensor:
    def read(index: Index) -> np.ndarray:
        part = tensor.read(index_of(index))
        return part.reshape([len(range(n)[own]) for n, own in zip(shape, index, strict=True)])

    return LazyTensor(shape, tensor.dtype, read, shape[0] if shape else 1)


def _one_per_rank(tensor: LazyTensor, shape: Shape) -> LazyTensor:
    """Rows per model-parallel rank, or repeated for every head, -> rows per rank."""
    if tensor.shape == shape or tensor.shape[1:] != shape[1:] or tensor.shape[0] % shape[0]:
        return tensor
    rows = distinct_rows(np.asarray(tensor))
    if shape[0] % rows:
        raise ValueError(f"its {tensor.shape[0]} rows differ within the {shape[0]} groups of model_parallel_size")
    every = tensor.shape[0] // shape[0]
    # Small: read as a whole, whatever part is wanted.
    return LazyTensor(shape, tensor.dtype, lambda index: np.asarray(tensor)[::every][index], shape[0])


def _one_per_head(tensor: LazyTensor, shape: Shape) -> LazyTensor:
    every = shape[0] // tensor.shape[0]
    return LazyTensor(shape, tensor.dtype, lambda index: np.repeat(np.asarray(tensor), every, axis=0)[index], shape[0])


NORM_ROWS = Transform(_one_per_rank, _one_per_head)
"""QK-norm: one row per model-parallel rank in the original and here, one per head in transformers."""


def distinct_rows(x: np.ndarray) -> int:
    """The least number of groups of equal, consecutive rows that [rows, columns] splits into evenly."""
    for groups in range(1, len(x) + 1):
        if len(x) % groups == 0:
            grouped = x.reshape(groups, -1, x.shape[1])
            if np.array_equal(grouped, np.broadcast_to(grouped[:, :1], grouped.shape)):
                return groups
    raise ValueError("a tensor without rows has no groups")


# ---- walking a table -----------------------------------------------------------------------------------------------


def _pattern(template: str, fields: Mapping[str, str]) -> re.Pattern[str]:
    """A template as a regular expression with one named group per field."""
    parts = re.split(r"\{(\w+)\}", template)
    text = re.escape(parts[0])
    for name, literal in zip(parts[1::2], parts[2::2], strict=True):
        text += f"(?P<{name}>{fields.get(name, '[0-9]+')})" + re.escape(literal)
    return re.compile(text)


def matches(name: str, rows: Iterable[Row]) -> list[tuple[Row, dict[str, str]]]:
    """The rows whose source is `name`, each with what its fields stand for."""
    found = [(row, row.source_pattern.fullmatch(name)) for row in rows]
    return [(row, match.groupdict()) for row, match in found if match]


def from_torch(
    tensors: Mapping[str, LazyTensor], rows: Sequence[Row], shapes: Mapping[str, Shape], model: str
) -> tuple[dict[str, LazyTensor], list[str]]:
    """PyTorch tensors by name -> (parameters by path, dtypes unchanged; names of the tensors not needed).

    shapes: of every parameter, by path. model: what error messages call it.
    Raises one PureError that lists all unknown names, wrong shapes, parameters filled twice and parameters left empty.
    """
    filled: dict[str, LazyTensor] = {}
    unused, problems = [], []
    for name, tensor in tensors.items():
        found = matches(name, rows)
        if len(found) != 1:
            problems.append(f"tensor {name!r} is " + ("described twice" if found else "unknown"))
            continue
        row, fields = found[0]
        if row.target is None:
            unused.append(name)
            continue
        path = row.target.format(**fields)
        if path not in shapes:
            problems.append(f"tensor {name!r} has no place in a model of this size")
        elif path in filled:
            problems.append(f"tensor {name!r} would fill {path} a second time")
        else:
            filled[path] = tensor  # also if it does not fit: told once, it is not missing too
            try:
                changed = row.transform.forward(tensor, shapes[path])
            except ValueError as error:
                problems.append(f"tensor {name!r}: {error}")
                continue
            if changed.shape != shapes[path]:
                problems.append(
                    f"tensor {name!r} of shape {list(tensor.shape)} does not fit {path} {list(shapes[path])}"
                )
            filled[path] = changed
    problems += [
        f"tensor {name!r} is missing" for name in _names(shapes.keys() - filled.keys(), rows) if name not in tensors
    ]
    if problems:
        raise PureError(
            f"these tensors are not a {model} checkpoint of the configured size: {'; '.join(_shortened(problems))}"
        )
    return filled, unused


def _origin(path: str, rows: Sequence[Row]) -> tuple[Row, dict[str, str]]:
    """The row that fills a parameter, with what its fields stand for."""
    for row in rows:
        if row.target is not None and (match := row.target_pattern.fullmatch(path)):
            return row, match.groupdict()
    raise ValueError(f"no row of the table fills {path}")


def _names(paths: Iterable[str], rows: Sequence[Row]) -> list[str]:
    """The PyTorch names of parameters, sorted."""
    return sorted(row.source.format(**fields) for row, fields in (_origin(path, rows) for path in paths))


def _shortened(problems: list[str]) -> list[str]:
    """All of them, but those of one kind that differ in numbers only are told once, with their count."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(re.sub(r"[0-9]+", "0", problem), []).append(problem)
    return [own[0] + (f" (and {len(own) - 1} more like it)" if len(own) > 1 else "") for own in kinds.values()]


def to_torch(
    tensors: Mapping[str, LazyTensor], rows: Sequence[Row], shape_of: Callable[[str, Shape], Shape] | None = None
) -> dict[str, LazyTensor]:
    """Parameters by path -> PyTorch tensors by name; the inverse of `from_torch`.

    shape_of: (PyTorch name, the parameter's shape) -> the shape wanted there, for transforms that depend on it.
    """
    out = {}
    for path, tensor in tensors.items():
        row, fields = _origin(path, rows)
        name = row.source.format(**fields)
        out[name] = row.transform.backward(tensor, shape_of(name, tensor.shape) if shape_of else tensor.shape)
    return out
