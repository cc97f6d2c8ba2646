"""What the ways of decoding share: the state in which a picture is opened, the step, and how a way is called.

A way opens pictures with `prefill.open_images` and writes them from the state which that leaves. The loops over tokens
are compiled; a way comes back to the host now and then, to show progress or to let new pictures in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from pure_jax.config import SamplingConfig
from pure_jax.infer.decoding.noise import Noise
from pure_jax.quantisation import product
from pure_jax.sampling import guide
from pure_jax.transformer import KVCache, Transformer
from pure_jax.vocabulary import Vocabulary

Params = dict[str, Any]

STAGE_CODES = 1024
FREE = -1
"""In `Job.forced`: the model chooses this token."""


class DecodeState(struct.PyTreeNode):
    """A batch of answers between the text and the last code. Rows of the conditional cache come first."""

    caches: tuple[KVCache, ...]
    """(conditional,) or (conditional, unconditional); the latter holds the picture only."""
    position: Array
    """int32 [batch]: absolute position of the next token to feed, in the conditional sequence."""
    noise: Noise
    images: Array
    """int32 [batch]: index of each row's picture; with the position it names the noise."""
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
    net: Transformer,
    params: Params,
    tokens: Array,
    positions: Array,
    caches: tuple[KVCache, ...],
    valid: Array | None,
    *,
    prefill: bool = False,
    places: Array | None = None,
) -> tuple[Array, tuple[KVCache, ...]]:
    """Append tokens [batch, n] at conditional positions [batch] on; returns the hidden states of all rows [rows, n, d].

    The unconditional rows see the same tokens. They know the picture only: start, size and codes count from position 0,
    which is the number of slots they have written. prefill: the caches are empty. places: int32 [n], how far behind the
    caches' end each token lies, where they do not follow each other; see `Transformer`.
    """
    steps = jnp.arange(tokens.shape[1]) if places is None else places
    groups = [positions[:, None] + steps]
    groups += [jnp.broadcast_to(c.length[..., None] + steps, tokens.shape) for c in caches[1:]]
    tokens = jnp.concatenate([tokens] * len(caches))
    out: Any = net.apply(
        {"params": params}, tokens, jnp.concatenate(groups), caches, valid,
        hidden_only=True, prefill=prefill, places=places,
    )  # fmt: skip
    return out


def logits_of(hidden: Array, head: Params) -> Array:
    return product(hidden, head)


def code_logits(hidden: Array, head: Params, sampling: SamplingConfig, batch: int) -> Array:
    """Guided logits float32 [batch, ..., codes] from the hidden states [all rows, ..., hidden]."""
    logits = logits_of(hidden, head)
    return guide(logits[:batch], logits[batch:], sampling.guidance_scale) if len(logits) > batch else logits


class Written(NamedTuple):
    """One picture as it was written."""

    codes: np.ndarray
    """int32 [h, w]"""
    entropy: np.ndarray
    """float32 [h, w] nats"""
    text: np.ndarray
    """int32 [max_text]: ids of the answer's text, pad behind its end."""
    opened: bool
    """The model opened the picture itself."""
    passes: int
    """Times that the network was run for its codes."""


Show = Callable[[np.ndarray, float, Callable[[], np.ndarray]], None]
"""Called now and then with (which pictures, int [n]; the share of their codes that is there, 1.0 when all are; a
function that fetches them, int32 [n, h, w], -1 where none is yet, and is to be called at once or never)."""


def unseen(pictures: np.ndarray, share: float, codes: Callable[[], np.ndarray]) -> None:
    """A `Show` that does not look."""


def until(codes: np.ndarray, grid: tuple[int, int], count: np.ndarray | int) -> np.ndarray:
    """Codes int32 [n, h * w] or [n, h, w] as [n, h, w], with -1 from the `count`-th on, int [n] or one for all."""
    flat = codes.reshape(len(codes), -1)
    there = np.arange(flat.shape[1]) < np.reshape(count, (-1, 1))
    return np.where(there, flat, -1).reshape(-1, *grid)


@dataclass(frozen=True)
class Job:
    """Pictures that are to be written, and what writes them. grid: latent height and width of each."""

    net: Transformer
    vocabulary: Vocabulary
    sampling: SamplingConfig
    params: Params
    grid: tuple[int, int]
    prompts: np.ndarray
    """int32 [count, length]"""
    prefix: np.ndarray
    """int32 [n]: text with which every answer begins."""
    lq: np.ndarray
    """int32 [count, h, w]: codes of the low-quality pictures."""
    noise: Noise
    show: Show = unseen
    """For whoever wants to watch; a way need not call it."""
    forced: np.ndarray | None = None
    """int32 [count, n]: tokens of each answer behind the prefix that are not the model's choice; FREE elsewhere."""
    first: int = 0
    """The first picture's number for the noise; the others' follow."""

    @property
    def count(self) -> int:
        return len(self.prompts)

    def part(self, start: int, stop: int) -> Job:
        """The pictures from `start` on, before `stop`, as a job of their own."""
        forced = None if self.forced is None else self.forced[start:stop]
        prompts, lq = self.prompts[start:stop], self.lq[start:stop]
        return replace(self, prompts=prompts, lq=lq, forced=forced, first=self.first + start)


def stage_end(grid: tuple[int, int], tokens: int) -> int:
    """Tokens of a picture's body, whole rows, to have room for when the first `tokens` are written.

    A pass reads all room that there is, so large pictures are written in stages, of about STAGE_CODES codes, whose
    room grows; each is a compiled program of its own.
    """
    height, width = grid
    stages = max(1, height * width // STAGE_CODES)
    rows = -(-height // stages)
    needed = -(-tokens // (width + 1))
    return min(height, -(-needed // rows) * rows) * (width + 1)


State = TypeVar("State", bound=Any)


@partial(jax.jit, static_argnames="tokens")
def grow(state: State, tokens: int) -> State:
    """A state with `caches` that have room for so many more tokens."""
    return state.replace(caches=tuple(cache.grown(cache.slots + tokens) for cache in state.caches))


class Decoding(Protocol):
    """A way of decoding: one file of this folder, one object.

    image_slots: tokens to reserve for a picture of a latent height and width.
    write: writes all pictures of a job, `batch` at a time, and yields (index, picture) in any order. on_codes is called
    with the number of codes that are there, now and then, and so may be the job's `show`.
    """

    def image_slots(self, height: int, width: int) -> int: ...

    def write(self, job: Job, batch: int, on_codes: Callable[[int], None]) -> Iterator[tuple[int, Written]]: ...
