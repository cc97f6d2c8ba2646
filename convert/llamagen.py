"""The image tokenizer of LlamaGen (VQ-8, VQ-16): its PyTorch names, and its sizes as read off its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from pure_jax.config import VQGANConfig
from pure_jax.convert.tables import CONV, KEEP, Row, Shape, from_torch, to_torch
from pure_jax.errors import PureError
from pure_jax.pure import parameter_shapes
from pure_jax.tensors import LazyTensor

FIELDS = {
    "half": "encoder|decoder",
    "end": "conv_in|conv_out",
    "conv": "conv1|conv2|nin_shortcut",
    "norm": "norm1|norm2",
    "part": "q|k|v|proj_out",
    "resize": "downsample|upsample",
    "quant": "(?:post_)?quant_conv",
}


def _conv(source: str, target: str) -> tuple[Row, Row]:
    return (
        Row(f"{source}.weight", f"{target}.kernel", CONV, FIELDS),
        Row(f"{source}.bias", f"{target}.bias", KEEP, FIELDS),
    )


def _norm(source: str, target: str) -> tuple[Row, Row]:
    return (
        Row(f"{source}.weight", f"{target}.group.scale", KEEP, FIELDS),
        Row(f"{source}.bias", f"{target}.group.bias", KEEP, FIELDS),
    )


_LEVEL, _OURS = "{half}.conv_blocks.{level}", "{half}.level_{level}"

ROWS = (
    *_conv("{half}.{end}", "{half}.{end}"),
    *_norm("{half}.norm_out", "{half}.norm_out"),
    *_conv(f"{_LEVEL}.res.{{i}}.{{conv}}", f"{_OURS}_res_{{i}}.{{conv}}"),
    *_norm(f"{_LEVEL}.res.{{i}}.{{norm}}", f"{_OURS}_res_{{i}}.{{norm}}"),
    *_conv(f"{_LEVEL}.attn.{{i}}.{{part}}", f"{_OURS}_attn_{{i}}.{{part}}"),
    *_norm(f"{_LEVEL}.attn.{{i}}.norm", f"{_OURS}_attn_{{i}}.norm"),
    *_conv(f"{_LEVEL}.{{resize}}.conv", f"{_OURS}_{{resize}}.conv"),
    *_conv("{half}.mid.0.{conv}", "{half}.mid_res_0.{conv}"),
    *_norm("{half}.mid.0.{norm}", "{half}.mid_res_0.{norm}"),
    *_conv("{half}.mid.1.{part}", "{half}.mid_attn.{part}"),
    *_norm("{half}.mid.1.norm", "{half}.mid_attn.norm"),
    *_conv("{half}.mid.2.{conv}", "{half}.mid_res_1.{conv}"),
    *_norm("{half}.mid.2.{norm}", "{half}.mid_res_1.{norm}"),
    *_conv("{quant}", "{quant}"),
    Row("quantize.embedding.weight", "quantizer.codebook", KEEP),
    # A record of recently used codes, for statistics while training.
    Row("quantize.codebook_used", None, KEEP),
)


def vqgan_from_torch(tensors: Mapping[str, LazyTensor], config: VQGANConfig) -> tuple[dict[str, LazyTensor], list[str]]:
    """LlamaGen's tensors by name (the dict under "model" or "ema" in its file) -> (parameters, names not needed).

    Raises PureError if a tensor is unknown or of another size, or if one is missing.
    """
    return from_torch(tensors, ROWS, parameter_shapes(config), "LlamaGen VQ")


def vqgan_to_torch(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Parameters by path -> LlamaGen's tensors by name, without the record of used codes."""
    return to_torch(tensors, ROWS)


def config_from_tensors(shapes: Mapping[str, Shape]) -> VQGANConfig:
    """The sizes of a LlamaGen tokenizer, which its file says nowhere else.

    shapes: of its tensors, by name.

    Raises:
        PureError: a tensor that tells a size is missing or has too few axes or no entries.
    """

    def size(name: str, axis: int) -> int:
        if len(shapes.get(name, ())) <= axis or not shapes[name][axis]:
            raise PureError(f"tensor {name!r} is missing or has the wrong shape; this is no LlamaGen tokenizer")
        return shapes[name][axis]

    levels = 1 + sum(f"encoder.conv_blocks.{level}.downsample.conv.weight" in shapes for level in range(len(shapes)))
    blocks = sum(f"encoder.conv_blocks.0.res.{i}.conv1.weight" in shapes for i in range(len(shapes)))
    channels = size("encoder.conv_in.weight", 0)
    widths = [size(f"encoder.conv_blocks.{level}.res.0.conv1.weight", 0) for level in range(levels)]
    return VQGANConfig(
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        num_res_blocks=blocks,
        latent_channels=size("encoder.conv_out.weight", 0),
        codebook_dim=size("quantize.embedding.weight", 1),
        codebook_size=size("quantize.embedding.weight", 0),
    )
