"""One step's arithmetic of drawing an image code, as pure functions on arrays, in the original's order of operations.

guidance -> structure mask -> entropy -> dynamic k -> top-k (ties kept) -> temperature -> draw. Inside the picture only
the image codes can be drawn, so all functions run over the codebook alone; this is exact, because every other id would
be masked before the entropy is taken.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pure_jax.config import SamplingConfig

ENTROPY_LIMIT = 10.0
"""Entropies are clamped to [0, 10] nats before k is computed."""

_ONE_IN = 64
"""On CPU the best one in so many entries are found sooner by `lax.top_k` than by bisection: 32 of 4,096 in half the
time and 256 of 16,384 in a third, but 2,000 of those take it 1.4 times as long."""

CODE, NEW_LINE, END = 0, 1, 2
"""Kinds of token inside a picture's body."""


def guide(conditional: Array, unconditional: Array, scale: float | Array) -> Array:
    """Classifier-free guidance u + s (c - u); at the paper's 0.8 an interpolation towards the unconditional logits."""
    return unconditional + scale * (conditional - unconditional)


def body_kind(index: Array, height: Array, width: Array) -> Array:
    """What stands at place `index` (from 0, counted after the size tokens) of a body of height x width codes.

    CODE, NEW_LINE after each row, END after the last new-line (and beyond).
    """
    in_row = (index + 1) % (width + 1)
    kind = jnp.where(in_row == 0, NEW_LINE, CODE)
    return jnp.where(index >= height * (width + 1), END, kind)


def entropy(logits: Array) -> Array:
    """-sum p ln(p + 1e-10) in nats over the last axis, float32, at temperature 1; -inf logits count as 0."""
    p = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.sum(p * jnp.log(p + 1e-10), axis=-1)


def dynamic_k(entropies: Array, config: SamplingConfig) -> Array:
    """k = round(k_min + (k_max - k_min) / (1 + exp(center - e))), half to even, within [k_min, k_max]; int32.

    PURE paper, Eq. 2; with the released settings k runs from 14 at 0 nats to 1,987 at 10.
    """
    e = jnp.clip(entropies.astype(jnp.float32), 0.0, ENTROPY_LIMIT)
    k = config.k_min + (config.k_max - config.k_min) * jax.nn.sigmoid(e - config.entropy_center)
    low, high = int(np.ceil(config.k_min)), int(config.k_max)
    return jnp.clip(jnp.round(k).astype(jnp.int32), low, max(low, high))


def keep_top_k(logits: Array, k: Array, k_max: int) -> Array:
    """Set everything strictly below the k-th largest logit to -inf; all ties at the threshold stay.

    logits: float32 [..., n], no NaN; k: int32 [...], at least 1; k_max: static upper bound of k.
    """
    size = min(k_max, logits.shape[-1])
    place = jnp.clip(k, 1, size)
    on_cpu = partial(_by_indices, size=size) if size * _ONE_IN <= logits.shape[-1] else _by_bisection
    # Where k exceeds n nothing may be removed: the smallest of all n is the threshold, and size == n then.
    kept = lax.platform_dependent(logits, place, cpu=on_cpu, default=partial(_by_threshold, size=size))
    return jnp.where(kept, logits, -jnp.inf)


# What is compared with the k-th largest must be the numbers that it was found among. A compiler may compute logits anew
# for every part of a program that reads them, and guidance may be rounded otherwise there (XLA fuses the product with
# the sum or not): then the k-th would lie below itself. Each of the three has its own way to hold them.


def _by_threshold(logits: Array, k: Array, size: int) -> Array:
    """bool, of the logits' shape: not below the k-th largest of the last axis, k from 1 to `size`."""
    logits = lax.optimization_barrier(logits)
    return logits >= jnp.take_along_axis(lax.top_k(logits, size)[0], k[..., None] - 1, axis=-1)


def _by_indices(logits: Array, k: Array, size: int) -> Array:
    """The same on a CPU, where XLA drops the barrier: what is ranked is told by its place."""
    largest, indices = lax.top_k(logits, size)
    threshold = jnp.take_along_axis(largest, k[..., None] - 1, axis=-1)
    return jnp.put_along_axis(logits >= threshold, indices, largest >= threshold, axis=-1, inplace=False)


def _by_bisection(logits: Array, k: Array) -> Array:
    """The same, the threshold being found bit by bit: the largest that k entries reach.

    The bits of a float, read as an integer, are in the order of the floats where these are positive; flipping all bits
    of the negative ones, and the sign of the others, puts them all in order.
    """
    bits = lax.bitcast_convert_type(logits + 0.0, jnp.uint32)  # -0.0 becomes 0.0, which it is equal to
    ordered = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))

    def narrower(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        found, ordered = carry
        tried = found | (jnp.uint32(1 << 31) >> jnp.asarray(i, jnp.uint32))
        enough = (ordered >= tried[..., None]).sum(axis=-1) >= k
        return jnp.where(enough, tried, found), ordered

    found, ordered = lax.fori_loop(0, 32, narrower, (jnp.zeros(k.shape, jnp.uint32), ordered))
    return ordered >= found[..., None]


def position_keys(seed: Array | int, images: Array, positions: Array) -> Array:
    """One PRNG key per row from (seed, image index, absolute token position): typed keys [batch].

    The key of a token depends on nothing else, so every way of decoding draws the same noise for it.
    """

    def one(image: Array, position: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), image), position)

    return jax.vmap(one)(images, positions)


def gumbel_noise(keys: Array, n: int) -> Array:
    """Standard Gumbel noise float32 [batch, n], one row per key."""
    return jax.vmap(lambda key: jax.random.gumbel(key, (n,), jnp.float32))(keys)


def draw(logits: Array, noise: Array, temperature: float) -> Array:
    """Gumbel-max: int32 argmax(logits / T + noise) over the last axis; T = 0 is greedy (lowest index on ties)."""
    if temperature == 0.0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jnp.argmax(logits / temperature + noise, axis=-1).astype(jnp.int32)


class CodeDistribution(NamedTuple):
    """What a code is drawn from, for logits [..., codes]."""

    entropy: Array
    """float32 [...] nats, of all codes at temperature 1."""
    k: Array
    """int32 [...]"""
    kept: Array
    """bool [..., codes]: the k likeliest; more where several are equal to the last of them."""
    probabilities: Array
    """float32 [..., codes], of the kept codes at the configured temperature; at 0 the likeliest has all."""


def code_distribution(logits: Array, config: SamplingConfig) -> CodeDistribution:
    """Guided logits, float32 [..., codes] -> what `sample_code` draws from."""
    entropies = entropy(logits)
    k = dynamic_k(entropies, config)
    kept = keep_top_k(logits, k, int(config.k_max))
    if config.temperature == 0.0:
        probabilities = jax.nn.one_hot(jnp.argmax(kept, axis=-1), logits.shape[-1])
    else:
        probabilities = jax.nn.softmax(kept / config.temperature, axis=-1)
    return CodeDistribution(entropies, k, kept > -jnp.inf, probabilities)


def sample_code(logits: Array, noise: Array, config: SamplingConfig) -> tuple[Array, Array]:
    """Guided logits and Gumbel noise, float32 [batch, codes] -> (codes int32 [batch], entropies float32 [batch])."""
    entropies = entropy(logits)
    kept = keep_top_k(logits, dynamic_k(entropies, config), int(config.k_max))
    return draw(kept, noise, config.temperature), entropies
