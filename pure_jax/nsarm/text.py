"""The text encoder (T5's, as flan-t5-xl has it) in Flax Linen, and captions as its token ids.

Relative positions have learned biases, which all layers share; scores have no factor; nothing has a bias but them.
Source: Raffel et al. 2020, and T5 v1.1's gated feed-forward.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from pure_jax.errors import PureError
from pure_jax.nsarm.config import NsarmConfig, TextConfig
from pure_jax.transformer import RMSNorm

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = 1
"""Id of the token at the end of every text."""
UNIT = 32
"""Captions are filled up to multiples of so many tokens, so that few programs serve captions of all lengths."""


@lru_cache
def relative_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """int [length, length]: the bucket of key minus query.

    Half of the buckets are for keys behind the query. Of each half, the first half are single distances, the rest grow
    logarithmically up to max_distance.
    """
    place = np.arange(length)
    relative = place[None] - place[:, None]
    half, distance = num_buckets // 2, np.abs(relative)
    single = half // 2
    # In float32, as the original computes it.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / single) / np.float32(math.log(max_distance / single))
    far = np.minimum(single + (ratio * (half - single)).astype(int), half - 1)
    return np.where(relative > 0, half, 0) + np.where(distance < single, distance, far)


class _Layer(nn.Module):
    config: TextConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, bias: Array) -> Array:
        """x: float32 [batch, n, hidden]; bias: of the scores, float32 [batch, heads, n, n]."""
        cfg = self.config
        dense = partial(nn.Dense, use_bias=False, dtype=self.dtype)
        h = RMSNorm(cfg.norm_eps, name="attn_norm")(x)
        width = cfg.num_heads * cfg.head_dim
        heads = partial(rearrange, pattern="b n (h d) -> b h n d", h=cfg.num_heads)
        q, k, v = (heads(dense(width, name=name)(h)) for name in "qkv")
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32) + bias
        out = jnp.einsum("bhqk,bhkd->bhqd", nn.softmax(scores, axis=-1).astype(v.dtype), v)
        x = x + dense(cfg.hidden_size, name="o")(rearrange(out, "b h n d -> b n (h d)"))
        h = RMSNorm(cfg.norm_eps, name="mlp_norm")(x)
        h = nn.gelu(dense(cfg.intermediate_size, name="wi_0")(h)) * dense(cfg.intermediate_size, name="wi_1")(h)
        return x + dense(cfg.hidden_size, name="wo")(h)


class TextEncoder(nn.Module):
    """Token ids -> features. The residual stream, norms and softmax run in float32, other products in `dtype`."""

    config: TextConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Array, valid: Array) -> Array:
        """ids int32, valid bool (False for what fills up) [batch, n] -> features float32 [batch, n, hidden_size]."""
        cfg = self.config
        embed = nn.Embed(cfg.vocab_size, cfg.hidden_size, name="embed")
        table = self.param("position_bias", nn.initializers.normal(0.02), (cfg.num_buckets, cfg.num_heads))
        places = table.astype(jnp.float32)[relative_buckets(ids.shape[1], cfg.num_buckets, cfg.max_distance)]
        bias = rearrange(places, "q k h -> 1 h q k")
        bias = jnp.where(valid[:, None, None], bias, jnp.finfo(jnp.float32).min)
        x = embed(ids).astype(jnp.float32)
        for i in range(cfg.num_layers):
            x = _Layer(cfg, self.dtype, name=f"layer_{i}")(x, bias)
        return RMSNorm(cfg.norm_eps, name="final_norm")(x)


@partial(jax.jit, static_argnames="encoder")
def encode_text(encoder: TextEncoder, params: Any, ids: Array, valid: Array) -> Array:
    """`TextEncoder`, compiled."""
    features: Any = encoder.apply({"params": params}, ids, valid)
    return features


def caption_ids(tokenizer: Tokenizer, caption: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32, valid bool), both [1, n]: a caption with its end, filled up to a multiple of UNIT, at most `most`.

    Raises:
        PureError: the caption has more than `most` tokens.
    """
    ids = [*tokenizer.encode(caption, add_special_tokens=False).ids, END]
    if len(ids) > most:
        raise PureError(f"the caption has {len(ids)} tokens, more than {most}; shorten it")
    length = min(-(-len(ids) // UNIT) * UNIT, most)
    padded = np.zeros((1, length), np.int32)
    padded[0, : len(ids)] = ids
    return padded, np.arange(length)[None] < len(ids)


def read_tokenizer(file: Path, config: NsarmConfig) -> tuple[str, None]:
    """A tokenizer file's text, "" for a model without a text encoder.

    Raises:
        PureError: the file is missing or broken, or has more tokens than the text encoder.
    """
    if config.text_encoder is None:
        return "", None
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text)
        known = len(content["model"]["vocab"])
        last = max([known - 1, *(token["id"] for token in content.get("added_tokens") or ())])
    except FileNotFoundError as error:
        raise PureError(f"{file} is missing; a model with a text encoder needs its tokenizer file") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PureError(f"{file} is not a tokenizer file of the Hugging Face tokenizers library") from error
    if last >= config.text_encoder.vocab_size:
        raise PureError(
            f"{file} has {last + 1} ids, more than the text encoder's vocab_size {config.text_encoder.vocab_size}; "
            "it belongs to another model"
        )
    return text, None
