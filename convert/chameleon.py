"""The decoder-only transformer of Chameleon, Lumina-mGPT and PURE: Hugging Face names to this library's.

The query and key weights of such files are already in the rotate-half order of RoPE, so nothing is permuted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert import Row, keep, linear_kernel, translate
from pure_jax.config import TransformerConfig
from pure_jax.transformer import Transformer


def norm_rows(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """QK-norm rows, one per model-parallel rank or (newer files) already repeated for every head, -> one per rank."""
    if x.shape == shape or x.ndim != 2 or x.shape[1] != shape[1] or x.shape[0] % shape[0]:
        return x
    per_rank = x.reshape(shape[0], -1, shape[1])
    if not np.array_equal(per_rank, np.broadcast_to(per_rank[:, :1], per_rank.shape)):
        raise ValueError(f"its {x.shape[0]} rows differ within the {shape[0]} groups that model_parallel_size asks for")
    return np.ascontiguousarray(per_rank[:, 0])


ROWS = (
    Row(r"model\.embed_tokens\.weight", r"embed/embedding", keep),
    Row(r"model\.layers\.(\d+)\.(input_layernorm|post_attention_layernorm)\.weight", r"layers_\1/\2/weight", keep),
    Row(r"model\.layers\.(\d+)\.self_attn\.([qkvo]_proj)\.weight", r"layers_\1/self_attn/\2/kernel", linear_kernel),
    Row(r"model\.layers\.(\d+)\.self_attn\.([qk]_norm)\.(weight|bias)", r"layers_\1/self_attn/\2/\3", norm_rows),
    Row(r"model\.layers\.(\d+)\.mlp\.((?:gate|up|down)_proj)\.weight", r"layers_\1/mlp/\2/kernel", linear_kernel),
    Row(r"model\.norm\.weight", r"norm/weight", keep),
    Row(r"lm_head\.weight", r"lm_head/kernel", linear_kernel),
    # Chameleon's own image tokenizer, half of which some files carry along; PURE's is LlamaGen's, in another file.
    Row(r"model\.vqmodel\..+", None, keep),
)


def transformer_from_torch(tensors: Mapping[str, np.ndarray], config: TransformerConfig) -> dict[str, Any]:
    """Hugging Face tensors by name -> parameters of `Transformer(config)`, layers stacked if it scans them.

    Dtypes are unchanged. Raises PureError if a tensor is unknown or of another size, or if one is missing.
    """
    unrolled = dataclasses.replace(config, scan_layers=False)
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(Transformer(unrolled).init, jax.random.key(0), token, token)["params"]
    params = translate(tensors, ROWS, shapes, "Chameleon / PURE")
    if not config.scan_layers:
        return params
    # With numpy, so that the whole model never has to fit on a device.
    layers = [params.pop(f"layers_{i}") for i in range(config.num_layers)]
    return params | {"layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers)}
