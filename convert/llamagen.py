"""The image tokenizer of LlamaGen (VQ-8, VQ-16): its PyTorch names to this library's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert import Row, conv_kernel, keep, translate
from pure_jax.config import VQGANConfig
from pure_jax.vqgan import VQGAN


def _conv(source: str, target: str) -> tuple[Row, Row]:
    return (
        Row(rf"{source}\.weight", f"{target}/kernel", conv_kernel),
        Row(rf"{source}\.bias", f"{target}/bias", keep),
    )


def _norm(source: str, target: str) -> tuple[Row, Row]:
    return (
        Row(rf"{source}\.weight", f"{target}/group/scale", keep),
        Row(rf"{source}\.bias", f"{target}/group/bias", keep),
    )


HALF = r"(encoder|decoder)"
LEVEL = HALF + r"\.conv_blocks\.(\d+)"

ROWS = (
    *_conv(HALF + r"\.(conv_in|conv_out)", r"\1/\2"),
    *_norm(HALF + r"\.norm_out", r"\1/norm_out"),
    *_conv(LEVEL + r"\.res\.(\d+)\.(conv1|conv2|nin_shortcut)", r"\1/level_\2_res_\3/\4"),
    *_norm(LEVEL + r"\.res\.(\d+)\.(norm1|norm2)", r"\1/level_\2_res_\3/\4"),
    *_conv(LEVEL + r"\.attn\.(\d+)\.(q|k|v|proj_out)", r"\1/level_\2_attn_\3/\4"),
    *_norm(LEVEL + r"\.attn\.(\d+)\.norm", r"\1/level_\2_attn_\3/norm"),
    *_conv(LEVEL + r"\.(downsample|upsample)\.conv", r"\1/level_\2_\3/conv"),
    *_conv(HALF + r"\.mid\.0\.(conv1|conv2)", r"\1/mid_res_0/\2"),
    *_norm(HALF + r"\.mid\.0\.(norm1|norm2)", r"\1/mid_res_0/\2"),
    *_conv(HALF + r"\.mid\.1\.(q|k|v|proj_out)", r"\1/mid_attn/\2"),
    *_norm(HALF + r"\.mid\.1\.norm", r"\1/mid_attn/norm"),
    *_conv(HALF + r"\.mid\.2\.(conv1|conv2)", r"\1/mid_res_1/\2"),
    *_norm(HALF + r"\.mid\.2\.(norm1|norm2)", r"\1/mid_res_1/\2"),
    *_conv(r"((?:post_)?quant_conv)", r"\1"),
    Row(r"quantize\.embedding\.weight", r"quantizer/codebook", keep),
    # A record of recently used codes, for statistics while training.
    Row(r"quantize\.codebook_used", None, keep),
)


def vqgan_from_torch(tensors: Mapping[str, np.ndarray], config: VQGANConfig) -> dict[str, Any]:
    """LlamaGen's tensors by name (the dict under "model" or "ema" in its file) -> parameters of `VQGAN(config)`.

    Dtypes are unchanged. Raises PureError if a tensor is unknown or of another size, or if one is missing.
    """
    image = jax.ShapeDtypeStruct((1, config.stride, config.stride, 3), jnp.float32)
    shapes = jax.eval_shape(VQGAN(config).init, jax.random.key(0), image)["params"]
    return translate(tensors, ROWS, shapes, "LlamaGen VQ")
