"""What lies in an NSARM model directory: every network's parameters by path, from the configuration alone."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from pure_jax.nsarm.conditioning import Captions
from pure_jax.nsarm.config import MapConfig, NsarmConfig, TextConfig, TransformerConfig, VAEConfig
from pure_jax.nsarm.map_network import MapNetwork
from pure_jax.nsarm.text import TextEncoder
from pure_jax.nsarm.transformer import Transformer
from pure_jax.nsarm.vae import VAE

Shapes = dict[str, tuple[int, ...]]


def _of(network: nn.Module, *args: Any, **kwargs: Any) -> Shapes:
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), *args, **kwargs))
    flat = traverse_util.flatten_dict(variables["params"], sep=".")
    shapes = {path: leaf.shape for path, leaf in flat.items()}
    return dict(sorted(shapes.items(), key=lambda item: item[0].split(".")))


@cache
def vae_shapes(config: VAEConfig) -> Shapes:
    """The image tokenizer's."""
    return _of(VAE(config), jnp.zeros((1, config.stride, config.stride, 3)))


@cache
def map_shapes(config: MapConfig, channels: int, sides: tuple[int, ...]) -> Shapes:
    """The map network's, see its fields."""
    side = config.latent_side
    return _of(MapNetwork(config, channels, sides), jnp.zeros((1, side, side, channels)))


@cache
def transformer_shapes(config: TransformerConfig) -> Shapes:
    """The transformer's."""
    # Scanned, a block is traced once, however many layers there are.
    network = Transformer(dataclasses.replace(config, scan_layers=True))
    captions = Captions(jnp.zeros((1, 1, config.text_size)), jnp.ones((1, 1), bool))
    shapes = _of(network, jnp.zeros((1, 0, config.token_bits)), captions, ((1, 1),))
    if not config.scan_layers:
        stack = [path for path in shapes if path.startswith("layers.")]
        layer = {path.removeprefix("layers."): shapes.pop(path)[1:] for path in stack}
        shapes |= {f"layers_{i}.{path}": shape for i in range(config.num_layers) for path, shape in layer.items()}
    return dict(sorted(shapes.items(), key=lambda item: item[0].split(".")))


@cache
def text_shapes(config: TextConfig) -> Shapes:
    """The text encoder's."""
    return _of(TextEncoder(config), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))


def network_shapes(config: NsarmConfig) -> dict[str, Shapes]:
    """All that lies in the directory: three networks; the prompt's features and the text encoder where they do."""
    sides = tuple(config.patch * side for side in config.sides[: config.given_scales])
    shapes = {
        "transformer": transformer_shapes(config.transformer),
        "map_network": map_shapes(config.map_network, config.vae.latent_channels, sides),
        "vae": vae_shapes(config.vae),
    }
    if config.prompt_length:
        shapes["prompt"] = {"features": (config.prompt_length, config.transformer.text_size)}
    if config.text_encoder is not None:
        shapes["text_encoder"] = text_shapes(config.text_encoder)
    return shapes
