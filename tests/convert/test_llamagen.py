"""Converted LlamaGen weights give the codes and pixels of transformers' JanusVQVAE."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from transformers.models.janus.modeling_janus import JanusVQVAE

from pure_jax.config import VQGANConfig
from pure_jax.convert.llamagen import config_from_tensors, vqgan_from_torch
from pure_jax.errors import PureError
from pure_jax.tensors import LazyTensor, in_memory
from pure_jax.vqgan import VQGAN, to_pixels
from tests.upstream import image_tensors, image_tokenizer

CONFIG = VQGANConfig(channels=32, latent_channels=32, codebook_size=512)
NEAR_TIE = 1e-4


@pytest.fixture(scope="module")
def oracle() -> JanusVQVAE:
    return image_tokenizer(CONFIG)


@pytest.fixture(scope="module")
def tensors() -> dict[str, LazyTensor]:
    return {name: in_memory(tensor.numpy()) for name, tensor in image_tensors(CONFIG).items()}


@jax.jit
def encode(params, images):
    model = VQGAN(CONFIG)
    return tuple(model.apply({"params": params}, images, method=method) for method in ("latents", "encode"))


@jax.jit
def decode(params, codes):
    return VQGAN(CONFIG).apply({"params": params}, codes, method="decode")


@pytest.mark.parametrize("size", [(32, 48), (64, 64)])
def test_codes_and_pixels_equal_janus(size: tuple[int, int], oracle, tensors) -> None:
    flat, _ = vqgan_from_torch(tensors, CONFIG)
    params = traverse_util.unflatten_dict({path: jnp.asarray(tensor) for path, tensor in flat.items()}, sep=".")
    image = np.random.default_rng(1).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    rows, columns = size[0] // 8, size[1] // 8

    with torch.no_grad():
        z = oracle.quant_conv(oracle.encoder(torch.tensor(image).permute(0, 3, 1, 2)))
        z = torch.nn.functional.normalize(z, dim=1)
        _, _, wanted = oracle.quantize(z)
        distance = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 8).double(), oracle.quantize.embedding.weight.double())
        nearest = (distance**2).sort(dim=1).values
        clear = (nearest[:, 1] - nearest[:, 0] > NEAR_TIE).numpy()
    wanted = wanted.numpy().reshape(2, rows, columns)

    latents, codes = (np.asarray(v) for v in encode(params, jnp.asarray(image)))
    np.testing.assert_allclose(latents, z.permute(0, 2, 3, 1), rtol=0, atol=5e-6)  # measured 2.3e-6
    assert codes.shape == (2, rows, columns) and len(np.unique(wanted)) > 10 and clear.mean() > 0.9
    np.testing.assert_array_equal(codes.ravel()[clear], wanted.ravel()[clear])

    with torch.no_grad():
        vectors = oracle.quantize.embedding(torch.tensor(wanted).long()).permute(0, 3, 1, 2)
        decoded = oracle.decoder(oracle.post_quant_conv(vectors)).permute(0, 2, 3, 1).numpy()
    ours = decode(params, jnp.asarray(wanted))
    np.testing.assert_allclose(ours, decoded, rtol=0, atol=3e-5)  # measured 1.3e-5 on pixels of spread 0.6
    levels = np.trunc((np.clip(decoded, -1, 1) + 1) / 2 * 255).astype(int)
    assert levels.std() > 20
    assert np.abs(np.asarray(to_pixels(ours)).astype(int) - levels).max() <= 1


def test_the_names_are_those_of_llamagens_file(tensors) -> None:
    """The file's listing, written out: 300 names, for the depth of VQ-8, which CONFIG shares."""
    attention = ("norm", "q", "k", "v", "proj_out")
    layers = ["quant_conv", "post_quant_conv"]

    def residual(changes_width: bool) -> tuple[str, ...]:
        return ("norm1", "conv1", "norm2", "conv2") + ("nin_shortcut",) * changes_width

    for half, blocks, attended, resized, widened in (
        ("encoder", 2, 3, "downsample", (1, 3)),
        ("decoder", 3, 0, "upsample", (1, 3)),
    ):
        layers += [f"{half}.{name}" for name in ("conv_in", "norm_out", "conv_out")]
        layers += [f"{half}.mid.{i}.{name}" for i in (0, 2) for name in residual(False)]
        layers += [f"{half}.mid.1.{name}" for name in attention]
        for level in range(4):
            at = f"{half}.conv_blocks.{level}"
            for i in range(blocks):
                layers += [f"{at}.res.{i}.{name}" for name in residual(i == 0 and level in widened)]
                layers += [f"{at}.attn.{i}.{name}" for name in attention if level == attended]
            layers += [f"{at}.{resized}.conv"] * (level != 3)
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(tensors) == names | {"quantize.embedding.weight", "quantize.codebook_used"}
    assert len(tensors) == 300


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        VQGANConfig(channels=32, channel_multipliers=(1, 1, 2), num_res_blocks=1, latent_channels=64, codebook_size=16),
    ],
)
def test_sizes_are_read_off_the_tensors(config: VQGANConfig) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in image_tensors(config).items()}
    assert config_from_tensors(shapes) == config


def test_another_models_tensors_have_no_sizes() -> None:
    with pytest.raises(PureError, match="'encoder.conv_in.weight' is missing or has the wrong shape"):
        config_from_tensors({"lm_head.weight": (3, 3)})
