"""The next-scale transformer has the published sizes and equals PyTorch code, in one pass or scale by scale."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pure_jax.convert.nsarm import torch_networks
from pure_jax.convert.nsarm.names import TRANSFORMER_ROWS
from pure_jax.nsarm import attention
from pure_jax.nsarm.attention import attend, block_causal_attention, rotary
from pure_jax.nsarm.conditioning import Captions, Conditioner, condition
from pure_jax.nsarm.presets import tiny, transformer_preset
from pure_jax.nsarm.schedule import SIDES_1M, square
from pure_jax.nsarm.shapes import transformer_shapes
from pure_jax.nsarm.transformer import Transformer, init_cache, row_bytes
from pure_jax.transformer import stack_layers
from tests.nsarm_bridge import params_of

CONFIG = tiny()
UNROLLED = dataclasses.replace(CONFIG.transformer, scan_layers=False)
SCALES, ENDS = CONFIG.scales, CONFIG.ends
RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(2, ENDS[-1] - 1, 20)).astype(np.float32)
FEATURES = RNG.normal(size=(2, 6, 24)).astype(np.float32)
LENGTHS = (6, 3)
LOGITS = 1e-5
"""Measured 5.1e-6 at logits up to 5: a head whose scores have the factor 100 makes much of the last digit."""
CAPTIONS = Captions(jnp.asarray(FEATURES), jnp.arange(6) < jnp.asarray(LENGTHS)[:, None], jnp.asarray([False, True]))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("8b", 8_375_791_824),
        ("2b", 2_204_711_536),
        ("layer12", 125_241_040),
        ("layer16", 361_716_784),
        ("layer24", 941_055_472),
        ("layer32", 2_256_844_720),
        ("layer40", 4_716_615_472),
        ("layer48", 8_767_440_496),
    ],
)
def test_presets_have_the_published_numbers_of_parameters(name, count):
    assert sum(map(math.prod, transformer_shapes(transformer_preset(name)).values())) == count


def random_network() -> torch_networks.Infinity:
    model = torch_networks.randomised(torch_networks.Infinity(CONFIG))
    del model.map_transformer
    model.all_blocks()[0].sa.scale_mul_1H11.data[0, 0] = 6.0  # beyond the bound
    return model


@pytest.fixture(scope="module")
def theirs() -> torch_networks.Infinity:
    return random_network()


@pytest.fixture(scope="module")
def params(theirs) -> dict:
    return params_of(theirs, TRANSFORMER_ROWS, transformer_shapes(UNROLLED))


@pytest.fixture(scope="module")
def wanted(theirs) -> np.ndarray:
    captions = [torch.tensor(f[:n]) for f, n in zip(FEATURES, LENGTHS, strict=True)]
    with torch.no_grad():
        return theirs(torch.tensor(TOKENS), captions, [False, True]).numpy()


def full(config, params):
    network = Transformer(config)
    return jax.jit(lambda p: network.apply({"params": p}, TOKENS, CAPTIONS, SCALES)[0])(params)


def test_the_masked_forward_equals_pytorch(params, wanted):
    logits = full(UNROLLED, params)
    assert logits.shape == (2, ENDS[-1], 20, 2) and logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=LOGITS)


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_layers_are_the_same(params, wanted, remat):
    config = dataclasses.replace(UNROLLED, scan_layers=True, remat=remat)
    np.testing.assert_allclose(full(config, stack_layers(params)), wanted, rtol=0, atol=LOGITS)


@pytest.mark.parametrize("together", [0, 20, 1024])
def test_however_scales_share_their_products_attention_is_the_same(params, wanted, together, monkeypatch):
    monkeypatch.setattr(attention, "TOGETHER", together)
    np.testing.assert_allclose(full(UNROLLED, params), wanted, rtol=0, atol=LOGITS)


def test_rows_of_conditioning_may_repeat(params):
    for scan in (False, True):
        config = dataclasses.replace(UNROLLED, scan_layers=scan)
        about = condition(config, stack_layers(params) if scan else params, CAPTIONS, jnp.float32)
        rows = about.rows(jnp.asarray([1, 1, 0]))
        assert rows.start.shape == (3, 32) and rows.valid.shape == (3, 6)
        store = rows.keys_values if scan else jnp.stack(rows.keys_values)
        assert store.shape == (2, 3, 6, 64)
        assert (store[:, 0] == store[:, 1]).all() and not (store[:, 0] == store[:, 2]).all()


def test_what_fills_up_a_caption_does_not_matter(params):
    other = CAPTIONS.replace(features=CAPTIONS.features.at[1, 3:].set(100.0), hidden=None)
    longer = Captions(jnp.pad(other.features, ((0, 0), (0, 4), (0, 0))), jnp.pad(other.valid, ((0, 0), (0, 4))))
    network, own = Conditioner(UNROLLED, jnp.float32), params["conditioner"]
    run = jax.jit(lambda captions: network.apply({"params": own}, captions).shared)
    one, two = map(run, (other, longer))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)


def test_positions_are_those_of_the_finest_grid():
    cos, sin = rotary(square((6,)), (64, 64), 8, 1.0)  # theta 1: every angle is the position
    angle = np.arctan2(sin, cos).reshape(6, 6, 4)
    places = np.array([0, 11, 21, 32, 43, 53])
    np.testing.assert_allclose(np.cos(angle[:, 0, 0]), np.cos(places), atol=1e-6)
    np.testing.assert_allclose(np.sin(angle[0, :, 3]), np.sin(places), atol=1e-6)
    assert rotary(square(SIDES_1M), (64, 64), 128, 10_000.0)[0].shape == (10_521, 64)


def test_other_aspect_ratios_have_their_own_grid(params):
    scales = ((1, 1), (2, 1), (4, 2))
    tokens = jnp.asarray(TOKENS[:, :10])
    network = Transformer(UNROLLED)
    logits = jax.jit(lambda p: network.apply({"params": p}, tokens, CAPTIONS, scales, grid=(8, 4))[0])(params)
    assert logits.shape == (2, 11, 20, 2) and bool(jnp.isfinite(logits).all())


def test_queries_in_blocks_are_the_same(monkeypatch):
    q, k, v = (jnp.asarray(RNG.normal(size=(2, 3, n, 4)), jnp.float32) for n in (10, 17, 17))
    whole, gradient = attend(q, k, v), jax.grad(lambda q: attend(q, k, v).sum())(q)
    monkeypatch.setattr(attention, "MAX_SCORES", 4 * 2 * 3 * 17)
    np.testing.assert_allclose(attend(q, k, v), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda q: attend(q, k, v).sum())(q), gradient, rtol=0, atol=1e-6)


def test_tokens_behind_a_cache_see_their_own_scale_and_all_before():
    q, k, v = (jnp.asarray(RNG.normal(size=(1, 1, n, 4)), jnp.float32) for n in (9, 14, 14))
    out = block_causal_attention(q, k, v, 5, (9, 14))
    np.testing.assert_allclose(out[:, :, :4], attend(q[:, :, :4], k[:, :, :9], v[:, :, :9]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(out[:, :, 4:], attend(q[:, :, 4:], k, v), rtol=0, atol=1e-6)


def test_branches_are_left_out_in_training_only(params):
    network = Transformer(dataclasses.replace(UNROLLED, drop_path=0.9))

    @jax.jit
    def run(key):
        training = {"deterministic": False, "rngs": {"dropout": key}}
        return network.apply({"params": params}, TOKENS, CAPTIONS, SCALES, **training)[0]

    one, two = (run(jax.random.key(i)) for i in range(2))
    assert (one != two).any()


def test_a_row_of_the_cache_takes_what_is_said():
    cache = jax.eval_shape(lambda: init_cache(UNROLLED, 3, 10, jnp.bfloat16))
    assert sum(x.size * 2 for x in jax.tree.leaves(cache)) == 3 * row_bytes(UNROLLED, 10, jnp.bfloat16)


def test_recomputing_blocks_leaves_the_gradients_alone(params):
    def gradients(config, params):
        network = Transformer(config)

        def score(p):
            return jnp.sum(network.apply({"params": p}, TOKENS, CAPTIONS, SCALES)[0] ** 2)

        return jax.jit(jax.grad(score))(params)

    plain = gradients(UNROLLED, params)
    scanned = dataclasses.replace(UNROLLED, scan_layers=True, remat=True)
    other = gradients(scanned, stack_layers(params))
    for one, two in zip(jax.tree.leaves(stack_layers(plain)), jax.tree.leaves(other), strict=True):
        # Measured 0: the same operations in another program, which may round otherwise elsewhere.
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * float(jnp.abs(one).max()))
        assert jnp.abs(one).max() > 0
