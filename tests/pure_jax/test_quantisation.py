"""int8 stands for the floats it was rounded from, computes what those would, stays int8, and is kept as it is."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util

from pure_jax.checkpoint import Format, save
from pure_jax.convert.opening import load
from pure_jax.errors import PureError
from pure_jax.infer.decoding.generate import generate
from pure_jax.model import Model
from pure_jax.quantisation import Quantised, columns, dequantise, int8_einsum, product, quantise
from pure_jax.sequence import prompt_ids
from pure_jax.transformer import KVCache, attention, init_cache, quantised_attention, token_bytes
from tests.models import tiny_model
from tests.plain import plain_answer

RNG = np.random.default_rng(0)
KERNEL = (RNG.normal(size=(64, 48)) * np.exp(RNG.normal(size=48))).astype(np.float32)
GRID = 8, 4


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model()
    path = tmp_path_factory.mktemp("models") / "full"
    save(path, model.config, model.params, model.tokenizer.to_str(), "# A model\n")
    return path


@pytest.fixture(scope="module")
def full(directory: Path) -> Model:
    return load(directory)


@pytest.fixture(scope="module")
def small(directory: Path) -> Model:
    return load(directory, weights="int8")


def with_floats(model: Model) -> Model:
    """The model whose kernels are what the int8 stands for."""
    flat = traverse_util.flatten_dict(model.params["transformer"])
    for path in [path for path in flat if path[-1] == "scale"]:
        kernel = (*path[:-1], "kernel")
        flat[kernel] = flat[kernel].astype(jnp.float32) * flat.pop(path)[..., None, :]
    config = dataclasses.replace(model.config.transformer, weights="float")
    return dataclasses.replace(
        model,
        config=dataclasses.replace(model.config, transformer=config),
        params=model.params | {"transformer": traverse_util.unflatten_dict(flat)},
    )


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_no_number_is_further_than_half_a_step_from_its_own() -> None:
    rounded = quantise(KERNEL, axis=0)
    assert rounded.values.dtype == np.int8 and rounded.scale.shape == (1, 48) and rounded.scale.dtype == np.float32
    np.testing.assert_array_equal(np.abs(rounded.values.astype(int)).max(axis=0), 127)
    # Twice the rounding of the quotient, 127 * 2^-24, which may send a number half-way between two to the farther one.
    assert (np.abs(KERNEL - dequantise(rounded)) <= rounded.scale * (0.5 + 2 * 127 * 2**-24)).all()
    for a, b in zip(jax.tree.leaves(quantise(jnp.asarray(KERNEL), axis=0)), jax.tree.leaves(rounded), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-7)


def test_the_numbers_meant_are_those_of_torch_for_the_same_scales() -> None:
    rounded = quantise(KERNEL, axis=0)
    zeros = torch.zeros(48, dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(
        torch.tensor(KERNEL), torch.tensor(rounded.scale[0]), zeros, 1, -127, 127
    )
    np.testing.assert_array_equal(dequantise(rounded), theirs.numpy())


def test_ties_go_to_the_even_and_nothing_stays_nothing() -> None:
    rounded = quantise(np.array([[127.0, 0.5, 1.5, -2.5, -127.0], [0, 0, 0, 0, 0]], np.float32))
    assert rounded.values.tolist() == [[127, 0, 2, -2, -127], [0] * 5] and rounded.scale.tolist() == [[1], [0]]


@pytest.mark.parametrize("rows", [1, 2, 130])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_is_that_of_the_numbers_meant(rows: int, dtype: Any) -> None:
    """130 rows are converted on CPU, fewer go digit by digit."""
    rounded = quantise(KERNEL, axis=0)
    layer = {"kernel": jnp.asarray(rounded.values), "scale": jnp.asarray(rounded.scale[0])}
    x = jnp.asarray(RNG.normal(size=(rows, 64)), dtype).at[0].set(0)
    wanted = np.asarray(x, np.float64) @ dequantise(rounded).astype(np.float64)
    ours = jax.jit(product)(x, layer)
    assert ours.dtype == jnp.float32 and not np.asarray(ours[0]).any()
    # Measured 4.7e-7 of the largest: float32's own.
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6 * max(1.0, np.abs(wanted).max()))
    some = np.array([5, 3, 40])
    np.testing.assert_allclose(jax.jit(product)(x, columns(layer, some)), wanted[:, some], atol=1e-4)


def test_the_kernel_stays_int8_in_a_loop() -> None:
    """A compiler that knows the kernel to be the same in every turn may convert it once, before the loop."""
    kernel = jnp.asarray(RNG.integers(-127, 128, (256, 256)), jnp.int8)

    @jax.jit
    def loop(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 9, lambda _, x: jnp.tanh(int8_einsum("nd,dv->nv", x, kernel)), x)

    compiled = loop.lower(jnp.ones((2, 256)), kernel).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * kernel.size


# ---- weights -------------------------------------------------------------------------------------------------------


def logits(model: Model, cached: bool = False) -> np.ndarray:
    tokens = np.random.default_rng(1).integers(0, 512, (2, 20))
    positions = np.broadcast_to(np.arange(20), (2, 20))
    params = {"params": model.params["transformer"]}
    if not cached:
        return np.asarray(jax.jit(model.transformer.apply)(params, tokens, positions)[0])
    cache = init_cache(model.config.transformer, 2, 8, model.dtype).per_row()
    spare = init_cache(model.config.transformer, 1, 20, model.dtype).per_row()
    apply, parts = jax.jit(model.transformer.apply), []
    for start, stop in [(0, 5), (5, 8), (8, 11), (11, 14), (14, 17), (17, 20)]:
        cache = cache if start != 8 else cache.grown(20).with_rows(jnp.array([2]), spare)
        out, cache = apply(params, tokens[:, start:stop], positions[:, start:stop], cache)
        parts.append(out)
    assert isinstance(cache, KVCache) and cache.length.tolist() == [20, 20]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("scan", [False, True])
def test_int8_weights_compute_what_they_stand_for(directory: Path, full: Model, scan: bool) -> None:
    small = load(directory, weights="int8", scan_layers=scan)
    stored = traverse_util.flatten_dict(small.params["transformer"], sep=".")
    kernels = {path for path in stored if path.endswith("kernel")}
    assert all(stored[path].dtype == jnp.int8 for path in kernels) and len(kernels) == (8 if scan else 15)
    assert {stored[path].dtype.name for path in stored.keys() - kernels} == {"float32"}
    ours = logits(small)
    # Logits reach 10; measured 7e-6.
    np.testing.assert_allclose(ours, logits(with_floats(small)), rtol=0, atol=1.5e-5)
    assert 0.001 < np.abs(ours - logits(full)).mean() < 0.1 * ours.std()


def test_each_kernel_is_rounded_by_its_columns(full: Model, small: Model) -> None:
    theirs = traverse_util.flatten_dict(full.params["transformer"], sep=".")
    ours = traverse_util.flatten_dict(small.params["transformer"], sep=".")
    for path in (path for path in theirs if path.endswith("kernel")):
        rounded = quantise(np.asarray(theirs[path]), axis=0)
        np.testing.assert_array_equal(ours[path], rounded.values)
        np.testing.assert_array_equal(ours[path.replace("kernel", "scale")], rounded.scale[0])


@pytest.mark.parametrize("format", ["safetensors", "orbax"])
def test_what_is_saved_is_loaded_whatever_the_dtype(small: Model, tmp_path: Path, format: Format) -> None:
    card, tokenizer = "# Small\n", small.tokenizer.to_str()
    save(tmp_path / "model", small.config, small.params, tokenizer, card, format=format, dtype="bfloat16")
    again = load(tmp_path / "model", dtype="float32")
    assert again.config == small.config and again.config.transformer.weights == "int8"
    ours = traverse_util.flatten_dict(again.params["transformer"], sep=".")
    for path, leaf in traverse_util.flatten_dict(small.params["transformer"], sep=".").items():
        rounded = leaf if path.endswith(("kernel", "scale")) else leaf.astype(jnp.bfloat16).astype(jnp.float32)
        assert ours[path].dtype == leaf.dtype
        np.testing.assert_array_equal(ours[path], rounded)


# ---- cache ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["bhkd", "khbd"])
@pytest.mark.parametrize("heads", [2, 4])
def test_attention_over_int8_is_attention_over_what_it_stands_for(axes: str, heads: int) -> None:
    sizes = {"b": 2, "h": 2, "k": 9, "d": 8}
    q = jnp.asarray(RNG.normal(size=(2, 3, heads, 8)), jnp.float32)
    k, v = (quantise(jnp.asarray(RNG.normal(size=[sizes[a] for a in axes]), jnp.float32)) for _ in range(2))
    mask = jnp.asarray(np.tril(np.ones((3, 9), bool), 6))[None].repeat(2, axis=0).at[1, :, 0].set(False)
    ours = jax.jit(partial(quantised_attention, axes=axes))(q, k, v, mask)
    wanted = attention(q, dequantise(k), dequantise(v), mask, axes)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6)  # measured 4.2e-7


@pytest.mark.parametrize("scan", [False, True])
def test_an_int8_cache_holds_what_a_full_forward_sees(directory: Path, full: Model, scan: bool) -> None:
    model = load(directory, cache="int8", scan_layers=scan)
    cache = init_cache(model.config.transformer, 2, 4)
    assert all(isinstance(store, Quantised) for store in (cache.keys if not scan else [cache.keys]))
    assert cache.num_layers == 2 and cache.layer(1)[0].shape == (2, 4, 4, 8)
    wanted = logits(model)
    # A last bit may send a number to the neighbouring level; measured 3e-6 where none does, on logits that reach 10.
    np.testing.assert_allclose(logits(model, cached=True), wanted, rtol=0, atol=0.05)
    assert 1e-4 < np.abs(wanted - logits(full)).mean() < 0.1 * wanted.std()


def test_a_token_takes_a_byte_for_each_channel_and_a_scale_for_each_head(full: Model) -> None:
    config = full.config.transformer  # 2 layers of 4 heads of 8 channels, each with keys and values
    assert token_bytes(config, jnp.bfloat16) == 2 * 2 * 4 * 8 * 2
    assert token_bytes(dataclasses.replace(config, cache="int8"), jnp.bfloat16) == 2 * 2 * 4 * (8 + 4)


# ---- decoding ------------------------------------------------------------------------------------------------------


def test_ids_are_those_of_the_plain_loop_over_what_the_weights_stand_for(directory: Path) -> None:
    small = load(directory, weights="int8", cache="int8")
    codes = np.random.default_rng(0).integers(0, 64, (2, *GRID))
    answers = generate(small, codes, seed=5)
    for image, answer in enumerate(answers):
        prompt = prompt_ids(small.tokenizer, small.vocabulary, codes[image])
        expected = plain_answer(with_floats(small), prompt, image, 5, GRID)
        np.testing.assert_array_equal(answer.codes, expected.codes)


# ---- mistakes ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_said_in_one_sentence(directory: Path, small: Model, tmp_path: Path) -> None:
    with pytest.raises(PureError, match="^weights is 'int3', but it must be one of float, int8;"):
        load(directory, weights="int3")
    with pytest.raises(PureError, match="^cache is 'int4', but it must be one of float, int8;"):
        load("nobody/nowhere", cache="int4")
    save(tmp_path / "small", small.config, small.params, small.tokenizer.to_str(), "")
    assert load(tmp_path / "small", weights="int8", cache="int8").config.transformer.cache == "int8"
    with pytest.raises(PureError, match="small has int8 weights, not float; take the full model"):
        load(tmp_path / "small", weights="float")
