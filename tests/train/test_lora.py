"""LoRA: adapters that begin as nothing, that the network adds as their definition says, and that merge; grown
vocabularies."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from pure_jax.errors import PureError
from pure_jax.train.config import LoraConfig
from pure_jax.train.language_model import first_state, make_step
from pure_jax.train.lora import adapted_variables, init_adapters, merged, peft_tensors, save_peft
from pure_jax.train.start import grown
from pure_jax.transformer import Transformer, stack_layers
from tests.models import tiny_model
from tests.train.test_language_model import CODES, OPTIONS, PROMPT_LENGTH, VOCABULARY, batch

LORA = LoraConfig(rank=2, alpha=6.0, targets=("q_proj", "v_proj", "down_proj"))
MODEL = tiny_model(tile_size=16, num_layers=2)
BASE = MODEL.params["transformer"]
CONFIG = MODEL.config
TOKENS = np.random.default_rng(0).integers(0, 300, (2, 9))
POSITIONS = np.broadcast_to(np.arange(9), TOKENS.shape)


def some_adapters(base, lora=LORA):
    rng = np.random.default_rng(1)
    fresh = init_adapters(base, lora, VOCABULARY, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), fresh)


def logits(variables, scan=False):
    config = dataclasses.replace(CONFIG.transformer, scan_layers=scan)
    return Transformer(config).apply(variables, TOKENS, POSITIONS)[0]


def test_fresh_adapters_change_nothing():
    fresh = init_adapters(BASE, LORA, VOCABULARY, jax.random.key(0))
    adapted = adapted_variables(BASE, fresh, LORA, VOCABULARY)
    np.testing.assert_array_equal(logits(adapted), logits({"params": BASE}))
    a = flatten_dict(fresh["lora"])["layers_0", "self_attn", "q_proj", "a"]
    assert 0.9 * 32**-0.5 < np.abs(a).max() <= 32**-0.5


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_the_network_adds_what_merging_writes_into_the_weights(scan):
    base = stack_layers(BASE) if scan else BASE
    trained = some_adapters(base)
    adapted = logits(adapted_variables(base, trained, LORA, VOCABULARY), scan)
    plain = logits({"params": merged(base, trained, LORA, VOCABULARY)}, scan)
    np.testing.assert_allclose(adapted, plain, rtol=0, atol=2e-5)
    assert np.abs(adapted - logits({"params": base}, scan)).max() > 0.1


def test_the_written_adapters_are_pefts(tmp_path):
    """W [out, in] + alpha / r lora_B lora_A, by PEFT's names, with numpy."""
    trained = some_adapters(BASE)
    save_peft(tmp_path / "adapters", trained, LORA, "a model")
    tensors = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    told = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert len(tensors) == 2 * 2 * 3 and (told["r"], told["lora_alpha"], told["peft_type"]) == (2, 6.0, "LORA")
    wanted = merged(BASE, trained, LORA, VOCABULARY)
    for layer, module in ((0, "self_attn.q_proj"), (1, "mlp.down_proj")):
        a, b = (tensors[f"base_model.model.model.layers.{layer}.{module}.lora_{n}.weight"] for n in "AB")
        part, name = module.split(".")
        kernel = np.asarray(BASE[f"layers_{layer}"][part][name]["kernel"])
        ours = wanted[f"layers_{layer}"][part][name]["kernel"]
        np.testing.assert_allclose(ours, (kernel.T + told["lora_alpha"] / told["r"] * b @ a).T, rtol=0, atol=1e-6)
    rows = load_file(tmp_path / "adapters" / "codes.safetensors")
    np.testing.assert_array_equal(rows["embedding"], trained["codes"]["embedding"])
    stacked = peft_tensors(some_adapters(stack_layers(BASE)))
    assert {n: x.shape for n, x in stacked.items()} == {n: x.shape for n, x in tensors.items()}


def test_a_step_trains_the_adapters_and_the_codes_rows_and_nothing_else():
    options = dataclasses.replace(OPTIONS, lora=LORA)
    state = first_state(options, init_adapters(BASE, LORA, VOCABULARY, jax.random.key(0)))
    step = make_step(CONFIG, options, VOCABULARY, PROMPT_LENGTH)
    one = batch(0, config=CONFIG, options=options)
    after, metrics = step(step(state, one, base=BASE)[0], one, base=BASE)  # the first step's rate is 0
    assert metrics["skipped"] == 0 and set(after.params) == {"lora", "codes"}
    for path, value in flatten_dict(after.params).items():
        moved = np.abs(value - flatten_dict(state.params)[path]).max()
        # B is 0 in the step before, and A has no gradient through it.
        assert (moved > 0) == (path[-1] != "a"), path
    whole = make_step(CONFIG, OPTIONS, VOCABULARY, PROMPT_LENGTH)
    np.testing.assert_allclose(
        step(state, one, base=BASE)[1]["loss"], whole(first_state(OPTIONS, BASE), one)[1]["loss"], rtol=1e-6
    )


CODEBOOK = np.random.default_rng(2).normal(size=(CODES, 8)).astype(np.float32)


@pytest.mark.parametrize("how", ["keep", "codebook", "gaussian", "resample"])
def test_a_vocabulary_grows(how):
    """Half of the codes are new; all rows that are neither codes nor new stay as they are."""
    size = CONFIG.transformer.vocab_size
    codes = np.concatenate([np.arange(100, 100 + CODES // 2), np.arange(size, size + CODES // 2)])
    new = grown(
        BASE, codebook=jnp.asarray(CODEBOOK), size=size + CODES // 2, codes=codes, how=how, key=jax.random.key(0)
    )
    table, head = np.asarray(new["embed"]["embedding"]), np.asarray(new["lm_head"]["kernel"]).T
    old_table, old_head = np.asarray(BASE["embed"]["embedding"]), np.asarray(BASE["lm_head"]["kernel"]).T
    assert len(table) == len(head) == size + CODES // 2
    untouched = np.setdiff1d(np.arange(size), codes) if how in ("codebook", "gaussian") else np.arange(size)
    np.testing.assert_array_equal(table[untouched], old_table[untouched])
    np.testing.assert_array_equal(head[untouched], old_head[untouched])
    if how == "gaussian":
        assert table[codes].std() == pytest.approx(0.02, rel=0.1) and head[codes].std() == pytest.approx(0.02, rel=0.1)
        return
    if how == "resample":
        # transformers' resize: the mean, and a thousand-millionth of the covariance.
        np.testing.assert_allclose(table[size:], np.broadcast_to(old_table.mean(0), (CODES // 2, 32)), atol=1e-4)
        assert 0 < (table[size:] - old_table.mean(0)).std() < 1e-4
        return
    fresh = codes if how == "codebook" else codes[codes >= size]
    assert not head[fresh].any()
    image = old_table[codes[codes < size]]
    assert table[fresh].std() == pytest.approx(image.std(), rel=0.3)
    # Codes that look alike begin alike.
    unit = CODEBOOK / np.linalg.norm(CODEBOOK, axis=1, keepdims=True)
    alike = (unit @ unit.T)[np.isin(codes, fresh)][:, np.isin(codes, fresh)]
    rows = table[fresh] - image.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    off = ~np.eye(len(fresh), dtype=bool)
    assert np.corrcoef(alike[off], (rows @ rows.T)[off])[0, 1] > 0.8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": -1}, "rank is -1"),
        ({"targets": ("lm_head",)}, "a target of lora is 'lm_head'"),
        ({"targets": ()}, "must be one or more"),
        ({"targets": ("q_proj", "q_proj")}, "each named once"),
    ],
)
def test_adapters_that_cannot_be_are_refused(options, words):
    with pytest.raises(PureError, match=words):
        LoraConfig(**options)


def test_muon_has_nothing_to_train_behind_adapters():
    with pytest.raises(PureError, match="muon is for the layers' matrices"):
        dataclasses.replace(OPTIONS, muon=2.0, lora=LORA)
