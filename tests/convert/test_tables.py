"""The tables of names: one row per tensor, every parameter filled once, all that is wrong told at once."""

from __future__ import annotations

import numpy as np
import pytest

from pure_jax.convert import chameleon, llamagen
from pure_jax.convert.chameleon import canonical, transformer_from_torch, transformer_to_torch
from pure_jax.convert.llamagen import vqgan_from_torch, vqgan_to_torch
from pure_jax.convert.tables import CONV, KEEP, LINEAR, Row, distinct_rows, from_torch, matches, to_torch
from pure_jax.errors import PureError
from pure_jax.tensors import LazyTensor, in_memory
from tests.upstream import VARIANTS, VQGAN, image_tensors, language_model, transformer_config


def lazy(tensors: dict) -> dict[str, LazyTensor]:
    return {name: in_memory(np.asarray(tensor)) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def language() -> dict[str, LazyTensor]:
    return lazy(language_model(transformer_config()).state_dict())


@pytest.fixture(scope="module")
def image() -> dict[str, LazyTensor]:
    return lazy(image_tensors())


# ---- the two tables ------------------------------------------------------------------------------------------------


def test_every_name_matches_one_row_and_every_row_is_needed(language, image) -> None:
    buffers = dict.fromkeys(
        ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"], language["model.norm.weight"]
    )
    for tensors, rows in ((language | buffers, chameleon.ROWS), (image, llamagen.ROWS)):
        found = [[row.source for row, _ in matches(name, rows)] for name in tensors]
        assert {len(sources) for sources in found} == {1}
        assert {sources[0] for sources in found} == {row.source for row in rows}


@pytest.mark.parametrize("rows_per_head", [True, False])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_there_and_back_is_the_same_bits(variant: dict, rows_per_head: bool) -> None:
    cfg = transformer_config(**variant)
    tensors = lazy(language_model(cfg).state_dict())
    tensors = {name: tensor for name, tensor in tensors.items() if "vqmodel" not in name}
    if not rows_per_head:
        for name in [name for name in tensors if "q_norm" in name or "k_norm" in name]:
            rows = np.asarray(tensors[name])
            tensors[name] = in_memory(rows[:: len(rows) // cfg.norm_rows(len(rows))])
    params, unused = transformer_from_torch(tensors, cfg)
    back = transformer_to_torch(params, cfg, rows_per_head)
    assert unused == [] and back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        a, b = np.asarray(tensor), np.asarray(back[name])
        assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes()), name


def test_the_image_tokenizer_there_and_back_is_the_same_bits(image) -> None:
    params, unused = vqgan_from_torch(image, VQGAN)
    back = vqgan_to_torch(params)
    assert unused == ["quantize.codebook_used"] and set(back) == set(image) - set(unused)
    for name, tensor in back.items():
        assert np.asarray(tensor).tobytes() == np.asarray(image[name]).tobytes(), name


def test_rows_per_rank_and_rows_per_head_give_the_same_parameters() -> None:
    cfg = transformer_config(model_parallel_size=2, num_kv_heads=2)
    per_head = lazy(language_model(cfg).state_dict())
    per_rank = per_head | {
        name: in_memory(np.asarray(tensor)[:: tensor.shape[0] // 2])
        for name, tensor in per_head.items()
        if "q_norm" in name or "k_norm" in name
    }
    assert per_rank["model.layers.0.self_attn.q_norm.weight"].shape == (2, 8)
    (a, _), (b, _) = transformer_from_torch(per_head, cfg), transformer_from_torch(per_rank, cfg)
    for path, tensor in a.items():
        np.testing.assert_array_equal(np.asarray(tensor), np.asarray(b[path]))
    assert a["layers_0.self_attn.q_norm.weight"].shape == (2, 8)


def test_rows_that_differ_within_a_rank_are_refused(language) -> None:
    name = "model.layers.1.self_attn.k_norm.bias"
    different = in_memory(np.asarray(language[name]) + np.arange(4, dtype=np.float32)[:, None])
    with pytest.raises(PureError, match=f"{name}': its 4 rows differ within the 1 groups"):
        transformer_from_torch(language | {name: different}, transformer_config())


@pytest.mark.parametrize("rows, groups", [([1, 1, 1, 1], 1), ([1, 1, 2, 2], 2), ([1, 2, 1, 2], 4), ([1, 1, 1, 2], 4)])
def test_distinct_rows(rows: list[int], groups: int) -> None:
    assert distinct_rows(np.array(rows, np.float32)[:, None] * np.ones((4, 3), np.float32)) == groups


@pytest.mark.parametrize(
    "name",
    ["model.layers.3.mlp.up_proj.weight", "language_model.model.layers.3.mlp.up_proj.weight"]
    + ["model.language_model.layers.3.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight"],
)
def test_names_of_all_wrappers_are_one(name: str) -> None:
    assert canonical(name) == "model.layers.3.mlp.up_proj.weight"


def test_the_head_has_its_own_place() -> None:
    assert canonical("lm_head.weight") == canonical("language_model.lm_head.weight") == "lm_head.weight"


# ---- what is wrong -------------------------------------------------------------------------------------------------


def test_all_that_is_wrong_is_told_at_once(language) -> None:
    broken = {name: tensor for name, tensor in language.items() if name != "model.norm.weight"}
    broken["model.layers.0.self_attn.gate"] = in_memory(np.zeros(3, np.float32))
    broken["model.layers.2.input_layernorm.weight"] = in_memory(np.zeros(32, np.float32))
    broken["lm_head.weight"] = in_memory(np.zeros((32, 32), np.float32))
    with pytest.raises(PureError) as error:
        transformer_from_torch(broken, transformer_config())
    for part in (
        "'model.layers.0.self_attn.gate' is unknown",
        "'model.layers.2.input_layernorm.weight' has no place in a model of this size",
        "'lm_head.weight' of shape [32, 32] does not fit lm_head.kernel [32, 512]",
        "tensor 'model.norm.weight' is missing",
    ):
        assert part in str(error.value)


def test_what_differs_in_numbers_only_is_told_once(language) -> None:
    with pytest.raises(PureError) as error:
        transformer_from_torch(language, transformer_config(num_layers=40))
    assert "tensor 'model.layers.10.input_layernorm.weight' is missing (and 37 more like it)" in str(error.value)


def test_missing_and_misshapen_tensors_of_the_image_tokenizer_are_named(image) -> None:
    broken = {name: tensor for name, tensor in image.items() if name != "decoder.mid.1.q.bias"}
    broken["quant_conv.weight"] = in_memory(np.zeros((8, 32), np.float32))
    broken["encoder.conv_in.weight"] = in_memory(np.zeros((32, 1, 3, 3), np.float32))
    broken["encoder.conv_blocks.0.res.0.conv3.weight"] = in_memory(np.zeros(1, np.float32))
    with pytest.raises(PureError) as error:
        vqgan_from_torch(broken, VQGAN)
    for part in (
        "tensor 'decoder.mid.1.q.bias' is missing",
        "'quant_conv.weight': a convolution kernel has 4 axes, not 2",
        "'encoder.conv_in.weight' of shape [32, 1, 3, 3] does not fit encoder.conv_in.kernel [3, 3, 3, 32]",
        "'encoder.conv_blocks.0.res.0.conv3.weight' is unknown",
    ):
        assert part in str(error.value)


def test_a_parameter_filled_twice_or_a_name_described_twice_is_an_error() -> None:
    one = in_memory(np.zeros(1, np.float32))
    with pytest.raises(PureError, match="'b' would fill x a second time"):
        from_torch({"a": one, "b": one}, [Row("{n}", "x", KEEP, {"n": "a|b"})], {"x": (1,)}, "test")
    with pytest.raises(PureError, match="'a' is described twice$"):
        from_torch({"a": one}, [Row("a", "x", KEEP), Row("{n}", "x", KEEP, {"n": "."})], {"x": (1,)}, "test")


def test_templates_take_dots_literally_and_go_both_ways() -> None:
    rows = [Row("a.{layer}.w", "b_{layer}.k", LINEAR), Row("c", None, KEEP)]
    assert not matches("aX3.w", rows) and not matches("a.x.w", rows)
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    params, unused = from_torch({"a.12.w": in_memory(kernel), "c": in_memory(kernel)}, rows, {"b_12.k": (3, 2)}, "test")
    np.testing.assert_array_equal(np.asarray(params["b_12.k"]), kernel.T)
    assert unused == ["c"]
    np.testing.assert_array_equal(np.asarray(to_torch(params, rows)["a.12.w"]), kernel)


def test_a_convolution_kernel_moves_its_axes() -> None:
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1)
    there = CONV.forward(in_memory(kernel), ())
    assert there.shape == (4, 1, 3, 2) and np.asarray(there)[3, 0, 2, 1] == kernel[1, 2, 3, 0]
    np.testing.assert_array_equal(np.asarray(CONV.backward(there, ())), kernel)
