"""PatchGAN discriminator for the tokenizer's adversarial loss."""

from __future__ import annotations

import flax.linen as nn
from jax import Array


class PatchDiscriminator(nn.Module):
    """4x4 convolutions, stride 2 `layers` times, then two of stride 1: one logit per patch, [batch, h, w, 1].

    LlamaGen's has width 64, three layers and BatchNorm. Here GroupNorm stands in its place: its statistics do not
    depend on how the batch is spread over devices.
    """

    width: int = 64
    layers: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.normal(0.02)
        x = nn.leaky_relu(nn.Conv(self.width, (4, 4), 2, padding=1, kernel_init=init)(x), 0.2)
        for i in range(1, self.layers + 1):
            stride = 2 if i < self.layers else 1
            features = self.width * min(2**i, 8)
            x = nn.Conv(features, (4, 4), stride, padding=1, use_bias=False, kernel_init=init)(x)
            x = nn.leaky_relu(nn.GroupNorm(num_groups=None, group_size=16)(x), 0.2)
        return nn.Conv(1, (4, 4), padding=1, kernel_init=init)(x)
