"""Tiny NSARM models: the PyTorch networks of the parity report with random weights, and the same in this library."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import T5Config, T5EncoderModel

from pure_jax.convert.nsarm import torch_networks
from pure_jax.convert.nsarm.names import MAP_PREFIX, TEXT_ROWS, TRANSFORMER_ROWS, map_rows, vae_rows
from pure_jax.convert.tables import from_torch
from pure_jax.nsarm.config import MapConfig, NsarmConfig, TextConfig
from pure_jax.nsarm.model import NsarmModel
from pure_jax.nsarm.presets import tiny
from pure_jax.nsarm.shapes import network_shapes, text_shapes
from pure_jax.transformer import stack_layers
from tests.nsarm_bridge import lazy, nested

PROMPT_LENGTH = 3
FEW_SCALES: dict[str, Any] = {
    "sides": (1, 2, 4),
    "map_network": MapConfig(latent_side=2, stem=(6, 8), widths=(8, 12), layers=(1, 1), heads=(2, 2), dropout=0.0),
}
"""Changes of `tiny_config` for what is compiled often: T writes two of three scales, and 4 pixels are made 16."""


class Pair(NamedTuple):
    """The same weights twice."""

    model: NsarmModel
    infinity: torch_networks.Infinity
    vae: torch_networks.VAE


def tiny_config(**changes: Any) -> NsarmConfig:
    """The preset `tiny`, layers unrolled, with the features of a prompt."""
    config = tiny()
    transformer = dataclasses.replace(config.transformer, scan_layers=False)
    return dataclasses.replace(config, **({"transformer": transformer, "prompt_length": PROMPT_LENGTH} | changes))


@lru_cache
def tiny_pair(seed: int = 0, **changes: Any) -> Pair:
    """Random weights and lively logits; float32. `changes` as in `tiny_config`."""
    config = tiny_config(**changes)
    infinity = torch_networks.randomised(torch_networks.Infinity(config), seed)
    infinity.head.weight.data *= 3.0
    vae = torch_networks.randomised(torch_networks.VAE(config.vae), seed + 1)
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


TEXT = TextConfig(
    vocab_size=40, hidden_size=24, intermediate_size=40, num_layers=2, num_heads=3, head_dim=8, max_distance=24
)
WORDS = ["<pad>", "</s>", "<unk>", "a", "cat", "small", "house"]


@lru_cache
def text_encoder(seed: int = 0) -> T5EncoderModel:
    """transformers' T5 of the sizes TEXT."""
    config = T5Config(
        vocab_size=TEXT.vocab_size,
        d_model=TEXT.hidden_size,
        d_ff=TEXT.intermediate_size,
        num_layers=TEXT.num_layers,
        num_heads=TEXT.num_heads,
        d_kv=TEXT.head_dim,
        relative_attention_num_buckets=TEXT.num_buckets,
        relative_attention_max_distance=TEXT.max_distance,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    torch.manual_seed(seed)
    model = T5EncoderModel(config).eval()
    for name, p in model.named_parameters():
        scale = 0.3 if "relative" in name else 1.0 if name.startswith("shared") else p.shape[-1] ** -0.5
        p.data = 1 + 0.2 * torch.randn_like(p) if p.ndim == 1 else scale * torch.randn_like(p)
    return model


@lru_cache
def tokenizer() -> Tokenizer:
    """Whole words."""
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    made.pre_tokenizer = Whitespace()
    return made


def reading_model(sizes: dict[str, Any] | None = None, **changes: Any) -> NsarmModel:
    """`tiny_pair`'s of these sizes, which reads captions, too."""
    own = tiny_pair(**(sizes or {})).model
    text = nested(from_torch(lazy(text_encoder()), TEXT_ROWS, text_shapes(TEXT), "test")[0])
    config = dataclasses.replace(own.config, text_encoder=TEXT, prompt="a small house", **changes)
    return dataclasses.replace(own, config=config, params=own.params | {"text_encoder": text}, tokenizer=tokenizer())
