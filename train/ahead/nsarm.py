"""NSARM's programs for the devices of a mesh, from shapes alone: stage 2's update, and passes that write a picture."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from pure_jax.infer.nsarm.passes import Networks, prefill, write_scale
from pure_jax.infer.nsarm.sampling import SeedNoise
from pure_jax.nsarm.conditioning import Captions, condition
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.nsarm.map_network import MapNetwork
from pure_jax.nsarm.shapes import network_shapes
from pure_jax.nsarm.transformer import Transformer
from pure_jax.nsarm.vae import VAE
from pure_jax.sharding import parameter_sharding
from pure_jax.train.ahead.programs import in_place, placed
from pure_jax.train.nsarm import steps
from pure_jax.train.nsarm.config import ScalesTrainConfig
from pure_jax.train.nsarm.pairs import Pairs
from pure_jax.train.nsarm.stages import NAMED, require_heads
from pure_jax.train.nsarm.told import Told
from pure_jax.train.sharding import ROWS, require_divided, state_shardings

F32 = jnp.float32


def lower_scales_step(config: NsarmConfig, options: ScalesTrainConfig, mesh: Mesh) -> Any:
    """The update of `pure train scales`, with captions where the model has a text encoder, lowered for the mesh.

    Raises:
        PureError: the batch, heads or a parameter cannot be split over the mesh.
    """
    require_heads(config, mesh)
    require_divided(mesh, options.batch, options.accumulate)
    params = {name: _shapes(config, name) for name in ("transformer", "map_network")}
    state = jax.eval_shape(partial(steps.init_state, options=options), params)
    shardings = state_shardings(mesh, state, NAMED)
    text = "prompt" if config.prompt_length else "text_encoder"
    resting = {name: _everywhere(mesh, _shapes(config, name)) for name in ("vae", text)}
    batch, rows = options.batch, partial(placed, mesh)
    low, high = ((batch, side, side, 3) for side in (config.low_quality_size, config.tile_size))
    told = None
    if text == "text_encoder":
        shape = (batch, config.transformer.text_length)
        told = Told(rows(shape, jnp.int32, ROWS), rows(shape, jnp.bool_, ROWS))
    pairs = Pairs(rows(low, jnp.uint8, ROWS), rows(high, jnp.uint8, ROWS), told)
    step: Any = steps.make_step(options, steps.scales_objective(config, options, mesh), shardings)
    return step.lower(in_place(state, shardings), pairs, resting)


def lower_prefill(config: NsarmConfig, mesh: Mesh, batch: int, dtype: Any = jnp.bfloat16) -> Any:
    """The pass over T's scales that fills the cache, lowered for the mesh. Raises PureError as `lower_last_scale`."""
    nets, params, about = _inference(config, mesh, batch, dtype)
    tokens = config.ends[config.given_scales - 1] - 1
    shown = placed(mesh, (batch, tokens, config.transformer.token_bits), F32, ROWS)
    return prefill.lower(nets, params, shown, about)


def lower_last_scale(config: NsarmConfig, mesh: Mesh, batch: int, dtype: Any = jnp.bfloat16) -> Any:
    """The last scale's pass, the largest of those that write a picture, lowered for the mesh.

    Raises:
        PureError: the batch, heads or a parameter cannot be split over the mesh.
    """
    nets, params, about = _inference(config, mesh, batch, dtype)
    tokens = config.ends[config.given_scales - 1] - 1
    shown = jax.ShapeDtypeStruct((batch, tokens, config.transformer.token_bits), F32)
    split = (None, ROWS, "tensor") if config.transformer.scan_layers else (ROWS, "tensor")
    cache = jax.tree.map(
        lambda leaf: placed(mesh, leaf.shape, leaf.dtype, *split),
        jax.eval_shape(partial(prefill, nets), params, shown, about),
    )
    height, width = config.latent_scales[-1]
    total = placed(mesh, (batch, height, width, config.vae.latent_channels), F32, ROWS)
    seed: Any = placed(mesh, (), jnp.uint32)
    scale = len(config.sides) - 1
    images = placed(mesh, (batch,), jnp.int32, ROWS)
    return write_scale.lower(nets, config.sampling, scale, params, about, total, cache, SeedNoise(seed), images)


def _inference(config: NsarmConfig, mesh: Mesh, batch: int, dtype: Any) -> tuple[Networks, dict[str, Any], Any]:
    """The networks, the transformer's parameters in their places, and the conditioning of captions of full length."""
    require_heads(config, mesh)
    require_divided(mesh, batch)
    own = config.transformer
    shapes = network_shapes(config)["transformer"].items()
    params = {
        path: jax.ShapeDtypeStruct(shape, dtype, sharding=parameter_sharding(mesh, f"transformer.{path}", shape))
        for path, shape in shapes
    }
    transformer = unflatten_dict(params, sep=".")
    length = config.prompt_length or own.text_length
    features, valid = (batch, length, own.text_size), (batch, length)
    captions = jax.eval_shape(lambda: Captions(jnp.zeros(features), jnp.zeros(valid, bool)))
    about = jax.eval_shape(partial(condition, own, dtype=dtype), transformer, captions)

    def place(leaf: Any, stacked: bool) -> Any:
        return placed(mesh, leaf.shape, leaf.dtype, *((None, ROWS) if stacked else (ROWS,)))

    others = jax.tree.map(partial(place, stacked=False), about.replace(keys_values=None))
    keys_values = jax.tree.map(partial(place, stacked=own.scan_layers), about.keys_values)
    sides = tuple(side for side, _ in config.latent_scales[: config.given_scales])
    networks = Networks(
        config,
        VAE(config.vae),
        MapNetwork(config.map_network, config.vae.latent_channels, sides),
        Transformer(own, dtype, mesh),
    )
    return networks, {"transformer": transformer}, others.replace(keys_values=keys_values)


def _shapes(config: NsarmConfig, network: str) -> Any:
    shapes = network_shapes(config)[network].items()
    return unflatten_dict({path: jax.ShapeDtypeStruct(shape, F32) for path, shape in shapes}, sep=".")


def _everywhere(mesh: Mesh, shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: placed(mesh, leaf.shape, leaf.dtype), shapes)
