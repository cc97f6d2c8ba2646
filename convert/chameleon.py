"""The decoder-only transformer of Chameleon, Lumina-mGPT and PURE: Hugging Face names and configuration.

The query and key weights of such files are already in the rotate-half order of RoPE, so nothing is permuted.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from operator import index
from typing import Any

import numpy as np

from pure_jax.config import TransformerConfig
from pure_jax.convert.tables import KEEP, LINEAR, NORM_ROWS, Row, Shape, distinct_rows, from_torch, to_torch
from pure_jax.errors import PureError
from pure_jax.pure import parameter_shapes
from pure_jax.tensors import LazyTensor

IMAGE, IMAGE_RESERVED = "<image>", "<reserved08707>"
"""The token that stands for an image, as transformers calls it and as older tokenizer files do."""

_LAYER, _OURS = "model.layers.{layer}", "layers_{layer}"

ROWS = (
    Row("model.embed_tokens.weight", "embed.embedding", KEEP),
    Row(f"{_LAYER}.{{name}}.weight", f"{_OURS}.{{name}}.weight", KEEP, {"name": "(?:input|post_attention)_layernorm"}),
    Row(f"{_LAYER}.self_attn.{{name}}.weight", f"{_OURS}.self_attn.{{name}}.kernel", LINEAR, {"name": "[qkvo]_proj"}),
    Row(
        f"{_LAYER}.self_attn.{{name}}.{{kind}}",
        f"{_OURS}.self_attn.{{name}}.{{kind}}",
        NORM_ROWS,
        {"name": "[qk]_norm", "kind": "weight|bias"},
    ),
    Row(f"{_LAYER}.mlp.{{name}}.weight", f"{_OURS}.mlp.{{name}}.kernel", LINEAR, {"name": "(?:gate|up|down)_proj"}),
    Row("model.norm.weight", "norm.weight", KEEP),
    Row("lm_head.weight", "lm_head.kernel", LINEAR),
    # Chameleon's own image tokenizer, half of which some files carry along; PURE's is LlamaGen's, in another file.
    Row("model.vqmodel.{rest}", None, KEEP, {"rest": ".+"}),
    # RoPE's frequencies, a buffer that older versions saved; they follow from rope_theta.
    Row("model.{where}rotary_emb.inv_freq", None, KEEP, {"where": r"(?:layers\.[0-9]+\.self_attn\.)?"}),
)

# Wrappers came and went around the same decoder: the language model inside of a multimodal class, or the bare decoder.
_WRAPPED = re.compile(r"(?:language_model\.model\.|model\.language_model\.|model\.)?(.+)")
_HEAD = re.compile(r"(?:language_model\.)?(lm_head\..+)")


def canonical(name: str) -> str:
    """A tensor's name in any of the layouts -> the one of the table."""
    if head := _HEAD.fullmatch(name):
        return head[1]
    match = _WRAPPED.fullmatch(name)
    return f"model.{match[1]}" if match else name


def transformer_from_torch(
    tensors: Mapping[str, LazyTensor], config: TransformerConfig
) -> tuple[dict[str, LazyTensor], list[str]]:
    """Tensors by (canonical) name -> (parameters of `Transformer(config)`, one sub-tree per layer; names not needed).

    Raises PureError if a tensor is unknown or of another size, or if one is missing.
    """
    shapes = parameter_shapes(dataclasses.replace(config, scan_layers=False))
    return from_torch(tensors, ROWS, shapes, "Chameleon / PURE")


def transformer_to_torch(
    tensors: Mapping[str, LazyTensor], config: TransformerConfig, rows_per_head: bool = True
) -> dict[str, LazyTensor]:
    """Parameters, one sub-tree per layer -> Hugging Face tensors by name.

    rows_per_head: repeat the rows of the QK-norms for every head, as transformers has them; False keeps one per
        model-parallel rank, as the original has them.
    """

    def shape_of(name: str, shape: Shape) -> Shape:
        if not rows_per_head or "_norm." not in name:
            return shape
        return (config.num_heads if ".q_norm." in name else config.num_kv_heads, *shape[1:])

    return to_torch(tensors, ROWS, shape_of)


def norm_ranks(tensors: Mapping[str, LazyTensor], num_layers: int) -> int:
    """Model-parallel ranks that the QK-norms of these tensors were trained with: how many of their rows differ.

    A configuration's own model_parallel_size cannot be trusted for this: transformers repeats rows and keeps it.
    """
    ranks = 1
    for layer in range(num_layers):
        for name in ("q_norm", "k_norm"):
            for kind in ("weight", "bias"):
                tensor = tensors.get(f"model.layers.{layer}.self_attn.{name}.{kind}")
                if tensor is not None and len(tensor.shape) == 2 and tensor.shape[0]:
                    ranks = int(np.lcm(ranks, distinct_rows(np.asarray(tensor))))
    return ranks


# ---- configuration -------------------------------------------------------------------------------------------------

_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "rms_norm_eps": "rms_norm_eps",
}


def config_from_torch(values: Mapping[str, Any], where: str, model_parallel_size: int) -> TransformerConfig:
    """Hugging Face's config.json, of old and new transformers versions -> TransformerConfig, layers unrolled.

    where: the file's name for messages.

    Raises:
        PureError: a size is missing or no number, or the model is of a kind that this library does not compute.
    """
    ours: dict[str, Any] = {}
    for theirs, name in _FIELDS.items():
        value = values.get(theirs)
        whole = theirs != "rms_norm_eps"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise PureError(f"{where}: {theirs} is {value!r}, but a number is needed{', a whole one' * whole}")
        ours[name] = value
    try:
        _refuse_other_models(values)
        heads = ours["num_heads"]
        rope = values.get("rope_parameters") or {}  # transformers 5; a field of its own before
        ours |= {
            "num_kv_heads": index(values.get("num_key_value_heads") or heads),
            "head_dim": index(values.get("head_dim") or ours["hidden_size"] // max(1, heads)),
            "rope_theta": float(rope.get("rope_theta") or values.get("rope_theta") or 10_000.0),
            "swin_norm": bool(values.get("swin_norm")),
            "dropout": float(values.get("dropout") or 0.0),
            "model_parallel_size": model_parallel_size,
            "scan_layers": False,
        }
        return TransformerConfig(**ours)
    except PureError as error:
        raise PureError(f"{where}: {error}") from error
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise PureError(f"{where} has a field of the wrong type ({error}); get the file again") from error


def _refuse_other_models(values: Mapping[str, Any]) -> None:
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    for wrong, what in (
        (values.get("hidden_act", "silu") != "silu", f"hidden_act {values.get('hidden_act')!r} instead of 'silu'"),
        (kind != "default", f"rope scaling {kind!r}"),
        (bool(values.get("attention_bias")), "attention_bias"),
        (bool(values.get("mlp_bias")), "mlp_bias"),
        (bool(values.get("apply_lora")), "apply_lora"),
    ):
        if wrong:
            raise PureError(f"it asks for {what}, which models of the PURE family do not have")


def config_to_torch(config: TransformerConfig, names: Mapping[str, int]) -> dict[str, Any]:
    """TransformerConfig -> the fields of transformers' ChameleonConfig. names: token name -> id.

    Raises:
        PureError: transformers' class has no such model: its heads fill the hidden size exactly, and one of its tokens
            stands for an image.
    """
    if config.num_heads * config.head_dim != config.hidden_size:
        raise PureError(
            f"transformers' Chameleon needs num_heads x head_dim = hidden_size, but {config.num_heads} x "
            f"{config.head_dim} is not {config.hidden_size}; this model cannot be written for it"
        )
    image = next((names[name] for name in (IMAGE, IMAGE_RESERVED) if name in names), None)
    if image is None:
        raise PureError(
            f"transformers' Chameleon needs a token that stands for an image, but the tokenizer names neither {IMAGE} "
            f"nor {IMAGE_RESERVED}; this model cannot be written for it"
        )
    return {theirs: getattr(config, name) for theirs, name in _FIELDS.items()} | {
        "architectures": ["ChameleonForConditionalGeneration"],
        "model_type": "chameleon",
        "num_key_value_heads": config.num_kv_heads,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "swin_norm": config.swin_norm,
        "dropout": config.dropout,
        "model_parallel_size": config.model_parallel_size,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "mask_image_logits": False,
        "tie_word_embeddings": False,
        # transformers looks up by this name the token that stands for an image.
        "vocabulary_map": {IMAGE: image, **names},
    }
