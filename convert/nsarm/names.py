"""NSARM's PyTorch names: the transformer with the map network, the image tokenizer, the text encoder.

Sources: the published files' names as checkpoint facts; Hugging Face's for T5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pure_jax.convert.tables import CONV, KEEP, LINEAR, MAP, Row, Transform, squeezed
from pure_jax.nsarm.config import MapConfig, VAEConfig


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


# ---- transformer ---------------------------------------------------------------------------------------------------

_BLOCK, _OURS = "blocks.{layer}", "layers_{layer}"
_TEXT = "conditioner"

TRANSFORMER_ROWS = (
    Row("cfg_uncond", f"{_TEXT}.null_text", KEEP),
    Row("pos_start", f"{_TEXT}.start", squeezed(0, 1)),
    Row("text_norm.weight", f"{_TEXT}.text_norm.weight", KEEP),
    Row("text_proj_for_sos.ca.mat_q", f"{_TEXT}.pool_query", squeezed(0)),
    Row("text_proj_for_sos.ca.mat_kv.weight", f"{_TEXT}.pool_kv.kernel", LINEAR),
    Row("text_proj_for_sos.ca.v_bias", f"{_TEXT}.pool_v_bias", KEEP),
    *_layer("text_proj_for_sos.ca.proj", f"{_TEXT}.pool_proj"),
    *_layer("text_proj_for_ca.0", f"{_TEXT}.text_in"),
    *_layer("text_proj_for_ca.2", f"{_TEXT}.text_out"),
    *_layer("shared_ada_lin.1", f"{_TEXT}.shared_ada"),
    *_layer("head_nm.ada_lin.1", f"{_TEXT}.head_ada"),
    Row("lvl_embed.weight", "level_embed", KEEP),
    *_layer("word_embed", "word_embed"),
    *_layer("head", "head"),
    Row(f"{_BLOCK}.ada_gss", f"{_OURS}.ada", squeezed(0, 1)),
    Row(f"{_BLOCK}.sa.scale_mul_1H11", f"{_OURS}.self_attn.factor", squeezed(0, 2, 3)),
    Row(f"{_BLOCK}.sa.{{bias}}", f"{_OURS}.self_attn.{{bias}}", KEEP, {"bias": "q_bias|v_bias"}),
    Row(f"{_BLOCK}.sa.mat_qkv.weight", f"{_OURS}.self_attn.qkv.kernel", LINEAR),
    *_layer(f"{_BLOCK}.sa.proj", f"{_OURS}.self_attn.proj"),
    *_layer(f"{_BLOCK}.ca.mat_q", f"{_OURS}.cross_attn.q"),
    Row(f"{_BLOCK}.ca.mat_kv.weight", f"{_OURS}.cross_attn.kv", LINEAR),
    Row(f"{_BLOCK}.ca.v_bias", f"{_OURS}.cross_attn.v_bias", KEEP),
    *_layer(f"{_BLOCK}.ca.proj", f"{_OURS}.cross_attn.proj"),
    *_norm(f"{_BLOCK}.ca_norm", f"{_OURS}.cross_norm"),
    *_layer(f"{_BLOCK}.ffn.{{fc}}", f"{_OURS}.{{fc}}", {"fc": "fc1|fc2"}),
)

TRANSFORMER_BUFFERS = re.compile(
    r"lvl_1L|attn_bias_for_masking|Infinity_visible_kvlen|Infinity_invisible_qlen|(?:.+\.)?zero_k_bias"
)
"""Masks and positions that some files stored, which follow from the schedule, and biases that are always 0."""

_CHUNK = re.compile(r"block_chunks\.([0-9]+)\.module\.([0-9]+)\.(.+)")


def chunk_length(names: Iterable[str]) -> int:
    """Blocks in each chunk of a file whose blocks are stored in chunks; 0 where they are not."""
    return max((int(match[2]) + 1 for match in map(_CHUNK.fullmatch, names) if match), default=0)


def canonical_transformer(name: str, per_chunk: int) -> str:
    """A tensor's name, of blocks in chunks, -> the one of the table, of blocks that are counted through."""
    match = _CHUNK.fullmatch(name)
    return f"blocks.{int(match[1]) * per_chunk + int(match[2])}.{match[3]}" if match else name


def chunked(name: str, per_chunk: int) -> str:
    """The inverse of `canonical_transformer`."""
    match = re.fullmatch(r"blocks\.([0-9]+)\.(.+)", name)
    if not match or not per_chunk:
        return name
    chunk, own = divmod(int(match[1]), per_chunk)
    return f"block_chunks.{chunk}.module.{own}.{match[2]}"


# ---- map network ---------------------------------------------------------------------------------------------------

MAP_PREFIX = "map_transformer."


def map_rows(config: MapConfig) -> list[Row]:
    """The table of a map network with so many convolutions in its stem; names with their prefix."""
    rows: list[Row] = []

    def convolutions(source: str, target: str, count: int) -> None:
        for i in range(count):  # each is a convolution, a norm and an activation, numbered through
            rows.extend(_layer(f"{source}.{3 * i}", f"{target}{i}.conv", kernel=CONV))
            rows.extend(_norm(f"{source}.{3 * i + 1}", f"{target}{i}.norm", kind=MAP))

    convolutions(f"{MAP_PREFIX}feature_extractor", "stem_", len(config.stem) + 1)
    convolutions(f"{MAP_PREFIX}feature_transforms.{{branch}}", "branch_{branch}.conv_", 2)
    theirs, ours = f"{MAP_PREFIX}transformers.{{branch}}.layers.{{layer}}", "branch_{branch}.layer_{layer}"
    rows += [
        Row(f"{theirs}.self_attn.in_proj_weight", f"{ours}.in_proj.kernel", LINEAR),
        Row(f"{theirs}.self_attn.in_proj_bias", f"{ours}.in_proj.bias", KEEP),
        *_layer(f"{theirs}.self_attn.out_proj", f"{ours}.out_proj"),
        *_layer(f"{theirs}.{{linear}}", f"{ours}.{{linear}}", {"linear": "linear1|linear2"}),
        *_norm(f"{theirs}.{{norm}}", f"{ours}.{{norm}}", {"norm": "norm1|norm2"}),
        *_layer(f"{MAP_PREFIX}output_projs.{{branch}}.0", "branch_{branch}.out_in"),
        *_norm(f"{MAP_PREFIX}output_projs.{{branch}}.1", "branch_{branch}.out_norm"),
        *_layer(f"{MAP_PREFIX}output_projs.{{branch}}.3", "branch_{branch}.out"),
    ]
    return rows


# ---- text encoder --------------------------------------------------------------------------------------------------

_T5, _LAYER = "encoder.block.{layer}.layer", "layer_{layer}"

TEXT_ROWS = (
    Row("shared.weight", "embed.embedding", KEEP),
    Row("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "position_bias", KEEP),
    Row(f"{_T5}.0.SelfAttention.{{name}}.weight", f"{_LAYER}.{{name}}.kernel", LINEAR, {"name": "[qkvo]"}),
    Row(f"{_T5}.0.layer_norm.weight", f"{_LAYER}.attn_norm.weight", KEEP),
    Row(f"{_T5}.1.DenseReluDense.{{name}}.weight", f"{_LAYER}.{{name}}.kernel", LINEAR, {"name": "wi_0|wi_1|wo"}),
    Row(f"{_T5}.1.layer_norm.weight", f"{_LAYER}.mlp_norm.weight", KEEP),
    Row("encoder.final_layer_norm.weight", "final_norm.weight", KEEP),
    # The embedding by its other name, and the half of T5 that writes text.
    Row("encoder.embed_tokens.weight", None, KEEP),
    Row("decoder.{rest}", None, KEEP, {"rest": ".+"}),
    Row("lm_head.weight", None, KEEP),
)
