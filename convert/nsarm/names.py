"""NSARM's PyTorch names: the transformer with the map network, the image tokenizer, the text encoder.

Sources: the published files' names as checkpoint facts; Hugging Face's for T5.
"""

from __future__ import annotations

import re

from pure_jax.convert.tables import CONV, KEEP, LINEAR, Row, Transform
from pure_jax.nsarm.config import VAEConfig


def _layer(
    source: str, target: str, fields: dict[str, str] | None = None, kernel: Transform = LINEAR
) -> tuple[Row, Row]:
    """A linear layer or a convolution, with bias."""
    fields = fields or {}
    return (
        Row(f"{source}.weight", f"{target}.kernel", kernel, fields),
        Row(f"{source}.bias", f"{target}.bias", KEEP, fields),
    )


def _norm(source: str, target: str, fields: dict[str, str] | None = None, kind: Transform = KEEP) -> tuple[Row, Row]:
    fields = fields or {}
    return (
        Row(f"{source}.weight", f"{target}.scale", kind, fields),
        Row(f"{source}.bias", f"{target}.bias", kind, fields),
    )


# ---- image tokenizer -----------------------------------------------------------------------------------------------

_VAE_FIELDS = {
    "half": "encoder|decoder",
    "end": "conv_in|conv_out",
    "conv": "conv1|conv2|nin_shortcut",
    "norm": "norm1|norm2",
}


def vae_rows(config: VAEConfig) -> list[Row]:
    """The table of a tokenizer with so many levels; names in the long spelling."""

    def conv(source: str, target: str) -> tuple[Row, Row]:
        return _layer(f"{source}.conv", target, _VAE_FIELDS, CONV)

    def norm(source: str, target: str) -> tuple[Row, Row]:
        return _norm(f"{source}.norm", f"{target}.group", _VAE_FIELDS)

    rows = [*conv("{half}.{end}", "{half}.{end}"), *norm("{half}.norm_out", "{half}.norm_out")]
    for i in range(2):
        rows += conv(f"{{half}}.mid.block_{i + 1}.{{conv}}", f"{{half}}.mid_res_{i}.{{conv}}")
        rows += norm(f"{{half}}.mid.block_{i + 1}.{{norm}}", f"{{half}}.mid_res_{i}.{{norm}}")
    levels = len(config.channel_multipliers)
    for level in range(levels):
        # The decoder's levels have the encoder's numbers in PyTorch, and run from the last; here 0 is the first to run.
        for theirs, ours, resize in (
            (f"encoder.down.{level}", f"encoder.level_{level}", "downsample"),
            (f"decoder.up.{level}", f"decoder.level_{levels - 1 - level}", "upsample"),
        ):
            rows += conv(f"{theirs}.block.{{i}}.{{conv}}", f"{ours}_res_{{i}}.{{conv}}")
            rows += norm(f"{theirs}.block.{{i}}.{{norm}}", f"{ours}_res_{{i}}.{{norm}}")
            rows += conv(f"{theirs}.{resize}.conv", f"{ours}_{resize}.conv")
    return rows


VAE_BUFFERS = re.compile(r"(?:quantizer|quantize)\.lfq\.mask")
"""The bits' places in an integer, which follow from their number."""

_SHORT = re.compile(
    r"(.+\.(?:(conv_in|conv_out|conv1|conv2|nin_shortcut|(?:down|up)sample\.conv)|norm1|norm2|norm_out))\.(weight|bias)"
)


def canonical_vae(name: str) -> str:
    """A tensor's name in the short spelling -> the long one, which the tables have."""
    match = _SHORT.fullmatch(name)
    return f"{match[1]}.{'conv' if match[2] else 'norm'}.{match[3]}" if match else name
