"""Prefill and text phase, compiled for the device: the same for every way of decoding."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pure_jax.config import SamplingConfig
from pure_jax.infer.decoding.contract import FREE, DecodeState, Job, Params, feed, logits_of
from pure_jax.infer.decoding.noise import Noise
from pure_jax.transformer import KVCache, Transformer, init_cache
from pure_jax.vocabulary import Vocabulary


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
    noise: Noise,
    forced: Array | None = None,
) -> DecodeState:
    """Prefill, text phase (greedy) and the picture's start token.

    Args:
        grid: latent height and width of the pictures to be written.
        image_slots: tokens to reserve for the picture: 3 + h (w + 1), or more where the size is drawn.
        faithful: leave the text unmasked, as the original does; else only text, pad, separator and image start exist.
        prompts: int32 [batch, prompt_length]; text_prefix: int32 [prefix] that every answer begins with.
        images: int32 [batch]: which pictures these are.
        forced: int32 [batch, n]: the first n tokens behind the prefix where they are not FREE; None leaves all free.
    """
    batch, prompt_length = prompts.shape
    prefix = text_prefix.shape[0]
    budget = max(sampling.max_text_tokens - prefix, 0)
    cache = init_cache(net.config, batch, prompt_length + prefix + budget + image_slots, net.dtype)
    opening = jnp.concatenate([prompts, jnp.broadcast_to(text_prefix, (batch, prefix))], axis=1)
    hidden, (cache,) = feed(net, params, opening, jnp.zeros(batch, jnp.int32), (cache,), None, prefill=True)
    hidden = hidden[:, -1]

    head = params["lm_head"]
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
        if forced is not None:
            told = jnp.where(step < forced.shape[1], forced[:, jnp.minimum(step, forced.shape[1] - 1)], FREE)
            token = jnp.where(told == FREE, token, told)
        opened |= ~done & (token == vocabulary.image_start)
        done |= (token == vocabulary.image_start) | (token == vocabulary.separator)
        text = text.at[:, prefix + step].set(jnp.where(done, vocabulary.pad, token))
        new_hidden, (cache,) = feed(net, params, token[:, None], position, (cache,), ~done[:, None])
        hidden = jnp.where(done[:, None], hidden, new_hidden[:, 0])
        return step + 1, hidden, cache, position + ~done, done, opened, text

    position = jnp.full(batch, prompt_length + prefix, jnp.int32)
    text = jnp.full((batch, prefix + budget), vocabulary.pad, jnp.int32).at[:, :prefix].set(text_prefix)
    no = jnp.zeros(batch, bool)
    carry = (jnp.zeros((), jnp.int32), hidden, cache, position, no, no, text)
    if budget:  # else the loop, which is compiled even for no step, would have no place to write to
        carry = lax.while_loop(unfinished, write, carry)
    _, hidden, cache, position, done, opened, text = carry
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
        noise=noise,
        images=images,
        text=text,
        opened=opened,
        pending=jnp.broadcast_to(jnp.asarray(size, jnp.int32), (batch, 2)),
        hidden=hidden[:, 0],
        row=jnp.zeros((), jnp.int32),
        codes=jnp.zeros((batch, *grid), jnp.int32),
        entropy=jnp.zeros((batch, *grid), jnp.float32),
    )


def open_batch(job: Job, images: np.ndarray, image_slots: int, faithful: bool = False) -> DecodeState:
    """`open_images` for some of a job's pictures, int32 [n]."""
    return open_images(
        job.net,
        job.vocabulary,
        job.sampling,
        job.grid,
        image_slots,
        faithful,
        job.params,
        job.prompts[images],
        job.prefix,
        (job.first + images).astype(np.int32),
        job.noise,
        None if job.forced is None else job.forced[images],
    )


def full_batches(count: int, batch: int) -> Iterator[tuple[np.ndarray, int]]:
    """The pictures 0 ... count - 1 in batches: their indices int32 [batch], and how many of them are new.

    The last batch is filled up with the last picture, so that every batch runs the same compiled program.
    """
    for start in range(0, count, batch):
        yield np.minimum(np.arange(start, start + batch), count - 1), min(batch, count - start)
