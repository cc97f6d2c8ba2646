"""A loaded NSARM model: configuration, parameters and tokenizer in one place, with picture <-> codes of all scales."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pure_jax.errors import PureError
from pure_jax.nsarm.bsq import bits_to_ints, compose, decompose, ints_to_bits
from pure_jax.nsarm.config import NsarmConfig, text_config
from pure_jax.nsarm.map_network import MapNetwork, map_network
from pure_jax.nsarm.schedule import Scales
from pure_jax.nsarm.text import TextEncoder
from pure_jax.nsarm.transformer import Transformer
from pure_jax.nsarm.vae import VAE, fitting
from pure_jax.vqgan import from_pixels

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Codes = tuple[np.ndarray, ...]
"""A picture: for each scale, coarse to fine, int32 [height, width] latent positions, a number of so many bits each."""


def to_pixels(images: Array) -> Array:
    """float in [-1, 1] -> uint8, rounded; the original truncates, which makes pictures half a level darker."""
    return jnp.round((jnp.clip(images.astype(jnp.float32), -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


@partial(jax.jit, static_argnames="vae")
def encode_images(vae: VAE, params: Any, pixels: Array) -> Array:
    """uint8 [n, H, W, 3] -> features float32 [n, H / stride, W / stride, bits], not quantised."""
    features: Any = vae.apply({"params": params}, from_pixels(pixels), method="encode")
    return features


@partial(jax.jit, static_argnames="vae")
def decode_latents(vae: VAE, params: Any, latents: Array) -> Array:
    """Sums of codes, float32 [n, h, w, bits] -> uint8 [n, stride * h, stride * w, 3]."""
    images: Any = vae.apply({"params": params}, latents, method="decode")
    return to_pixels(images)


@dataclass(frozen=True, eq=False)
class NsarmModel:
    """A model in memory. `params` holds plain nested dicts, by network: those of `shapes.network_shapes`."""

    config: NsarmConfig
    params: dict[str, Any]
    tokenizer: Tokenizer | None
    """Of the text encoder; None in a model without."""
    vocabulary: None
    dtype: Any = jnp.float32

    @property
    def transformer(self) -> Transformer:
        """The network's description; apply it to params["transformer"]."""
        return Transformer(self.config.transformer, self.dtype)

    @property
    def map_network(self) -> MapNetwork:
        """T's description; apply it to params["map_network"]. Always float32, as bits are its outputs' signs."""
        return map_network(self.config)

    @property
    def vae(self) -> VAE:
        """The image tokenizer's description; apply it to params["vae"]. Always float32."""
        return VAE(self.config.vae)

    @property
    def text_encoder(self) -> TextEncoder:
        """The text encoder's description; apply it to params["text_encoder"]. PureError in a model without."""
        return TextEncoder(text_config(self.config), self.dtype)

    def encode(self, image: np.ndarray) -> Codes:
        """uint8 [H, W, 3], sides multiples of the pixels of a token -> codes of all scales.

        The schedule is the configuration's, stretched to the picture's sides.

        Raises:
            PureError: not uint8 RGB, or a side that is no multiple.
        """
        stride, config = self.config.stride, self.config
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise PureError(f"an image must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
        height, width, _ = image.shape
        if height % stride or width % stride or 0 in image.shape:
            raise PureError(f"an image of {width}x{height} is no multiple of {stride} pixels")
        vae, _ = fitting(config.vae, height, width)
        features = encode_images(vae, self.params["vae"], image[None])
        scales = stretched(config, height // stride, width // stride)
        return tuple(np.asarray(ints[0]) for ints in _to_ints(features, scales, config.next_input))

    def decode(self, codes: Codes) -> np.ndarray:
        """Codes of all scales, the last one as large as the picture's latent -> uint8 [H, W, 3].

        Raises:
            PureError: no integers of two axes, or one that has more bits than a code.
        """
        bits = self.config.vae.latent_channels
        codes = tuple(map(np.asarray, codes))
        if not codes or any(own.dtype.kind not in "iu" or own.ndim != 2 or 0 in own.shape for own in codes):
            raise PureError("codes must be integers [height, width], one such array for each scale")
        if any(own.min() < 0 or own.max() >= 2**bits for own in codes):
            raise PureError(f"codes must lie in 0..{2**bits - 1}")
        total = compose([ints_to_bits(jnp.asarray(own[None], jnp.int32), bits) for own in codes])
        height, width = (self.config.vae.stride * n for n in codes[-1].shape)
        vae, _ = fitting(self.config.vae, height, width)
        return np.asarray(decode_latents(vae, self.params["vae"], total)[0])


def stretched(config: NsarmConfig, height: int, width: int) -> Scales:
    """The schedule in latent positions for a picture of height x width tokens."""
    last = config.sides[-1]
    return tuple(
        (config.patch * max(1, round(side * height / last)), config.patch * max(1, round(side * width / last)))
        for side in config.sides
    )


@partial(jax.jit, static_argnames=("scales", "next_input"))
def _to_ints(features: Array, scales: Scales, next_input: str) -> list[Array]:
    return [bits_to_ints(bits) for bits in decompose(features, scales, next_input=next_input).bits]
