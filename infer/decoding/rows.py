"""The decode loop for pictures of a known size, compiled for the device: rows of codes, frame tokens at no step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pure_jax.config import SamplingConfig
from pure_jax.infer.decoding.contract import (
    DecodeState,
    Job,
    Params,
    Written,
    code_logits,
    feed,
    grow,
    stage_end,
    until,
)
from pure_jax.infer.decoding.prefill import full_batches, open_batch
from pure_jax.quantisation import columns
from pure_jax.sampling import sample_code
from pure_jax.transformer import Transformer
from pure_jax.vocabulary import Vocabulary


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
    head = columns(params["lm_head"], code_to_id)

    def step(state: DecodeState, tokens: Array, column: Array) -> tuple[DecodeState, Array]:
        """Feed tokens, draw the code at (state.row, column)."""
        hidden, caches = feed(net, params, tokens, state.position, state.caches, None)
        position = state.position + tokens.shape[1]
        noise = state.noise(state.images, position, len(code_to_id))
        code, e = sample_code(code_logits(hidden[:, -1], head, sampling, batch), noise, sampling)
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


def _fetch(codes: Array, new: int, grid: tuple[int, int], count: int) -> np.ndarray:
    return until(np.asarray(codes)[:new], grid, count)


class Rows:
    """The plain loop: a step for each code."""

    def image_slots(self, height: int, width: int) -> int:
        return 3 + height * (width + 1)

    def write(self, job: Job, batch: int, on_codes: Callable[[int], None]) -> Iterator[tuple[int, Written]]:
        height, width = job.grid
        for images, new in full_batches(job.count, batch):
            room = stage_end(job.grid, 1)
            state = open_batch(job, images, 3 + room)
            texts, opened = np.asarray(state.text), np.asarray(state.opened)
            for row in range(height):
                if (more := stage_end(job.grid, (row + 1) * (width + 1)) - room) > 0:
                    state, room = grow(state, more), room + more
                state = decode_rows(job.net, job.vocabulary, job.sampling, job.params, state, jnp.int32(1))
                jax.block_until_ready(state.row)
                on_codes((int(images[0]) * height + (row + 1) * new) * width)
                count = (row + 1) * width
                fetch = partial(_fetch, state.codes, new, job.grid, count)
                job.show(images[:new], count / (height * width), fetch)
            codes, entropy = np.asarray(state.codes), np.asarray(state.entropy)
            for i in range(new):
                yield int(images[i]), Written(codes[i], entropy[i], texts[i], bool(opened[i]), height * width)
