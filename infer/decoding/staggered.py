"""Rows of codes side by side: a row begins when the one above it is some codes ahead (ZipAR, arXiv 2412.04062).

Lossy: a code is drawn without the end of the row above, which the plain loop sees. A picture takes w + (h - 1) * lead
passes instead of h * w.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pure_jax.config import SamplingConfig
from pure_jax.infer.decoding.contract import DecodeState, Job, Params, Written, code_logits, feed, grow, stage_end
from pure_jax.infer.decoding.prefill import full_batches, open_batch
from pure_jax.quantisation import columns
from pure_jax.sampling import sample_code
from pure_jax.transformer import Transformer
from pure_jax.vocabulary import Vocabulary


@partial(jax.jit, static_argnames=("net", "vocabulary", "sampling"), donate_argnames=("state",))
def feed_height(
    net: Transformer, vocabulary: Vocabulary, sampling: SamplingConfig, params: Params, state: DecodeState
) -> DecodeState:
    """Feed the first of the two size tokens; every other token's place is counted from behind it."""
    _, caches = feed(net, params, state.pending[:, :1], state.position, state.caches, None)
    return state.replace(caches=caches, position=state.position + 1)


@partial(jax.jit, static_argnames=("net", "vocabulary", "sampling", "lead"), donate_argnames=("state",))
def decode_staggered(
    net: Transformer,
    vocabulary: Vocabulary,
    sampling: SamplingConfig,
    lead: int,
    params: Params,
    state: DecodeState,
    first: Array,
    last: Array,
) -> DecodeState:
    """The passes first ... last - 1 (int32 []) of a batch of pictures; in pass t row r is at column t - r * lead.

    At column 0 a row is given the token before it, a new-line or the size; at column w, which draws nothing, its last
    code, so that the rows below see it.
    """
    batch, height, width = state.codes.shape
    code_to_id = jnp.asarray(vocabulary.code_to_id)
    head = columns(params["lm_head"], code_to_id)
    rows_at_once = min(width // lead + 1, height)
    nowhere = max(cache.slots for cache in state.caches)

    def one(t: Array, state: DecodeState) -> DecodeState:
        row = jnp.maximum(0, -((width - t) // lead)) + jnp.arange(rows_at_once)
        column = t - row * lead
        there = (column >= 0) & (column <= width) & (row < height)
        before = jnp.where(row > 0, vocabulary.new_line, state.pending[:, 1:])
        codes = state.codes[:, jnp.minimum(row, height - 1), jnp.clip(column - 1, 0, width - 1)]
        tokens = jnp.where(column == 0, before, code_to_id[codes])
        # Of rows that are not under way nothing stays: places beyond the cache, each another one.
        places = jnp.where(there, row * (width + 1) + column, nowhere + jnp.arange(rows_at_once))
        hidden, caches = feed(net, params, tokens, state.position, state.caches, None, places=places)
        logits = code_logits(hidden, head, sampling, batch)
        positions = state.position[:, None] + places + 1
        noise = state.noise(jnp.repeat(state.images, rows_at_once), positions.reshape(-1), len(code_to_id))
        code, e = sample_code(logits.reshape(-1, len(code_to_id)), noise, sampling)
        target = jnp.where(there & (column < width), row, height)

        def put(own: Array, new: Array) -> Array:
            return own.at[:, target, column].set(new.reshape(batch, -1), mode="drop")

        return state.replace(caches=caches, codes=put(state.codes, code), entropy=put(state.entropy, e))

    return lax.fori_loop(first, last, one, state)


def _fetch(codes: Array, new: int, there: np.ndarray) -> np.ndarray:
    return np.where(there, np.asarray(codes)[:new], -1)


@dataclass(frozen=True)
class Staggered:
    """lead: codes that a row is ahead of the one below, 1 or more; from w + 1 on the codes are those of the plain loop.
    None is a quarter of the picture's width."""

    lead: int | None = None

    def image_slots(self, height: int, width: int) -> int:
        return 3 + height * (width + 1)

    def write(self, job: Job, batch: int, on_codes: Callable[[int], None]) -> Iterator[tuple[int, Written]]:
        height, width = job.grid
        lead = min(self.lead or -(-width // 4), width + 1)
        passes = width + (height - 1) * lead
        static = job.net, job.vocabulary, job.sampling
        for images, new in full_batches(job.count, batch):
            room = stage_end(job.grid, 1)
            state = feed_height(*static, job.params, open_batch(job, images, 3 + room))
            texts, opened = np.asarray(state.text), np.asarray(state.opened)
            for first in range(0, passes, lead):
                last = min(first + lead, passes)
                # The lowest row that is under way then, whole.
                needed = min((last - 1) // lead + 1, height) * (width + 1)
                if (more := stage_end(job.grid, needed) - room) > 0:
                    state, room = grow(state, more), room + more
                state = decode_staggered(*static, lead, job.params, state, jnp.int32(first), jnp.int32(last))
                jax.block_until_ready(state.codes)
                on_codes((int(images[0]) * passes + last * new) * height * width // passes)
                there = np.add.outer(lead * np.arange(height), np.arange(width)) < last
                job.show(images[:new], float(there.mean()), partial(_fetch, state.codes, new, there))
            codes, entropy = np.asarray(state.codes), np.asarray(state.entropy)
            for i in range(new):
                yield int(images[i]), Written(codes[i], entropy[i], texts[i], bool(opened[i]), passes)
