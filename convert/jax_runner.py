"""A model as this library computes it, for the parity report: layer by layer, with one layer's parameters in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array

from pure_jax.checkpoint import Checkpoint, Tensors, cast_network, unstack
from pure_jax.model import decode_codes
from pure_jax.quantisation import product
from pure_jax.transformer import Block, RMSNorm, rotary
from pure_jax.vqgan import VQGAN, from_pixels


def activations(
    checkpoint: Checkpoint, ids: np.ndarray, dtype: str, observe: Callable[[str, np.ndarray], None]
) -> None:
    """Run the transformer on one sequence.

    Args:
        ids: int [tokens].
        dtype: of parameters and matrix products.
        observe: called with float32 [tokens, hidden] for "embedding", "layer 0" (the residual stream after it), ...,
            "final norm", and with float32 [tokens, vocab] for "logits".
    """
    cfg = dataclasses.replace(checkpoint.config.transformer, scan_layers=False)
    tensors = unstack(checkpoint.tensors["transformer"])
    count = len(ids)
    rope = rotary(jnp.arange(count)[None], cfg.head_dim, cfg.rope_theta)
    causal = jnp.tril(jnp.ones((1, count, count), bool))

    def record(name: str, x: Array) -> None:
        observe(name, np.asarray(x[0].astype(jnp.float32)))

    # Otherwise accelerators round the factors of float32 products.
    with jax.default_matmul_precision("highest"):
        table = np.asarray(tensors["embed.embedding"])
        x: Any = jnp.asarray(table[ids], dtype)[None]
        del table
        record("embedding", x)
        for i in range(cfg.num_layers):
            x = _block(Block(cfg, jnp.dtype(dtype), True), _parameters(tensors, f"layers_{i}", dtype), x, rope, causal)
            record(f"layer {i}", x)
        x = RMSNorm(cfg.rms_norm_eps).apply({"params": _parameters(tensors, "norm", dtype)}, x)
        record("final norm", x)
        record("logits", product(x, _parameters(tensors, "lm_head", dtype)).astype(dtype))


@partial(jax.jit, static_argnames="block")
def _block(block: Block, params: Any, x: Array, rope: tuple[Array, Array], causal: Array) -> Array:
    (x, _), _ = block.apply({"params": params}, (x, None), None, rope, (causal,), ())
    return x


def _parameters(tensors: Tensors, module: str, dtype: str) -> Any:
    """One module's parameters, read now; the whole network's for an empty name."""
    prefix = f"{module}." if module else ""
    own = {path[len(prefix) :]: tensor for path, tensor in tensors.items() if path.startswith(prefix)}
    read = {path: jax.device_put(np.asarray(tensor)) for path, tensor in cast_network(own, dtype).items()}
    return traverse_util.unflatten_dict(read, sep=".")


def encode(checkpoint: Checkpoint, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] -> (int32 codes [h, w], the float32 unit vectors [h, w, codebook_dim] they are nearest to)."""
    params = _parameters(checkpoint.tensors["vqgan"], "", "float32")
    with jax.default_matmul_precision("highest"):
        codes, latents = _codes_and_latents(VQGAN(checkpoint.config.vqgan), params, jnp.asarray(pixels)[None])
    return np.asarray(codes[0]), np.asarray(latents[0])


@partial(jax.jit, static_argnames="vqgan")
def _codes_and_latents(vqgan: VQGAN, params: Any, pixels: Array) -> tuple[Array, Array]:
    def both(module: VQGAN, images: Array) -> tuple[Array, Array]:
        latents = module.latents(images)
        return module.quantizer.nearest(latents), latents

    result: Any = vqgan.apply({"params": params}, from_pixels(pixels), method=both)
    return result


def decode(checkpoint: Checkpoint, codes: np.ndarray) -> np.ndarray:
    """int32 codes [h, w] -> uint8 [H, W, 3]."""
    params = _parameters(checkpoint.tensors["vqgan"], "", "float32")
    with jax.default_matmul_precision("highest"):
        return np.asarray(decode_codes(VQGAN(checkpoint.config.vqgan), params, jnp.asarray(codes)[None])[0])
