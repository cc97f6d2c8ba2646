"""The image tokenizer: encoder, vector quantiser and decoder of LlamaGen's VQ model, in Flax Linen, NHWC.

Encoder and decoder serve NSARM's bitwise tokenizer too, which has no attention.

Any height and width that are multiples of the stride work. Images are float32 in [-1, 1], codes int32 [batch, h, w].
Attention is computed for a bounded number of queries at a time; with `VQGAN.strip_rows`, all else in strips of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from pure_jax.config import VQGANConfig
from pure_jax.strips import Strips

# A wrong nearest code is a wrong picture, so distances are never computed in reduced precision (TPU's default).
EXACT = jax.lax.Precision.HIGHEST

# Values of a matrix of positions by positions (attention), or by codes, that are held at a time: 64 MiB in float32, of
# which XLA's CPU may hold a copy or two. Larger blocks are not faster.
MAX_MATRIX = 2**24

# Values of the first activation up to which pictures are computed whole, and together: two of 512x512 pixels at VQ-8's
# 128 channels, whose decoding takes 1.9 GB. One of 2048x2048 in strips takes 3.4 GB.
MAX_ACTIVATION = 2**26
STRIP_ROWS = 16


class Conv(nn.Conv):
    """Flax's convolution, also for pictures in strips: 1x1, 3x3, and 3x3 of stride 2 with zeros below and right."""

    def __call__(self, x: Any) -> Any:
        if not isinstance(x, Strips):
            return super().__call__(x)
        note, columns = x.convolve, (1, 1)
        if self.kernel_size == (1, 1):
            note, columns = x.map, (0, 0)
        elif self.strides == 2:
            note, columns = x.halve, (0, 1)
        conv: Any = self.clone(parent=None, padding=((0, 0), columns))
        variables = self.variables
        return note(lambda rows: conv.apply(variables, rows))


def _conv(features: int, kernel: int, name: str | None = None, **kwargs: object) -> Conv:
    padding = kwargs.pop("padding", kernel // 2)
    return Conv(features, (kernel, kernel), padding=padding, name=name, **kwargs)  # type: ignore[arg-type]


class Sizes(Protocol):
    """What encoder and decoder ask of a tokenizer's configuration; see `VQGANConfig`."""

    @property
    def channels(self) -> int: ...
    @property
    def channel_multipliers(self) -> tuple[int, ...]: ...
    @property
    def num_res_blocks(self) -> int: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def num_groups(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...


class Norm(nn.Module):
    """GroupNorm, 32 groups, eps 1e-6."""

    config: Sizes

    @nn.compact
    def __call__(self, x: Any) -> Any:
        # Flax's default variance, E[x^2] - E[x]^2, loses digits where the mean is large; the codes would move.
        group = nn.GroupNorm(
            num_groups=self.config.num_groups, epsilon=self.config.norm_eps, use_fast_variance=False, name="group"
        )
        if not isinstance(x, Strips):
            return group(x)
        mean, variance = x.moments(self.config.num_groups)
        weights = group.variables["params"]
        width = weights["scale"].size // self.config.num_groups
        mean, factor = (
            m.repeat(width, axis=-1)[:, None, None] for m in (mean, jax.lax.rsqrt(variance + self.config.norm_eps))
        )
        return x.map(lambda rows: (rows - mean) * (factor * weights["scale"]) + weights["bias"])


def _in_strips(x: Array, module: Encoder | Decoder) -> Any:
    """Strips of x where the module asks for them; parameters are made from whole pictures."""
    return Strips(x, module.strip_rows) if module.strip_rows and not module.is_initializing() else x


def _in_blocks(f: Callable[[Array], Array], x: Array, size: int) -> Array:
    """f over x [batch, n, channels] for `size` of the n at a time; for all of them at once where that is enough."""
    n = x.shape[1]
    if n <= size:
        return f(x)
    padded = jnp.pad(x, ((0, 0), (0, -n % size), (0, 0)))
    out = jax.lax.map(f, rearrange(padded, "b (n q) c -> n b q c", q=size))
    return rearrange(out, "n b q ... -> b (n q) ...")[:, :n]


def _swish(x: Any) -> Any:
    return x.map(nn.swish) if isinstance(x, Strips) else nn.swish(x)


def _settled(x: Any) -> Any:
    return x.settle() if isinstance(x, Strips) else x


def _whole(x: Any) -> Array:
    return x.settle().base if isinstance(x, Strips) else x


class ResidualBlock(nn.Module):
    """norm, swish, 3x3, norm, swish, 3x3, plus the input (through a 1x1 where the width changes)."""

    config: Sizes
    features: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = _conv(self.features, 3, "conv1")(_swish(Norm(self.config, name="norm1")(x)))
        h = _conv(self.features, 3, "conv2")(_swish(Norm(self.config, name="norm2")(h)))
        if x.shape[-1] != self.features:
            x = _conv(self.features, 1, "nin_shortcut")(x)
        return _settled(x + h)


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, with a residual.

    All queries at once where their weights fit into MAX_MATRIX, else as many at a time as do.
    """

    config: Sizes

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        y = Norm(self.config, name="norm")(x)
        q, k, v = (_conv(c, 1, name)(y).reshape(b, h * w, c) for name in ("q", "k", "v"))

        def attend(q: Array) -> Array:
            weights = nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k) * c**-0.5, axis=-1)
            return jnp.einsum("bqk,bkc->bqc", weights, v)

        out = _in_blocks(attend, q, max(1, MAX_MATRIX // (b * h * w)))
        return x + _conv(c, 1, "proj_out")(out.reshape(b, h, w, c))


class Downsample(nn.Module):
    """Zero row below and column right only, then a 3x3 convolution of stride 2: n -> n / 2."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return _conv(x.shape[-1], 3, "conv", strides=2, padding=((0, 1), (0, 1)))(x)


class Upsample(nn.Module):
    """Nearest x2, then a 3x3 convolution."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        larger = x.upsample() if isinstance(x, Strips) else x.repeat(2, axis=1).repeat(2, axis=2)
        return _conv(x.shape[-1], 3, "conv")(larger)


class Encoder(nn.Module):
    """Pixels [batch, H, W, 3] -> features [batch, H / stride, W / stride, latent_channels]."""

    config: Sizes
    strip_rows: int | None = None
    attention: bool = True
    """Whether positions of the coarsest level look at each other."""

    @nn.compact
    def __call__(self, image: Array) -> Array:
        cfg = self.config
        widths = [cfg.channels * m for m in cfg.channel_multipliers]
        last = len(widths) - 1
        x = _conv(cfg.channels, 3, "conv_in")(_in_strips(image, self))
        for level, width in enumerate(widths):
            if level == last:
                x = _whole(x)
            for i in range(cfg.num_res_blocks):
                x = ResidualBlock(cfg, width, name=f"level_{level}_res_{i}")(x)
                if level == last and self.attention:
                    x = AttentionBlock(cfg, name=f"level_{level}_attn_{i}")(x)
            if level != last:
                x = Downsample(name=f"level_{level}_downsample")(x)
        x = ResidualBlock(cfg, widths[-1], name="mid_res_0")(x)
        if self.attention:
            x = AttentionBlock(cfg, name="mid_attn")(x)
        x = ResidualBlock(cfg, widths[-1], name="mid_res_1")(x)
        return _conv(cfg.latent_channels, 3, "conv_out")(nn.swish(Norm(cfg, name="norm_out")(x)))


class Decoder(nn.Module):
    """Features [batch, h, w, latent_channels] -> pixels [batch, stride * h, stride * w, 3]; level 0 is the coarsest."""

    config: Sizes
    strip_rows: int | None = None
    attention: bool = True
    """Whether positions of the coarsest level look at each other."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg = self.config
        widths = [cfg.channels * m for m in reversed(cfg.channel_multipliers)]
        x = _conv(widths[0], 3, "conv_in")(x)
        x = ResidualBlock(cfg, widths[0], name="mid_res_0")(x)
        if self.attention:
            x = AttentionBlock(cfg, name="mid_attn")(x)
        x = ResidualBlock(cfg, widths[0], name="mid_res_1")(x)
        for level, width in enumerate(widths):
            for i in range(cfg.num_res_blocks + 1):
                x = ResidualBlock(cfg, width, name=f"level_{level}_res_{i}")(x)
                if level == 0 and self.attention:
                    x = AttentionBlock(cfg, name=f"level_{level}_attn_{i}")(x)
            if level == 0:
                x = _in_strips(x, self)
            if level != len(widths) - 1:
                x = Upsample(name=f"level_{level}_upsample")(x)
        return _whole(_conv(3, 3, "conv_out")(_swish(Norm(cfg, name="norm_out")(x))))


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

        def search(z: Array) -> Array:
            squares = jnp.sum(z * z, axis=-1, keepdims=True) + jnp.sum(e * e, axis=-1)
            return jnp.argmin(squares - 2.0 * jnp.matmul(z, e.T, precision=EXACT), axis=-1).astype(jnp.int32)

        codes = _in_blocks(search, z.reshape(1, -1, z.shape[-1]), max(1, MAX_MATRIX // len(e)))
        return codes.reshape(z.shape[:-1])

    def lookup(self, codes: Array) -> Array:
        return self.vectors()[codes]


class VQGAN(nn.Module):
    """Picture <-> codes. Use as `VQGAN(config).apply({"params": p}, images, method="encode")`.

    strip_rows: compute the levels above the coarsest in strips of so many rows: the same result up to rounding, with a
    quarter of the memory and up to twice the time. None computes whole pictures. See `fitting`.
    """

    config: VQGANConfig
    strip_rows: int | None = None

    def setup(self) -> None:
        cfg = self.config
        self.encoder = Encoder(cfg, self.strip_rows)
        self.decoder = Decoder(cfg, self.strip_rows)
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


def strips_for(config: Sizes, height: int, width: int) -> tuple[int | None, int]:
    """(strip_rows for pictures of height x width pixels, None where they need no strips; how many at a time)."""
    most = MAX_ACTIVATION // (height * width * config.channels)
    return (None, most) if most else (STRIP_ROWS, 1)


def fitting(config: VQGANConfig, height: int, width: int) -> tuple[VQGAN, int]:
    """The tokenizer for pictures of height x width pixels, in strips if need be, and how many to give it at a time."""
    strip_rows, most = strips_for(config, height, width)
    return VQGAN(config, strip_rows), most


def to_pixels(images: Array) -> Array:
    """float in [-1, 1] -> uint8: clamp, (x + 1) / 2 * 255, truncated as the original does (on average -0.5 level)."""
    return ((jnp.clip(images.astype(jnp.float32), -1.0, 1.0) + 1.0) / 2.0 * 255.0).astype(jnp.uint8)


def from_pixels(pixels: Array) -> Array:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.astype(jnp.float32) / 255.0 * 2.0 - 1.0
