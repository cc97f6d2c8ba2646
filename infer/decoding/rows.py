"""The decode loop for pictures of a known size, compiled for the device: rows of codes, frame tokens at no step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pure_jax.config import SamplingConfig
from pure_jax.infer.decoding.contract import DecodeState, Decoding, Params, code_logits, feed
from pure_jax.sampling import gumbel_noise, position_keys, sample_code
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


def _write(
    net: Transformer,
    vocabulary: Vocabulary,
    sampling: SamplingConfig,
    image_slots: int,
    params: Params,
    state: DecodeState,
    on_row: Callable[[int], None],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    for row in range(state.codes.shape[1]):
        state = decode_rows(net, vocabulary, sampling, params, state, jnp.int32(1))
        jax.block_until_ready(state.row)
        on_row(row + 1)
    return list(np.asarray(state.codes)), list(np.asarray(state.entropy))


ROWS = Decoding(free=False, image_slots=lambda height, width: 3 + height * (width + 1), write=_write)
