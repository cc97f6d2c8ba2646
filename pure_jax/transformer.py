"""The decoder-only transformer (Chameleon / Lumina-mGPT family) and its explicit KV cache, in Flax Linen.

Linen describes the network; nothing is mutable: a cache goes in and comes out. Norms, rotary positions and softmax run
in float32, matrix products in the module's `dtype`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import struct
from jax import Array, lax

from pure_jax.config import TransformerConfig
from pure_jax.errors import PureError
from pure_jax.quantisation import Quantised, dequantise, int8_einsum, product, quantise

QK_NORM_EPS = 1e-5
"""Fixed in the original, whatever rms_norm_eps says."""

CAUSAL_BLOCKS = 8
"""Blocks of queries in a sequence that is read at once; of n blocks, (n - 1) / 2n of the scores are left out."""

REMATS = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What is kept of each layer for the backward pass, where not all is ("none"): the results of products with weights, or
nothing but what goes into the layer."""

Attend = Callable[[Array, Array, Array], Array]
"""q [batch, seq, heads, dim], k and v [batch, seq, kv_heads, dim] -> [batch, seq, heads * dim] in q's dtype."""

Held = Array | Quantised
Store = Held | tuple[Held, ...]


@struct.dataclass
class KVCache:
    """Keys and values of a batch of rows.

    With one `length` for all rows a step writes one contiguous slice of slots; `valid` says per row which slots count,
    so rows whose texts differ in length stay aligned. With a length per row (`per_row`) each row goes on at its own
    pace. A length may be set back: slots behind it are overwritten before they are read. The axis order is a matter of
    speed and known to this file only: one array (layer, slot, head, batch, dim) where layers are scanned (no copy of
    the whole cache on TPU), one array per layer (batch, head, slot, dim) where they are unrolled (on CPU five times
    faster than the former), without batch or head where there is one only: XLA would drop that axis when it reads, and
    keep a copy that has it. An int8 cache has `Quantised` arrays, whose scales have the same axes.
    """

    keys: Store
    values: Store
    valid: Array
    """bool [batch, slots]"""
    length: Array
    """int32 [] or [batch]: slots written so far."""

    @property
    def batch(self) -> int:
        return self.valid.shape[0]

    @property
    def slots(self) -> int:
        return self.valid.shape[1]

    @property
    def num_layers(self) -> int:
        return len(self.keys) if isinstance(self.keys, tuple) else len(jax.tree.leaves(self.keys)[0])

    def layer(self, index: int) -> tuple[Array, Array]:
        """Keys, as rotated to their positions, and values of one layer, each [batch, slots, head, dim].

        Slots from `length` on mean nothing. Raises PureError for a layer that is not there.
        """
        if not 0 <= index < self.num_layers:
            raise PureError(f"there is no layer {index}; the cache has layers 0 to {self.num_layers - 1}")

        def own(store: Store) -> Array:
            own, layer = (store[index], None) if isinstance(store, tuple) else (store, jnp.asarray(index))
            held, axes = _read(own, layer, self.batch)
            held = dequantise(held) if isinstance(held, Quantised) else held
            return rearrange(held, f"{' '.join(axes)} -> b k h d")

        return own(self.keys), own(self.values)

    def per_row(self) -> KVCache:
        """The same with a length of its own for each row; all slots that are still to be written count."""
        valid = self.valid | (jnp.arange(self.slots) >= self.length)
        return dataclasses.replace(self, valid=valid, length=jnp.broadcast_to(self.length, (self.batch,)))

    def grown(self, slots: int) -> KVCache:
        """The same with room for `slots` tokens, not fewer than now. All that is written is copied."""
        more = slots - self.slots

        def longer(store: Store) -> Store:
            def pad(x: Array) -> Array:
                axis = x.ndim - 2 if isinstance(store, tuple) else 1
                return jnp.pad(x, [(0, more * (i == axis)) for i in range(x.ndim)])

            return jax.tree.map(pad, store)

        # In a cache of per_row() slots that are not written count already; in an aligned one they do when they are.
        valid = jnp.pad(self.valid, ((0, 0), (0, more)), constant_values=self.length.ndim == 1)
        return dataclasses.replace(self, keys=longer(self.keys), values=longer(self.values), valid=valid)

    def with_rows(self, rows: Array, other: KVCache) -> KVCache:
        """The same with its rows int32 [n] replaced by those of `other`, of as many slots; both per row.

        A row beyond the batch is dropped.
        """

        def put(own: Array, new: Array) -> Array:
            return own.at[rows].set(new, mode="drop")

        def put_layer(own: Array, new: Array) -> Array:
            return put(_with_all_axes(own, self.batch), _with_all_axes(new, other.batch)).reshape(own.shape)

        def put_layers(own: Array, new: Array) -> Array:
            return own.at[:, :, :, rows].set(new, mode="drop")

        change = put_layer if isinstance(self.keys, tuple) else put_layers
        keys, values = jax.tree.map(change, (self.keys, self.values), (other.keys, other.values))
        return KVCache(keys, values, put(self.valid, other.valid), put(self.length, other.length))


def init_cache(config: TransformerConfig, batch: int, slots: int, dtype: Any = jnp.float32) -> KVCache:
    """An empty cache for `batch` rows and `slots` tokens; float `dtype` is the compute dtype, and the cache's too
    unless the configuration wants int8."""
    heads, dim = config.num_kv_heads, config.head_dim

    def room(*shape: int) -> Held:
        if config.cache == "int8":
            return Quantised(jnp.zeros((*shape, dim), jnp.int8), jnp.zeros((*shape, 1)))
        return jnp.zeros((*shape, dim), dtype)

    def store() -> Store:
        if config.scan_layers:
            return room(config.num_layers, slots, heads, batch)
        several = [n for n in (batch, heads) if n > 1]
        return tuple(room(*several, slots) for _ in range(config.num_layers))

    return KVCache(store(), store(), jnp.zeros((batch, slots), bool), jnp.zeros((), jnp.int32))


def token_bytes(config: TransformerConfig, dtype: Any) -> int:
    """What one token of one row takes in a cache; dtype: the compute dtype."""
    cache = jax.eval_shape(lambda: init_cache(config, 1, 1, dtype))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((cache.keys, cache.values)))


def _write(store: Held, new: Held, start: Array, layer: Array | None) -> Held:
    """Put new [batch, seq, head, dim] into the slots from `start`, int32 [] or [batch], on; or into those that it
    names, int32 [1, seq], where a slot that is not there drops its token."""
    return jax.tree.map(lambda own, other: _put(own, other, start, layer), store, new)


def _put(store: Array, new: Array, start: Array, layer: Array | None) -> Array:
    new = new.astype(store.dtype)
    if start.ndim == 2:
        if layer is None:
            full = _with_all_axes(store, len(new))
            own = rearrange(new, "b s h d -> b h s d")
            return full.at[:, :, start[0]].set(own, mode="drop", unique_indices=True).reshape(store.shape)
        own = rearrange(new, "b s h d -> s h b d")
        return store.at[layer, start[0]].set(own, mode="drop", unique_indices=True)
    if start.ndim and len(start) == 1:
        start = start[0]
    if start.ndim == 0:
        if layer is None:
            own = rearrange(new, "b s h d -> b h s d").reshape(*store.shape[:-2], *new.shape[1::2])
            return lax.dynamic_update_slice(store, own, (*[0] * (store.ndim - 2), start, 0))
        return lax.dynamic_update_slice(store, rearrange(new, "b s h d -> 1 s h b d"), (layer, start, 0, 0, 0))
    rows, slots = jnp.arange(len(start))[:, None], start[:, None] + jnp.arange(new.shape[1])
    if layer is None:
        full = _with_all_axes(store, len(start))
        return full.at[rows, :, slots].set(new, mode="drop", unique_indices=True).reshape(store.shape)
    return store.at[layer, slots, :, rows].set(new, mode="drop", unique_indices=True)


def _with_all_axes(layer: Array, batch: int) -> Array:
    """An unrolled layer's array [batch, head, slot, dim]."""
    return layer.reshape(batch, -1, *layer.shape[-2:])


def _read(store: Held, layer: Array | None, batch: int) -> tuple[Any, str]:
    """One layer's slots and the order of their axes (b batch, k slot, h head, d dim)."""
    if layer is None:
        return jax.tree.map(partial(_with_all_axes, batch=batch), store), "bhkd"
    return jax.tree.map(lambda array: lax.dynamic_index_in_dim(array, layer, keepdims=False), store), "khbd"


def rotary(positions: Array, head_dim: int, theta: float) -> tuple[Array, Array]:
    """cos and sin, float32 [batch, seq, 1, head_dim], of rotate-half RoPE (Su et al. 2021) at int32 positions."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    angles = jnp.concatenate([angles, angles], axis=-1)[:, :, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Apply RoPE to float32 x [batch, seq, head, dim]."""
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-second, first], axis=-1) * sin


def attention(q: Array, k: Array, v: Array, mask: Array, axes: str = "bkhd") -> Array:
    """Grouped-query attention: q [batch, seq, head, dim], k and v with axes in the order `axes`.

    mask: bool [batch, seq, slot], True where a query may look. Returns [batch, seq, head * dim] in q's dtype.
    """
    kv_heads, dim, seq = k.shape[axes.index("h")], q.shape[-1], q.shape[1]
    # The slots come first in the product of a few queries with many keys, which XLA's CPU code makes ten times slower
    # the other way round; and last from there on, where softmax and values take half the time.
    own = rearrange(q, "b q (h g) d -> b h (g q) d", h=kv_heads)
    scores = jnp.einsum(f"bhnd,{axes}->bhkn", own, k, preferred_element_type=jnp.float32) * dim**-0.5
    scores = rearrange(scores, "b h k (g q) -> b h g q k", q=seq)
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = rearrange(jax.nn.softmax(scores, axis=-1).astype(q.dtype), "b h g q k -> b h (g q) k")
    out = jnp.einsum(f"bhnk,{axes}->bhnd", weights, v)
    return rearrange(out, "b h (g q) d -> b q (h g d)", q=seq)


def quantised_attention(q: Array, k: Quantised, v: Quantised, mask: Array, axes: str = "bkhd") -> Array:
    """`attention` over int8 keys and values: their scales go to the scores and to the softmax's weights."""
    kv_heads, dim, seq = k.values.shape[axes.index("h")], q.shape[-1], q.shape[1]
    k_scale, v_scale = (rearrange(x.scale, f"{' '.join(axes)} -> b h d k") for x in (k, v))
    own = rearrange(q, "b q (h g) d -> b h (g q) d", h=kv_heads)
    scores = int8_einsum(f"bhnd,{axes}->bhnk", own, k.values) * (k_scale * dim**-0.5)
    scores = rearrange(scores, "b h (g q) k -> b h g q k", q=seq)
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min), axis=-1)
    weights = rearrange(weights, "b h g q k -> b h (g q) k") * v_scale
    out = int8_einsum(f"bhnk,{axes}->bhnd", weights.astype(q.dtype), v.values).astype(q.dtype)
    return rearrange(out, "b h (g q) d -> b q (h g d)", q=seq)


def causal_attention(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """`attention` of a whole sequence, q, k and v [batch, seq, head, dim], for a mask that shows nothing later.

    The queries go in up to CAUSAL_BLOCKS blocks, each with the keys up to its end: the scores that a causal mask hides
    are mostly never computed, and what is computed at once stays small. On two CPU cores 1.8 times as fast, forward and
    backward, at 592 tokens.
    """
    seq, dim = q.shape[1], q.shape[-1]
    kv_heads = k.shape[2]
    length = -(-seq // CAUSAL_BLOCKS)
    # With the heads in front, and those of one key/value head in one axis with their queries, XLA's CPU products of
    # batches of matrices need no copies.
    q = rearrange(q, "b q (h g) d -> b h g q d", h=kv_heads) * dim**-0.5
    k, v = (rearrange(x, "b k h d -> b h k d") for x in (k, v))
    outs = []
    for start in range(0, seq, length):
        stop = min(start + length, seq)
        own = rearrange(q[:, :, :, start:stop], "b h g q d -> b h (g q) d")
        scores = jnp.einsum("bhqd,bhkd->bhqk", own, k[:, :, :stop], preferred_element_type=jnp.float32)
        scores = rearrange(scores, "b h (g q) k -> b h g q k", q=stop - start)
        scores = jnp.where(mask[:, None, None, start:stop, :stop], scores, jnp.finfo(jnp.float32).min)
        weights = rearrange(jax.nn.softmax(scores, axis=-1).astype(v.dtype), "b h g q k -> b h (g q) k")
        out = jnp.einsum("bhqk,bhkd->bhqd", weights, v[:, :, :stop])
        outs.append(rearrange(out, "b h (g q) d -> b q (h g d)", q=stop - start))
    return jnp.concatenate(outs, axis=1)


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back to x's dtype, then scaled: the scale acts after the down-cast."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * weight.astype(x.dtype)


class QKNorm(nn.Module):
    """LayerNorm over each head's channels; weight and bias have one row per model-parallel rank of the original."""

    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x [batch, seq, head, dim] -> float32 of the same shape."""
        heads, dim = x.shape[-2:]
        weight = self.param("weight", nn.initializers.ones, (self.groups, dim))
        bias = self.param("bias", nn.initializers.zeros, (self.groups, dim))
        x = x.astype(jnp.float32)
        x = x - x.mean(axis=-1, keepdims=True)
        x = x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + QK_NORM_EPS)
        per_head = partial(jnp.repeat, repeats=heads // self.groups, axis=0)
        return x * per_head(weight.astype(jnp.float32)) + per_head(bias.astype(jnp.float32))


class Int8Dense(nn.Module):
    """A layer without bias whose kernel is int8, with a scale for each output channel; see `pure_jax.quantisation`."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.features), jnp.int8)
        scale = self.param("scale", nn.initializers.ones, (self.features,), jnp.float32)
        return product(x.astype(self.dtype), {"kernel": kernel, "scale": scale}).astype(self.dtype)


class Dense(nn.Dense):
    """A layer without bias. Where the collection "lora" has an adapter of its name, {"a" [in, rank], "b" [rank, out]},
    x A B is added to its result."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # As one axis: XLA's CPU products for the gradient of a kernel sum over one axis twice as fast as over two.
        y = super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.features)
        if not self.has_variable("lora", "a"):
            return y
        a, b = (jnp.asarray(self.get_variable("lora", name), self.dtype) for name in "ab")
        return y + x.astype(self.dtype) @ a @ b


def _dense(config: TransformerConfig, features: int, dtype: Any, name: str) -> nn.Module:
    if config.weights == "int8":
        return Int8Dense(features, dtype, name=name)
    return Dense(features, use_bias=False, dtype=dtype, kernel_init=nn.initializers.normal(0.02), name=name)


class Attention(nn.Module):
    """Projection, QK-norm, RoPE, cache, softmax attention, output projection."""

    config: TransformerConfig
    dtype: Any
    attend: Attend | None = None

    @nn.compact
    def __call__(self, x, rope, masks, stores, starts, layer):
        """x [rows, seq, hidden] -> (same shape, new stores). Without stores: causal attention within x.

        stores: per group of rows the (keys, values) to write into from starts[group] on, then to read with
        masks[group]; the groups' rows follow each other in x. Where a group has no start, it is empty: the tokens are
        written from its first slot on and look at each other only.
        """
        cfg = self.config
        heads = partial(rearrange, pattern="b s (h d) -> b s h d", d=cfg.head_dim)
        q = heads(_dense(cfg, cfg.num_heads * cfg.head_dim, self.dtype, "q_proj")(x))
        k = heads(_dense(cfg, cfg.num_kv_heads * cfg.head_dim, self.dtype, "k_proj")(x))
        v = heads(_dense(cfg, cfg.num_kv_heads * cfg.head_dim, self.dtype, "v_proj")(x))
        q = rotate(QKNorm(cfg.norm_rows(cfg.num_heads), name="q_norm")(q), *rope).astype(self.dtype)
        k = rotate(QKNorm(cfg.norm_rows(cfg.num_kv_heads), name="k_norm")(k), *rope).astype(self.dtype)
        new: Any = (k, v)
        if cfg.cache == "int8":
            # Whoever looks at a token sees what the cache holds of it, be it read from there or not.
            new = (quantise(k), quantise(v))
            k, v = (dequantise(x).astype(self.dtype) for x in new)
        if stores is None:
            out = causal_attention(q, k, v, masks[0]) if self.attend is None else self.attend(q, k, v)
        else:
            outs, written, row = [], [], 0
            for (keys, values), start, mask in zip(stores, starts, masks, strict=True):
                rows = slice(row, row + mask.shape[0])
                row = rows.stop
                first = jnp.zeros((), jnp.int32) if start is None else start
                own = jax.tree.map(lambda x, rows=rows: x[rows], new)
                keys, values = _write(keys, own[0], first, layer), _write(values, own[1], first, layer)
                written.append((keys, values))
                if start is None:
                    outs.append(causal_attention(q[rows], k[rows], v[rows], mask))
                    continue
                (own_k, axes), (own_v, _) = _read(keys, layer, mask.shape[0]), _read(values, layer, mask.shape[0])
                attend = quantised_attention if cfg.cache == "int8" else attention
                outs.append(attend(q[rows], own_k, own_v, mask, axes))
            out, stores = jnp.concatenate(outs), tuple(written)
        return _dense(cfg, cfg.hidden_size, self.dtype, "o_proj")(out), stores


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), no biases."""

    config: TransformerConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg = self.config
        gate = _dense(cfg, cfg.intermediate_size, self.dtype, "gate_proj")(x)
        up = _dense(cfg, cfg.intermediate_size, self.dtype, "up_proj")(x)
        return _dense(cfg, cfg.hidden_size, self.dtype, "down_proj")(nn.silu(gate) * up)


class Block(nn.Module):
    """One layer: two residual branches. The carry is (x, stores), so that the layers can be scanned.

    Beside the carry it returns x once more if `show` says so.
    """

    config: TransformerConfig
    dtype: Any
    deterministic: bool
    show: bool = False
    attend: Attend | None = None

    @nn.compact
    def __call__(self, carry, layer, rope, masks, starts):
        cfg = self.config
        x, stores = carry
        norm_in = RMSNorm(cfg.rms_norm_eps, name="input_layernorm")
        norm_post = RMSNorm(cfg.rms_norm_eps, name="post_attention_layernorm")
        drop = nn.Dropout(cfg.dropout, deterministic=self.deterministic)
        y = x if cfg.swin_norm else norm_in(x)
        y, stores = Attention(cfg, self.dtype, self.attend, name="self_attn")(y, rope, masks, stores, starts, layer)
        x = x + drop(norm_in(y) if cfg.swin_norm else y)
        y = x if cfg.swin_norm else norm_post(x)
        y = SwiGLU(cfg, self.dtype, name="mlp")(y)
        x = x + drop(norm_post(y) if cfg.swin_norm else y)
        return (x, stores), x if self.show else None


class Transformer(nn.Module):
    """Token ids -> logits.

    `apply({"params": p}, tokens, positions)` is the full causal forward; with `cache` (a KVCache, or a tuple of them
    whose rows follow each other in `tokens`) it appends the tokens to the cache and also returns the new one.
    """

    config: TransformerConfig
    dtype: Any = jnp.float32
    attend: Attend | None = None
    """A kernel for whole sequences, see `pure_jax.attention`; None is `causal_attention`. Such a kernel takes no
    `valid`, and reads no cache."""
    remat: str = "none"
    """What the backward pass computes once more: none, or one of REMATS."""

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        positions: Array,
        cache: KVCache | tuple[KVCache, ...] | None = None,
        valid: Array | None = None,
        deterministic: bool = True,
        hidden_only: bool = False,
        all_layers: bool = False,
        prefill: bool = False,
        places: Array | None = None,
    ):
        """tokens, positions: int32 [batch, seq]; valid: bool [batch, seq], False for tokens nobody may look at.

        Returns (logits float32 [batch, seq, vocab], new cache or None). With hidden_only the first is the final-normed
        hidden state [batch, seq, hidden] in `dtype`, for callers that need only part of the head or of the sequence.
        With all_layers it is the residual stream [layers + 1, batch, seq, hidden]: the embeddings, then what each layer
        leaves, before the final norm. prefill promises that the caches are empty, so that nothing is read from them.

        places: int32 [seq], for tokens that do not follow each other: how far behind a cache's `length` each of them
        lies. It sees the slots before its own that are written by now. Places beyond the cache may occur again and
        again; their tokens leave nothing. The lengths stay as they are. Not for caches with a length per row.
        """
        cfg = self.config
        batch, seq = tokens.shape
        valid = jnp.ones((batch, seq), bool) if valid is None else valid
        caches = (cache,) if isinstance(cache, KVCache) else cache
        embed = nn.Embed(
            cfg.vocab_size, cfg.hidden_size, dtype=self.dtype, embedding_init=nn.initializers.normal(0.02), name="embed"
        )
        x = embedded = embed(tokens)
        rope = rotary(positions, cfg.head_dim, cfg.rope_theta)

        if caches is None:
            masks: tuple[Array, ...] = (_causal_mask(valid),)
            starts: tuple[Array | None, ...] = ()
            stores: Any = None
        else:
            caches = _admit(caches, valid, places)
            stores = tuple((c.keys, c.values) for c in caches)
            if prefill:
                ends = np.cumsum([c.batch for c in caches])
                masks = tuple(_causal_mask(valid[end - c.batch : end]) for c, end in zip(caches, ends, strict=True))
                starts = (None,) * len(caches)
            else:
                where = tuple(c.length if places is None else (c.length + places)[None] for c in caches)
                masks = tuple(_cache_mask(c, start, seq) for c, start in zip(caches, where, strict=True))
                starts = where

        block: Any = Block
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=not cfg.scan_layers, policy=REMATS[self.remat])
        if cfg.scan_layers:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0, "lora": 0},
                split_rngs={"params": True, "dropout": True},
                length=cfg.num_layers,
                in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            )
            layers = scanned(cfg, self.dtype, deterministic, all_layers, self.attend, name="layers")
            (x, stores), shown = layers((x, stores), jnp.arange(cfg.num_layers), rope, masks, starts)
        else:
            per_layer, shown = [], []
            for i in range(cfg.num_layers):
                own = None if stores is None else tuple((k[i], v[i]) for k, v in stores)
                layer = block(cfg, self.dtype, deterministic, all_layers, self.attend, name=f"layers_{i}")
                (x, own), state = layer((x, own), None, rope, masks, starts)
                per_layer.append(own)
                shown.append(state)
            if stores is not None:
                groups = zip(*per_layer, strict=True)  # [layer][group] (k, v) -> [group] (keys, values) of all layers
                stores = tuple((tuple(k for k, _ in g), tuple(v for _, v in g)) for g in map(list, groups))

        x = RMSNorm(cfg.rms_norm_eps, name="norm")(x)
        head = _dense(cfg, cfg.vocab_size, self.dtype, "lm_head")
        if all_layers:
            out = jnp.concatenate([embedded[None], jnp.stack(shown)])
        else:
            out = x if hidden_only and not self.is_initializing() else head(x).astype(jnp.float32)
        if caches is None or stores is None:
            return out, None
        caches = tuple(
            dataclasses.replace(c, keys=k, values=v, length=c.length + (seq if places is None else 0))
            for c, (k, v) in zip(caches, stores, strict=True)
        )
        return out, caches[0] if isinstance(cache, KVCache) else caches


def _admit(caches: tuple[KVCache, ...], valid: Array, places: Array | None) -> tuple[KVCache, ...]:
    """Mark the new tokens' slots; valid bool [all rows, seq]. Where each row has its length, all of them count."""
    out, row = [], 0
    for c in caches:
        if places is not None:
            own = c.valid.at[:, c.length + places].set(valid[row : row + c.batch], mode="drop", unique_indices=True)
            c = dataclasses.replace(c, valid=own)
        elif c.length.ndim == 0:
            own = lax.dynamic_update_slice(c.valid, valid[row : row + c.batch], (0, c.length))
            c = dataclasses.replace(c, valid=own)
        out.append(c)
        row += c.batch
    return tuple(out)


def _causal_mask(valid: Array) -> Array:
    """bool [batch, seq, seq] of valid bool [batch, seq]."""
    return jnp.tril(jnp.ones((valid.shape[1],) * 2, bool)) & valid[:, None, :]


def _cache_mask(cache: KVCache, start: Array, seq: int) -> Array:
    """bool [batch, seq, slots]: query i sits in slot start + i, or in the one named, and sees those up to itself."""
    own = start if start.ndim == 2 else start[..., None] + jnp.arange(seq)
    return cache.valid[:, None, :] & (jnp.arange(cache.slots) <= own[..., None])


def stack_layers(params: dict[str, Any]) -> dict[str, Any]:
    """Per-layer parameters (`layers_0`, ...) -> stacked ones (`layers`, leading axis layer)."""
    names = sorted((n for n in params if re.fullmatch(r"layers_\d+", n)), key=lambda n: int(n[7:]))
    rest = {name: value for name, value in params.items() if name not in names}
    return rest | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[n] for n in names))}


def unstack_layers(params: dict[str, Any]) -> dict[str, Any]:
    """Stacked parameters (`layers`) -> per-layer ones (`layers_0`, ...)."""
    rest = {name: value for name, value in params.items() if name != "layers"}
    count = jax.tree.leaves(params["layers"])[0].shape[0]
    return rest | {f"layers_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]) for i in range(count)}


@cache
def count_parameters(config: TransformerConfig) -> int:
    """Number of parameters, from shapes alone."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens, tokens)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
