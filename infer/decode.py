"""The decode loop, compiled for the device: prefill and text phase, then the image phase, for one batch of tiles.

`open_images` reads the prompts and writes the text; `decode_rows` draws rows of codes, with the frame tokens forced at
no step of their own. Nothing travels to the host in between; it may ask for rows in portions to show progress.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array, lax

from pure_jax.config import SamplingConfig
from pure_jax.sampling import guide, gumbel_noise, position_keys, sample_code
from pure_jax.transformer import KVCache, Transformer, init_cache
from pure_jax.vocabulary import Vocabulary

Params = dict[str, Any]


class DecodeState(struct.PyTreeNode):
    """A batch of answers between the text and the last code. Rows of the conditional cache come first."""

    caches: tuple[KVCache, ...]
    """(conditional,) or (conditional, unconditional); the latter holds the picture only."""
    position: Array
    """int32 [batch]: absolute position of the next token to feed, in the conditional sequence."""
    seed: Array
    """uint32 []"""
    images: Array
    """int32 [batch]: index of each row's picture; with seed and position it names the noise."""
    text: Array
    """int32 [batch, max_text]: ids of the answer's text, pad behind its end."""
    opened: Array
    """bool [batch]: the model opened the picture itself."""
    pending: Array
    """int32 [batch, 2]: the tokens that stand before the next row's first code."""
    hidden: Array
    """[all rows, hidden]: hidden states after the start token, from which a loop that draws the size starts."""
    row: Array
    """int32 []: rows of codes decoded so far."""
    codes: Array
    """int32 [batch, h, w]"""
    entropy: Array
    """float32 [batch, h, w]: entropy in nats of each code's distribution, before top-k and temperature."""


def feed(
    net: Transformer, params: Params, tokens: Array, positions: Array, caches: tuple[KVCache, ...], valid: Array | None
) -> tuple[Array, tuple[KVCache, ...]]:
    """Append tokens [batch, n] at conditional positions [batch] on; returns the last hidden states of all rows.

    The unconditional rows see the same tokens. They know the picture only: start, size and codes count from position 0,
    which is the number of slots they have written.
    """
    steps = jnp.arange(tokens.shape[1])
    groups = [positions[:, None] + steps]
    groups += [jnp.broadcast_to(c.length + steps, tokens.shape) for c in caches[1:]]
    tokens = jnp.concatenate([tokens] * len(caches))
    out: Any = net.apply({"params": params}, tokens, jnp.concatenate(groups), caches, valid, hidden_only=True)
    hidden, caches = out
    return hidden[:, -1], caches


def logits_of(hidden: Array, head: Array) -> Array:
    return jnp.einsum("bd,dv->bv", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)


def code_logits(hidden: Array, head: Array, sampling: SamplingConfig, batch: int) -> Array:
    """Guided logits float32 [batch, codes] from the hidden states of all rows."""
    logits = logits_of(hidden, head)
    return guide(logits[:batch], logits[batch:], sampling.guidance_scale) if len(logits) > batch else logits


@partial(jax.jit, static_argnames=("net", "vocabulary", "sampling", "grid", "image_slots", "faithful"))
def open_images(
    net: Transformer,
    vocabulary: Vocabulary,
    sampling: SamplingConfig,
    grid: tuple[int, int],
    image_slots: int,
    faithful: bool,
    params: Params,
    prompts: Array,
    text_prefix: Array,
    images: Array,
    seed: Array,
) -> DecodeState:
    """Prefill, text phase (greedy) and the picture's start token.

    Args:
        grid: latent height and width of the pictures to be written.
        image_slots: tokens to reserve for the picture: 3 + h (w + 1), or more where the size is drawn.
        faithful: leave the text unmasked, as the original does; else only text, pad, separator and image start exist.
        prompts: int32 [batch, prompt_length]; text_prefix: int32 [prefix] that every answer begins with.
        images: int32 [batch]; seed: uint32 [].
    """
    batch, prompt_length = prompts.shape
    prefix = text_prefix.shape[0]
    budget = max(sampling.max_text_tokens - prefix, 0)
    cache = init_cache(net.config, batch, prompt_length + prefix + budget + image_slots, net.dtype)
    opening = jnp.concatenate([prompts, jnp.broadcast_to(text_prefix, (batch, prefix))], axis=1)
    hidden, (cache,) = feed(net, params, opening, jnp.zeros(batch, jnp.int32), (cache,), None)

    head = params["lm_head"]["kernel"]
    allowed = vocabulary.is_text.copy()
    allowed[[vocabulary.image_start, vocabulary.separator, vocabulary.pad]] = True
    bias = np.zeros(vocabulary.size, np.float32) if faithful else np.where(allowed, 0.0, -np.inf).astype(np.float32)

    def greedy(hidden: Array) -> Array:
        return jnp.argmax(logits_of(hidden, head)[:, : vocabulary.size] + bias, axis=-1).astype(jnp.int32)

    def unfinished(carry: tuple) -> Array:
        step, _, _, _, done, _, _ = carry
        return (step < budget) & ~done.all()

    def write(carry: tuple) -> tuple:
        step, hidden, cache, position, done, opened, text = carry
        token = greedy(hidden)
        opened |= ~done & (token == vocabulary.image_start)
        done |= (token == vocabulary.image_start) | (token == vocabulary.separator)
        text = text.at[:, prefix + step].set(jnp.where(done, vocabulary.pad, token))
        new_hidden, (cache,) = feed(net, params, token[:, None], position, (cache,), ~done[:, None])
        hidden = jnp.where(done[:, None], hidden, new_hidden)
        return step + 1, hidden, cache, position + ~done, done, opened, text

    position = jnp.full(batch, prompt_length + prefix, jnp.int32)
    text = jnp.full((batch, prefix + budget), vocabulary.pad, jnp.int32).at[:, :prefix].set(text_prefix)
    no = jnp.zeros(batch, bool)
    carry = (jnp.zeros((), jnp.int32), hidden, cache, position, no, no, text)
    _, hidden, cache, position, done, opened, text = lax.while_loop(unfinished, write, carry)
    opened |= ~done & (greedy(hidden) == vocabulary.image_start)

    caches: tuple[KVCache, ...] = (cache,)
    if sampling.guidance_scale != 1.0:
        caches += (init_cache(net.config, batch, image_slots, net.dtype),)
    start = jnp.full((batch, 1), vocabulary.image_start, jnp.int32)
    hidden, caches = feed(net, params, start, position, caches, None)
    size = vocabulary.grid_ids[[side // vocabulary.codes_per_grid for side in grid]]
    return DecodeState(
        caches=caches,
        position=position + 1,
        seed=seed,
        images=images,
        text=text,
        opened=opened,
        pending=jnp.broadcast_to(jnp.asarray(size, jnp.int32), (batch, 2)),
        hidden=hidden,
        row=jnp.zeros((), jnp.int32),
        codes=jnp.zeros((batch, *grid), jnp.int32),
        entropy=jnp.zeros((batch, *grid), jnp.float32),
    )


@partial(jax.jit, static_argnames=("net", "vocabulary", "sampling"), donate_argnames=("state",))
def decode_rows(
    net: Transformer,
    vocabulary: Vocabulary,
    sampling: SamplingConfig,
    params: Params,
    state: DecodeState,
    rows: Array,
) -> DecodeState:
    """Draw the next `rows` (int32 []) rows of codes of every picture; the whole picture in one call, if so wanted.

    New-lines are known beforehand: each is fed together with the code before it, so a picture costs h * w steps.
    """
    batch, _, width = state.codes.shape
    code_to_id = jnp.asarray(vocabulary.code_to_id)
    head = params["lm_head"]["kernel"][:, code_to_id]

    def step(state: DecodeState, tokens: Array, column: Array) -> tuple[DecodeState, Array]:
        """Feed tokens, draw the code at (state.row, column)."""
        hidden, caches = feed(net, params, tokens, state.position, state.caches, None)
        position = state.position + tokens.shape[1]
        noise = gumbel_noise(position_keys(state.seed, state.images, position), head.shape[1])
        code, e = sample_code(code_logits(hidden, head, sampling, batch), noise, sampling)
        state = state.replace(
            caches=caches,
            position=position,
            codes=lax.dynamic_update_slice(state.codes, code[:, None, None], (0, state.row, column)),
            entropy=lax.dynamic_update_slice(state.entropy, e[:, None, None], (0, state.row, column)),
        )
        return state, code_to_id[code]

    def row(_: Array, state: DecodeState) -> DecodeState:
        first = step(state, state.pending, jnp.zeros((), jnp.int32))
        state, last = lax.fori_loop(1, width, lambda column, carry: step(carry[0], carry[1][:, None], column), first)
        new_line = jnp.full_like(last, vocabulary.new_line)
        return state.replace(pending=jnp.stack([last, new_line], axis=1), row=state.row + 1)

    return lax.fori_loop(0, rows, row, state)
