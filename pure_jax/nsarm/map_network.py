"""The transformation network T: the low-quality picture's latent -> residuals of the first scales (NSARM paper, 3.2).

A stem of convolutions, then a branch for each scale. The norms' weights have a value for each place of the latent; they
are all that tells places apart. Layers are as in `torch.nn.TransformerEncoderLayer`: post-norm, ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from pure_jax.nsarm.bsq import quantise
from pure_jax.nsarm.config import MapConfig, NsarmConfig
from pure_jax.nsarm.resize import resize

NORM_EPS = 1e-5
"""PyTorch's default; fixed in the original."""


def _norm(name: str, axes: tuple[int, ...] = (-1,)) -> nn.LayerNorm:
    """LayerNorm over several axes together, with a scale and a bias for each of their places."""
    return nn.LayerNorm(NORM_EPS, reduction_axes=axes, feature_axes=axes, use_fast_variance=False, name=name)


def _gelu(x: Array) -> Array:
    return nn.gelu(x, approximate=False)


class _Convolution(nn.Module):
    """3x3, LayerNorm over the whole map, GELU."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(self.features, (3, 3), padding=1, name="conv")(x)
        return _gelu(_norm("norm", (1, 2, 3))(x))


class EncoderLayer(nn.Module):
    """x = norm(x + attention(x)); x = norm(x + W2 relu(W1 x))."""

    heads: int
    dropout: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        drop = nn.Dropout(self.dropout, deterministic=self.deterministic)
        qkv = nn.Dense(3 * width, name="in_proj")(x)
        q, k, v = rearrange(qkv, "b n (p h d) -> p b h n d", p=3, h=self.heads)
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
        out = jnp.einsum("bhqk,bhkd->bhqd", drop(nn.softmax(scores, axis=-1)), v)
        y = nn.Dense(width, name="out_proj")(rearrange(out, "b h n d -> b n (h d)"))
        x = _norm("norm1")(x + drop(y))
        y = drop(nn.relu(nn.Dense(4 * width, name="linear1")(x)))
        return _norm("norm2")(x + drop(nn.Dense(width, name="linear2")(y)))


class Branch(nn.Module):
    """The stem's map -> one scale's output, [batch, side**2, channels]."""

    side: int
    width: int
    layers: int
    heads: int
    channels: int
    dropout: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate((self.width // 2, self.width)):
            x = _Convolution(width, name=f"conv_{i}")(x)
        x = rearrange(resize(x, (self.side, self.side), "area"), "b h w c -> b (h w) c")
        for i in range(self.layers):
            x = EncoderLayer(self.heads, self.dropout, self.deterministic, name=f"layer_{i}")(x)
        x = _gelu(_norm("out_norm")(nn.Dense(self.width // 2, name="out_in")(x)))
        return nn.Dense(self.channels, name="out")(x)


class MapNetwork(nn.Module):
    """channels: of the latent. sides: of the scales, in latent positions, one for each of the widths; whole: of the
    last scale of the schedule, None if that is among them."""

    config: MapConfig
    channels: int
    sides: tuple[int, ...]
    whole: int | None = None

    @nn.compact
    def __call__(self, features: Array, deterministic: bool = True) -> list[Array]:
        """Features float32 [batch, latent_side, latent_side, channels], not quantised -> residuals, not quantised.

        Returns one float32 [batch, side, side, channels] for each scale. Training with dropout (deterministic=False)
        needs an rng "dropout".
        """
        cfg = self.config
        x: Any = features
        for i, width in enumerate((*cfg.stem, self.channels)):
            x = _Convolution(width, name=f"stem_{i}")(x)
        out = []
        for i, branch in enumerate(zip(self.sides, cfg.widths, cfg.layers, cfg.heads, strict=True)):
            tokens = Branch(*branch, self.channels, cfg.dropout, deterministic, name=f"branch_{i}")(x)
            out.append(as_map(tokens, branch[0], cfg.layout))
        return out if cfg.predicts == "residuals" else residuals_of(out, self.whole or self.sides[-1])


def map_network(config: NsarmConfig) -> MapNetwork:
    """A model's map network."""
    sides = tuple(side for side, _ in config.latent_scales)
    return MapNetwork(config.map_network, config.vae.latent_channels, sides[: config.given_scales], sides[-1])


def residuals_of(latents: Sequence[Array], whole: int) -> list[Array]:
    """What the scales before, quantised, leave of each scale's latent, float32 [batch, side, side, channels].

    Their sum has the latent's full side, `whole`, and no gradient.
    """
    residuals: list[Array] = []
    total = jnp.zeros(())
    for latent in latents:
        _, height, width, _ = latent.shape
        residuals.append(latent - resize(total, (height, width), "area") if residuals else latent)
        codes, _ = quantise(jax.lax.stop_gradient(residuals[-1]))
        total = total + resize(codes, (whole, whole), "linear")
    return residuals


def as_map(tokens: Array, side: int, layout: str) -> Array:
    """A branch's output [batch, side**2, channels] -> [batch, side, side, channels].

    The published network's output is read as if its memory were [channels, side, side]: token t does not describe
    position t, but holds consecutive values of a channel. "raw" does that, for its weights need it. Source: checkpoint
    fact.
    """
    batch, _, channels = tokens.shape
    if layout == "raw":
        return rearrange(tokens.reshape(batch, channels, side, side), "b c h w -> b h w c")
    return tokens.reshape(batch, side, side, channels)
