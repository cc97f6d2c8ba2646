"""How a model is spread over devices: the mesh, and one table from parameter path to mesh axes.

Mesh axes: "data" splits the batch and copies the parameters, "fsdp" splits parameters that are gathered when used,
"tensor" splits each product. A mesh may have any of them; an axis it lacks splits nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pure_jax.errors import PureError

MESH_AXES = ("data", "fsdp", "tensor")

RULES = {"vocab": "tensor", "embed": "fsdp", "heads": "tensor", "mlp": "tensor"}
"""Logical axis -> mesh axis."""

PARAMETER_AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"transformer\.(embed|codes)\.embedding", ("vocab", "embed")),
    (r"transformer\.(lm_head\.kernel|codes\.head)", ("embed", "vocab")),
    (r"transformer\.layers(_\d+)?\.self_attn\.[qkv]_proj\.kernel", ("embed", "heads")),
    (r"transformer\.layers(_\d+)?\.self_attn\.o_proj\.kernel", ("heads", "embed")),
    (r"transformer\.layers(_\d+)?\.mlp\.(gate|up)_proj\.kernel", ("embed", "mlp")),
    (r"transformer\.layers(_\d+)?\.mlp\.down_proj\.kernel", ("mlp", "embed")),
    (r"transformer\.layers(_\d+)?\.(self_attn\.qkv|cross_attn\.q)\.kernel", ("embed", "heads")),
    (r"transformer\.layers(_\d+)?\.cross_attn\.kv", ("embed", "heads")),
    (r"transformer\.layers(_\d+)?\.(self|cross)_attn\.proj\.kernel", ("heads", "embed")),
    (r"transformer\.layers(_\d+)?\.fc1\.kernel", ("embed", "mlp")),
    (r"transformer\.layers(_\d+)?\.fc2\.kernel", ("mlp", "embed")),
    (r".*", ()),  # norms and the image tokenizer: small, and whole on every device
)
"""Pattern of the parameter path -> its last axes' logical names; the first row that matches counts. A stacked
parameter has one more axis in front, the layers, which is never split."""


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor.

    devices: None takes all; there must be data * fsdp * tensor of them.

    Raises:
        PureError: the sizes do not multiply to the number of devices.
    """
    shape = (data, fsdp, tensor)
    count = len(jax.devices() if devices is None else devices)
    if min(shape) < 1 or math.prod(shape) != count:
        raise PureError(f"a mesh of {data} x {fsdp} x {tensor} (data, fsdp, tensor) does not fit {count} devices")
    if devices is not None:
        return Mesh(np.array(devices).reshape(shape), MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def parameter_sharding(mesh: Mesh, path: str, shape: tuple[int, ...]) -> NamedSharding:
    """Where a parameter lives.

    path: network and parameter, joined by ".": "transformer.layers.mlp.up_proj.kernel".

    Raises:
        PureError: an axis is not a multiple of the devices it is split over, or the mesh's axes are explicit.
    """
    if AxisType.Explicit in mesh.axis_types:
        raise PureError("the mesh has explicit axes, which the model does not annotate; make it with make_mesh")
    of = re.sub(r"\.scale$", ".kernel", path)
    names = next(axes for pattern, axes in PARAMETER_AXES if re.fullmatch(pattern, of))
    names = names if of == path else names[-1:]  # the scale of an int8 kernel: one for each output channel
    spec: list[str | None] = [None] * (len(shape) - len(names))
    for name, size in zip(names, shape[len(spec) :], strict=True):
        axis = RULES[name] if RULES[name] in mesh.shape else None
        if axis is not None and size % mesh.shape[axis]:
            raise PureError(
                f"{path}: its {name} axis of {size} cannot be split over {mesh.shape[axis]} devices ({axis}); "
                "choose a mesh that divides it"
            )
        spec.append(axis)
    return NamedSharding(mesh, PartitionSpec(*spec))
