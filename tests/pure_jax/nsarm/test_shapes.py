"""What lies in a model directory, and how it is spread over devices."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from pure_jax.nsarm.config import TextConfig
from pure_jax.nsarm.presets import transformer_preset
from pure_jax.nsarm.shapes import network_shapes, transformer_shapes
from pure_jax.sharding import parameter_sharding
from tests.nsarm_models import TEXT, tiny_config


def test_optional_networks_are_there_when_the_configuration_says_so():
    both = network_shapes(tiny_config(text_encoder=TEXT))
    neither = network_shapes(tiny_config(prompt_length=0))
    assert set(neither) == {"transformer", "map_network", "vae"}
    assert set(both) == {*neither, "prompt", "text_encoder"} and both["prompt"] == {"features": (3, 24)}
    assert TextConfig().hidden_size == 2048


def test_all_of_a_blocks_large_matrices_are_split():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    split = {}
    for path, shape in transformer_shapes(transformer_preset("8b")).items():
        if path.startswith("layers.") and len(shape) == 3:
            split[path] = tuple(parameter_sharding(mesh, f"transformer.{path}", shape).spec)
    assert {name for name, axes in split.items() if not any(axes)} == {"layers.ada"}
    assert split["layers.self_attn.qkv.kernel"] == (None, "fsdp", "tensor")
    assert split["layers.fc2.kernel"] == (None, "tensor", "fsdp")
