"""One update of something that makes pictures, against a patch discriminator: for every network that decodes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax import Array

from pure_jax.infer.metrics.perceptual import perceptual_distance
from pure_jax.train.config import AdversarialTrainConfig
from pure_jax.train.discriminator import PatchDiscriminator
from pure_jax.train.optimiser import adamw, averaged


@flax.struct.dataclass
class AdversarialState:
    """Everything a resumed run needs."""

    step: Array
    params: Any
    ema: Any
    opt_state: Any
    disc_params: Any
    disc_opt_state: Any


def _discriminator(config: AdversarialTrainConfig) -> PatchDiscriminator:
    return PatchDiscriminator(config.discriminator_width, config.discriminator_layers)


@partial(jax.jit, static_argnames=("config", "side"))
def init_state(params: Any, config: AdversarialTrainConfig, side: int) -> AdversarialState:
    """From these parameters on, with a fresh discriminator for pictures of `side` pixels."""
    disc_params = _discriminator(config).init(jax.random.key(config.seed), jnp.zeros((1, side, side, 3)))["params"]
    tx = adamw(config.optimiser, config.steps)
    ema = jax.tree.map(jnp.copy, params)
    return AdversarialState(jnp.zeros((), jnp.int32), params, ema, tx.init(params), disc_params, tx.init(disc_params))


def update(
    config: AdversarialTrainConfig,
    perceptual_params: Any | None,
    state: AdversarialState,
    x: Array,
    produce: Callable[[Any], tuple[tuple[Array, Array], dict[str, Array]]],
) -> tuple[AdversarialState, dict[str, Array], Array]:
    """One step: parameters, their average, then the discriminator.

    The adversarial gradient at the pixels is scaled to the length of the other terms' gradient there (the idea of
    VQGAN's adaptive weight, Esser et al. 2021, Eq. 7, at the output instead of the last layer), so that its share does
    not depend on how confident the discriminator is. The discriminator learns from the first step on, so that it is of
    use when its term begins.

    Args:
        x: what is to be made, float32 [batch, H, W, 3] in [-1, 1].
        produce: parameters -> ((pictures like x, another term of the loss), metrics of its own).

    Returns:
        (state, metrics, perceptual distance of each picture float32 [batch]; zeros without that network).
    """
    disc: Any = _discriminator(config)
    tx = adamw(config.optimiser, config.steps)

    def fidelity(y: Array) -> tuple[Array, tuple[dict[str, Array], Array]]:
        l1, l2 = jnp.abs(x - y).mean(), jnp.square(x - y).mean()
        distances = jnp.zeros(len(x))
        if perceptual_params is not None:
            distances = perceptual_distance(perceptual_params, (x + 1) / 2, (y + 1) / 2)
        loss = config.l1_weight * l1 + config.l2_weight * l2 + config.perceptual_weight * distances.mean()
        return loss, ({"loss": loss, "l1": l1, "psnr": -10 * jnp.log10(l2 / 4)}, distances)

    def discriminator_loss(disc_params: Any, y: Array) -> Array:
        real, fake = (disc.apply({"params": disc_params}, image) for image in (x, y))
        return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean())

    (y, other), backward, found = jax.vjp(produce, state.params, has_aux=True)
    slope, (metrics, distances) = jax.grad(fidelity, has_aux=True)(y)
    metrics = metrics | found | {"loss": metrics["loss"] + other}
    if config.adversarial_weight:
        adversarial_slope = jax.grad(lambda y: -disc.apply({"params": state.disc_params}, y).mean())(y)
        scale = optax.tree.norm(slope) / (optax.tree.norm(adversarial_slope) + 1e-12)
        begun = state.step >= config.adversarial_start
        slope += jnp.where(begun, config.adversarial_weight * scale, 0.0) * adversarial_slope
    (grads,) = backward((slope, jnp.ones_like(other)))
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = averaged(state.ema, params, state.step, config.ema_decay)
    disc_params, disc_opt = state.disc_params, state.disc_opt_state
    if config.adversarial_weight:
        metrics["discriminator"], grads = jax.value_and_grad(discriminator_loss)(disc_params, y)
        updates, disc_opt = tx.update(grads, disc_opt, disc_params)
        disc_params = optax.apply_updates(disc_params, updates)
    return AdversarialState(state.step + 1, params, ema, opt_state, disc_params, disc_opt), metrics, distances
