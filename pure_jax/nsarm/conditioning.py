"""What a caption does to the transformer, computed once: its first input, its modulations, and the text it looks at."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import struct
from jax import Array

from pure_jax.nsarm.attention import attend
from pure_jax.nsarm.config import TransformerConfig
from pure_jax.transformer import RMSNorm


@struct.dataclass
class Captions:
    """Features of captions of different lengths, filled up behind their ends."""

    features: Array
    """float [batch, length, text_size], of the text encoder."""
    valid: Array
    """bool [batch, length]: False for what only fills up; at least one is True in each row."""
    hidden: Array | None = None
    """bool [batch]: rows whose caption is not told; learned features stand in its place (for guidance, and in training
    for its sake). None tells all."""


@struct.dataclass
class Conditioning:
    """All that follows from captions alone; rows are captions."""

    start: Array
    """float32 [batch, hidden]: the input of the first scale's only token."""
    shared: Array
    """float32 [batch, 6, hidden]: modulations of every block, before the block's own are added."""
    head: Array
    """float32 [batch, 2, hidden]: scale and shift before the head."""
    text: Array | None
    """[batch, length, hidden], for blocks to make keys and values of; None where these are made already."""
    keys_values: Any
    """Every block's, keys before values: [layers, batch, length, 2 * hidden], or a tuple of [batch, length, 2 * hidden]
    where layers are unrolled; or None."""
    valid: Array
    """bool [batch, length]"""

    def rows(self, index: Array) -> Conditioning:
        """Rows int32 [n] of it, in that order."""
        axis = 0 if self.keys_values is None or isinstance(self.keys_values, tuple) else 1
        keys_values = jax.tree.map(lambda x: jnp.take(x, index, axis=axis), self.keys_values)
        others = jax.tree.map(lambda x: x[index], self.replace(keys_values=None))  # type: ignore[attr-defined]
        return others.replace(keys_values=keys_values)


class Conditioner(nn.Module):
    """Captions -> conditioning, without keys and values. Norms, pooling's softmax and modulations run in float32."""

    config: TransformerConfig
    dtype: Any

    @nn.compact
    def __call__(self, captions: Captions) -> Conditioning:
        cfg, width = self.config, self.config.hidden_size
        unknown = self.param("null_text", nn.initializers.normal(0.02), (cfg.text_length, cfg.text_size))
        features = captions.features.astype(jnp.float32)
        if captions.hidden is not None:
            stand_in = unknown[: features.shape[1]].astype(jnp.float32)
            features = jnp.where(captions.hidden[:, None, None], stand_in, features)
        t = RMSNorm(cfg.norm_eps, name="text_norm")(features)

        pooled = self._pool(t, captions.valid)
        text = nn.Dense(width, dtype=self.dtype, name="text_in")(t)
        text = nn.Dense(width, dtype=self.dtype, name="text_out")(nn.gelu(text))
        modulate = nn.silu(pooled)
        shared = nn.Dense(6 * width, name="shared_ada")(modulate)
        head = nn.Dense(2 * width, name="head_ada")(modulate)
        start = pooled + self.param("start", nn.initializers.normal(0.02), (width,))
        return Conditioning(start, shared.reshape(-1, 6, width), head.reshape(-1, 2, width), text, None, captions.valid)

    def _pool(self, t: Array, valid: Array) -> Array:
        """A learned query's attention over the caption: float32 [batch, hidden]."""
        cfg, width = self.config, self.config.hidden_size
        dim = width // cfg.pool_heads
        query = self.param("pool_query", nn.initializers.normal(0.02), (cfg.pool_heads, dim))
        both = nn.Dense(2 * width, use_bias=False, dtype=self.dtype, name="pool_kv")(t)
        k, v = jnp.split(both, 2, axis=-1)
        v = v + self.param("pool_v_bias", nn.initializers.zeros, (width,)).astype(v.dtype)
        k, v = (rearrange(x, "b n (h d) -> b h n d", d=dim) for x in (k, v))
        q = jnp.broadcast_to(query[None, :, None], (len(t), cfg.pool_heads, 1, dim)) * dim**-0.5
        out = attend(q.astype(self.dtype), k, v, valid[:, None, None])
        pooled = nn.Dense(width, dtype=self.dtype, name="pool_proj")(rearrange(out, "b h 1 d -> b (h d)"))
        return pooled.astype(jnp.float32)


def text_keys_values(text: Array, kernel: Array, v_bias: Array) -> Array:
    """A block's keys and values of text [batch, length, hidden], one behind the other; keys have no bias."""
    both = text @ kernel.astype(text.dtype)
    return both + jnp.concatenate([jnp.zeros_like(v_bias), v_bias]).astype(text.dtype)


@partial(jax.jit, static_argnames=("config", "dtype"))
def condition(config: TransformerConfig, params: dict[str, Any], captions: Captions, dtype: Any) -> Conditioning:
    """Conditioning with every block's keys and values, for a transformer that is run more than once.

    params: the transformer's.
    """
    found: Any = Conditioner(config, dtype).apply({"params": params["conditioner"]}, captions)

    def of_block(kernel_and_bias: tuple[Array, Array]) -> Array:
        return text_keys_values(found.text, *kernel_and_bias)

    names = ["layers"] if config.scan_layers else [f"layers_{i}" for i in range(config.num_layers)]
    weights = [(params[name]["cross_attn"]["kv"], params[name]["cross_attn"]["v_bias"]) for name in names]
    keys_values: Any = jax.lax.map(of_block, weights[0]) if config.scan_layers else tuple(map(of_block, weights))
    return found.replace(text=None, keys_values=keys_values)
