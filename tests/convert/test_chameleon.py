"""Converted Chameleon weights give the logits of transformers' torch model, and a wrong file is refused by name."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from convert import Row, keep, translate
from convert.chameleon import ROWS, transformer_from_torch
from pure_jax.config import TransformerConfig
from pure_jax.errors import PureError
from pure_jax.transformer import Transformer, unstack_layers

MASKED = [4, 5]  # ids named IMGIMG...: transformers always masks their logits
VARIANTS = {
    "one rank": {"model_parallel_size": 1, "num_kv_heads": 4},
    "two ranks, grouped queries": {"model_parallel_size": 2, "num_kv_heads": 2},
    "a rank per head": {"model_parallel_size": 4, "num_kv_heads": 4},
    "swin norm, grouped queries": {"model_parallel_size": 1, "num_kv_heads": 2, "swin_norm": True},
}


def config(**changes: Any) -> TransformerConfig:
    base = TransformerConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        head_dim=8,
        dropout=0.0,
    )
    return dataclasses.replace(base, **changes)


def torch_model(cfg: TransformerConfig) -> ChameleonForConditionalGeneration:
    """Random weights, wide enough that every part matters; QK-norm rows repeat as `cfg` says."""
    torch.manual_seed(0)
    model = ChameleonForConditionalGeneration(
        ChameleonConfig(
            vocab_size=cfg.vocab_size,
            hidden_size=cfg.hidden_size,
            intermediate_size=cfg.intermediate_size,
            num_hidden_layers=cfg.num_layers,
            num_attention_heads=cfg.num_heads,
            num_key_value_heads=cfg.num_kv_heads,
            rms_norm_eps=cfg.rms_norm_eps,
            swin_norm=cfg.swin_norm,
            vocabulary_map={"<image>": 60, "IMGIMGAZ": 4, "IMGIMGBZ": 5},
            vq_config={
                "base_channels": 32,
                "channel_multiplier": [1],
                "num_res_blocks": 1,
                "latent_channels": 32,
                "embed_dim": 8,
                "num_embeddings": 2,
                "attn_type": "none",
            },
        )
    ).eval()
    for name, p in model.named_parameters():
        noise = torch.randn_like(p)
        if "_norm." in name:
            rows = torch.randn(cfg.model_parallel_size, cfg.head_dim).repeat_interleave(
                p.shape[0] // cfg.model_parallel_size, dim=0
            )
            p.data = 0.3 * rows + name.endswith("weight")
        elif p.ndim == 1:
            p.data = 1 + 0.3 * noise
        else:
            p.data = noise if "embed_tokens" in name else noise * p.shape[-1] ** -0.5
    return model


def numpy_tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: t.numpy() for name, t in model.state_dict().items()}


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return numpy_tensors(torch_model(config()))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_equal_transformers(variant: dict[str, Any]) -> None:
    cfg = config(**variant)
    model = torch_model(cfg)
    ids = np.random.default_rng(1).integers(6, 60, (2, 11))
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor(ids)).logits.numpy()
    seen = np.setdiff1d(np.arange(cfg.vocab_size), MASKED)
    positions = jnp.broadcast_to(jnp.arange(11), (2, 11))
    for scan in (True, False):
        cfg = dataclasses.replace(cfg, scan_layers=scan)
        params = transformer_from_torch(numpy_tensors(model), cfg)
        logits, _ = jax.jit(Transformer(cfg).apply)({"params": params}, jnp.asarray(ids), positions)
        assert np.isfinite(logits).all() and wanted[..., seen].std() > 0.5
        # Measured: at most 2.4e-6 on logits of spread 1 (required: 1e-4).
        np.testing.assert_allclose(logits[..., seen], wanted[..., seen], rtol=0, atol=5e-6)


def test_rows_per_rank_and_rows_per_head_give_the_same_parameters() -> None:
    cfg = config(model_parallel_size=2, num_kv_heads=2)
    per_head = numpy_tensors(torch_model(cfg))
    per_rank = {n: t[:: t.shape[0] // 2] if "q_norm" in n or "k_norm" in n else t for n, t in per_head.items()}
    assert per_rank["model.layers.0.self_attn.q_norm.weight"].shape == (2, 8)
    a, b = transformer_from_torch(per_head, cfg), transformer_from_torch(per_rank, cfg)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert a["layers"]["self_attn"]["q_norm"]["weight"].shape == (2, 2, 8)


def test_rows_that_differ_within_a_rank_are_refused(tensors: dict[str, np.ndarray]) -> None:
    name = "model.layers.1.self_attn.k_norm.bias"
    different = tensors[name] + np.arange(4, dtype=np.float32)[:, None]
    with pytest.raises(PureError, match="model.layers.1.self_attn.k_norm.bias.*4 rows differ within the 1 groups"):
        transformer_from_torch(tensors | {name: different}, config())


def test_stacked_and_unrolled_hold_the_same_numbers_in_the_same_dtype(tensors: dict[str, np.ndarray]) -> None:
    half = {name: t.astype(jnp.bfloat16) for name, t in tensors.items()}
    stacked = transformer_from_torch(half, config())
    unrolled = transformer_from_torch(half, config(scan_layers=False))
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(stacked), unrolled)
    assert {leaf.dtype for leaf in jax.tree.leaves(stacked)} == {np.dtype(jnp.bfloat16)}
    kernel = unrolled["layers_1"]["mlp"]["down_proj"]["kernel"]
    np.testing.assert_array_equal(kernel, half["model.layers.1.mlp.down_proj.weight"].T)


def test_the_old_image_tokenizer_may_be_there_or_not(tensors: dict[str, np.ndarray]) -> None:
    without = {name: t for name, t in tensors.items() if not name.startswith("model.vqmodel.")}
    assert len(without) == 3 + 13 * 2 < len(tensors)
    a, b = transformer_from_torch(tensors, config()), transformer_from_torch(without, config())
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_row_of_the_table_is_needed_and_no_name_matches_two(tensors: dict[str, np.ndarray]) -> None:
    used = [[row for row in ROWS if re.fullmatch(row.source, name)] for name in tensors]
    assert all(len(rows) == 1 for rows in used)
    assert {row for rows in used for row in rows} == set(ROWS)


def test_all_that_is_wrong_is_told_at_once(tensors: dict[str, np.ndarray]) -> None:
    broken = dict(tensors)
    del broken["model.norm.weight"]
    broken["model.layers.0.self_attn.gate"] = np.zeros(3, np.float32)
    broken["model.layers.2.input_layernorm.weight"] = np.zeros(32, np.float32)
    broken["lm_head.weight"] = np.zeros((32, 32), np.float32)
    with pytest.raises(PureError) as error:
        transformer_from_torch(broken, config())
    for part in (
        "'model.layers.0.self_attn.gate' is unknown",
        "'model.layers.2.input_layernorm.weight' has no place",
        "'lm_head.weight' of shape (32, 32) does not fit lm_head/kernel (32, 64)",
        "nothing fills norm/weight",
    ):
        assert part in str(error.value)


def test_a_wrong_file_gives_a_short_message() -> None:
    with pytest.raises(PureError, match=r"'a0' is unknown; .* and 1\d\d more$"):
        transformer_from_torch({f"a{i}": np.zeros(1) for i in range(100)}, config())


def test_a_leaf_filled_twice_or_a_name_described_twice_is_an_error() -> None:
    one = np.zeros(1)
    with pytest.raises(PureError, match="'b' would fill x a second time"):
        translate({"a": one, "b": one}, [Row("a|b", "x", keep)], {"x": one}, "test")
    with pytest.raises(PureError, match="'a' is described twice; nothing fills x"):
        translate({"a": one}, [Row("a", "x", keep), Row(".", "x", keep)], {"x": one}, "test")
