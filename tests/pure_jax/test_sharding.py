"""The table of shardings fits every parameter, and a model loaded over a mesh is the model loaded on one device."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from pure_jax.config import PRESETS, ModelConfig, pure_7b
from pure_jax.errors import PureError
from pure_jax.pure import parameter_shapes
from pure_jax.sharding import MESH_AXES, make_mesh, parameter_sharding
from tests.upstream import write_model


def mesh(data: int, fsdp: int, tensor: int) -> AbstractMesh:
    return AbstractMesh((data, fsdp, tensor), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    networks = {name: parameter_shapes(getattr(config, name)) for name in ("transformer", "vqgan")}
    return {f"{name}.{path}": shape for name, own in networks.items() for path, shape in own.items()}


def specs(preset: str, over: AbstractMesh | Mesh) -> dict[str, PartitionSpec]:
    return {path: parameter_sharding(over, path, shape).spec for path, shape in shapes(PRESETS[preset]()).items()}


def test_the_7b_model_is_spread_over_a_pod() -> None:
    found = specs("pure_7b", mesh(4, 16, 4))
    assert found["transformer.embed.embedding"] == PartitionSpec("tensor", "fsdp")
    assert found["transformer.lm_head.kernel"] == PartitionSpec("fsdp", "tensor")
    assert found["transformer.layers.mlp.down_proj.kernel"] == PartitionSpec(None, "tensor", "fsdp")
    assert found["transformer.layers.self_attn.k_proj.kernel"] == PartitionSpec(None, "fsdp", "tensor")
    whole = {path for path, spec in found.items() if set(spec) <= {None}}
    assert all("norm" in path or path.startswith("vqgan.") for path in whole)
    language = {path: math.prod(s) for path, s in shapes(pure_7b()).items() if path.startswith("transformer.")}
    assert sum(size for path, size in language.items() if path in whole) < 1e-4 * sum(language.values())


def test_unrolled_layers_have_the_same_rows() -> None:
    assert specs("demo", mesh(1, 2, 1))["transformer.layers_5.mlp.up_proj.kernel"] == PartitionSpec("fsdp", "tensor")


def test_scales_of_int8_kernels_are_split_like_the_output_channels() -> None:
    over = mesh(1, 2, 2)
    for layer, axis in (("mlp.up_proj", "tensor"), ("mlp.down_proj", "fsdp"), ("self_attn.o_proj", "fsdp")):
        assert parameter_sharding(over, f"transformer.layers.{layer}.scale", (2, 48)).spec == PartitionSpec(None, axis)
    assert parameter_sharding(over, "vqgan.encoder.norm_out.scale", (32,)).spec == PartitionSpec(None)


def test_an_axis_that_the_mesh_lacks_splits_nothing() -> None:
    over = AbstractMesh((4,), ("fsdp",), axis_types=(AxisType.Auto,))
    assert specs("tiny", over)["transformer.embed.embedding"] == PartitionSpec(None, "fsdp")


def test_a_size_that_cannot_be_split_is_named() -> None:
    with pytest.raises(PureError, match="up_proj.kernel: its mlp axis of 48 cannot be split over 5 devices"):
        parameter_sharding(mesh(1, 1, 5), "transformer.layers_0.mlp.up_proj.kernel", (32, 48))


def test_explicit_axes_are_refused() -> None:
    explicit = AbstractMesh((2,), ("fsdp",), axis_types=(AxisType.Explicit,))
    with pytest.raises(PureError, match="explicit axes.*; make it with make_mesh"):
        parameter_sharding(explicit, "transformer.norm.weight", (32,))


def test_a_mesh_has_as_many_places_as_devices() -> None:
    devices = jax.devices("cpu")[:1]
    assert dict(make_mesh(devices=devices).shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    with pytest.raises(PureError, match="2 x 1 x 1 .* does not fit 1 devices"):
        make_mesh(data=2, devices=devices)
    with pytest.raises(PureError, match="does not fit 1 devices"):
        make_mesh(data=-1, fsdp=-1, devices=devices)


SHARDED = """
import json, sys
import jax, numpy as np, jax.numpy as jnp
import pure_jax
from pure_jax import tensors
from pure_jax.sharding import make_mesh

read = []
fromfile, memmap = np.fromfile, np.memmap
def counted(file, dtype, count, *, offset):
    read.append(count * np.dtype(dtype).itemsize)
    return fromfile(file, dtype, count, offset=offset)
class Counted(memmap):
    def __getitem__(self, index):
        part = memmap.__getitem__(self, index)
        read.append(part.nbytes)
        return part
np.fromfile, np.memmap = counted, Counted

mesh = make_mesh(data=2, fsdp=2, tensor=2)
out = {}
for scan in (True, False):
    spread = pure_jax.load(sys.argv[1], mesh=mesh, scan_layers=scan)
    out["read"] = sum(read)
    whole = pure_jax.load(sys.argv[1], scan_layers=scan)
    del read[:]
    equal, most = True, 0
    for a, b in zip(jax.tree.leaves(spread.params), jax.tree.leaves(whole.params), strict=True):
        equal &= a.dtype == b.dtype and all(
            np.array_equal(shard.data, np.asarray(b)[shard.index]) for shard in a.addressable_shards
        )
    kernel = spread.params["transformer"]["lm_head"]["kernel"]
    tokens = jnp.arange(24).reshape(2, 12)
    positions = jnp.broadcast_to(jnp.arange(12), (2, 12))
    logits = [
        np.asarray(jax.jit(m.transformer.apply)({"params": m.params["transformer"]}, tokens, positions)[0])
        for m in (spread, whole)
    ]
    out[str(scan)] = {
        "equal": equal,
        "shard": [list(s.data.shape) for s in kernel.addressable_shards],
        "logits": float(np.abs(logits[0] - logits[1]).max()),
    }
print(json.dumps(out))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["torch", "flax"])
def test_a_model_loaded_over_eight_devices_is_the_same_model(tmp_path: Path, layout: str) -> None:
    directory = write_model(tmp_path / "torch")
    if layout == "flax":
        from pure_jax.convert.command import Convert

        Convert(source=str(directory), destination=tmp_path / "flax").run()
        directory = tmp_path / "flax"
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SHARDED, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | flags)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for scan in ("True", "False"):
        assert report[scan]["equal"]
        assert report[scan]["shard"] == [[16, 256]] * 8  # 32 x 512 over fsdp and tensor
        assert report[scan]["logits"] < 1e-5
    # Two copies (axis data) of every part are on the devices, but each part of the language model is read once.
    language = sum(t.nbytes for t in _language_tensors(directory))
    assert report["read"] <= 1.02 * language + (0 if layout == "torch" else _size(directory / "vqgan.safetensors"))


def _size(file: Path) -> int:
    return file.stat().st_size


def _language_tensors(directory: Path) -> list:
    from pure_jax.tensors import open_safetensors

    files = [file for file in directory.glob("*.safetensors") if not file.name.startswith("vqgan")]
    return [t for file in files for name, t in open_safetensors(file).items() if "vqmodel" not in name]
