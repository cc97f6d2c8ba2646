"""Causal attention over a whole sequence by the kernels that accelerators have for it.

All give what `pure_jax.transformer.causal_attention` gives, without ever holding a sequence's scores; training takes
them where they are. Every token counts: padding stands behind the last token that is scored, where no other sees it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import Mesh, PartitionSpec

from pure_jax.config import require_one_of
from pure_jax.transformer import Attend

ATTENTIONS = ("auto", "xla", "splash", "cudnn")
SPLASH_BLOCK = 512
"""Queries and keys of a block. PURE's sequence of 8,704 tokens is 17 of them; longer blocks do not divide it."""
SPLASH_LANES = 128


def attend(name: str, platform: str, dtype: jnp.dtype, mesh: Mesh | None = None) -> Attend | None:
    """The kernel of that name; None is XLA's own, `causal_attention`.

    name: one of ATTENTIONS. auto is splash on TPU, cuDNN's on GPU where `dtype`, in which the network computes, has 16
    bits, and else XLA's own. mesh: devices that batch (data, fsdp) and heads (tensor) are split over.

    Raises:
        PureError: no such name.
    """
    require_one_of("attention", name, ATTENTIONS)
    if name == "auto":
        halves = jnp.dtype(dtype).itemsize == 2
        name = {"tpu": "splash", "gpu": "cudnn" if halves else "xla"}.get(platform, "xla")
    if name == "splash":
        return partial(splash, mesh=mesh)
    return cudnn if name == "cudnn" else None


def cudnn(q: Array, k: Array, v: Array) -> Array:
    """cuDNN's fused attention (GPU; float16 or bfloat16)."""
    out = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    return rearrange(out, "b s h d -> b s (h d)")


def splash(q: Array, k: Array, v: Array, mesh: Mesh | None = None, interpret: bool = False) -> Array:
    """The block-sparse Pallas kernel for TPU; blocks of scores that the causal mask hides are never computed.

    interpret: run the kernel's operations one by one, on any device (for tests).
    """
    if mesh is None:
        return _splash(q, k, v, interpret)
    axes = PartitionSpec(("data", "fsdp"), None, "tensor", None)
    out_axes = PartitionSpec(("data", "fsdp"), None, "tensor")
    own = partial(_splash, interpret=interpret)
    # A kernel is opaque to the partitioner, so each device is told its part: attention needs nothing of the others'.
    return jax.shard_map(own, mesh=mesh, in_specs=(axes, axes, axes), out_specs=out_axes, check_vma=False)(q, k, v)


def _splash(q: Array, k: Array, v: Array, interpret: bool) -> Array:
    seq, heads, dim = q.shape[1:]
    block = min(SPLASH_BLOCK, -(-seq // SPLASH_LANES) * SPLASH_LANES)
    more = -seq % block
    q, k, v = (rearrange(jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))), "b s h d -> b h s d") for x in (q, k, v))
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes: dict[str, Any] = {f"block_{name}": block for name in names}
    kernel = splash_attention.make_splash_mha_single_device(
        splash_attention.MultiHeadMask([splash_attention.CausalMask((seq + more,) * 2)] * heads),
        block_sizes=splash_attention.BlockSizes(**sizes),
        interpret=interpret,
    )
    out = jax.vmap(kernel)((q * dim**-0.5).astype(q.dtype), k, v)
    return rearrange(out[:, :, :seq], "b h s d -> b s (h d)")
