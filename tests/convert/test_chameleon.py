"""Converted Chameleon weights give the logits of transformers' torch model; its configuration crosses both ways."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util

from pure_jax.checkpoint import stack
from pure_jax.convert.chameleon import config_from_torch, config_to_torch, norm_ranks, transformer_from_torch
from pure_jax.errors import PureError
from pure_jax.tensors import LazyTensor, in_memory
from pure_jax.transformer import Transformer
from tests.upstream import VARIANTS, language_model, transformer_config

MASKED = [4, 5]  # ids named IMGIMG...: transformers always masks their logits


def lazy_state(model: torch.nn.Module) -> dict[str, LazyTensor]:
    return {name: in_memory(tensor.numpy()) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_equal_transformers(variant: dict[str, Any]) -> None:
    cfg = transformer_config(vocab_size=64, **variant)
    model = language_model(cfg)
    ids = np.random.default_rng(1).integers(6, 60, (2, 11))
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(ids), output_hidden_states=True)
    wanted, stream = theirs.logits.numpy(), theirs.hidden_states[:-1]  # their last one is behind the final norm
    seen = np.setdiff1d(np.arange(cfg.vocab_size), MASKED)
    positions = jnp.broadcast_to(jnp.arange(11), (2, 11))
    unrolled, _ = transformer_from_torch(lazy_state(model), cfg)
    for scan in (True, False):
        cfg = dataclasses.replace(cfg, scan_layers=scan)
        tensors = stack(unrolled) if scan else unrolled
        params = traverse_util.unflatten_dict({path: jnp.asarray(t) for path, t in tensors.items()}, sep=".")
        logits, _ = jax.jit(Transformer(cfg).apply)({"params": params}, jnp.asarray(ids), positions)
        assert np.isfinite(logits).all() and wanted[..., seen].std() > 0.5
        # Measured: at most 2.4e-6 on logits of spread 1 (required: 1e-4).
        np.testing.assert_allclose(logits[..., seen], wanted[..., seen], rtol=0, atol=5e-6)
    apply = jax.jit(partial(Transformer(cfg).apply, all_layers=True))
    ours, _ = apply({"params": params}, jnp.asarray(ids), positions)
    assert len(ours) == len(stream) + 1
    for a, b in zip(ours, stream, strict=False):
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=5e-6)  # measured: at most 2.4e-6


def test_the_old_image_tokenizer_may_be_there_or_not() -> None:
    with_it = lazy_state(language_model(transformer_config()))
    without = {name: t for name, t in with_it.items() if not name.startswith("model.vqmodel.")}
    assert len(without) == 3 + 13 * 2 < len(with_it)
    (a, unused), (b, none) = (transformer_from_torch(t, transformer_config()) for t in (with_it, without))
    assert a.keys() == b.keys() and none == [] and set(unused) == with_it.keys() - without.keys()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_ranks_are_read_off_the_norms(variant: dict[str, Any]) -> None:
    cfg = transformer_config(**variant)
    assert norm_ranks(lazy_state(language_model(cfg)), cfg.num_layers) == cfg.model_parallel_size


# ---- configuration -------------------------------------------------------------------------------------------------

NAMES = {"<image>": 3, "<reserved08707>": 3}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_configuration_there_and_back(variant: dict[str, Any]) -> None:
    cfg = transformer_config(rope_theta=5000.0, rms_norm_eps=1e-6, dropout=0.05, **variant)
    there = config_to_torch(cfg, NAMES)
    assert config_from_torch(there, "config.json", cfg.model_parallel_size) == cfg
    assert there["vocabulary_map"]["<image>"] == 3


def test_old_and_new_ways_to_write_rope_are_read() -> None:
    values = config_to_torch(transformer_config(), NAMES)
    del values["rope_parameters"], values["rope_theta"]
    for fields, theta in (
        ({"rope_theta": 5000.0, "rope_scaling": None}, 5000.0),
        ({"rope_parameters": {"rope_theta": 7000, "rope_type": "default"}}, 7000.0),
        ({}, 10_000.0),
    ):
        assert config_from_torch(values | fields, "config.json", 1).rope_theta == theta


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": None}, "hidden_size is None, but a number is needed"),
        ({"hidden_size": "32"}, "hidden_size is '32', but a number is needed"),
        ({"num_hidden_layers": 0}, "num_layers is 0"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' instead of 'silu'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "rope scaling 'linear'"),
        ({"attention_bias": True}, "attention_bias, which models of the PURE family do not have"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"apply_lora": True}, "apply_lora"),
        ({"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
    ],
)
def test_other_models_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PureError, match=f"^here.json.*{message}"):
        config_from_torch(config_to_torch(transformer_config(), NAMES) | fields, "here.json", 1)


def test_a_model_that_transformers_cannot_hold_is_refused() -> None:
    with pytest.raises(PureError, match="4 x 16 is not 32"):
        config_to_torch(transformer_config(head_dim=16), NAMES)
