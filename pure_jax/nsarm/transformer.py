"""The next-scale transformer (Infinity, as NSARM has it) and its explicit KV cache, in Flax Linen.

A scale's tokens are all predicted at once from what the scales before add up to. Nothing is mutable: a cache goes in
and comes out. The residual stream, norms, modulations, rotations, softmax and head run in float32, other products in
`dtype`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import struct
from jax import Array, lax
from jax.sharding import Mesh

from pure_jax.nsarm.attention import attend, block_causal_attention, over_devices, rotary, rotate
from pure_jax.nsarm.conditioning import Captions, Conditioner, Conditioning, text_keys_values
from pure_jax.nsarm.config import TransformerConfig
from pure_jax.nsarm.schedule import Scale, Scales, ends

MOST_SCALE = 100.0
"""Upper bound of the learned factor of the scores. Source: checkpoint fact."""


@struct.dataclass
class Cache:
    """Keys, as rotated, and values of all tokens so far; a token's slot is its place in the sequence of all scales.

    Each is one array [layers, batch, head, slot, dim] where layers are scanned, a tuple of [batch, head, slot, dim]
    where they are unrolled. How much of it is written is known where it is used: all scales before the ones given.
    """

    keys: Any
    values: Any


def init_cache(config: TransformerConfig, batch: int, slots: int, dtype: Any = jnp.float32) -> Cache:
    """An empty cache; dtype: the compute dtype."""
    shape = (batch, config.num_heads, slots, config.head_dim)

    def room() -> Any:
        if config.scan_layers:
            return jnp.zeros((config.num_layers, *shape), dtype)
        return tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))

    return Cache(room(), room())


def row_bytes(config: TransformerConfig, slots: int, dtype: Any) -> int:
    """What one row takes in a cache of so many slots."""
    return 2 * config.num_layers * config.hidden_size * slots * jnp.dtype(dtype).itemsize


def _norm(config: TransformerConfig, name: str | None = None) -> nn.LayerNorm:
    """In float32; with a name it has weights."""
    affine = name is not None
    return nn.LayerNorm(config.norm_eps, use_scale=affine, use_bias=affine, use_fast_variance=False, name=name)


def _unit(x: Array) -> Array:
    """float32, of length 1 along the last axis."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class SelfAttention(nn.Module):
    """Queries and keys of length 1, a learned factor for each head instead of 1 / sqrt(dim), rotation, cache.

    start: tokens before the first of these; ends: of the scales that these tokens are.
    """

    config: TransformerConfig
    dtype: Any
    start: int
    ends: tuple[int, ...]
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x: Array, rope: Any, cache: Any, layer: Array) -> tuple[Array, Any]:
        """x [batch, n, hidden] -> (same shape, new cache). cache: (keys, values) of this layer or of all, or None."""
        cfg = self.config
        qkv = nn.Dense(3 * cfg.hidden_size, use_bias=False, dtype=self.dtype, name="qkv")(x)
        q, k, v = rearrange(qkv, "b n (p h d) -> p b h n d", p=3, h=cfg.num_heads)

        def biased(x: Array, name: str) -> Array:
            bias = self.param(name, nn.initializers.zeros, (cfg.hidden_size,)).reshape(cfg.num_heads, 1, cfg.head_dim)
            return x + bias.astype(x.dtype)

        factor = self.param("factor", nn.initializers.constant(math.log(4.0)), (cfg.num_heads,))
        factor = jnp.exp(jnp.minimum(factor.astype(jnp.float32), math.log(MOST_SCALE)))
        q = rotate(_unit(biased(q, "q_bias")) * factor[:, None, None], *rope).astype(self.dtype)
        k = rotate(_unit(k), *rope).astype(self.dtype)
        v = biased(v, "v_bias")
        if cache is not None:
            cache = tuple(self._put(store, new, layer) for store, new in zip(cache, (k, v), strict=True))
            k, v = (self._seen(store, layer) for store in cache)
        attention = partial(block_causal_attention, start=self.start, ends=self.ends)
        out = over_devices(attention, self.mesh)(q, k, v)
        out = nn.Dense(cfg.hidden_size, dtype=self.dtype, name="proj")(rearrange(out, "b h n d -> b n (h d)"))
        return out, cache

    def _put(self, store: Array, new: Array, layer: Array) -> Array:
        if self.config.scan_layers:
            return lax.dynamic_update_slice(store, new[None].astype(store.dtype), (layer, 0, 0, self.start, 0))
        return lax.dynamic_update_slice(store, new.astype(store.dtype), (0, 0, self.start, 0))

    def _seen(self, store: Array, layer: Array) -> Array:
        """All tokens up to the last of these."""
        if self.config.scan_layers:
            _, batch, heads, _, dim = store.shape
            size = (1, batch, heads, self.ends[-1], dim)
            store = lax.dynamic_slice(store, (layer, 0, 0, 0, 0), size)[0]
        return store[:, :, : self.ends[-1]]


class CrossAttention(nn.Module):
    """Each row's tokens look at its own caption."""

    config: TransformerConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, keys_values: Array | None, text: Array | None, valid: Array) -> Array:
        cfg = self.config
        heads = partial(rearrange, pattern="b n (h d) -> b h n d", h=cfg.num_heads)
        kernel = self.param("kv", nn.initializers.normal(0.02), (cfg.hidden_size, 2 * cfg.hidden_size))
        v_bias = self.param("v_bias", nn.initializers.zeros, (cfg.hidden_size,))
        if keys_values is None:
            assert text is not None, "conditioning has either text or keys and values"
            keys_values = text_keys_values(text.astype(self.dtype), kernel, v_bias)
        k, v = map(heads, jnp.split(keys_values, 2, axis=-1))
        q = heads(nn.Dense(cfg.hidden_size, dtype=self.dtype, name="q")(x)) * cfg.head_dim**-0.5
        out = rearrange(attend(q, k, v, valid[:, None, None]), "b h n d -> b n (h d)")
        return nn.Dense(cfg.hidden_size, dtype=self.dtype, name="proj")(out)


class Block(nn.Module):
    """Modulated self-attention, attention to the text, modulated feed-forward; each adds to the residual stream."""

    config: TransformerConfig
    dtype: Any
    deterministic: bool
    start: int
    ends: tuple[int, ...]
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, carry, own, shared, rope, text, valid):
        """carry: (x float32 [batch, n, hidden], cache). own: (index, drop rate, keys and values) of this layer."""
        cfg = self.config
        (x, cache), (layer, rate, keys_values) = carry, own
        modulations = self.param("ada", nn.initializers.normal(0.02), (6, cfg.hidden_size)) + shared
        gamma1, gamma2, scale1, scale2, shift1, shift2 = (modulations[:, None, i] for i in range(6))

        h = _norm(cfg)(x) * (1 + scale1) + shift1
        attention = SelfAttention(cfg, self.dtype, self.start, self.ends, self.mesh, name="self_attn")
        h, cache = attention(h.astype(self.dtype), rope, cache, layer)
        x = x + self._drop_path(h * gamma1, rate)
        h = _norm(cfg, "cross_norm")(x).astype(self.dtype)
        x = x + CrossAttention(cfg, self.dtype, name="cross_attn")(h, keys_values, text, valid)
        h = (_norm(cfg)(x) * (1 + scale2) + shift2).astype(self.dtype)
        h = nn.gelu(nn.Dense(cfg.intermediate_size, dtype=self.dtype, name="fc1")(h))
        h = nn.Dense(cfg.hidden_size, dtype=self.dtype, name="fc2")(h)
        return (x + self._drop_path(h * gamma2, rate), cache), None

    def _drop_path(self, x: Array, rate: Array) -> Array:
        """Leave the whole branch out of some rows, and let it count more in the others (stochastic depth)."""
        if self.deterministic or not self.config.drop_path:
            return x
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, (len(x), 1, 1))
        return x * kept / (1 - rate)


class Transformer(nn.Module):
    """What the scales before add up to -> logits of each scale's bits.

    `apply({"params": p}, tokens, about, scales)` is the full forward over all scales, in training; with a cache and the
    number of the first of these scales it appends whole scales to those that the cache holds. Both give the same.

    mesh: devices that rows (data, fsdp) and heads (tensor) are split over, in training; None is one device.
    """

    config: TransformerConfig
    dtype: Any = jnp.float32
    mesh: Mesh | None = None

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        about: Captions | Conditioning,
        scales: Scales,
        first: int = 0,
        last: int | None = None,
        cache: Cache | None = None,
        grid: Scale | None = None,
        deterministic: bool = True,
        with_head: bool = True,
    ):
        """
        Args:
            tokens: float32 [batch, n, token_bits]: the sum so far at each scale's size, as
                `pure_jax.nsarm.resize.patchify` puts it. The very first scale has none: its input is the captions'.
            about: captions, or what `pure_jax.nsarm.conditioning.condition` made of them, with `batch` rows.
            scales: the whole schedule; these tokens are its scales first ... last - 1 (None: up to its end).
            cache: holds the scales before `first`, and has room for these; needed where first is not 0.
            grid: the finest grid of the schedule's aspect ratio, in tokens; None is the configuration's square.
            deterministic: False leaves branches out at random; needs an rng "dropout".

        Returns:
            (logits float32 [batch, n, token_bits, 2] of 0 and 1, or None without the head; new cache or None). The
            first scale's token is among the n here.
        """
        cfg = self.config
        last = len(scales) if last is None else last
        assert first == 0 or cache is not None, "scales before the first ones given are in a cache"
        if isinstance(about, Captions):
            about = Conditioner(cfg, self.dtype, name="conditioner")(about)
        levels = np.repeat(np.arange(first, last), [h * w for h, w in scales[first:last]])
        embedding = self.param("level_embed", nn.initializers.normal(0.02), (cfg.max_scales, cfg.hidden_size))
        x = nn.Dense(cfg.hidden_size, dtype=self.dtype, name="word_embed")(tokens).astype(jnp.float32)
        if first == 0:
            x = jnp.concatenate([about.start[:, None], x], axis=1)
        x = x + embedding[levels].astype(jnp.float32)
        rope = rotary(scales[first:last], grid or (cfg.grid_side,) * 2, cfg.head_dim, cfg.rope_theta)

        bounds = (0, *ends(scales))
        options = (cfg, self.dtype, deterministic, bounds[first], bounds[first + 1 : last + 1], self.mesh)
        shared = (about.shared, rope, about.text, about.valid)
        rates = jnp.linspace(0.0, cfg.drop_path, cfg.num_layers)
        block = nn.remat(Block, prevent_cse=not cfg.scan_layers) if cfg.remat else Block
        stores: Any = None if cache is None else (cache.keys, cache.values)
        if cfg.scan_layers:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                length=cfg.num_layers,
                in_axes=(0, *[nn.broadcast] * len(shared)),
            )
            own = (jnp.arange(cfg.num_layers), rates, about.keys_values)
            (x, stores), _ = scanned(*options, name="layers")((x, stores), own, *shared)
        else:
            per_layer = []
            for i in range(cfg.num_layers):
                store = None if stores is None else (stores[0][i], stores[1][i])
                keys_values = None if about.keys_values is None else about.keys_values[i]
                layer = block(*options, name=f"layers_{i}")
                (x, store), _ = layer((x, store), (i, rates[i], keys_values), *shared)
                per_layer.append(store)
            stores = None if stores is None else tuple(zip(*per_layer, strict=True))
        cache = None if stores is None else Cache(*stores)

        if not with_head and not self.is_initializing():
            return None, cache
        scale, shift = about.head[:, 0, None], about.head[:, 1, None]
        x = _norm(cfg)(x) * (1 + scale) + shift
        logits = nn.Dense(2 * cfg.token_bits, name="head")(x)
        return logits.reshape(*logits.shape[:2], cfg.token_bits, 2), cache
