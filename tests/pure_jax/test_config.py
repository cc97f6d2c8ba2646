"""Configurations go to JSON and back unchanged, and a value that cannot work is refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from flax.traverse_util import flatten_dict

from pure_jax.config import (
    PRESETS,
    ModelConfig,
    SamplingConfig,
    TransformerConfig,
    VQGANConfig,
    from_dict,
    tiny,
    to_dict,
)
from pure_jax.errors import PureError

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_are_hashable(name: str) -> None:
    config = PRESETS[name]()
    back = from_dict(ModelConfig, json.loads(json.dumps(to_dict(config))))
    assert back == config and hash(back) == hash(config)


def test_every_field_survives_json() -> None:
    config = ModelConfig(
        transformer=TransformerConfig(
            vocab_size=7,
            hidden_size=6,
            intermediate_size=5,
            num_layers=4,
            num_heads=8,
            num_kv_heads=4,
            head_dim=2,
            rms_norm_eps=0.5,
            rope_theta=3.5,
            model_parallel_size=2,
            swin_norm=True,
            dropout=0.25,
            weights="int8",
            cache="int8",
            scan_layers=False,
        ),
        vqgan=VQGANConfig(3, (2, 1), 1, 5, 6, 7, 1, 0.25),
        sampling=SamplingConfig(0.1, 0.2, 3.0, 4.0, 4.5, 6),
        tile_size=12,
        tile_overlap=4,
        codes_per_grid=3,
        text_length=9,
        colour_fix="none",
    )
    default = flatten_dict(to_dict(ModelConfig()))
    same = [k for k, v in flatten_dict(to_dict(config)).items() if v == default[k] and k != ("family",)]
    assert not same, "a default proves nothing"
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_what_is_no_size_may_be_absent_and_whole_numbers_count_as_floats() -> None:
    values = to_dict(tiny()) | {"sampling": {"temperature": 1}, "text_length": None}
    for name in ("family", "tile_overlap", "colour_fix"):
        del values[name]
    for name in ("dropout", "scan_layers"):
        del values["transformer"][name]
    config = from_dict(ModelConfig, values)
    assert config.sampling == SamplingConfig(temperature=1.0)
    assert isinstance(config.sampling.temperature, float)
    assert config.transformer.dropout == TransformerConfig.dropout
    assert config.vqgan == tiny().vqgan


def test_what_older_files_say_of_training_is_passed_over() -> None:
    values = to_dict(tiny())
    values["transformer"]["remat"] = True
    assert from_dict(ModelConfig, values) == tiny()


def test_a_whole_number_beyond_all_floats_is_out_of_range() -> None:
    with pytest.raises(PureError, match="k_max is inf"):
        from_dict(ModelConfig, {"sampling": {"k_max": 10**400}})


SIZES = [
    path
    for path in flatten_dict(to_dict(tiny()))
    if path[0] in ("transformer", "vqgan", "tile_size", "codes_per_grid")
    and path[-1] not in ("dropout", "scan_layers", "weights", "cache")
]


@pytest.mark.parametrize("path", [*SIZES, ("transformer",), ("vqgan",)], ids=".".join)
def test_an_absent_size_is_no_default_but_a_mistake(path: tuple[str, ...]) -> None:
    values = json.loads(json.dumps(to_dict(tiny())))
    section = values if len(path) == 1 else values[path[0]]
    del section[path[-1]]
    where = ": ".join(["config.json", *path[:-1]])
    with pytest.raises(PureError, match=f"^{where} does not say {path[-1]};"):
        from_dict(ModelConfig, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "config.json must hold a JSON object, not list"),
        ({"transfomer": {}}, "unknown field 'transfomer'"),
        ({"transformer": {"depth": 3}}, "transformer has the unknown field 'depth'"),
        ({"transformer": 3}, "transformer must hold a JSON object, not int"),
        ({"transformer": {"num_layers": 2.0}}, "num_layers is 2.0, but the type must be int"),
        ({"transformer": {"num_layers": True}}, "num_layers is True"),
        ({"transformer": {"num_layers": None}}, "num_layers is None"),
        ({"transformer": {"swin_norm": 1}}, "swin_norm is 1"),
        ({"transformer": {"dropout": "0.1"}}, "dropout is '0.1'"),
        ({"transformer": {"dropout": False}}, "dropout is False"),
        ({"transformer": {"num_layers": 1e9}}, "num_layers is 1000000000.0, but the type must be int"),
        ({"vqgan": {"channel_multipliers": 4}}, "channel_multipliers is 4, but a list is needed"),
        ({"vqgan": {"channel_multipliers": [1, "2"]}}, "channel_multipliers is '2'"),
        ({"text_length": "24"}, "text_length is '24'"),
        ({"family": 1}, "family is 1"),
    ],
)
def test_wrong_json_is_named(values: Any, message: str) -> None:
    with pytest.raises(PureError, match="config.json") as error:
        from_dict(ModelConfig, values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        *((TransformerConfig, {name: bad}) for name in ("vocab_size", "num_layers", "num_kv_heads") for bad in (0, -1)),
        *((TransformerConfig, {name: bad}) for name in ("rms_norm_eps", "rope_theta") for bad in (0.0, NAN, INF)),
        *((TransformerConfig, {"dropout": bad}) for bad in (-0.1, 1.0, NAN)),
        *((TransformerConfig, {name: 10**9}) for name in ("vocab_size", "hidden_size", "num_layers", "head_dim")),
        *((VQGANConfig, {name: 2**30}) for name in ("channels", "num_res_blocks", "codebook_dim", "codebook_size")),
        *((VQGANConfig, {"channel_multipliers": bad}) for bad in ((1,) * 64, (2**30,))),
        (TransformerConfig, {"num_heads": 30}),
        (TransformerConfig, {"num_kv_heads": 12}),
        (TransformerConfig, {"model_parallel_size": 3}),
        (TransformerConfig, {"num_kv_heads": 4, "num_heads": 12, "model_parallel_size": 3}),
        (TransformerConfig, {"head_dim": 127}),
        (VQGANConfig, {"channel_multipliers": ()}),
        (VQGANConfig, {"channel_multipliers": (1, 0)}),
        (VQGANConfig, {"channels": 48}),
        (VQGANConfig, {"codebook_size": 0}),
        (VQGANConfig, {"norm_eps": NAN}),
        *((SamplingConfig, {"guidance_scale": bad}) for bad in (-0.1, 100.5, NAN)),
        *((SamplingConfig, {"temperature": bad}) for bad in (-0.1, 10.5, NAN, INF)),
        *((SamplingConfig, {"k_min": bad}) for bad in (0.0, 2001.0, NAN)),
        *((SamplingConfig, {"k_max": bad}) for bad in (0.5, 2e6, NAN)),
        *((SamplingConfig, {"entropy_center": bad}) for bad in (-1.0, 101.0, NAN)),
        *((SamplingConfig, {"max_text_tokens": bad}) for bad in (-1, 8193)),
        *((ModelConfig, {"tile_size": bad}) for bad in (0, 16, 500, 2**20)),
        (ModelConfig, {"text_length": 2**20}),
        (ModelConfig, {"codes_per_grid": 0}),
        (ModelConfig, {"text_length": 0}),
    ],
)
def test_values_out_of_range_are_named(cls: type, values: dict[str, Any]) -> None:
    with pytest.raises(PureError, match=next(iter(values))):
        cls(**values)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    SamplingConfig(guidance_scale=0.0, temperature=0.0, k_min=1.0, k_max=1.0, entropy_center=0.0, max_text_tokens=0)
    SamplingConfig(100.0, 10.0, 1e6, 1e6, 100.0, 8192)
    TransformerConfig(dropout=0.0)
    assert ModelConfig(tile_size=32).tile_size == 32


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().tile_size = 3  # type: ignore[misc]


LEVELS = [((1,), 1), ((1, 2, 2), 4), ((1, 2, 2, 4), 8), ((1, 1, 2, 2, 4), 16)]


@pytest.mark.parametrize(("multipliers", "stride"), LEVELS)
def test_stride_follows_the_levels(multipliers: tuple[int, ...], stride: int) -> None:
    assert VQGANConfig(channel_multipliers=multipliers).stride == stride


@pytest.mark.parametrize("field, value", [("family", "nsarm"), ("colour_fix", "magic"), ("tile_overlap", 257)])
def test_values_outside_the_list_are_refused(field: str, value: str | int) -> None:
    with pytest.raises(PureError, match=str(value)):
        ModelConfig(**{field: value})
