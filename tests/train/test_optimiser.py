"""The schedule has the recipe's values, and one update is torch's AdamW behind torch's clipping."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from pure_jax.train.config import OptimiserConfig
from pure_jax.train.optimiser import adamw, learning_rate

STEPS = 1484  # two epochs of 742; half an epoch of warm-up is 371


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (185, 1.99461e-4), (371, 4e-4), (742, 3e-4), (1113, 1e-4)],
)
def test_schedule_has_the_values_of_the_recipe(step, expected):
    # Measured: 1.2e-6 relative, the rounding of `expected`.
    assert float(learning_rate(OptimiserConfig(), STEPS)(step)) == pytest.approx(expected, rel=3e-6, abs=0)


def test_schedule_ends_just_above_its_minimum():
    # 1 + cos(almost pi) keeps 2 of float32's 7 digits; 7.97e-10 in exact arithmetic, measured within 1.5 %.
    assert float(learning_rate(OptimiserConfig(), STEPS)(1483)) == pytest.approx(7.97e-10, rel=3e-2, abs=0)
    lifted = OptimiserConfig(min_learning_rate=1e-5)
    assert float(learning_rate(lifted, STEPS)(STEPS)) == pytest.approx(1e-5, rel=1e-6)
    assert float(learning_rate(lifted, STEPS)(STEPS + 500)) == pytest.approx(1e-5, rel=1e-6)


def test_no_warm_up_and_equal_bounds_give_a_constant():
    schedule = learning_rate(OptimiserConfig(1e-4, 1e-4, warmup_steps=0), 10)
    np.testing.assert_allclose([float(schedule(step)) for step in range(12)], 1e-4, rtol=1e-6)


def test_a_late_decay_leaves_the_rate_constant_until_then():
    config = OptimiserConfig(1e-3, 1e-5, warmup_steps=10, decay_steps=100)
    schedule, longer = learning_rate(config, 500), learning_rate(config, 900)
    constant = [float(schedule(step)) for step in (10, 200, 399, 400)]
    np.testing.assert_allclose(constant, 1e-3, rtol=1e-6)
    assert float(schedule(450)) == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-5)
    assert float(schedule(500)) == pytest.approx(1e-5, rel=1e-5)
    # Made longer, a run keeps its past.
    assert [float(longer(step)) for step in range(0, 400, 7)] == [float(schedule(step)) for step in range(0, 400, 7)]


def test_updates_are_those_of_torch():
    config = OptimiserConfig(learning_rate=1e-2, warmup_steps=2, clip_norm=4.0)
    rng = np.random.default_rng(0)
    start = {"kernel": rng.normal(size=(3, 4)), "norm": {"weight": rng.normal(size=4)}, "scalar": rng.normal(size=())}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start)
    tx = adamw(config, total_steps=8)
    state = tx.init(params)

    weights = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in jax.tree.leaves(params)]
    oracle = torch.optim.AdamW(weights, betas=(config.b1, config.b2), eps=config.eps, weight_decay=config.weight_decay)
    norms = []
    for step in range(5):
        scale = (0.1, 10.0)[step % 2]  # below and above the clip
        grads = jax.tree.map(lambda leaf, s=scale: jnp.asarray(rng.normal(size=leaf.shape) * s, jnp.float32), params)
        for weight, grad in zip(weights, jax.tree.leaves(grads), strict=True):
            weight.grad = torch.tensor(np.asarray(grad))
        norms.append(float(torch.nn.utils.clip_grad_norm_(weights, config.clip_norm)))
        oracle.param_groups[0]["lr"] = float(learning_rate(config, 8)(step))
        oracle.step()
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert min(norms) < config.clip_norm < max(norms)
    for leaf, weight in zip(jax.tree.leaves(params), weights, strict=True):
        # Measured: 1.2e-7.
        np.testing.assert_allclose(leaf, weight.detach().numpy(), rtol=0, atol=2.5e-7)


def test_decay_acts_on_every_leaf_norms_and_biases_too():
    params = {"embed": jnp.ones((2, 2)), "norm": {"weight": jnp.ones(3)}, "bias": jnp.ones(3), "scalar": jnp.ones(())}
    tx = adamw(OptimiserConfig(learning_rate=0.5, warmup_steps=0), total_steps=10)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, -0.5 * 0.1, rtol=1e-6)
