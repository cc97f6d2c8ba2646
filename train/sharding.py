"""A training state over the devices of a mesh: parameters and what the optimiser keeps of them by one table, batches
by their rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pure_jax.errors import PureError
from pure_jax.sharding import MESH_AXES, make_mesh, parameter_sharding

ROWS = ("data", "fsdp")
"""Mesh axes that a batch is split over."""


def mesh_sizes(text: str) -> tuple[int, int, int]:
    """ "data=2,fsdp=4" -> devices along (data, fsdp, tensor); an axis that is not named has one.

    Raises:
        PureError: it is no such list.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)=([0-9]{1,6})\s*", part)
        if match is None or match[1] not in MESH_AXES or match[1] in sizes:
            raise PureError(f"the mesh is {text!r}; write it as data=2,fsdp=4, with axes of {', '.join(MESH_AXES)}")
        sizes[match[1]] = int(match[2])
    return sizes.get("data", 1), sizes.get("fsdp", 1), sizes.get("tensor", 1)


def read_mesh(text: str) -> Mesh:
    """A mesh of all devices, of all processes, from `mesh_sizes`' text.

    Raises:
        PureError: what `mesh_sizes` refuses, or there are other numbers of devices.
    """
    return make_mesh(*mesh_sizes(text))


def state_shardings(mesh: Mesh, state: Any, network: str = "transformer") -> Any:
    """Shardings like `state` (arrays or shapes). A leaf below a parameter's path lies as that parameter does, be it the
    parameter, its average or the optimiser's moments; all others are whole everywhere.

    network: of which the paths in the state are; "" where they begin with a network's name.

    Raises:
        PureError: an axis cannot be split over the mesh.
    """

    def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        # What precedes an attribute is the optimiser's own, such as which of two methods a part of the state is of.
        names = [key.key for key in takewhile(lambda key: isinstance(key, jax.tree_util.DictKey), reversed(path))][::-1]
        if not names:
            return NamedSharding(mesh, PartitionSpec())
        return parameter_sharding(mesh, ".".join([network, *names] if network else names), leaf.shape)

    return jax.tree_util.tree_map_with_path(of, state)


def born_sharded(make: Callable[[], Any], mesh: Mesh, network: str = "transformer") -> Any:
    """make() as one compiled program whose results lie where they belong from the beginning; nothing is whole before.

    make: gives a training state; without arguments. network: see `state_shardings`.
    """
    shardings = state_shardings(mesh, jax.eval_shape(make), network)
    return jax.jit(make, out_shardings=shardings)()


def born_from(make: Callable[[Any], Any], params: Any, mesh: Mesh | None, network: str = "transformer") -> Any:
    """make(params) likewise, from parameters that are where they belong; without a mesh, on their device."""
    if mesh is None:
        return jax.jit(make)(params)
    return jax.jit(make, out_shardings=state_shardings(mesh, jax.eval_shape(make, params), network))(params)


def on_every_device(mesh: Mesh | None, state: Any) -> Any:
    """The state, whole, on each device of a mesh; without one, as it is."""
    return state if mesh is None else jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def spread(mesh: Mesh, batch: Any) -> Any:
    """Arrays [rows, ...] split by their rows; every process needs to have what its own devices get, and may have all.

    Raises:
        PureError: the rows cannot be split over the mesh.
    """

    def put(array: np.ndarray) -> jax.Array:
        require_divided(mesh, len(array))
        return jax.make_array_from_callback(
            array.shape, NamedSharding(mesh, PartitionSpec(ROWS)), lambda index: array[index]
        )

    return jax.tree.map(put, batch)


def require_divided(mesh: Mesh, batch: int, accumulate: int = 1) -> None:
    """Raise PureError unless the batch, or each of its `accumulate` parts, can be split over the mesh."""
    parts = int(np.prod([mesh.shape[axis] for axis in ROWS]))
    if batch // accumulate % parts:
        what = f"a batch of {batch}" if accumulate == 1 else f"a batch of {batch} in {accumulate} parts"
        raise PureError(f"{what} cannot be split over {parts} devices (data x fsdp); choose a multiple of them")


def rows_needed(mesh: Mesh | None, batch: int, accumulate: int = 1) -> list[int]:
    """The rows of a batch that devices of this process take, see `spread`, and what it raises; all without a mesh."""
    if mesh is None:
        return list(range(batch))
    require_divided(mesh, batch, accumulate)
    parts = NamedSharding(mesh, PartitionSpec(ROWS)).addressable_devices_indices_map((batch,)).values()
    return sorted({row for part in parts if part is not None for row in range(*part[0].indices(batch))})
