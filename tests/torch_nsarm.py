"""NSARM's networks in PyTorch, written for the tests from the description of the published files, and named as there.

A module's state_dict has the published names and layouts, so it is a source for the converter as well. All sizes come
from this library's configuration. Everything is written the plain way: masks, no caches.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pure_jax.nsarm.config import VAEConfig


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
        stored: list[nn.Module] = [nn.Module() for _ in widths]
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
        self.mid = nn.Module()
        self.mid.block_1, self.mid.block_2 = ResBlock(config, middle, middle), ResBlock(config, middle, middle)
        self.norm_out = norm(config, width)
        self.conv_out = conv(width, config.latent_channels if encodes else 3)

    def run_levels(self, x: Tensor) -> Tensor:
        for i in self.levels:
            level = (self.down if self.encodes else self.up)[i]
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


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random, and activations of order 1, so that a leaf that is not used or wrongly used shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        is_gain = name.endswith("weight") and ("norm" in name or ".norm" in name)
        fan_in = math.prod(p.shape[1:]) if p.ndim > 1 else 1
        p.data = 1 + 0.2 * noise if is_gain else noise * (0.1 if p.ndim == 1 else fan_in**-0.5)
    return module.eval()
