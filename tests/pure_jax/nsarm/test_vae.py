"""The bitwise tokenizer has the published size and equals PyTorch code, whole and in strips."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
import torch

from pure_jax.convert.nsarm.names import vae_rows
from pure_jax.convert.nsarm.torch_networks import VAE as TorchVAE
from pure_jax.convert.nsarm.torch_networks import randomised
from pure_jax.nsarm.config import VAEConfig
from pure_jax.nsarm.shapes import vae_shapes
from pure_jax.nsarm.vae import VAE, fitting
from tests.nsarm_bridge import params_of

TINY = VAEConfig(channels=8, channel_multipliers=(1, 2, 1), num_res_blocks=2, latent_channels=5, num_groups=4)


@pytest.fixture(scope="module")
def theirs() -> TorchVAE:
    return randomised(TorchVAE(TINY))


@pytest.fixture(scope="module")
def params(theirs) -> dict:
    return params_of(theirs, vae_rows(TINY), vae_shapes(TINY))


def count(half: str) -> int:
    return sum(math.prod(shape) for path, shape in vae_shapes(VAEConfig()).items() if path.startswith(half))


def test_it_has_the_published_number_of_parameters():
    assert (count("encoder"), count("decoder"), count("")) == (33_139_598, 48_484_611, 81_624_209)
    assert VAEConfig().stride == 8


@pytest.mark.parametrize("strip_rows", [None, 3])
def test_encoder_and_decoder_equal_pytorch(theirs, params, strip_rows):
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, 24, 16, 3)).astype(np.float32)
    latent = rng.normal(size=(2, 6, 4, 5)).astype(np.float32)
    vae = VAE(TINY, strip_rows)
    features, unbounded, bounded = jax.jit(
        lambda p: tuple(
            vae.apply({"params": p}, x, method=m)
            for m, x in (("encode", image), ("decode_unbounded", latent), ("decode", latent))
        )
    )(params)
    with torch.no_grad():
        wanted = theirs.encoder(torch.tensor(image).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        pixels = theirs.decoder(torch.tensor(latent).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    # Measured 4e-6, whole and in strips: sums in another order, through a dozen layers.
    np.testing.assert_allclose(features, wanted, rtol=0, atol=8e-6)
    np.testing.assert_allclose(unbounded, pixels, rtol=0, atol=8e-6)
    np.testing.assert_array_equal(bounded, np.clip(unbounded, -1, 1))


def test_large_pictures_go_in_strips_one_at_a_time():
    config = VAEConfig()
    assert fitting(config, 256, 256) == (VAE(config), 8)
    assert fitting(config, 1024, 1024)[1] == 1 and fitting(config, 1024, 1024)[0].strip_rows
