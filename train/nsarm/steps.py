"""NSARM's two stages as pure updates: the map network alone, then both networks on the sequence it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from pure_jax.nsarm.conditioning import Captions
from pure_jax.nsarm.config import NsarmConfig, text_config
from pure_jax.nsarm.map_network import map_network
from pure_jax.nsarm.text import TextEncoder
from pure_jax.nsarm.transformer import Transformer
from pure_jax.nsarm.vae import VAE
from pure_jax.train.nsarm.config import MapTrainConfig, ScalesTrainConfig
from pure_jax.train.nsarm.initial import decays
from pure_jax.train.nsarm.pairs import Pairs
from pure_jax.train.nsarm.targets import bit_loss, map_loss, map_targets, random_flips, taught, token_weights
from pure_jax.train.nsarm.told import Told
from pure_jax.train.optimiser import adamw, learning_rate, muon
from pure_jax.train.updating import TrainState, compiled_step, fresh_state, over_parts, updated
from pure_jax.vqgan import from_pixels

Resting = Mapping[str, Any]
"""Parameters that are read and not trained, by network: "vae"; in stage 2 "prompt" or "text_encoder", too."""
Objective = Callable[[Any, Resting, Pairs, Array], tuple[Array, dict[str, Array]]]
"""(parameters by network, what rests, batch, key) -> (float32 [], metrics)."""
Step = Callable[[TrainState, Pairs, Resting], tuple[TrainState, dict[str, Array]]]
"""A jitted update (state, batch, what rests) -> (state, metrics)."""


def _optimiser(options: MapTrainConfig | ScalesTrainConfig) -> optax.GradientTransformation:
    if options.muon:
        return muon(options.optimiser, options.steps, options.muon, decay_rest=False)
    return adamw(options.optimiser, options.steps, decays)


def init_state(params: Any, options: MapTrainConfig | ScalesTrainConfig) -> TrainState:
    """From these parameters, networks by name, on."""
    return fresh_state(_optimiser(options), params, _ema_decay(options))


def _ema_decay(options: MapTrainConfig | ScalesTrainConfig) -> float:
    return options.ema_decay if isinstance(options, ScalesTrainConfig) else 0.0


def make_step(options: MapTrainConfig | ScalesTrainConfig, objective: Objective, shardings: Any = None) -> Step:
    """A stage's jitted update, see `pure_jax.train.updating`: losses and gradients are means over the batch, in however
    many parts it is computed."""
    tx, parts = _optimiser(options), options.accumulate

    def step_fn(state: TrainState, pairs: Pairs, resting: Resting) -> tuple[TrainState, dict[str, Array]]:
        def share(part: Pairs, key: Array) -> tuple[Any, dict[str, Array]]:
            found = jax.grad(objective, has_aux=True)(state.params, resting, part, key)
            return jax.tree.map(lambda x: x / parts, found)

        key = jax.random.fold_in(jax.random.key(options.seed), state.step)
        grads, metrics = over_parts(share, partial(jax.tree.map, jnp.add), pairs, key, parts)
        rate = learning_rate(options.optimiser, options.steps)(state.step)
        return updated(state, grads, tx, _ema_decay(options), metrics | {"learning_rate": rate})

    return compiled_step(step_fn, shardings)


def map_objective(config: NsarmConfig, options: MapTrainConfig) -> Objective:
    """Stage 1's loss. The image tokenizer rests."""
    vae: Any = VAE(config.vae)
    net: Any = map_network(config)

    def loss_fn(params: Any, resting: Resting, pairs: Pairs, key: Array) -> tuple[Array, dict[str, Array]]:
        low, features = (vae.apply({"params": resting["vae"]}, from_pixels(x), method="encode") for x in pairs[:2])
        found = net.apply({"params": params["map_network"]}, low, False, rngs={"dropout": key})
        targets = map_targets(features, found, config)
        loss = map_loss(found, targets, options.loss)
        right = jnp.stack([((r > 0) == (t > 0)).mean() for r, t in zip(found, targets, strict=True)])
        return loss, {"loss": loss, "bits_right": right.mean(), "bits_right_finest": right[-1]}

    return loss_fn


def scales_objective(config: NsarmConfig, options: ScalesTrainConfig, mesh: Mesh | None = None) -> Objective:
    """Stage 2's loss. The image tokenizer and the text encoder rest; without captions all pictures have the model's
    prompt. mesh: devices that the batch lies on."""
    dtype = jnp.dtype(options.compute_dtype)
    sizes = dataclasses.replace(config.transformer, remat=options.remat or config.transformer.remat)
    vae: Any = VAE(config.vae)
    net, mapped = Transformer(sizes, dtype, mesh), map_network(config)
    first = config.given_scales if options.first_scored is None else options.first_scored
    weights = jnp.asarray(token_weights(config, first, options.reweight))
    drawn = jnp.asarray(token_weights(config, config.given_scales, False) > 0)

    def loss_fn(params: Any, resting: Resting, pairs: Pairs, key: Array) -> tuple[Array, dict[str, Array]]:
        low, features = (vae.apply({"params": resting["vae"]}, from_pixels(x), method="encode") for x in pairs[:2])
        count = len(low)
        map_key, flip_key, hidden_key, drop_key = jax.random.split(key, 4)
        residuals: Any = mapped.apply({"params": params["map_network"]}, low, False, rngs={"dropout": map_key})
        if not options.train_map:
            residuals = jax.lax.stop_gradient(residuals)
        flips = random_flips(flip_key, config, count, options.largest_flip) if options.largest_flip else None
        sequence = taught(features, residuals, config, options.next_input or config.next_input, flips)
        text, valid = _text(config, resting, pairs.told, count, dtype)
        captions = Captions(text, valid, jax.random.bernoulli(hidden_key, options.hidden_share, (count,)))
        written: Any = net.apply(
            {"params": params["transformer"]}, sequence.tokens, captions, config.scales,
            deterministic=False, rngs={"dropout": drop_key},
        )  # fmt: skip
        logits = written[0]
        loss = bit_loss(logits, sequence.labels, weights)
        right = ((logits[..., 1] > logits[..., 0]) == sequence.labels).mean(axis=(0, 2))
        return loss, {"loss": loss, "bits_right": (right * drawn).sum() / drawn.sum(), "bits_right_finest": right[-1]}

    return loss_fn


def _text(config: NsarmConfig, resting: Resting, told: Told | None, count: int, dtype: Any) -> tuple[Array, Array]:
    """Features float32 [count, n, text_size] of what is told of each picture, and where they are valid."""
    if told is None:
        prompt = resting["prompt"]["features"].astype(jnp.float32)
        return jnp.broadcast_to(prompt, (count, *prompt.shape)), jnp.ones((count, len(prompt)), bool)
    encoder: Any = TextEncoder(text_config(config), dtype)
    return encoder.apply({"params": resting["text_encoder"]}, told.ids, told.valid), told.valid
