"""The schedule has the recipe's values, and one update is torch's AdamW behind torch's clipping."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import traverse_util

from pure_jax.nsarm.presets import tiny
from pure_jax.train.config import OptimiserConfig
from pure_jax.train.nsarm.initial import initial_params
from pure_jax.train.optimiser import adamw, layer_matrices, learning_rate, muon

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


def test_the_first_update_of_muon_is_that_of_torch_for_layers_matrices_and_of_them_alone():
    rng = np.random.default_rng(0)
    config = OptimiserConfig(1e-2, 1e-2, warmup_steps=0, clip_norm=1e9)
    shapes = {
        "layers_0": {"mlp": {"kernel": (6, 16)}, "q_norm": {"weight": (1, 8)}, "o_proj": {"kernel": (8, 8)}},
        "lm_head": {"kernel": (6, 16)},
        "embed": {"embedding": (16, 6)},
    }
    draw = partial(jax.tree.map, lambda shape: rng.normal(size=shape).astype(np.float32), is_leaf=_is_shape)
    params, grads = draw(shapes), draw(shapes)
    tx = muon(config, 10, 3.0)
    updates, _ = tx.update(grads, tx.init(params), params)

    def of_torch(param, grad):
        weight = torch.tensor(param, requires_grad=True)
        weight.grad = torch.tensor(grad)
        torch.optim.Muon([weight], lr=3e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
        return weight.detach().numpy() - param

    for own in ("mlp", "o_proj"):
        matrix = params["layers_0"][own]["kernel"]
        expected = of_torch(matrix, grads["layers_0"][own]["kernel"])
        # torch's Newton-Schulz runs in bfloat16. Measured: 3.9e-4, of updates of 1.6e-2.
        np.testing.assert_allclose(updates["layers_0"][own]["kernel"], expected, rtol=0, atol=8e-4)
    for rest in (("lm_head", "kernel"), ("embed", "embedding")):
        param, grad, update = (tree[rest[0]][rest[1]] for tree in (params, grads, updates))
        # The sign of the gradient, which Nesterov's momentum makes 1 + 0.9 * 0.1 / (1 - 0.9^2) long in the first step.
        np.testing.assert_allclose(update, -1e-2 * (28 / 19 * np.sign(grad) + 0.1 * param), rtol=0, atol=1e-6)


def test_scanned_layers_follow_muon_one_by_one():
    rng = np.random.default_rng(1)
    kernels, grads = (rng.normal(size=(3, 6, 16)).astype(np.float32) for _ in range(2))
    tx = muon(OptimiserConfig(1e-2, warmup_steps=0), 10, 1.0)

    def update(params, grads):
        return tx.update(grads, tx.init(params), params)[0]

    together = update({"layers": {"kernel": kernels}}, {"layers": {"kernel": grads}})["layers"]["kernel"]
    for i in range(3):
        own = update({"layers_0": {"kernel": kernels[i]}}, {"layers_0": {"kernel": grads[i]}})["layers_0"]["kernel"]
        # Measured: 4.7e-9.
        np.testing.assert_allclose(together[i], own, rtol=0, atol=1e-8)


def test_muon_reads_the_matrices_of_nsarms_layers_and_none_of_its_embeddings_heads_and_convolutions():
    shapes = jax.eval_shape(lambda: initial_params(tiny(), ("map_network", "transformer"), 0))
    chosen = traverse_util.flatten_dict(layer_matrices(shapes), sep="/")
    owners = {path.split("/")[-2] for path, axes in chosen.items() if axes is not None}
    attention, feed_forward = (
        {"cross_attn", "q", "qkv", "proj", "in_proj", "out_proj"},
        {"fc1", "fc2", "linear1", "linear2"},
    )
    assert owners == attention | feed_forward


def test_muon_leaves_vectors_undecayed_where_asked():
    params = {"layers_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    tx = muon(OptimiserConfig(learning_rate=0.5, warmup_steps=0), 10, 1.0, decay_rest=False)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["layers_0"]["kernel"], -0.5 * 0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["layers_0"]["bias"], 0.0)


def _is_shape(value):
    return isinstance(value, tuple)
