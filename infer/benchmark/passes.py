"""What is timed: the programs of decoding themselves, with states that are put to the place that is wanted."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from pure_jax.checkpoint import demo_directory
from pure_jax.infer.benchmark.subject import Subject, questions
from pure_jax.infer.benchmark.timing import compiled, median
from pure_jax.infer.decoding.contract import DecodeState
from pure_jax.infer.decoding.cost import Lengths
from pure_jax.infer.decoding.drafts import DRAFTS
from pure_jax.infer.decoding.generate import generate
from pure_jax.infer.decoding.noise import SeedNoise
from pure_jax.infer.decoding.prefill import open_images
from pure_jax.infer.decoding.rows import decode_rows
from pure_jax.infer.decoding.rules import RULES
from pure_jax.infer.decoding.windows import Parts, Windows, WindowState, decode_windows
from pure_jax.model import Model
from pure_jax.transformer import KVCache

PASSES = 4
"""In windows, in one call of the program."""
PARTS = 2


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


def time_opening(subject: Subject, grid: tuple[int, int], batch: int) -> Opening:
    """Time the way to the first code: one run, of a program that takes long itself."""
    prompts = questions(subject, grid, batch)
    slots = Lengths(0, *grid, subject.guided).image_slots
    static = (subject.net, subject.vocabulary, subject.config.sampling, grid, slots, False)
    no_text = np.zeros(0, np.int32)
    noise = SeedNoise(jnp.uint32(0))
    values = (subject.params, prompts, no_text, np.arange(batch, dtype=np.int32), noise)
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


def in_windows(state: DecodeState) -> WindowState:
    """The same pictures at the same row, as decoding in windows has them; drafts are to be put in."""
    batch, height, width = state.codes.shape
    # Of the two tokens that stand before the row one is fed already, and the other is fed with the window.
    caches = tuple(dataclasses.replace(c, length=c.length + 1).per_row() for c in state.caches)
    zeros = jnp.zeros(batch, jnp.int32)
    return WindowState(
        caches=caches,
        noise=state.noise,
        images=state.images,
        index=zeros + state.row * (width + 1),
        position=state.position + 1,
        token=state.pending[:, 1],
        drafts=zeros[:, None],
        belief=None,
        codes=state.codes.reshape(batch, -1),
        entropy=state.entropy.reshape(batch, -1),
        lq=jnp.zeros((batch, height * width), jnp.int32),
        passes=zeros,
    )


@partial(jax.jit, donate_argnames="state")
def at_place(state: WindowState, index: Array) -> WindowState:
    """A state that goes on at other places of the pictures' bodies, int32 [batch]."""
    moved = index - state.index
    caches = tuple(dataclasses.replace(c, length=c.length + moved) for c in state.caches)
    return state.replace(caches=caches, index=state.index + moved, position=state.position + moved)


def time_window(subject: Subject, grid: tuple[int, int], state: WindowState, way: Windows) -> tuple[WindowState, Timed]:
    """Seconds of a pass in windows, over the fill that the state has; it goes out as it came in."""
    v, rule = subject.vocabulary, RULES[way.rule]
    parts = Parts(subject.net, v, subject.config.sampling, grid, way.window, rule, DRAFTS[way.draft])
    drafts = jnp.zeros((len(state.images), way.window), jnp.int32)
    state = state.replace(drafts=drafts, belief=rule.belief(drafts, v.codebook_size))
    index, passes = jnp.copy(state.index), jnp.int32(PASSES)
    program = compiled(decode_windows, parts, subject.params, state, passes)

    def step() -> float:
        nonlocal state
        start = time.perf_counter()
        state = jax.block_until_ready(program.run(parts, subject.params, state, passes))
        spent = time.perf_counter() - start
        state = jax.block_until_ready(at_place(state, index))
        return spent

    timed = Timed(median(step) / PASSES, program.compile_s, program.temporary)
    return state, timed


def passes_per_picture(model: Model, grid: tuple[int, int], way: Windows) -> float:
    """Mean passes that a loaded model takes in windows for the parts of the embedded sample photo.

    The photo is enlarged to PARTS x PARTS such pictures. Its passes are counted, not timed.
    """
    height, width = (side * model.config.stride for side in grid)
    with Image.open(demo_directory() / "sample.png") as photo:
        pixels = np.asarray(photo.convert("RGB").resize((PARTS * width, PARTS * height), Image.Resampling.BICUBIC))
    pictures = pixels.reshape(PARTS, height, PARTS, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    answers = generate(model, model.encode(pictures), decoding=way)
    return float(np.mean([answer.passes for answer in answers]))
