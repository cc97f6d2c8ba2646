"""What decoding costs, by arithmetic from shapes: bytes and operations of a pass.

A pass runs the network once: `window` new tokens in every row, one row per picture and, with guidance, one more. It
reads all weights but the embedding (a few rows of it count as nothing), of the head only the image codes' columns, and
the filled part of every row's cache once, however many tokens it is for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from pure_jax.config import TransformerConfig
from pure_jax.pure import parameter_shapes
from pure_jax.quantisation import is_pair
from pure_jax.transformer import token_bytes

EMBEDDING, HEAD, HEAD_SCALE = "embed.embedding", "lm_head.kernel", "lm_head.scale"


@dataclass(frozen=True)
class Network:
    """What the cost of a pass depends on. codes: image codes, the only columns of the head that a picture needs."""

    config: TransformerConfig
    dtype: Any
    codes: int

    @property
    def cache_token(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return token_bytes(self.config, self.dtype)

    def weights(self, columns: int) -> int:
        """Bytes of the weights that a pass reads, with so many columns of the head."""
        shapes = parameter_shapes(self.config)
        body = {path: shape for path, shape in shapes.items() if path not in (EMBEDDING, HEAD, HEAD_SCALE)}
        # An int8 channel has a scale in float32.
        channel = self._item(HEAD, shapes) * self.config.hidden_size + 4 * (HEAD_SCALE in shapes)
        return sum(math.prod(shape) * self._item(path, shapes) for path, shape in body.items()) + channel * columns

    def _item(self, path: str, paths: Collection[str]) -> int:
        """Bytes of one number of a parameter."""
        if is_pair(path, paths):
            return 1 if path.endswith("kernel") else 4
        return jnp.dtype(self.dtype).itemsize

    def parameters(self, columns: int) -> int:
        """Number of parameters that a pass reads, scales not counted, with so many columns of the head."""
        shapes = parameter_shapes(dataclasses.replace(self.config, weights="float"))
        body = sum(math.prod(shape) for path, shape in shapes.items() if path not in (EMBEDDING, HEAD))
        return body + self.config.hidden_size * columns

    @property
    def all_weights(self) -> int:
        """Bytes of all parameters as they lie in memory."""
        embedding = self.config.vocab_size * self.config.hidden_size * jnp.dtype(self.dtype).itemsize
        return self.weights(self.config.vocab_size) + embedding


@dataclass(frozen=True)
class Fill:
    """Tokens in each row's cache, its own newest included: of the conditional rows, and of the unconditional ones."""

    conditional: float
    unconditional: float = 0.0

    @property
    def both(self) -> float:
        return self.conditional + self.unconditional


@dataclass(frozen=True)
class Lengths:
    """One answer's length. opening: tokens before the picture (question and text); height, width: of the picture in
    codes; guided: every picture has an unconditional row too."""

    opening: int
    height: int
    width: int
    guided: bool

    @property
    def image_slots(self) -> int:
        """Tokens of the picture: start, two of the size, codes, new-lines."""
        return 3 + self.height * (self.width + 1)

    def at_row(self, row: float) -> Fill:
        """Mean fill over the passes that write one row of codes, counted from 0."""
        image = 3 + row * (self.width + 1) + self.width / 2
        return Fill(self.opening + image, image if self.guided else 0.0)

    @property
    def mean(self) -> Fill:
        """Mean fill over all passes of a picture."""
        return self.at_row((self.height - 1) / 2)


def pass_bytes(network: Network, batch: int, fill: Fill) -> float:
    """Bytes that a pass reads from memory: weights once, and each row's cache."""
    return network.weights(network.codes) + batch * fill.both * network.cache_token


def pass_flops(network: Network, batch: int, fill: Fill, window: int = 1) -> float:
    """Operations of a pass: two for each weight and token; four for each channel, head, layer and token looked at."""
    cfg = network.config
    rows = batch * (2 if fill.unconditional else 1)
    looking = 4 * cfg.num_heads * cfg.head_dim * cfg.num_layers
    return window * (2 * rows * network.parameters(network.codes) + batch * fill.both * looking)


def picture_bytes(network: Network, lengths: Lengths, batch: int = 1) -> float:
    """Bytes read to write a batch of pictures, a pass for every code."""
    return lengths.height * lengths.width * pass_bytes(network, batch, lengths.mean)
