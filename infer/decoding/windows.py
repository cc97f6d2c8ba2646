"""Decoding in windows: a pass runs the network over the last code and drafts of the next ones, and keeps some of them.

Every picture of the batch goes on at its own pace, and when enough of them are finished, others take their places.
New-lines are known, so a window may lie across the end of a row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array, lax

from pure_jax.config import SamplingConfig
from pure_jax.errors import PureError
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
from pure_jax.infer.decoding.drafts import DRAFTS, Draft
from pure_jax.infer.decoding.noise import Noise, SeedNoise
from pure_jax.infer.decoding.prefill import open_batch
from pure_jax.infer.decoding.rules import RULES, Rule
from pure_jax.quantisation import columns
from pure_jax.sampling import CODE, NEW_LINE, body_kind
from pure_jax.transformer import KVCache, Transformer, init_cache
from pure_jax.vocabulary import Vocabulary

PASSES_PER_CALL = 16
"""Between two looks at what is finished."""
GROUPS = 4
"""Pictures are opened in groups of so many parts of a batch; one waits until as many places are free."""


class WindowState(struct.PyTreeNode):
    """A batch of pictures, each at its own place. Caches have a length per row."""

    caches: tuple[KVCache, ...]
    noise: Noise
    images: Array
    """int32 [batch]"""
    index: Array
    """int32 [batch]: tokens of the picture's body, new-lines included, that are accepted."""
    position: Array
    """int32 [batch]: absolute position of the last of them, which is fed next."""
    token: Array
    """int32 [batch]: its id."""
    drafts: Array
    """int32 [batch, W]: guessed codes of the places that follow it; a new-line's means nothing."""
    belief: Any
    codes: Array
    """int32 [batch, h * w], behind the accepted ones what the last pass put there."""
    entropy: Array
    """float32 [batch, h * w]"""
    lq: Array
    """int32 [batch, h * w]"""
    passes: Array
    """int32 [batch]"""


class Parts(struct.PyTreeNode):
    """All that a window's programs are compiled for."""

    net: Transformer = struct.field(pytree_node=False)
    vocabulary: Vocabulary = struct.field(pytree_node=False)
    sampling: SamplingConfig = struct.field(pytree_node=False)
    grid: tuple[int, int] = struct.field(pytree_node=False)
    window: int = struct.field(pytree_node=False)
    rule: Rule = struct.field(pytree_node=False)
    draft: Draft = struct.field(pytree_node=False)

    def raster(self, index: Array) -> Array:
        """Where in raster order a code with a place in the body stands; a new-line counts as the code before it."""
        line = self.grid[1] + 1
        return jnp.minimum(index, self.body - 1) // line * self.grid[1] + jnp.minimum(index % line, self.grid[1] - 1)

    @property
    def body(self) -> int:
        """Tokens of a picture: its codes and a new-line behind each row."""
        return self.grid[0] * (self.grid[1] + 1)

    @property
    def sizes(self) -> tuple[int, int]:
        """What drafts are told: latent width and codebook size."""
        return self.grid[1], self.vocabulary.codebook_size

    def kind(self, index: Array) -> Array:
        return body_kind(index, *map(jnp.int32, self.grid))

    def place(self, index: Array) -> Array:
        """Where in raster order the code with a place in the body stands; behind all of them where it is none."""
        return jnp.where(self.kind(index) == CODE, self.raster(index), self.grid[0] * self.grid[1])


@partial(jax.jit, donate_argnames="state")
def decode_windows(parts: Parts, params: Params, state: WindowState, passes: Array) -> WindowState:
    """Make `passes` (int32 []) passes, fewer if all pictures are finished before."""
    head = columns(params["lm_head"], jnp.asarray(parts.vocabulary.code_to_id))

    def unfinished(carry: tuple[Array, WindowState]) -> Array:
        return (carry[0] < passes) & (carry[1].index < parts.body).any()

    def one(carry: tuple[Array, WindowState]) -> tuple[Array, WindowState]:
        return carry[0] + 1, _pass(parts, params, head, carry[1])

    return lax.while_loop(unfinished, one, (jnp.zeros((), jnp.int32), state))[1]


def _pass(parts: Parts, params: Params, head: Params, state: WindowState) -> WindowState:
    """One pass: the network sees the last accepted token and W - 1 drafts and says what stands in W places."""
    batch, window = state.drafts.shape
    code_to_id = jnp.asarray(parts.vocabulary.code_to_id)
    ahead = jnp.arange(window)
    index = state.index[:, None] + ahead
    kinds = parts.kind(index)
    ids = jnp.where(kinds == NEW_LINE, parts.vocabulary.new_line, code_to_id[state.drafts])
    tokens = jnp.concatenate([state.token[:, None], ids[:, :-1]], axis=1)
    hidden, caches = feed(parts.net, params, tokens, state.position, state.caches, None)
    logits = code_logits(hidden, head, parts.sampling, batch)
    positions = state.position[:, None] + 1 + ahead
    verdict = parts.rule.judge(
        logits, state.drafts, state.belief, state.noise, parts.sampling, state.images, positions, state.passes
    )
    # A new-line is right whatever was drafted; what comes behind the first wrong draft is not accepted.
    kept = (verdict.kept | (kinds == NEW_LINE))[:, :-1]
    accepted = 1 + jnp.cumprod(kept, axis=1).sum(axis=1)
    accepted = jnp.minimum(accepted, parts.body - state.index)

    rows = jnp.arange(batch)[:, None]
    places = parts.place(index)
    codes = state.codes.at[rows, places].set(verdict.codes, mode="drop")
    entropy = state.entropy.at[rows, places].set(verdict.entropy, mode="drop")

    # The places behind the accepted ones: first those that this pass has judged, then new guesses.
    guesses = parts.draft(state.images, parts.raster(index + window), codes, state.lq, parts.sizes)
    shift = accepted[:, None] + ahead

    def moved(judged_values: Array, new_values: Array) -> Array:
        both = jnp.concatenate([judged_values, new_values], axis=1)
        at = shift.reshape(shift.shape + (1,) * (both.ndim - 2))
        return jnp.take_along_axis(both, at, axis=1)

    belief = jax.tree.map(moved, verdict.belief, parts.rule.belief(guesses, parts.vocabulary.codebook_size))
    drafts = moved(verdict.codes, guesses)

    last = jnp.take_along_axis(verdict.codes, jnp.maximum(accepted - 1, 0)[:, None], axis=1)[:, 0]
    last_kind = parts.kind(state.index + accepted - 1)
    token = jnp.where(last_kind == NEW_LINE, parts.vocabulary.new_line, code_to_id[last])
    alive = accepted > 0
    rewound = tuple(replace(new, length=old.length + accepted) for new, old in zip(caches, state.caches, strict=True))
    return state.replace(
        caches=rewound,
        index=state.index + accepted,
        position=state.position + accepted,
        token=jnp.where(alive, token, state.token),
        drafts=drafts,
        belief=belief,
        codes=codes,
        entropy=entropy,
        passes=state.passes + alive,
    )


@partial(jax.jit, static_argnames=("batch", "slots"))
def empty_state(parts: Parts, noise: Noise, batch: int, slots: tuple[int, ...]) -> WindowState:
    """Places for `batch` pictures, all of them finished; slots: of each cache."""
    zeros = jnp.zeros(batch, jnp.int32)
    flat = jnp.zeros((batch, parts.grid[0] * parts.grid[1]), jnp.int32)
    drafts = jnp.zeros((batch, parts.window), jnp.int32)
    return WindowState(
        caches=tuple(init_cache(parts.net.config, batch, n, parts.net.dtype).per_row() for n in slots),
        noise=noise,
        images=zeros,
        index=jnp.full(batch, parts.body, jnp.int32),
        position=zeros,
        token=zeros,
        drafts=drafts,
        belief=parts.rule.belief(drafts, parts.vocabulary.codebook_size),
        codes=flat,
        entropy=flat.astype(jnp.float32),
        lq=flat,
        passes=zeros,
    )


@partial(jax.jit, donate_argnames="state")
def admit(parts: Parts, params: Params, state: WindowState, rows: Array, opened: DecodeState, lq: Array) -> WindowState:
    """Put opened pictures, with their LQ codes int32 [n, h * w], into the places `rows` int32 [n]; beyond all: none."""
    _, caches = feed(parts.net, params, opened.pending[:, :1], opened.position, opened.caches, None)
    first = parts.raster(jnp.broadcast_to(jnp.arange(parts.window), (len(rows), parts.window)))
    drafts = parts.draft(opened.images, first, jnp.zeros_like(lq), lq, parts.sizes)

    def put(own: Array, new: Any) -> Array:
        return own.at[rows].set(new, mode="drop")

    return state.replace(
        caches=tuple(
            own.with_rows(rows, new.per_row().grown(own.slots)) for own, new in zip(state.caches, caches, strict=True)
        ),
        images=put(state.images, opened.images),
        index=put(state.index, 0),
        position=put(state.position, opened.position + 1),
        token=put(state.token, opened.pending[:, 1]),
        drafts=put(state.drafts, drafts),
        belief=jax.tree.map(put, state.belief, parts.rule.belief(drafts, parts.vocabulary.codebook_size)),
        lq=put(state.lq, lq),
        passes=put(state.passes, 0),
    )


@dataclass(frozen=True)
class Windows:
    """Decoding in windows of `window` tokens. rule: of RULES; draft: of DRAFTS."""

    rule: str = "jacobi"
    window: int = 16
    draft: str = "above"

    def image_slots(self, height: int, width: int) -> int:
        # The last window reaches beyond the picture.
        return 3 + height * (width + 1) + self.window

    def write(self, job: Job, batch: int, on_codes: Callable[[int], None]) -> Iterator[tuple[int, Written]]:
        if self.rule == "coupled" and not isinstance(job.noise, SeedNoise):
            raise PureError("noise that is given has no meaning with coupled decoding, whose tests draw by the seed")
        parts = Parts(
            job.net, job.vocabulary, job.sampling, job.grid, self.window, RULES[self.rule], DRAFTS[self.draft]
        )
        # The last window of a picture reaches beyond its end, so there is always room for one more.
        room = stage_end(job.grid, 1)
        first_slots = 3 + room + self.window
        batch = min(batch, job.count)
        lq = job.lq.reshape(job.count, -1)
        waiting = deque(range(job.count))
        group = -(-batch // GROUPS)
        held: dict[int, tuple[int, np.ndarray, bool]] = {}
        """By place: the picture, its text, and whether the model opened it."""
        index = np.zeros(batch, np.int32)
        state: WindowState | None = None
        written = 0
        while written < job.count:
            free, starting = [row for row in range(batch) if row not in held], not held
            while waiting and free and (starting or len(free) >= min(group, len(waiting))):
                rows, free = free[:group], free[group:]
                taken = [waiting.popleft() for _ in rows[: len(waiting)]]
                # A group is filled up with its last picture, which goes to no place: one compiled program for all.
                images = np.array((taken + taken[-1:] * group)[:group])
                places = np.array((rows[: len(taken)] + [batch] * group)[:group], np.int32)
                start = open_batch(job, images, first_slots)
                if state is None:
                    state = empty_state(parts, job.noise, batch, tuple(cache.slots for cache in start.caches))
                state = admit(parts, job.params, state, places, start, lq[images])
                for i, (row, image) in enumerate(zip(rows, taken, strict=False)):
                    index[row] = 0
                    held[row] = image, np.asarray(start.text[i]), bool(start.opened[i])
            assert state is not None
            furthest = max(int(index[row]) for row in held) + PASSES_PER_CALL * self.window
            if (more := stage_end(job.grid, furthest) - room) > 0:
                state, room = grow(state, more), room + more
            state = decode_windows(parts, job.params, state, jnp.int32(PASSES_PER_CALL))
            index = np.array(state.index)
            _show(job, held, index, state.codes, parts.body)
            for row in [row for row in held if index[row] >= parts.body]:
                image, text, opened = held.pop(row)
                codes, entropy = (np.array(x[row]).reshape(job.grid) for x in (state.codes, state.entropy))
                written += 1
                yield image, Written(codes, entropy, text, opened, int(state.passes[row]))
            under_way = sum(int(index[row]) for row in held) * lq.shape[1] // parts.body
            on_codes(written * lq.shape[1] + under_way)


def _show(job: Job, held: dict[int, tuple[int, np.ndarray, bool]], index: np.ndarray, codes: Array, body: int) -> None:
    """Show pictures that are complete, and those that are not, of which each has its own number of codes."""
    done = [row for row in held if index[row] >= body]
    for rows in (done, [row for row in held if row not in done]):
        if not rows:
            continue
        count = index[rows] - index[rows] // (job.grid[1] + 1)  # without new-lines
        share = 1.0 if rows is done else float(count.mean()) / codes.shape[1]

        def fetch(rows: list[int] = rows, count: np.ndarray = count) -> np.ndarray:
            return until(np.asarray(codes)[rows], job.grid, count)

        job.show(np.array([held[row][0] for row in rows]), share, fetch)
