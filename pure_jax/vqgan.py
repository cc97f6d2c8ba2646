"""The image tokenizer: encoder, vector quantiser and decoder of LlamaGen's VQ model, in Flax Linen, NHWC.

Any height and width that are multiples of the stride work. Images are float32 in [-1, 1], codes int32 [batch, h, w].
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from pure_jax.config import VQGANConfig

# A wrong nearest code is a wrong picture, so distances are never computed in reduced precision (TPU's default).
EXACT = jax.lax.Precision.HIGHEST


def _conv(features: int, kernel: int, name: str | None = None, **kwargs: object) -> nn.Conv:
    padding = kwargs.pop("padding", kernel // 2)
    return nn.Conv(features, (kernel, kernel), padding=padding, name=name, **kwargs)  # type: ignore[arg-type]


class Norm(nn.Module):
    """GroupNorm, 32 groups, eps 1e-6."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # Flax's default variance, E[x^2] - E[x]^2, loses digits where the mean is large; the codes would move.
        return nn.GroupNorm(
            num_groups=self.config.num_groups, epsilon=self.config.norm_eps, use_fast_variance=False, name="group"
        )(x)


class ResidualBlock(nn.Module):
    """norm, swish, 3x3, norm, swish, 3x3, plus the input (through a 1x1 where the width changes)."""

    config: VQGANConfig
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = _conv(self.features, 3, "conv1")(nn.swish(Norm(self.config, name="norm1")(x)))
        h = _conv(self.features, 3, "conv2")(nn.swish(Norm(self.config, name="norm2")(h)))
        if x.shape[-1] != self.features:
            x = _conv(self.features, 1, "nin_shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, with a residual."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        y = Norm(self.config, name="norm")(x)
        q, k, v = (_conv(c, 1, name)(y).reshape(b, h * w, c) for name in ("q", "k", "v"))
        weights = nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k) * c**-0.5, axis=-1)
        out = jnp.einsum("bqk,bkc->bqc", weights, v).reshape(b, h, w, c)
        return x + _conv(c, 1, "proj_out")(out)


class Downsample(nn.Module):
    """Zero row below and column right only, then a 3x3 convolution of stride 2: n -> n / 2."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return _conv(x.shape[-1], 3, "conv", strides=2, padding=((0, 1), (0, 1)))(x)


class Upsample(nn.Module):
    """Nearest x2, then a 3x3 convolution."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return _conv(x.shape[-1], 3, "conv")(x.repeat(2, axis=1).repeat(2, axis=2))


class Encoder(nn.Module):
    """Pixels [batch, H, W, 3] -> features [batch, H / stride, W / stride, latent_channels]."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg = self.config
        widths = [cfg.channels * m for m in cfg.channel_multipliers]
        last = len(widths) - 1
        x = _conv(cfg.channels, 3, "conv_in")(x)
        for level, width in enumerate(widths):
            for i in range(cfg.num_res_blocks):
                x = ResidualBlock(cfg, width, name=f"level_{level}_res_{i}")(x)
                if level == last:
                    x = AttentionBlock(cfg, name=f"level_{level}_attn_{i}")(x)
            if level != last:
                x = Downsample(name=f"level_{level}_downsample")(x)
        x = ResidualBlock(cfg, widths[-1], name="mid_res_0")(x)
        x = AttentionBlock(cfg, name="mid_attn")(x)
        x = ResidualBlock(cfg, widths[-1], name="mid_res_1")(x)
        return _conv(cfg.latent_channels, 3, "conv_out")(nn.swish(Norm(cfg, name="norm_out")(x)))


class Decoder(nn.Module):
    """Features [batch, h, w, latent_channels] -> pixels [batch, stride * h, stride * w, 3]; level 0 is the coarsest."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg = self.config
        widths = [cfg.channels * m for m in reversed(cfg.channel_multipliers)]
        x = _conv(widths[0], 3, "conv_in")(x)
        x = ResidualBlock(cfg, widths[0], name="mid_res_0")(x)
        x = AttentionBlock(cfg, name="mid_attn")(x)
        x = ResidualBlock(cfg, widths[0], name="mid_res_1")(x)
        for level, width in enumerate(widths):
            for i in range(cfg.num_res_blocks + 1):
                x = ResidualBlock(cfg, width, name=f"level_{level}_res_{i}")(x)
                if level == 0:
                    x = AttentionBlock(cfg, name=f"level_{level}_attn_{i}")(x)
            if level != len(widths) - 1:
                x = Upsample(name=f"level_{level}_upsample")(x)
        return _conv(3, 3, "conv_out")(nn.swish(Norm(cfg, name="norm_out")(x)))


def l2_normalize(x: Array) -> Array:
    """x / max(||x||, 1e-12) over the last axis."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class VectorQuantizer(nn.Module):
    """Codebook of unit vectors; the stored rows need not be unit, they are normalised at every use."""

    config: VQGANConfig

    def setup(self) -> None:
        cfg = self.config
        limit = 1.0 / cfg.codebook_size

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            return l2_normalize(jax.random.uniform(key, shape, minval=-limit, maxval=limit))

        self.codebook = self.param("codebook", init, (cfg.codebook_size, cfg.codebook_dim))

    def vectors(self) -> Array:
        """Unit codebook rows: float32 [codebook_size, codebook_dim]."""
        return l2_normalize(self.codebook.astype(jnp.float32))

    def nearest(self, z: Array) -> Array:
        """Index of the nearest code for unit vectors z [..., codebook_dim]; the lowest index on exact ties."""
        e = self.vectors()
        squares = jnp.sum(z * z, axis=-1, keepdims=True) + jnp.sum(e * e, axis=-1)
        return jnp.argmin(squares - 2.0 * jnp.matmul(z, e.T, precision=EXACT), axis=-1).astype(jnp.int32)

    def lookup(self, codes: Array) -> Array:
        return self.vectors()[codes]


class VQGAN(nn.Module):
    """Picture <-> codes. Use as `VQGAN(config).apply({"params": p}, images, method="encode")`."""

    config: VQGANConfig

    def setup(self) -> None:
        cfg = self.config
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)
        self.quantizer = VectorQuantizer(cfg)
        self.quant_conv = _conv(cfg.codebook_dim, 1)
        self.post_quant_conv = _conv(cfg.latent_channels, 1)

    def latents(self, images: Array) -> Array:
        """Images float32 [batch, H, W, 3] in [-1, 1] -> unit vectors [batch, H / stride, W / stride, codebook_dim]."""
        return l2_normalize(self.quant_conv(self.encoder(images)).astype(jnp.float32))

    def encode(self, images: Array) -> Array:
        """Images float32 [batch, H, W, 3] in [-1, 1] -> codes int32 [batch, H / stride, W / stride]."""
        return self.quantizer.nearest(self.latents(images))

    def decode_latents(self, z: Array) -> Array:
        return self.decoder(self.post_quant_conv(z))

    def decode(self, codes: Array) -> Array:
        """Codes int32 [batch, h, w] -> images float32 [batch, stride * h, stride * w, 3], nominally in [-1, 1]."""
        return self.decode_latents(self.quantizer.lookup(codes))

    def __call__(self, images: Array) -> tuple[Array, Array, Array, Array]:
        """Training pass: (reconstruction, unit latents z, their code vectors e, codes).

        The gradient passes the quantiser straight through: the decoder sees z + stop_gradient(e - z).
        """
        z = self.latents(images)
        codes = self.quantizer.nearest(z)
        e = self.quantizer.lookup(codes)
        return self.decode_latents(z + jax.lax.stop_gradient(e - z)), z, e, codes


def to_pixels(images: Array) -> Array:
    """float in [-1, 1] -> uint8: clamp, (x + 1) / 2 * 255, truncated as the original does (on average -0.5 level)."""
    return ((jnp.clip(images.astype(jnp.float32), -1.0, 1.0) + 1.0) / 2.0 * 255.0).astype(jnp.uint8)


def from_pixels(pixels: Array) -> Array:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.astype(jnp.float32) / 255.0 * 2.0 - 1.0
