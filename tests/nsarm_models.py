"""Tiny NSARM models: the PyTorch networks of `tests.torch_nsarm` with random weights, and the same in this library."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pure_jax.convert.nsarm.names import MAP_PREFIX, TRANSFORMER_ROWS, map_rows, vae_rows
from pure_jax.convert.tables import from_torch
from pure_jax.nsarm.config import NsarmConfig, tiny
from pure_jax.nsarm.model import NsarmModel
from pure_jax.nsarm.shapes import network_shapes
from pure_jax.transformer import stack_layers
from tests import torch_nsarm
from tests.nsarm_bridge import lazy, nested

PROMPT_LENGTH = 3


class Pair(NamedTuple):
    """The same weights twice."""

    model: NsarmModel
    infinity: torch_nsarm.Infinity
    vae: torch_nsarm.VAE


def tiny_config(**changes: Any) -> NsarmConfig:
    """The preset `tiny`, layers unrolled, with the features of a prompt."""
    config = tiny()
    transformer = dataclasses.replace(config.transformer, scan_layers=False)
    return dataclasses.replace(config, **({"transformer": transformer, "prompt_length": PROMPT_LENGTH} | changes))


@lru_cache
def tiny_pair(seed: int = 0, **changes: Any) -> Pair:
    """Random weights and lively logits; float32. `changes` as in `tiny_config`."""
    config = tiny_config(**changes)
    infinity = torch_nsarm.randomised(torch_nsarm.Infinity(config), seed)
    infinity.head.weight.data *= 3.0
    vae = torch_nsarm.randomised(torch_nsarm.VAE(config.vae), seed + 1)
    unrolled = dataclasses.replace(config.transformer, scan_layers=False)
    shapes = network_shapes(dataclasses.replace(config, transformer=unrolled))
    named = lazy(infinity)
    of_map = {name: tensor for name, tensor in named.items() if name.startswith(MAP_PREFIX)}
    rest = {name: tensor for name, tensor in named.items() if name not in of_map}
    params = {
        "transformer": nested(from_torch(rest, TRANSFORMER_ROWS, shapes["transformer"], "test")[0]),
        "map_network": nested(from_torch(of_map, map_rows(config.map_network), shapes["map_network"], "test")[0]),
        "vae": nested(from_torch(lazy(vae), vae_rows(config.vae), shapes["vae"], "test")[0]),
    }
    if config.prompt_length:
        features = np.random.default_rng(seed).normal(size=shapes["prompt"]["features"])
        params["prompt"] = {"features": jnp.asarray(features, jnp.float32)}
    if config.transformer.scan_layers:
        params["transformer"] = stack_layers(params["transformer"])
    return Pair(NsarmModel(config, params, None, None), infinity, vae)
