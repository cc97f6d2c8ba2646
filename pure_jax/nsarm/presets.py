"""NSARM's sizes that have names: of the transformer, of its pictures, and one for tests."""

from __future__ import annotations

import dataclasses

from pure_jax.config import require_one_of
from pure_jax.errors import PureError
from pure_jax.nsarm.config import MapConfig, NsarmConfig, TransformerConfig, VAEConfig
from pure_jax.nsarm.schedule import SIDES_1M, SIZES

# name: (layers, hidden size, heads)
_PRESETS = {
    "8b": (40, 3584, 28),
    "2b": (32, 2048, 16),
    "layer12": (12, 768, 8),
    "layer16": (16, 1152, 12),
    "layer24": (24, 1536, 16),
    "layer32": (32, 2080, 20),
    "layer40": (40, 2688, 24),
    "layer48": (48, 3360, 28),
}


def feed_forward_size(hidden_size: int) -> int:
    """Four times as wide, rounded to a multiple of 256, half to even. Source: checkpoint fact."""
    return 256 * round(4 * hidden_size / 256)


def transformer_preset(name: str) -> TransformerConfig:
    """One of Infinity's sizes with NSARM's 56-bit tokens: 8b (NSARM's own), 2b, layer12 ... layer48.

    Raises:
        PureError: no preset has that name.
    """
    require_one_of("the preset", name, _PRESETS)
    layers, hidden, heads = _PRESETS[name]
    return TransformerConfig(
        num_layers=layers, hidden_size=hidden, num_heads=heads, intermediate_size=feed_forward_size(hidden)
    )


def with_size(config: NsarmConfig, size: str) -> NsarmConfig:
    """The same model making pictures of another size, one of SIZES: its schedule ends earlier or later.

    Positions stay those of the model's grid. Raises PureError if there is no such size, or the model has another
    schedule than the published one.
    """
    require_one_of("the size", size, SIZES)
    if config.sides != SIDES_1M[: len(config.sides)]:
        raise PureError(f"sizes are those of the published schedule, but this model's begins {list(config.sides[:6])}")
    return dataclasses.replace(config, sides=SIDES_1M[: SIZES[size]])


PROMPT_TOKENS = 14
"""Of the fixed prompt, about."""


def bare(name: str) -> NsarmConfig:
    """Sizes for random weights: "8b" or "2b" as published, with a prompt's features instead of T5; or "tiny".

    Layers are scanned except in the last, as they compile faster.
    """
    if name == "tiny":
        return dataclasses.replace(tiny(), prompt_length=3)
    return NsarmConfig(transformer=transformer_preset(name), prompt_length=PROMPT_TOKENS)


def tiny() -> NsarmConfig:
    """For tests: every part is there, nothing is large. 8 pixels are made 32: 5 scales, of which T writes 3."""
    return NsarmConfig(
        transformer=TransformerConfig(
            token_bits=20,
            hidden_size=32,
            intermediate_size=48,
            num_layers=2,
            num_heads=4,
            pool_heads=2,
            text_size=24,
            text_length=16,
            max_scales=6,
            grid_side=8,
            drop_path=0.0,
        ),
        map_network=MapConfig(
            latent_side=4, stem=(6, 8), widths=(8, 12, 16), layers=(1, 1, 2), heads=(2, 2, 4), dropout=0.0
        ),
        vae=VAEConfig(channels=8, channel_multipliers=(1, 2), num_res_blocks=1, latent_channels=5, num_groups=4),
        sides=(1, 2, 3, 5, 8),
    )
