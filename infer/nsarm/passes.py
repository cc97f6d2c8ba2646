"""The compiled programs that write a picture: the map network's scales, one prefill of them, one pass for each other.

Sizes are static: a schedule has one program for each of its scales. The cache is donated from one to the next.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from pure_jax.infer.nsarm.sampling import Noise, bit_entropy, draw_bits
from pure_jax.nsarm.bsq import bits_to_codes, decompose
from pure_jax.nsarm.conditioning import Conditioning
from pure_jax.nsarm.config import NsarmConfig, SamplingConfig
from pure_jax.nsarm.map_network import MapNetwork
from pure_jax.nsarm.resize import patchify, resize, unpatchify
from pure_jax.nsarm.transformer import Cache, Transformer, init_cache
from pure_jax.nsarm.vae import VAE
from pure_jax.sampling import guide
from pure_jax.vqgan import from_pixels

SLOTS = 16
"""A cache has a multiple of so many. With any other number a TPU's compiler lays it out in one way between programs,
without gaps, and in another within them, and copies it at both ends."""


class Networks(NamedTuple):
    """Descriptions of what is applied; static."""

    config: NsarmConfig
    vae: VAE
    map_network: MapNetwork
    transformer: Transformer


@partial(jax.jit, static_argnames="nets")
def first_scales(nets: Networks, params: Any, pixels: Array) -> tuple[Array, Array]:
    """Low-quality pictures uint8 [n, side, side, 3] -> what T makes of them.

    Returns (the sum of its scales, quantised, float32 [n, H, W, bits of a position]; the transformer's inputs of its
    scales but the first, float32 [n, tokens, bits of a token]).
    """
    config = nets.config
    features: Any = nets.vae.apply({"params": params["vae"]}, from_pixels(pixels), method="encode")
    residuals: Any = nets.map_network.apply({"params": params["map_network"]}, features)
    scales = config.latent_scales
    found = decompose(None, scales[: config.given_scales], residuals, config.next_input, size=scales[-1])
    tokens = [patchify(own, config.patch) for own in found.inputs]
    empty = jnp.zeros((len(pixels), 0, config.transformer.token_bits))
    return found.total, jnp.concatenate([empty, *tokens], axis=1)


@partial(jax.jit, static_argnames="nets")
def prefill(nets: Networks, params: Any, tokens: Array, about: Conditioning) -> Cache:
    """The cache after T's scales, which are one pass without the head: nothing is drawn there.

    tokens: of `first_scales`; about: with as many rows, or twice as many for guidance.
    """
    config, net = nets.config, nets.transformer
    rows = len(about.start)
    cache = init_cache(config.transformer, rows, -(-config.ends[-1] // SLOTS) * SLOTS, net.dtype)
    tokens = jnp.tile(tokens, (rows // len(tokens), 1, 1))
    run = partial(net.apply, {"params": params["transformer"]}, last=config.given_scales, with_head=False)
    written: Any = run(tokens, about, config.scales, cache=cache)
    return written[1]


@partial(jax.jit, static_argnames=("nets", "sampling", "scale"), donate_argnames=("total", "cache"))
def write_scale(
    nets: Networks,
    sampling: SamplingConfig,
    scale: int,
    params: Any,
    about: Conditioning,
    total: Array,
    cache: Cache,
    noise: Noise,
    images: Array,
) -> tuple[Array, Cache, Array, Array]:
    """Draw one scale and add it to the sum.

    scale: its number, counted from 0. images: int32 [n], the pictures' places, for the noise. With guidance the rows of
    `about` and the cache are the n pictures with their caption, then without.

    Returns (sum, cache, entropy float32 [n, h, w] nats per token, bits bool [n, patch * h, patch * w, bits of a
    position]).
    """
    config = nets.config
    (height, width), size = config.scales[scale], config.latent_scales
    tokens = patchify(resize(total, size[scale], config.next_input), config.patch)
    tokens = jnp.tile(tokens, (len(about.start) // len(tokens), 1, 1))
    run: Any = partial(nets.transformer.apply, {"params": params["transformer"]})
    logits, cache = run(tokens, about, config.scales, scale, scale + 1, cache)
    temperature, guidance_scale = sampling.at(scale - config.given_scales)
    gaps = logits[..., 1] - logits[..., 0]
    if sampling.guided:
        told, untold = jnp.split(gaps, 2)
        gaps = guide(told, untold, guidance_scale)
    drawn = draw_bits(gaps, noise(images, scale, gaps.shape[1:]), temperature, sampling.top_p)
    bits = unpatchify(drawn, (height, width), config.patch)
    total = total + resize(bits_to_codes(bits), size[-1], "linear")
    entropy = rearrange(bit_entropy(gaps).sum(axis=-1), "n (h w) -> n h w", h=height)
    return total, cache, entropy, bits
