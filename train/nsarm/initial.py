"""Weights to start from, and which of them decay. Source: Infinity's code."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import Array

from pure_jax.nsarm.conditioning import Captions
from pure_jax.nsarm.config import NsarmConfig, TransformerConfig
from pure_jax.nsarm.map_network import map_network
from pure_jax.nsarm.transformer import Transformer

SMALL_HEAD_ADA, SMALL_HEAD, SMALL_ADA, SMALL_GAMMA = 1e-3, 0.02, 1e-3, 5e-6
NULL_TEXT_STD = 1.2
"""Times 1 / sqrt(text_size)."""

UNDECAYED = {"bias", "scale", "weight", "q_bias", "v_bias", "pool_v_bias", "factor"}
UNDECAYED |= {"null_text", "start", "level_embed", "ada", "pool_query"}
"""Names of parameters without weight decay: vectors, biases, norms, embeddings, modulations, the pooling query."""


def initial_transformer(config: TransformerConfig, params: Any, key: Array) -> Any:
    """`params` replaced by fresh ones: matrices normal, cut at two deviations; what ends a branch, and the head, small.

    The blocks begin as almost the identity: their gates are 5e-6.
    """
    width, flat = config.hidden_size, traverse_util.flatten_dict(params)
    std = (1 / (3 * width)) ** 0.5
    ends = (2 * config.num_layers) ** -0.5

    def fresh(path: tuple[str, ...], leaf: Array, key: Array) -> Array:
        name, owner = path[-1], path[-2] if len(path) > 1 else ""
        if name == "ada":
            sizes = jnp.array([SMALL_GAMMA] * 2 + [SMALL_ADA] * 4)[:, None]
            return jax.random.normal(key, leaf.shape) * sizes * width**-0.5
        if name == "null_text":
            return _cut(key, leaf.shape, NULL_TEXT_STD * config.text_size**-0.5)
        if name in UNDECAYED - {"start", "level_embed", "pool_query"}:
            return leaf  # zeros, ones, and the scores' factor
        small = {"head_ada": SMALL_HEAD_ADA, "head": SMALL_HEAD}.get(owner, 1.0)
        in_block = any(part.startswith("layers") for part in path)
        small *= ends if in_block and owner in ("proj", "fc2") else 1.0
        return _cut(key, leaf.shape, std * small)

    keys = jax.random.split(key, len(flat))
    return traverse_util.unflatten_dict(
        {path: fresh(path, leaf, k) for (path, leaf), k in zip(flat.items(), keys, strict=True)}
    )


def _cut(key: Array, shape: tuple[int, ...], std: float) -> Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, shape) * std


@partial(jax.jit, static_argnames=("config", "networks", "seed"))
def initial_params(config: NsarmConfig, networks: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Fresh float32 parameters of "transformer" and "map_network".

    The map network's are Linen's defaults, its published ones being unknown.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    params: dict[str, Any] = {}
    if "map_network" in networks:
        side, channels = config.map_network.latent_side, config.vae.latent_channels
        params["map_network"] = map_network(config).init(keys[0], jnp.zeros((1, side, side, channels)))["params"]
    if "transformer" in networks:
        sizes = config.transformer
        captions = Captions(jnp.zeros((1, 1, sizes.text_size)), jnp.ones((1, 1), bool))
        zeros = jnp.zeros((1, 0, sizes.token_bits))
        made = Transformer(sizes).init(keys[1], zeros, captions, ((1, 1),))["params"]
        params["transformer"] = initial_transformer(sizes, made, keys[2])
    return params


def decays(params: Any) -> Any:
    """What weight decay acts on."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in UNDECAYED, params)
