"""The sizes of NSARM's networks, read off their tensors, as the published files say them nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pure_jax.convert.nsarm.names import MAP_PREFIX
from pure_jax.convert.tables import Shape
from pure_jax.errors import PureError
from pure_jax.nsarm.config import MapConfig, TextConfig, TransformerConfig, VAEConfig

Shapes = Mapping[str, Shape]


def _size(shapes: Shapes, name: str, axis: int) -> int:
    if len(shapes.get(name, ())) <= axis or not shapes[name][axis]:
        raise PureError(f"tensor {name!r} is missing or has the wrong shape; these are not the weights of this network")
    return shapes[name][axis]


def _count(shapes: Shapes, template: str) -> int:
    """How many of a series of names, numbered from 0, are there."""
    return next(i for i in range(len(shapes) + 1) if template.format(i) not in shapes)


def transformer_config(shapes: Shapes) -> TransformerConfig:
    """Of names with blocks that are counted through. Raises PureError if a tensor that tells a size is missing."""
    return TransformerConfig(
        token_bits=_size(shapes, "word_embed.weight", 1),
        hidden_size=_size(shapes, "word_embed.weight", 0),
        intermediate_size=_size(shapes, "blocks.0.ffn.fc1.weight", 0),
        num_layers=_count(shapes, "blocks.{}.ada_gss"),
        num_heads=_size(shapes, "blocks.0.sa.scale_mul_1H11", 1),
        pool_heads=_size(shapes, "text_proj_for_sos.ca.mat_q", 1),
        text_size=_size(shapes, "cfg_uncond", 1),
        text_length=_size(shapes, "cfg_uncond", 0),
        max_scales=_size(shapes, "lvl_embed.weight", 0),
        scan_layers=False,
    )


def map_config(shapes: Shapes) -> MapConfig:
    """Of names with their prefix. How many heads its layers have, no tensor tells: they are the published network's.

    Raises:
        PureError: a tensor that tells a size is missing, or the widths are not the published ones.
    """
    published = MapConfig()
    branches = _count(shapes, f"{MAP_PREFIX}feature_transforms.{{}}.0.weight")
    layer = f"{MAP_PREFIX}transformers.{{}}.layers.{{}}.linear1.weight"
    convolutions = [f"{MAP_PREFIX}feature_extractor.{3 * i}.weight" for i in range(len(shapes))]
    stem = [shapes[name][0] for name in convolutions if name in shapes]
    widths = tuple(_size(shapes, layer.format(i, 0), 1) for i in range(branches))
    if widths != published.widths:
        raise PureError(
            f"the map network has the widths {list(widths)} instead of {list(published.widths)}; how many heads its "
            "layers have cannot be told from its tensors"
        )
    return MapConfig(
        latent_side=_size(shapes, f"{MAP_PREFIX}feature_extractor.1.weight", 2),
        stem=tuple(stem[:-1]),
        widths=widths,
        layers=tuple(
            _count(shapes, f"{MAP_PREFIX}transformers.{i}.layers.{{}}.linear1.weight") for i in range(branches)
        ),
    )


def vae_config(shapes: Shapes) -> VAEConfig:
    """Of names in the long spelling. Raises PureError if a tensor that tells a size is missing."""
    channels = _size(shapes, "encoder.conv_in.conv.weight", 0)
    levels = _count(shapes, "encoder.down.{}.block.0.conv1.conv.weight")
    widths = [_size(shapes, f"encoder.down.{i}.block.0.conv1.conv.weight", 0) for i in range(levels)]
    return VAEConfig(
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        num_res_blocks=_count(shapes, "encoder.down.0.block.{}.conv1.conv.weight"),
        latent_channels=_size(shapes, "encoder.conv_out.conv.weight", 0),
    )


_T5_FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "d_kv": "head_dim",
    "relative_attention_num_buckets": "num_buckets",
    "relative_attention_max_distance": "max_distance",
    "layer_norm_epsilon": "norm_eps",
}


def text_config(values: Mapping[str, Any], where: str) -> TextConfig:
    """Hugging Face's config.json of a T5. where: the file's name for messages.

    Raises:
        PureError: a size is missing or no number, or the feed-forward layers are not T5 v1.1's.
    """
    if values.get("feed_forward_proj") != "gated-gelu":
        raise PureError(
            f"{where}: feed_forward_proj must be 'gated-gelu', as in flan-t5; take the text encoder of NSARM"
        )
    ours = {}
    for theirs, name in _T5_FIELDS.items():
        default = {"max_distance": 128, "norm_eps": 1e-6}.get(name)
        value = values.get(theirs, default)
        if isinstance(value, bool) or not isinstance(value, int if name != "norm_eps" else int | float):
            raise PureError(f"{where}: {theirs} is {value!r}, but a number is needed")
        ours[name] = value
    return TextConfig(**ours)
