"""The cache changes no logit, and each part of the transformer equals an independent statement of its formula."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from pure_jax.config import TransformerConfig, pure_7b
from pure_jax.errors import PureError
from pure_jax.transformer import (
    KVCache,
    QKNorm,
    RMSNorm,
    Transformer,
    causal_attention,
    count_parameters,
    init_cache,
    rotary,
    rotate,
    stack_layers,
    unstack_layers,
)

CONFIG = TransformerConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    model_parallel_size=2,
    dropout=0.0,
)
UNROLLED = dataclasses.replace(CONFIG, scan_layers=False)
LENGTH = 12
TOKENS = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (3, LENGTH)).astype(np.int32)
# Measured 1.2e-6 on logits of spread 1 (required: 1e-5).
TOLERANCE = 2.5e-6

close = partial(np.testing.assert_allclose, rtol=0, atol=TOLERANCE)
both = pytest.mark.parametrize("config", [CONFIG, UNROLLED], ids=["scan", "unrolled"])


def random_params(config: TransformerConfig) -> dict[str, Any]:
    """Every leaf random and of such a size that all parts matter: logits of order 1, attention far from uniform."""
    rng = np.random.default_rng(0)
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    stacked = dataclasses.replace(config, scan_layers=True)
    shapes = jax.eval_shape(Transformer(stacked).init, jax.random.key(0), token, token)["params"]

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        scale = leaf.shape[-2] ** -0.5 if name == "kernel" else 1.0 if name == "embedding" else 0.3
        return jnp.asarray((name == "weight") + scale * rng.normal(size=leaf.shape), jnp.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return params if config.scan_layers else unstack_layers(params)


@partial(jax.jit, static_argnames=("config", "dtype"))
def run(config, params, tokens, positions, cache=None, valid=None, dtype=jnp.float32):
    return Transformer(config, dtype).apply({"params": params}, tokens, positions, cache, valid)


def full(config: TransformerConfig, params: dict, dtype: Any = jnp.float32) -> np.ndarray:
    positions = np.broadcast_to(np.arange(LENGTH), TOKENS.shape)
    return np.asarray(run(config, params, TOKENS, positions, dtype=dtype)[0])


def extend(config, params, cache, rows, start, stop) -> tuple[np.ndarray, Any]:
    """Feed tokens start..stop of the given rows."""
    positions = np.broadcast_to(np.arange(start, stop), (len(rows), stop - start))
    logits, cache = run(config, params, TOKENS[rows, start:stop], positions, cache)
    return np.asarray(logits), cache


@both
def test_prefill_steps_and_windows_equal_the_full_forward(config: TransformerConfig) -> None:
    params = random_params(config)
    wanted = full(config, params)
    assert wanted.std() > 0.5
    cache, parts = init_cache(config, 3, 16), []
    for start, stop in [(0, 5), (5, 6), (6, 7), (7, 11), (11, 12)]:
        logits, cache = extend(config, params, cache, [0, 1, 2], start, stop)
        parts.append(logits)
    assert isinstance(cache, KVCache) and int(cache.length) == LENGTH and (cache.batch, cache.slots) == (3, 16)
    close(np.concatenate(parts, axis=1), wanted)


@both
def test_groups_of_rows_with_caches_of_their_own_length_share_one_call(config: TransformerConfig) -> None:
    params = random_params(config)
    wanted = full(config, params)
    _, long = extend(config, params, init_cache(config, 2, 16), [0, 1], 0, 5)
    _, short = extend(config, params, init_cache(config, 1, 7), [2], 0, 3)
    positions = np.stack([np.arange(5, 9), np.arange(5, 9), np.arange(3, 7)])
    tokens = np.take_along_axis(TOKENS, positions, axis=1)
    logits, (long, short) = run(config, params, tokens, positions, (long, short))
    close(logits, np.take_along_axis(wanted, positions[..., None], axis=1))
    assert (int(long.length), int(short.length)) == (9, 7)


@both
def test_hidden_slots_are_as_if_their_tokens_were_not_there(config: TransformerConfig) -> None:
    """Row 0 has two hidden slots in the prompt and one in the window, row 1 has one elsewhere, row 2 none."""
    params = random_params(config)
    wanted = full(config, params)
    valid = np.ones((3, 9), bool)
    valid[0, [1, 2, 6]] = False
    valid[1, 0] = False
    positions = np.where(valid, np.cumsum(valid, axis=1) - 1, 0)
    tokens = np.where(valid, np.take_along_axis(TOKENS, positions, axis=1), 49)
    cache, parts = init_cache(config, 3, 16), []
    for start, stop in [(0, 5), (5, 9)]:
        part = slice(start, stop)
        logits, cache = run(config, params, tokens[:, part], positions[:, part], cache, valid[:, part])
        parts.append(np.asarray(logits))
    wanted = np.take_along_axis(wanted, positions[..., None], axis=1)
    close(np.concatenate(parts, axis=1)[valid], wanted[valid])
    np.testing.assert_array_equal(cache.valid[:, :9], valid)
    # The same without a cache.
    logits, _ = run(config, params, tokens, positions, valid=valid)
    close(np.asarray(logits)[valid], wanted[valid])


def test_stacked_and_unrolled_layers_compute_the_same_and_stacking_is_invertible() -> None:
    params = random_params(CONFIG)
    apart = unstack_layers(params)
    assert {"layers_0", "layers_1"} <= set(apart) and "layers" not in apart
    jax.tree.map(np.testing.assert_array_equal, stack_layers(apart), params)
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(stack_layers(apart)), apart)
    close(full(UNROLLED, apart), full(CONFIG, params))


def test_layers_are_stacked_in_the_order_of_their_numbers() -> None:
    apart = {f"layers_{i}": {"w": jnp.full(1, i)} for i in reversed(range(12))}
    np.testing.assert_array_equal(stack_layers(apart)["layers"]["w"][:, 0], np.arange(12))


def test_bfloat16_stays_near_float32() -> None:
    params = random_params(CONFIG)
    exact, rounded = full(CONFIG, params), full(CONFIG, params, jnp.bfloat16)
    assert rounded.dtype == np.float32
    difference = np.abs(exact - rounded)
    # Measured: mean 0.0076, largest 0.043, on logits of spread 1.
    assert 0 < difference.mean() < 0.015 and difference.max() < 0.09


def test_the_hidden_state_times_the_head_is_the_logits() -> None:
    params = random_params(UNROLLED)
    positions = np.broadcast_to(np.arange(LENGTH), TOKENS.shape)
    hidden, _ = jax.jit(partial(Transformer(UNROLLED).apply, hidden_only=True))({"params": params}, TOKENS, positions)
    assert hidden.shape == (3, LENGTH, 32)
    close(hidden @ params["lm_head"]["kernel"], full(UNROLLED, params))


@pytest.mark.parametrize(("config", "cached"), [(CONFIG, True), (UNROLLED, False)])
def test_the_stream_of_all_layers_leads_from_the_embedding_to_the_logits(config, cached) -> None:
    params = random_params(config)
    positions = np.broadcast_to(np.arange(LENGTH), TOKENS.shape)
    cache = init_cache(config, 3, 16) if cached else None
    apply = jax.jit(partial(Transformer(config).apply, all_layers=True))
    stream, _ = apply({"params": params}, TOKENS, positions, cache)
    assert stream.shape == (config.num_layers + 1, *TOKENS.shape, config.hidden_size)
    np.testing.assert_array_equal(stream[0], params["embed"]["embedding"][TOKENS])
    hidden = RMSNorm(config.rms_norm_eps).apply({"params": params["norm"]}, stream[-1])
    close(hidden @ params["lm_head"]["kernel"], full(config, params))


def test_keys_and_values_are_the_same_in_every_order_of_the_cache() -> None:
    """Those of the first layer follow from the embeddings alone; the others must agree between both orders."""
    stacked = random_params(CONFIG)
    _, scanned = extend(CONFIG, stacked, init_cache(CONFIG, 3, 16), [0, 1, 2], 0, LENGTH)
    _, unrolled = extend(UNROLLED, unstack_layers(stacked), init_cache(UNROLLED, 3, 16), [0, 1, 2], 0, LENGTH)
    assert scanned.num_layers == unrolled.num_layers == CONFIG.num_layers
    for layer in range(CONFIG.num_layers):
        for ours, theirs in zip(scanned.layer(layer), unrolled.layer(layer), strict=True):
            assert ours.shape == (3, 16, CONFIG.num_kv_heads, CONFIG.head_dim) and not ours[:, LENGTH:].any()
            close(ours, theirs)
    first = jax.tree.map(lambda leaf: leaf[0], stacked["layers"])
    x = RMSNorm(CONFIG.rms_norm_eps).apply({"params": first["input_layernorm"]}, stacked["embed"]["embedding"][TOKENS])
    keys, values = ((x @ first["self_attn"][name]["kernel"]).reshape(3, LENGTH, 2, 8) for name in ("k_proj", "v_proj"))
    keys = QKNorm(2).apply({"params": first["self_attn"]["k_norm"]}, keys)
    close(unrolled.layer(0)[0][:, :LENGTH], rotate(keys, *rotary(jnp.arange(LENGTH)[None], 8, CONFIG.rope_theta)))
    close(unrolled.layer(0)[1][:, :LENGTH], values)
    for index in (-1, 2):
        with pytest.raises(PureError, match=f"no layer {index}; the cache has layers 0 to 1"):
            scanned.layer(index)


def test_rotary_is_a_rotation_of_complex_numbers() -> None:
    """Channel i and channel i + d/2 are the two parts of one number, turned by position * theta^(-2i/d)."""
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 16)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 4], [7, 100, 5000, 0, 11_775]])
    turn = np.exp(1j * positions[:, :, None, None] * 10_000.0 ** (-2 * np.arange(8) / 16))
    numbers = (x[..., :8] + 1j * x[..., 8:]) * turn
    wanted = np.concatenate([numbers.real, numbers.imag], axis=-1)
    ours = np.asarray(rotate(x, *rotary(jnp.asarray(positions), 16, 10_000.0)))
    near = positions < 200
    np.testing.assert_allclose(ours[near], wanted[near], rtol=0, atol=1.5e-6)  # measured 6.3e-7
    # Far out the roundings of the float32 angle show (11,776 * 2^-24 = 7e-4); measured 1.1e-4.
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=7e-4)


@pytest.mark.parametrize(("heads", "groups"), [(4, 1), (4, 2), (4, 4), (6, 2)])
def test_qk_norm_is_a_layer_norm_per_head_with_rows_repeated(heads: int, groups: int) -> None:
    rng = np.random.default_rng(0)
    x = (3 * rng.normal(size=(2, 3, heads, 8)) + 1).astype(np.float32)
    weight, bias = rng.normal(size=(2, groups, 8)).astype(np.float32)
    ours = QKNorm(groups).apply({"params": {"weight": weight, "bias": bias}}, x)
    rows = [torch.tensor(v).repeat_interleave(heads // groups, dim=0) for v in (weight, bias)]
    wanted = torch.nn.functional.layer_norm(torch.tensor(x), (8,), eps=1e-5) * rows[0] + rows[1]
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-6)  # measured 1e-6


def test_rms_norm_scales_after_the_cast_down() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 64)).astype(ml_dtypes.bfloat16)
    weight = rng.uniform(0.5, 2, 64).astype(np.float32)
    wide = x.astype(np.float64)
    wide /= np.sqrt((wide**2).mean(axis=-1, keepdims=True) + 1e-5)
    low = weight.astype(ml_dtypes.bfloat16)
    after, before = wide.astype(ml_dtypes.bfloat16) * low, (wide * low.astype(np.float64)).astype(ml_dtypes.bfloat16)
    ours = np.asarray(RMSNorm(1e-5).apply({"params": {"weight": weight}}, jnp.asarray(x)))
    assert ours.dtype == ml_dtypes.bfloat16 and (after != before).any()
    np.testing.assert_array_equal(ours, after)


def test_dropout_acts_only_when_asked() -> None:
    config = dataclasses.replace(UNROLLED, dropout=0.5)
    params = random_params(UNROLLED)
    positions = np.broadcast_to(np.arange(LENGTH), TOKENS.shape)
    close(full(config, params), full(UNROLLED, params))

    @jax.jit
    def training(key: jax.Array) -> jax.Array:
        apply = partial(Transformer(config).apply, deterministic=False, rngs={"dropout": key})
        return apply({"params": params}, TOKENS, positions)[0]

    a, b = training(jax.random.key(0)), training(jax.random.key(1))
    np.testing.assert_array_equal(a, training(jax.random.key(0)))
    assert np.abs(a - b).mean() > 0.1 and np.abs(a - full(UNROLLED, params)).mean() > 0.1


def test_scanned_layers_draw_different_dropout() -> None:
    """All weights are 1 and attention is off, so a layer adds one number to the channels that its mask keeps.

    Equal masks in both layers would leave two values among the channels; different ones leave up to four.
    """
    config = dataclasses.replace(CONFIG, dropout=0.5)
    params = jax.tree.map(jnp.ones_like, random_params(config))
    params["layers"]["self_attn"]["o_proj"]["kernel"] *= 0

    @jax.jit
    def hidden(key: jax.Array) -> jax.Array:
        apply = partial(Transformer(config).apply, deterministic=False, rngs={"dropout": key}, hidden_only=True)
        return apply({"params": params}, TOKENS, TOKENS)[0]

    assert len(np.unique(np.asarray(hidden(jax.random.key(0)))[0, 0].round(3))) > 2


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_gives_the_same_gradients_from_less_that_is_kept(remat) -> None:
    params = random_params(CONFIG)
    positions = np.broadcast_to(np.arange(LENGTH), TOKENS.shape)

    def loss(remat: str, params: dict) -> jax.Array:
        return (Transformer(CONFIG, remat=remat).apply({"params": params}, TOKENS, positions)[0] ** 2).mean()

    plain, saved = (jax.jit(jax.grad(partial(loss, name)))(params) for name in ("none", remat))
    stored = [
        jax.eval_shape(lambda p, name=name: jax.vjp(partial(loss, name), p)[1], params) for name in ("none", remat)
    ]
    kept = [sum(leaf.size for leaf in jax.tree.leaves(held)) for held in stored]
    assert kept[1] < kept[0]
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(plain)) > 1e-4
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=6e-8), plain, saved)  # measured 3e-8


def test_pure_7b_has_the_published_number_of_parameters() -> None:
    config = pure_7b().transformer
    assert count_parameters(config) == 7_080_267_776
    assert count_parameters(dataclasses.replace(config, scan_layers=False)) == 7_080_267_776


@pytest.mark.parametrize("length", [1, 5, 8, 50])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_in_causal_blocks_is_torchs_attention(length, kv_heads):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, length, 4, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, length, kv_heads, 8)).astype(np.float32)
    mask = np.broadcast_to(np.tril(np.ones((length, length), bool)), (2, length, length)).copy()
    mask[1, :, 0] = length == 1  # a token that nobody may look at
    mask[1, 0, 0] = True
    out = jax.jit(causal_attention)(q, k, v, mask)
    wide = [torch.tensor(x.repeat(4 // kv_heads, axis=2)).transpose(1, 2) for x in (k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        torch.tensor(q).transpose(1, 2), *wide, attn_mask=torch.tensor(mask)[:, None]
    )
    # Measured 4.8e-7.
    np.testing.assert_allclose(out, expected.transpose(1, 2).reshape(2, length, 32), rtol=0, atol=1e-6)
