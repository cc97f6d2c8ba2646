"""Learning-rate schedule and optimiser of the PURE recipe, and the running average of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import MuonDimensionNumbers

from pure_jax.train.config import OptimiserConfig

MUON_RMS = 0.2
"""Root mean square of Muon's updates at a rate of 1: AdamW's, so that one rate serves both (Liu et al. 2025, Muon is
Scalable for LLM Training, section 2.2)."""


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


def muon(
    config: OptimiserConfig, total_steps: int, scale: float, decay_rest: bool = True
) -> optax.GradientTransformation:
    """Global-norm clip, then Muon (momentum 0.95, five Newton-Schulz steps) at the rate times `scale` for the matrices
    of the layers, and AdamW, with Nesterov's momentum too, for all else.

    decay_rest: whether weight decay acts on all else, too.
    """
    rate = learning_rate(config, total_steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.contrib.muon(
            lambda step: scale * rate(step),
            adam_learning_rate=rate,
            adam_b1=config.b1,
            adam_b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            adam_weight_decay=config.weight_decay if decay_rest else 0.0,
            muon_weight_dimension_numbers=layer_matrices,
            consistent_rms=MUON_RMS,
        ),
    )


def layer_matrices(params: Any) -> Any:
    """A tree like params of which axes Muon reads as rows and columns, and None where it has no say: embeddings, heads,
    norms, biases and convolutions. Kernels [in, out], or [layers, in, out] of scanned layers."""

    def of(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        of_layer = names[-1:] in (["kernel"], ["kv"]) and any(name.startswith("layer") for name in names)
        matrix = of_layer and leaf.ndim == 2 + ("layers" in names)
        return MuonDimensionNumbers(-2, -1) if matrix else None

    return jax.tree_util.tree_map_with_path(of, params)


def averaged(average: Any, params: Any, step: Array, decay: float) -> Any:
    """The running average of the parameters after update `step` (from 0); a tree like both.

    Early averages would be dominated by the random start; the usual ramp (1 + t) / (10 + t) below `decay` avoids it.
    """
    return optax.incremental_update(params, average, 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step)))
