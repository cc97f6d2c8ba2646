"""One update of whatever is trained: its state, gradients of a batch in parts, and what a step that failed leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import flax
import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax import Array

from pure_jax.train.optimiser import averaged

T = TypeVar("T")


@flax.struct.dataclass
class TrainState:
    """Everything a resumed run needs; keys follow from the seed and the step."""

    step: Array
    params: Any
    """What is trained: a network's parameters, several networks' by name, or the adapters of `pure_jax.train.lora`."""
    ema: Any
    """Running average of the parameters; None where `ema_decay` is 0, as large models have no room for one."""
    opt_state: Any


def fresh_state(tx: optax.GradientTransformation, params: Any, ema_decay: float) -> TrainState:
    """The state in which these parameters have seen nothing yet."""
    ema = jax.tree.map(jnp.copy, params) if ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, ema, tx.init(params))


def over_parts(fn: Callable[[Any, Array], T], add: Callable[[T, T], T], batch: Any, key: Array, parts: int) -> T:
    """fn(part, its key) of each part of a batch, one after the other, added up by `add`; fn(batch, key) of one part.

    batch: arrays [rows, ...]. A part has every other row, so that each device has its share of every part.
    """
    if parts == 1:
        return fn(batch, key)
    rows = jax.tree.map(lambda x: rearrange(x, "(b a) ... -> a b ...", a=parts), batch)
    keys = jax.random.split(key, parts)
    shapes = jax.eval_shape(fn, jax.tree.map(lambda x: x[0], rows), keys[0])
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(lambda total, own: (add(total, fn(*own)), None), nothing, (rows, keys))[0]


def updated(
    state: TrainState, grads: Any, tx: optax.GradientTransformation, ema_decay: float, metrics: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """The next state, and the metrics with the gradients' norm (`grad_norm`).

    Where that norm or `metrics["loss"]` is not finite, all but the step's number stays as it was and metrics are 0, but
    for `skipped`, which is 1.
    """
    norm = optax.tree.norm(grads)
    good = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = averaged(state.ema, params, state.step, ema_decay) if ema_decay else None
    new = TrainState(state.step + 1, params, ema, opt_state)
    kept = jax.tree.map(partial(jnp.where, good), new, state).replace(step=new.step)
    metrics = metrics | {"grad_norm": norm}
    return kept, {name: jnp.where(good, value, 0.0) for name, value in metrics.items()} | {"skipped": 1.0 - good}


def compiled_step(step_fn: Callable[..., Any], shardings: Any) -> Callable[..., Any]:
    """A jitted step (state, ...) -> (state, metrics). shardings: of the state, see `pure_jax.train.sharding`; with them
    the state that goes in is given away."""
    if shardings is None:
        return jax.jit(step_fn)
    return jax.jit(step_fn, donate_argnums=0, out_shardings=(shardings, None))
