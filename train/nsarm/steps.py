"""NSARM's two stages as pure updates: the map network alone, then both networks on the sequence it begins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax import Array

from pure_jax.nsarm.conditioning import Captions
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.nsarm.map_network import MapNetwork
from pure_jax.nsarm.transformer import Transformer
from pure_jax.nsarm.vae import VAE
from pure_jax.train.nsarm.config import MapTrainConfig, ScalesTrainConfig
from pure_jax.train.nsarm.initial import decays, initial_params
from pure_jax.train.nsarm.targets import bit_loss, map_loss, map_targets, random_flips, taught, token_weights
from pure_jax.train.optimiser import adamw, averaged, muon
from pure_jax.vqgan import from_pixels

Pairs = tuple[Array, Array]
"""Low-quality and high-quality pictures, uint8 [batch, low, low, 3] and [batch, tile, tile, 3]."""


Loss = Callable[[Any, Array, Array, Array], tuple[Array, dict[str, Array]]]
"""(parameters, LQ pictures, HQ pictures, both float32 in [-1, 1], key) -> (float32 [], metrics)."""


@flax.struct.dataclass
class NsarmState:
    """Everything a resumed run needs; keys follow from the seed and the step. params: networks by name."""

    step: Array
    params: Any
    ema: Any
    """Running average of the parameters, or None."""
    opt_state: Any


Step = Callable[[NsarmState, Pairs], tuple[NsarmState, dict[str, Array]]]
"""A jitted update (state, pairs) -> (state, metrics)."""


def _optimiser(options: MapTrainConfig | ScalesTrainConfig) -> optax.GradientTransformation:
    if options.muon:
        return muon(options.optimiser, options.steps, options.muon, decay_rest=False)
    return adamw(options.optimiser, options.steps, decays)


@partial(jax.jit, static_argnames="options")
def init_state(params: Any, options: MapTrainConfig | ScalesTrainConfig) -> NsarmState:
    """From these parameters on."""
    opt_state = _optimiser(options).init(params)
    ema = jax.tree.map(jnp.copy, params) if getattr(options, "ema_decay", 0.0) else None
    return NsarmState(jnp.zeros((), jnp.int32), params, ema, opt_state)


def init_map(config: NsarmConfig, options: MapTrainConfig) -> NsarmState:
    """Stage 1's beginning."""
    return init_state(initial_params(config, ("map_network",), options.seed), options)


def init_scales(config: NsarmConfig, options: ScalesTrainConfig, map_params: Any) -> NsarmState:
    """Stage 2's beginning: stage 1's map network, a fresh transformer."""
    return init_state(initial_params(config, ("transformer",), options.seed) | {"map_network": map_params}, options)


def _map_network(config: NsarmConfig) -> MapNetwork:
    sides = tuple(side for side, _ in config.latent_scales[: config.given_scales])
    return MapNetwork(config.map_network, config.vae.latent_channels, sides)


def _update(options: MapTrainConfig | ScalesTrainConfig, loss_fn: Loss) -> Step:
    tx = _optimiser(options)
    ema_decay = getattr(options, "ema_decay", 0.0)

    @jax.jit
    def step_fn(state: NsarmState, pairs: Pairs) -> tuple[NsarmState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(options.seed), state.step)
        grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params, *map(from_pixels, pairs), key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = averaged(state.ema, params, state.step, ema_decay) if ema_decay else None
        metrics["grad_norm"] = optax.tree.norm(grads)
        return NsarmState(state.step + 1, params, ema, opt_state), metrics

    return step_fn


def make_map_step(config: NsarmConfig, options: MapTrainConfig, vae_params: Any) -> Step:
    """Stage 1's update."""
    return _update(options, map_objective(config, options, vae_params))


def make_scales_step(
    config: NsarmConfig, options: ScalesTrainConfig, vae_params: Any, prompt: Array, dtype: Any = jnp.float32
) -> Step:
    """Stage 2's update."""
    return _update(options, scales_objective(config, options, vae_params, prompt, dtype))


def map_objective(config: NsarmConfig, options: MapTrainConfig, vae_params: Any) -> Loss:
    """Stage 1's loss. The image tokenizer rests."""
    vae: Any = VAE(config.vae)
    net: Any = _map_network(config)

    def loss_fn(params: Any, lq: Array, hq: Array, key: Array) -> tuple[Array, dict[str, Array]]:
        low, features = (vae.apply({"params": vae_params}, x, method="encode") for x in (lq, hq))
        targets = map_targets(features, config)
        found = net.apply({"params": params["map_network"]}, low, False, rngs={"dropout": key})
        loss = map_loss(found, targets, options.loss)
        right = jnp.stack([((r > 0) == (t > 0)).mean() for r, t in zip(found, targets, strict=True)])
        return loss, {"loss": loss, "bits_right": right.mean(), "bits_right_finest": right[-1]}

    return loss_fn


def scales_objective(
    config: NsarmConfig, options: ScalesTrainConfig, vae_params: Any, prompt: Array, dtype: Any = jnp.float32
) -> Loss:
    """Stage 2's loss.

    prompt: features float32 [length, text_size] of the caption that all pictures have.
    """
    vae: Any = VAE(config.vae)
    net, mapped = Transformer(config.transformer, dtype), _map_network(config)
    first = config.given_scales if options.first_scored is None else options.first_scored
    weights = jnp.asarray(token_weights(config, first, options.reweight))
    drawn = jnp.asarray(token_weights(config, config.given_scales, False) > 0)

    def loss_fn(params: Any, lq: Array, hq: Array, key: Array) -> tuple[Array, dict[str, Array]]:
        low, features = (vae.apply({"params": vae_params}, x, method="encode") for x in (lq, hq))
        map_key, flip_key, hidden_key, drop_key = jax.random.split(key, 4)
        residuals: Any = mapped.apply({"params": params["map_network"]}, low, False, rngs={"dropout": map_key})
        if not options.train_map:
            residuals = jax.lax.stop_gradient(residuals)
        flips = random_flips(flip_key, config, len(lq), options.largest_flip) if options.largest_flip else None
        sequence = taught(features, residuals, config, options.next_input or config.next_input, flips)
        hidden = jax.random.bernoulli(hidden_key, options.hidden_share, (len(lq),))
        captions = Captions(
            jnp.broadcast_to(prompt, (len(lq), *prompt.shape)), jnp.ones((len(lq), len(prompt)), bool), hidden
        )
        written: Any = net.apply(
            {"params": params["transformer"]}, sequence.tokens, captions, config.scales,
            deterministic=False, rngs={"dropout": drop_key},
        )  # fmt: skip
        logits = written[0]
        loss = bit_loss(logits, sequence.labels, weights)
        right = ((logits[..., 1] > logits[..., 0]) == sequence.labels).mean(axis=(0, 2))
        return loss, {"loss": loss, "bits_right": (right * drawn).sum() / drawn.sum(), "bits_right_finest": right[-1]}

    return loss_fn
