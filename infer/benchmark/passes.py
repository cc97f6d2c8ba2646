"""The compiled programs that are timed: opening a picture, the plain loop at a row, passes of several tokens a row."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pure_jax.config import SamplingConfig
from pure_jax.infer.benchmark.subject import Subject, questions
from pure_jax.infer.benchmark.timing import compiled, median
from pure_jax.infer.decoding.contract import DecodeState, Params
from pure_jax.infer.decoding.cost import Lengths
from pure_jax.infer.decoding.prefill import open_images
from pure_jax.infer.decoding.rows import decode_rows
from pure_jax.sampling import guide, gumbel_noise, position_keys, sample_code
from pure_jax.transformer import KVCache, Transformer
from pure_jax.vocabulary import Vocabulary

PASSES = 4
"""Of several tokens a row, in one call of a program."""


@dataclass(frozen=True)
class Timed:
    """A program's cost."""

    seconds: float
    """Of one pass, or of what it does once."""
    compile_s: float
    temporary: int
    """Bytes that it needs beside its arguments and results, by the compiler's account."""


@dataclass(frozen=True)
class Opening:
    """A batch of pictures, opened: question read, text written; its state is used up by what is timed next."""

    state: DecodeState
    lengths: Lengths
    """`opening` counts the slots that question and text took."""
    timed: Timed
    text_tokens: int


def open_batch(subject: Subject, grid: tuple[int, int], batch: int) -> Opening:
    """Time the way to the first code: one run, of a program that takes long itself."""
    prompts = questions(subject, grid, batch)
    slots = Lengths(0, *grid, subject.guided).image_slots
    static = (subject.net, subject.vocabulary, subject.config.sampling, grid, slots, False)
    no_text = np.zeros(0, np.int32)
    values = (subject.params, prompts, no_text, np.arange(batch, dtype=np.int32), np.uint32(0))
    program = compiled(open_images, *static, *values)
    start = time.perf_counter()
    state = jax.block_until_ready(program.run(*values))
    spent = time.perf_counter() - start
    opening = int(state.caches[0].length) - 1  # the picture's start token is in it
    timed = Timed(spent, program.compile_s, program.temporary)
    return Opening(state, Lengths(opening, *grid, subject.guided), timed, opening - prompts.shape[1])


@partial(jax.jit, donate_argnames="state")
def at_row(state: DecodeState, row: Array) -> DecodeState:
    """A state that goes on with another row, int32 []; what is written until there is whatever the caches hold."""
    moved = (row - state.row) * (state.codes.shape[2] + 1)

    def filled(cache: KVCache) -> KVCache:
        return dataclasses.replace(cache, valid=jnp.ones_like(cache.valid), length=cache.length + moved)

    return state.replace(caches=tuple(map(filled, state.caches)), position=state.position + moved, row=row)


def places(height: int) -> list[int]:
    """Rows at which the plain loop is timed: the first, the middle one and the last."""
    return sorted({0, height // 2, height - 1})


def time_rows(subject: Subject, opening: Opening) -> tuple[DecodeState, Timed, tuple[float, ...]]:
    """Seconds per pass of the plain loop, on average and at each of `places`; its passes are one token a row."""
    static = (subject.net, subject.vocabulary, subject.config.sampling)
    state, one = opening.state, jnp.int32(1)
    program = compiled(decode_rows, *static, subject.params, state, one)
    places_s = []
    for row in places(opening.lengths.height):

        def step(row: int = row) -> float:
            nonlocal state
            state = jax.block_until_ready(at_row(state, jnp.int32(row)))
            start = time.perf_counter()
            state = jax.block_until_ready(program.run(subject.params, state, one))
            return time.perf_counter() - start

        places_s.append(median(step) / opening.lengths.width)
    timed = Timed(sum(places_s) / len(places_s), program.compile_s, program.temporary)
    return at_row(state, jnp.int32(opening.lengths.height // 2)), timed, tuple(places_s)


def time_window(subject: Subject, state: DecodeState, window: int) -> tuple[DecodeState, Timed]:
    """Seconds of a pass of `window` tokens in each row, over the fill that the state has; it stays as it is."""
    static = (subject.net, subject.vocabulary, subject.config.sampling, window)
    program = compiled(window_passes, *static, subject.params, state)

    def step() -> float:
        nonlocal state
        start = time.perf_counter()
        state = jax.block_until_ready(program.run(subject.params, state))
        return time.perf_counter() - start

    timed = Timed(median(step) / PASSES, program.compile_s, program.temporary)
    return state, timed


def each_on_its_own(state: DecodeState) -> DecodeState:
    """The same with a length for each row of the caches, as decoding with windows has them."""
    return state.replace(caches=tuple(cache.per_row() for cache in state.caches))


@partial(jax.jit, static_argnames=("net", "vocabulary", "sampling", "window"), donate_argnames="state")
def window_passes(
    net: Transformer,
    vocabulary: Vocabulary,
    sampling: SamplingConfig,
    window: int,
    params: Params,
    state: DecodeState,
) -> DecodeState:
    """PASSES times: feed `window` tokens of every picture, draw the code behind each of them, and forget the tokens.

    It is the work of a pass that verifies drafts, without what decides about them. state: from `each_on_its_own`.
    """
    batch = state.images.shape[0]
    code_to_id = jnp.asarray(vocabulary.code_to_id)
    head = params["lm_head"]["kernel"][:, code_to_id]
    steps = jnp.arange(window)
    positions = state.position[:, None] + steps
    all_positions = jnp.concatenate([positions, *(c.length[:, None] + steps for c in state.caches[1:])])
    keys = position_keys(0, jnp.repeat(state.images, window), positions.ravel() + 1)

    def one(_: Any, carry: tuple[tuple[KVCache, ...], Array]) -> tuple[tuple[KVCache, ...], Array]:
        caches, tokens = carry
        fed = jnp.concatenate([tokens] * len(caches))
        out: Any = net.apply({"params": params}, fed, all_positions, caches, hidden_only=True)
        hidden, written = out
        logits = jnp.einsum("bwd,dv->bwv", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
        if len(caches) > 1:
            logits = guide(logits[:batch], logits[batch:], sampling.guidance_scale)
        noise = gumbel_noise(keys, len(code_to_id))
        codes, _ = sample_code(logits.reshape(batch * window, -1), noise, sampling)
        forgotten = (dataclasses.replace(new, length=old.length) for new, old in zip(written, caches, strict=True))
        return tuple(forgotten), code_to_id[codes].reshape(batch, window)

    drafts = jnp.broadcast_to(code_to_id[:1], (batch, window))
    caches, tokens = lax.fori_loop(0, PASSES, one, (state.caches, drafts))
    # The last tokens go out too, or the last pass would be for nothing.
    return state.replace(caches=caches, pending=jnp.broadcast_to(tokens[:, :1], state.pending.shape))
