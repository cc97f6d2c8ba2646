"""The bitwise image tokenizer's networks (Infinity's BSQ-VAE): the VQ tokenizer's, without attention. NHWC, float32.

Quantisation is not part of them, but of `pure_jax.nsarm.bsq`: the encoder's features are quantised scale by scale.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pure_jax.nsarm.config import VAEConfig
from pure_jax.vqgan import Decoder, Encoder, strips_for


class VAE(nn.Module):
    """Picture <-> features. Use as `VAE(config).apply({"params": p}, images, method="encode")`.

    strip_rows: as in `pure_jax.vqgan.VQGAN`; `fitting` chooses.
    """

    config: VAEConfig
    strip_rows: int | None = None

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.strip_rows, attention=False)
        self.decoder = Decoder(self.config, self.strip_rows, attention=False)

    def encode(self, images: Array) -> Array:
        """Images float32 [batch, H, W, 3] in [-1, 1] -> features float32 [batch, H / stride, W / stride, bits]."""
        return self.encoder(images)

    def decode(self, latent: Array) -> Array:
        """A sum of codes, float32 [batch, h, w, bits] -> images [batch, stride * h, stride * w, 3] in [-1, 1]."""
        return jnp.clip(self.decode_unbounded(latent), -1.0, 1.0)

    def decode_unbounded(self, latent: Array) -> Array:
        """`decode` without the clamp, which would hide an error beyond it from training."""
        return self.decoder(latent)

    def __call__(self, images: Array) -> Array:
        """Through both networks, nothing quantised."""
        return self.decode(self.encode(images))


def fitting(config: VAEConfig, height: int, width: int) -> tuple[VAE, int]:
    """The networks for pictures of height x width pixels, in strips if need be, and how many to give them at a time."""
    strip_rows, most = strips_for(config, height, width)
    return VAE(config, strip_rows), most
