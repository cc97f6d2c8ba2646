"""NSARM's networks in PyTorch, written from the description of the published files and named as there: what this
library's networks are compared with, in `pure compare` and in the tests. Nothing else computes with them.

A module's state_dict has the published names and layouts, so it is a source for the converter as well. All sizes come
from this library's configuration. Everything is written the plain way: masks, no caches.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pure_jax.nsarm.config import MapConfig, NsarmConfig, TransformerConfig, VAEConfig


class Wrapped(nn.Module):
    """The published files have one more level of names around every convolution and norm."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, inner)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x)


def conv(fan_in: int, fan_out: int, kernel: int = 3, **kwargs) -> Wrapped:
    return Wrapped("conv", nn.Conv2d(fan_in, fan_out, kernel, padding=kwargs.pop("padding", kernel // 2), **kwargs))


def norm(config: VAEConfig, width: int) -> Wrapped:
    return Wrapped("norm", nn.GroupNorm(config.num_groups, width, config.norm_eps))


class ResBlock(nn.Module):
    def __init__(self, config: VAEConfig, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(config, fan_in), conv(fan_in, fan_out)
        self.norm2, self.conv2 = norm(config, fan_out), conv(fan_out, fan_out)
        if fan_in != fan_out:
            self.nin_shortcut = conv(fan_in, fan_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class Half(nn.Module):
    """Encoder or decoder; a decoder's levels are stored under the encoder's numbers and run from the last."""

    def __init__(self, config: VAEConfig, encodes: bool) -> None:
        super().__init__()
        self.encodes = encodes
        widths = [config.channels * m for m in config.channel_multipliers]
        levels = range(len(widths)) if encodes else range(len(widths) - 1, -1, -1)
        width = widths[0] if encodes else widths[-1]
        self.conv_in = conv(3 if encodes else config.latent_channels, width)
        stored: list[Any] = [nn.Module() for _ in widths]
        for i in levels:
            stored[i].block = nn.ModuleList()
            for _ in range(config.num_res_blocks + (not encodes)):
                stored[i].block.append(ResBlock(config, width, widths[i]))
                width = widths[i]
            if i != levels[-1]:
                name, options = ("downsample", {"stride": 2, "padding": 0}) if encodes else ("upsample", {})
                stored[i].add_module(name, Wrapped("conv", conv(width, width, **options)))
        self.levels = list(levels)
        setattr(self, "down" if encodes else "up", nn.ModuleList(stored))
        middle = widths[-1]
        self.mid: Any = nn.Module()
        self.mid.block_1, self.mid.block_2 = ResBlock(config, middle, middle), ResBlock(config, middle, middle)
        self.norm_out = norm(config, width)
        self.conv_out = conv(width, config.latent_channels if encodes else 3)

    def run_levels(self, x: Tensor) -> Tensor:
        for i in self.levels:
            stored: Any = self.down if self.encodes else self.up
            level = stored[i]
            for block in level.block:
                x = block(x)
            if hasattr(level, "downsample"):
                x = level.downsample(F.pad(x, (0, 1, 0, 1)))
            elif hasattr(level, "upsample"):
                x = level.upsample(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        x = self.run_levels(x) if self.encodes else x
        x = self.mid.block_2(self.mid.block_1(x))
        x = x if self.encodes else self.run_levels(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class VAE(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Half(config, True), Half(config, False)
        self.quantizer, self.quantizer.lfq = nn.Module(), nn.Module()
        self.quantizer.lfq.register_buffer("mask", 2 ** torch.arange(config.latent_channels - 1, -1, -1))


class MapNetwork(nn.Module):
    def __init__(self, config: MapConfig, channels: int, sides: list[int], whole: int) -> None:
        super().__init__()
        self.sides, self.whole, self.layout, s = sides, whole, config.layout, config.latent_side
        self.predicts = config.predicts

        def convolution(fan_in: int, fan_out: int) -> list[nn.Module]:
            return [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.LayerNorm([fan_out, s, s]), nn.GELU()]

        widths = [channels, *config.stem, channels]
        self.feature_extractor = nn.Sequential(
            *[m for a, b in zip(widths, widths[1:], strict=False) for m in convolution(a, b)]
        )
        self.feature_transforms, self.transformers, self.output_projs = (nn.ModuleList() for _ in range(3))
        for d, layers, heads in zip(config.widths, config.layers, config.heads, strict=True):
            self.feature_transforms.append(nn.Sequential(*convolution(channels, d // 2), *convolution(d // 2, d)))
            layer = nn.TransformerEncoderLayer(d, heads, 4 * d, config.dropout, batch_first=True)
            self.transformers.append(nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))
            self.output_projs.append(
                nn.Sequential(nn.Linear(d, d // 2), nn.LayerNorm(d // 2), nn.GELU(), nn.Linear(d // 2, channels))
            )

    def forward(self, features: Tensor) -> list[Tensor]:
        """[B, c, s, s] -> [B, c, side, side] for each scale."""
        x = self.feature_extractor(features)
        out = []
        for i, side in enumerate(self.sides):
            y = F.adaptive_avg_pool2d(self.feature_transforms[i](x), side).flatten(2).transpose(1, 2)
            y = self.output_projs[i](self.transformers[i](y))
            b, _, c = y.shape
            out.append(y.view(b, c, side, side) if self.layout == "raw" else y.transpose(1, 2).view(b, c, side, side))
        if self.predicts == "latents":
            total = torch.zeros_like(F.interpolate(out[0], self.whole))
            for i, latent in enumerate(out):
                out[i] = latent - F.adaptive_avg_pool2d(total, latent.shape[-1])
                codes = torch.where(out[i] > 0, 1.0, -1.0) / latent.shape[1] ** 0.5
                total = total + F.interpolate(codes, self.whole, mode="bilinear")
        return out


class Attention(nn.Module):
    """Self-attention with unit queries and keys, or attention to text; named as the published blocks' parts."""

    zero_k_bias: Tensor

    def __init__(self, c: TransformerConfig, crosses: bool) -> None:
        super().__init__()
        C = c.hidden_size
        self.heads = c.num_heads
        self.v_bias, self.proj = nn.Parameter(torch.zeros(C)), nn.Linear(C, C)
        self.register_buffer("zero_k_bias", torch.zeros(C))
        if crosses:
            self.mat_q, self.mat_kv = nn.Linear(C, C), nn.Linear(C, 2 * C, bias=False)
        else:
            self.q_bias, self.mat_qkv = nn.Parameter(torch.zeros(C)), nn.Linear(C, 3 * C, bias=False)
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, c.num_heads, 1, 1), math.log(4.0)))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        return self.proj(x.transpose(1, 2).flatten(2))

    def over_scales(self, x: Tensor, angles: Tensor, mask: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        q, k, v = map(self.split, (self.mat_qkv(x) + bias).chunk(3, dim=-1))
        q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp(max=math.log(100)).exp()
        q, k = turned(q, angles), turned(F.normalize(k, dim=-1), angles)
        return self.merge((q @ k.mT).masked_fill(~mask, -torch.inf).softmax(-1) @ v)

    def over_text(self, x: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        k, v = self.mat_kv(text).chunk(2, dim=-1)
        q, k, v = map(self.split, (self.mat_q(x), k + self.zero_k_bias, v + self.v_bias))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return self.merge(scores.masked_fill(~valid[:, None, None], -torch.inf).softmax(-1) @ v)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs of neighbouring channels as complex numbers."""
    turn = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)


class Block(nn.Module):
    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        C = c.hidden_size
        self.ada_gss = nn.Parameter(torch.zeros(1, 1, 6, C))
        self.sa, self.ca, self.ca_norm = Attention(c, False), Attention(c, True), nn.LayerNorm(C, c.norm_eps)
        self.ffn = nn.Module()
        self.ffn.fc1, self.ffn.fc2 = nn.Linear(C, c.intermediate_size), nn.Linear(c.intermediate_size, C)
        self.eps = c.norm_eps

    def forward(self, x, shared, angles, mask, text, valid):
        gamma1, gamma2, scale1, scale2, shift1, shift2 = (self.ada_gss + shared).unbind(2)

        def plain(x: Tensor) -> Tensor:
            return F.layer_norm(x, x.shape[-1:], eps=self.eps)

        x = x + self.sa.over_scales(plain(x) * (1 + scale1) + shift1, angles, mask) * gamma1
        x = x + self.ca.over_text(self.ca_norm(x), text, valid)
        h = self.ffn.fc1(plain(x) * (1 + scale2) + shift2)
        return x + self.ffn.fc2(F.gelu(h, approximate="tanh")) * gamma2


class Pool(nn.Module):
    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        C = c.hidden_size
        self.mat_q = nn.Parameter(torch.zeros(1, c.pool_heads, C // c.pool_heads))
        self.mat_kv, self.proj = nn.Linear(c.text_size, 2 * C, bias=False), nn.Linear(C, C)
        self.v_bias = nn.Parameter(torch.zeros(C))
        self.register_buffer("zero_k_bias", torch.zeros(C))

    def forward(self, t: Tensor) -> Tensor:
        """One caption [L, text size] -> [C]."""
        k, v = self.mat_kv(t).chunk(2, dim=-1)
        k, v = (x.unflatten(-1, self.mat_q.shape[1:]).transpose(0, 1) for x in (k, v + self.v_bias))
        weights = (self.mat_q[0][:, None] @ k.mT / k.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ v).flatten())


class Infinity(nn.Module):
    """The transformer, and T under the name that it has inside of it. chunks: of the blocks; 1 numbers them through."""

    def __init__(self, config: NsarmConfig, chunks: int = 1) -> None:
        super().__init__()
        c = self.c = config.transformer
        self.scales, C = config.scales, c.hidden_size
        self.cfg_uncond = nn.Parameter(torch.zeros(c.text_length, c.text_size))
        self.pos_start = nn.Parameter(torch.zeros(1, 1, C))
        self.text_norm = nn.RMSNorm(c.text_size, c.norm_eps)
        self.text_proj_for_sos: Any = nn.Module()
        self.text_proj_for_sos.ca = Pool(c)
        self.text_proj_for_ca = nn.Sequential(nn.Linear(c.text_size, C), nn.GELU("tanh"), nn.Linear(C, C))
        self.lvl_embed = nn.Embedding(c.max_scales, C)
        self.word_embed = nn.Linear(c.token_bits, C)
        self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(C, 6 * C))
        if chunks == 1:
            self.blocks = nn.ModuleList(Block(c) for _ in range(c.num_layers))
        else:
            self.block_chunks = nn.ModuleList(
                Wrapped("module", nn.ModuleList(Block(c) for _ in range(c.num_layers // chunks))) for _ in range(chunks)
            )
        self.head_nm: Any = nn.Module()
        self.head_nm.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(C, 2 * C))
        self.head = nn.Linear(C, 2 * c.token_bits)
        sides = [config.patch * side for side in config.sides]
        given = sides[: config.given_scales]
        self.map_transformer = MapNetwork(config.map_network, config.vae.latent_channels, given, sides[-1])

    def all_blocks(self) -> list[nn.Module]:
        return [b for b in self.modules() if isinstance(b, Block)]

    def angles(self) -> Tensor:
        quarter = self.c.head_dim // 4
        theta = [self.c.rope_theta ** (-2 * j / (2 * quarter)) for j in range(quarter)]
        rows = []
        for h, w in self.scales:
            for y in range(h):
                for x in range(w):
                    py, px = round(y * self.c.grid_side / h), round(x * self.c.grid_side / w)  # half to even
                    rows.append([py * t for t in theta] + [px * t for t in theta])
        return torch.tensor(rows)

    def forward(self, tokens: Tensor, captions: list[Tensor], hidden: list[bool]) -> Tensor:
        """tokens [B, n - 1, bits], each caption [its length, text size] -> logits [B, n, bits, 2]."""
        said = [self.cfg_uncond[: len(t)] if hide else t for t, hide in zip(captions, hidden, strict=True)]
        said = [self.text_norm(t) for t in said]
        pooled = torch.stack([self.text_proj_for_sos.ca(t) for t in said])[:, None]
        text = nn.utils.rnn.pad_sequence([self.text_proj_for_ca(t) for t in said], batch_first=True)
        valid = torch.arange(text.shape[1])[None] < torch.tensor([len(t) for t in said])[:, None]
        levels = torch.repeat_interleave(torch.arange(len(self.scales)), torch.tensor([h * w for h, w in self.scales]))
        mask = levels[:, None] >= levels[None]
        x = torch.cat([pooled + self.pos_start, self.word_embed(tokens)], dim=1) + self.lvl_embed(levels)
        shared = self.shared_ada_lin(pooled).unflatten(-1, (6, -1))
        for block in self.all_blocks():
            x = block(x, shared, self.angles(), mask, text, valid)
        scale, shift = self.head_nm.ada_lin(pooled).chunk(2, dim=-1)
        logits = self.head(F.layer_norm(x, x.shape[-1:], eps=self.c.norm_eps) * (1 + scale) + shift)
        return logits.unflatten(-1, (-1, 2))


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random, and activations of order 1, so that a leaf that is not used or wrongly used shows."""
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in module.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)]
    gains = {id(m.weight) for m in norms}
    biases = {id(m.bias) for m in norms if getattr(m, "bias", None) is not None}
    for p in module.parameters():
        noise = torch.randn(p.shape, generator=generator)
        small = p.ndim == 1 or id(p) in biases
        p.data = 1 + 0.2 * noise if id(p) in gains else noise * (0.1 if small else math.prod(p.shape[1:]) ** -0.5)
    return module.eval()
