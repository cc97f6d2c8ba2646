"""NSARM's configuration goes to JSON and back, and refuses what no network could be made of."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pure_jax.config import from_dict, to_dict
from pure_jax.errors import PureError
from pure_jax.nsarm.config import (
    MapConfig,
    NsarmConfig,
    SamplingConfig,
    TextConfig,
    TransformerConfig,
    VAEConfig,
    text_config,
)
from pure_jax.nsarm.presets import feed_forward_size, tiny, transformer_preset, with_size


@pytest.mark.parametrize("config", [tiny(), NsarmConfig(), NsarmConfig(text_encoder=TextConfig(), tile_overlap=64)])
def test_it_goes_to_json_and_back(config):
    assert from_dict(NsarmConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_the_published_model_turns_256_pixels_into_1024():
    config = NsarmConfig()
    assert (config.low_quality_size, config.tile_size, config.magnification, config.stride) == (256, 1024, 4, 16)
    assert (config.ends[6], config.ends[-1]) == (521, 10_521)
    assert config.max_entropy == pytest.approx(38.816, abs=1e-3)


@pytest.mark.parametrize(
    ("size", "pixels", "tokens"), [("0.06M", 256, 521), ("0.25M", 512, 2521), ("0.60M", 768, 6425)]
)
def test_a_size_is_a_prefix_of_the_schedule(size, pixels, tokens):
    config = with_size(NsarmConfig(), size)
    assert (config.tile_size, config.ends[-1], config.transformer.grid_side) == (pixels, tokens, 64)


def test_feed_forward_sizes_round_half_to_even():
    assert [feed_forward_size(c) for c in (3584, 2080)] == [14_336, 8192]
    assert transformer_preset("8b") == TransformerConfig()


def test_sampling_takes_one_number_or_one_for_each_scale():
    assert SamplingConfig(temperature=1.0).at(3) == (1.0, 1.0)
    sampling = SamplingConfig(temperature=(1.0, 0.5), guidance_scale=(3.0, 1.0))
    assert [sampling.at(i) for i in range(3)] == [(1.0, 3.0), (0.5, 1.0), (0.5, 1.0)] and sampling.guided


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: TransformerConfig(hidden_size=0), "hidden_size is 0"),
        (lambda: TransformerConfig(hidden_size=3585), "not a multiple of num_heads"),
        (lambda: TransformerConfig(hidden_size=28 * 6, pool_heads=1), "need fourths"),
        (lambda: TransformerConfig(drop_path=1.0), "drop_path"),
        (lambda: VAEConfig(channels=20), "num_groups"),
        (lambda: VAEConfig(channel_multipliers=()), "0 levels"),
        (lambda: MapConfig(layout="nchw"), "layout is 'nchw', but it must be one of raw, channels_last"),
        (lambda: MapConfig(heads=(1,)), "one entry for each"),
        (lambda: MapConfig(widths=(6,), layers=(1,), heads=(4,)), "not a multiple of 2"),
        (lambda: TextConfig(num_buckets=6), "multiple of 4"),
        (lambda: SamplingConfig(temperature=-1.0), "temperature is -1.0"),
        (lambda: SamplingConfig(guidance_scale=(1.0, float("nan"))), "guidance_scale"),
        (lambda: SamplingConfig(top_p=0.4), "top_p is 0.4"),
        (lambda: dataclasses.replace(tiny(), sides=(2, 4)), "sides must rise from 1"),
        (lambda: dataclasses.replace(tiny(), sides=(1, 3, 2)), "sides must rise from 1"),
        (lambda: dataclasses.replace(tiny(), sides=(1, 2, 16)), "beyond the grid of 8"),
        (lambda: dataclasses.replace(tiny(), sides=(1, 2)), "more scales than there are"),
        (lambda: dataclasses.replace(tiny(), sides=(1, 2, 5)), "no whole magnification"),
        (lambda: dataclasses.replace(tiny(), vae=VAEConfig()), "token_bits is 20, but .* have 56 bits"),
        (lambda: dataclasses.replace(tiny(), text_encoder=TextConfig()), "text_size is 24"),
        (lambda: dataclasses.replace(tiny(), prompt_length=17), "prompt_length 17"),
        (lambda: dataclasses.replace(tiny(), tile_overlap=17), "at most half a tile"),
        (lambda: dataclasses.replace(tiny(), colour_fix="sepia"), "colour_fix is 'sepia'"),
        (lambda: dataclasses.replace(tiny(), next_input="cubic"), "next_input is 'cubic'"),
        (lambda: with_size(tiny(), "1M"), "published schedule"),
        (lambda: with_size(NsarmConfig(), "2M"), "the size is '2M'"),
        (lambda: transformer_preset("9b"), "the preset is '9b'"),
        (lambda: text_config(tiny()), "no text encoder"),
    ],
)
def test_what_does_not_fit_is_one_sentence(make, complaint):
    with pytest.raises(PureError, match=complaint) as refusal:
        make()
    assert "\n" not in str(refusal.value)
