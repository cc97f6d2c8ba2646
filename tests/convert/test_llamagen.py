"""Converted LlamaGen weights give the codes and pixels of transformers' JanusVQVAE, and a wrong file is refused."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from convert.llamagen import ROWS, vqgan_from_torch
from pure_jax.config import VQGANConfig
from pure_jax.errors import PureError
from pure_jax.vqgan import VQGAN, to_pixels

CONFIG = VQGANConfig(channels=32, latent_channels=32, codebook_size=512)
NEAR_TIE = 1e-4


def llamagen_name(janus: str) -> str:
    """A name of the oracle -> the same tensor's name in LlamaGen's file."""
    name = re.sub(r"encoder\.down\.", "encoder.conv_blocks.", janus)
    name = re.sub(r"decoder\.up\.", "decoder.conv_blocks.", name)
    name = re.sub(r"(conv_blocks\.\d+)\.block\.", r"\1.res.", name)
    for part, index in (("block_1", 0), ("attn_1", 1), ("block_2", 2)):
        name = name.replace(f".mid.{part}.", f".mid.{index}.")
    return name


@pytest.fixture(scope="module")
def oracle() -> JanusVQVAE:
    torch.manual_seed(0)
    model = JanusVQVAE(
        JanusVQVAEConfig(
            base_channels=CONFIG.channels,
            channel_multiplier=list(CONFIG.channel_multipliers),
            num_res_blocks=CONFIG.num_res_blocks,
            latent_channels=CONFIG.latent_channels,
            embed_dim=CONFIG.codebook_dim,
            num_embeddings=CONFIG.codebook_size,
        )
    ).eval()
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.data = 0.2 * torch.randn_like(p) + (name.endswith("weight") and "norm" in name)
        else:
            p.data = torch.randn_like(p) * p[0].numel() ** -0.5
    return model


@pytest.fixture(scope="module")
def tensors(oracle: JanusVQVAE) -> dict[str, np.ndarray]:
    """As in LlamaGen's file: its names, codebook rows of any length, and the buffer of used codes."""
    out = {llamagen_name(name): t.numpy().copy() for name, t in oracle.state_dict().items()}
    lengths = np.random.default_rng(0).uniform(0.1, 3, (CONFIG.codebook_size, 1)).astype(np.float32)
    out["quantize.embedding.weight"] *= lengths
    # Janus does not normalise while encoding, so it gets unit rows.
    weight = oracle.quantize.embedding.weight
    weight.data = torch.nn.functional.normalize(weight.data, dim=-1)
    return out | {"quantize.codebook_used": np.zeros(65536, np.float32)}


@jax.jit
def encode(params, images):
    model = VQGAN(CONFIG)
    return tuple(model.apply({"params": params}, images, method=method) for method in ("latents", "encode"))


@jax.jit
def decode(params, codes):
    return VQGAN(CONFIG).apply({"params": params}, codes, method="decode")


@pytest.mark.parametrize("size", [(32, 48), (64, 64)])
def test_codes_and_pixels_equal_janus(size: tuple[int, int], oracle, tensors) -> None:
    params = vqgan_from_torch(tensors, CONFIG)
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


def test_every_row_of_the_table_is_needed_and_no_name_matches_two(tensors) -> None:
    used = [[row for row in ROWS if re.fullmatch(row.source, name)] for name in tensors]
    assert all(len(rows) == 1 for rows in used)
    assert {row for rows in used for row in rows} == set(ROWS)


def test_the_buffer_of_used_codes_is_ignored_and_anything_else_unknown_is_not(tensors) -> None:
    vqgan_from_torch({n: t for n, t in tensors.items() if n != "quantize.codebook_used"}, CONFIG)
    with pytest.raises(PureError, match="'encoder.conv_blocks.0.res.0.conv3.weight' is unknown"):
        vqgan_from_torch(tensors | {"encoder.conv_blocks.0.res.0.conv3.weight": np.zeros(1)}, CONFIG)


def test_missing_and_misshapen_tensors_are_named(tensors) -> None:
    broken = {n: t for n, t in tensors.items() if n != "decoder.mid.1.q.bias"}
    broken["quant_conv.weight"] = np.zeros((8, 32), np.float32)
    broken["encoder.conv_in.weight"] = np.zeros((32, 1, 3, 3), np.float32)
    with pytest.raises(PureError) as error:
        vqgan_from_torch(broken, CONFIG)
    for part in (
        "nothing fills decoder/mid_attn/q/bias",
        "'quant_conv.weight': a convolution kernel has 4 axes, not 2",
        "'encoder.conv_in.weight' of shape (32, 1, 3, 3) does not fit encoder/conv_in/kernel (3, 3, 3, 32)",
    ):
        assert part in str(error.value)
