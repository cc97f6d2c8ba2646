"""Attention over scales: every token sees its own scale and those before; and the positions' rotation."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from pure_jax.nsarm.schedule import Scale, Scales

TOGETHER = 1024
"""First tokens whose scales share one product of attention, with a mask. Each later scale is large enough for a product
of its own, which needs none and computes nothing in vain."""

MAX_SCORES = 2**27
"""Scores that are held at a time, 512 MiB in float32; beyond that, queries go in blocks."""


def attend(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """softmax(q k) v, without a factor: q [batch, head, n, dim], k and v [batch, head, m, dim].

    mask: bool [..., n or 1, m], True where a query may look; None shows all. Returns as q, in v's dtype.
    """
    batch, heads, n, _ = q.shape
    size = max(1, MAX_SCORES // (batch * heads * k.shape[2]))
    if mask is None and n > size:
        blocks = jnp.pad(q, ((0, 0), (0, 0), (0, -n % size), (0, 0)))
        blocks = rearrange(blocks, "b h (i q) d -> i b h q d", q=size)
        # Computed again in the backward pass: all scores together are what does not fit.
        out = lax.map(jax.checkpoint(lambda block: attend(block, k, v)), blocks)
        return rearrange(out, "i b h q d -> b h (i q) d")[:, :, :n]
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def block_causal_attention(q: Array, k: Array, v: Array, start: int, ends: tuple[int, ...]) -> Array:
    """`attend` of the tokens from `start` on, which are whole scales, over all tokens up to each one's scale's end.

    q: [batch, head, n, dim]; k, v: [batch, head, start + n, dim]. ends: of all scales in these tokens, see
    `pure_jax.nsarm.schedule.ends`.
    """
    outs, first = [], start
    together = max([end for end in ends if end <= TOGETHER], default=ends[0])
    for end in [end for end in ends if end >= together]:
        own = q[:, :, first - start : end - start]
        mask = None
        if first == start and end > ends[0]:
            scale = np.searchsorted(ends, np.arange(end), side="right")
            mask = jnp.asarray(scale[first:, None] >= scale)
        outs.append(attend(own, k[:, :, :end], v[:, :, :end], mask))
        first = end
    return jnp.concatenate(outs, axis=2)


def over_devices(attention: Callable[..., Array], mesh: Mesh | None) -> Callable[..., Array]:
    """`attention` of q, k and v, each device taking its rows and heads alone, so that blocks are as large as it has
    room for. Heads are a multiple of the mesh's tensor axis. mesh: None leaves it as it is."""
    if mesh is None:
        return attention
    own = PartitionSpec(("data", "fsdp"), "tensor")
    return jax.shard_map(attention, mesh=mesh, in_specs=(own,) * 3, out_specs=own, check_vma=False)


@lru_cache
def rotary(scales: Scales, grid: Scale, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, float32 [tokens, head_dim / 2], of the tokens of these scales, one after the other.

    Each token has its place on the finest grid: y * H / h and x * W / w, rounded half to even. The first half of the
    pairs of channels turns with y, the other with x. Source: checkpoint fact.
    """
    frequencies = (theta ** (-2 * np.arange(head_dim // 4) / (head_dim / 2))).astype(np.float32)
    angles = []
    for scale in scales:
        y, x = (np.round(np.arange(n) * whole / n).astype(np.float32) for n, whole in zip(scale, grid, strict=True))
        down = np.broadcast_to((y[:, None] * frequencies)[:, None], (*scale, len(frequencies)))
        right = np.broadcast_to((x[:, None] * frequencies)[None], (*scale, len(frequencies)))
        angles.append(np.concatenate([down, right], axis=-1).reshape(-1, head_dim // 2))
    turned = np.concatenate(angles)
    return np.cos(turned), np.sin(turned)


def rotate(x: Array, cos: np.ndarray, sin: np.ndarray) -> Array:
    """Turn each pair of neighbouring channels of float32 x [batch, head, tokens, dim]."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)
