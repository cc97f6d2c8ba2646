"""Learning-rate schedule and optimiser of the PURE recipe."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import optax


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with warm-up, cosine decay and clipping; the defaults other than `warmup_steps` are PURE's.

    decay_steps: length of the decay at the end of the run, after a constant rate; None decays from the warm-up on, as
    PURE does. With it, a run that is made longer or shorter differs in its last part only.
    """

    learning_rate: float = 4e-4
    min_learning_rate: float = 0.0
    warmup_steps: int = 371
    decay_steps: int | None = None
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 4.0


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


def adamw(config: OptimiserConfig, total_steps: int) -> optax.GradientTransformation:
    """Global-norm clip, then AdamW; like the original, weight decay acts on every parameter."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, total_steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        ),
    )
