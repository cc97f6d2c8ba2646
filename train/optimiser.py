"""Learning-rate schedule and optimiser of the PURE recipe, and the running average of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array

from pure_jax.train.config import OptimiserConfig


def learning_rate(config: OptimiserConfig, total_steps: int) -> optax.Schedule:
    """lr(t), t from 0: linear from exactly 0 over the warm-up, then half a cosine to the minimum at `total_steps`.

    The cosine begins with the last `decay_steps`, or where the warm-up ends.
    """
    decay = total_steps - config.warmup_steps if config.decay_steps is None else config.decay_steps
    decay = max(min(decay, total_steps - config.warmup_steps), 1)

    def schedule(step: jnp.ndarray) -> jnp.ndarray:
        t = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((t - (total_steps - decay)) / decay, 0.0, 1.0)
        span = config.learning_rate - config.min_learning_rate
        decayed = config.min_learning_rate + span * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.where(t < config.warmup_steps, config.learning_rate * t / max(config.warmup_steps, 1), decayed)

    return schedule


def adamw(
    config: OptimiserConfig, total_steps: int, decays: Callable[[Any], Any] | None = None
) -> optax.GradientTransformation:
    """Global-norm clip, then AdamW.

    decays: parameters -> a tree like them of what weight decay acts on; None: on all, as in PURE's original.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, total_steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decays,
        ),
    )


def averaged(average: Any, params: Any, step: Array, decay: float) -> Any:
    """The running average of the parameters after update `step` (from 0); a tree like both.

    Early averages would be dominated by the random start; the usual ramp (1 + t) / (10 + t) below `decay` avoids it.
    """
    return optax.incremental_update(params, average, 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step)))
