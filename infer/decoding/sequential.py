"""The original's image phase: one token a step, frame tokens included, the picture's size drawn by the model.

Slower than `rows.decode_rows` and kept for what that cannot do: follow a size the model chose itself. With the size
forced, both give the same codes for the same seed, which makes this loop the reference for the fast one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pure_jax.config import SamplingConfig
from pure_jax.infer.decoding.contract import DecodeState, Job, Params, Written, code_logits, feed, logits_of
from pure_jax.infer.decoding.prefill import full_batches, open_batch
from pure_jax.quantisation import columns
from pure_jax.sampling import (
    CODE,
    END,
    NEW_LINE,
    body_kind,
    draw,
    dynamic_k,
    entropy,
    keep_top_k,
    sample_code,
)
from pure_jax.transformer import Transformer
from pure_jax.vocabulary import Vocabulary


def _sides(vocabulary: Vocabulary) -> np.ndarray:
    """int32 [size]: the latent side each id names as a size token, 0 for all other ids."""
    sides = np.zeros(vocabulary.size, np.int32)
    for grids, id_ in enumerate(vocabulary.grid_ids):
        if id_ >= 0:
            sides[id_] = grids * vocabulary.codes_per_grid
    return sides


@partial(jax.jit, static_argnames=("net", "vocabulary", "sampling", "image_slots", "draw_size"))
def decode_tokens(
    net: Transformer,
    vocabulary: Vocabulary,
    sampling: SamplingConfig,
    image_slots: int,
    draw_size: bool,
    params: Params,
    state: DecodeState,
) -> tuple[Array, Array, Array, Array]:
    """Write the pictures that `open_images` opened.

    Args:
        image_slots: as given to `open_images`; a picture needs 3 + h (w + 1) of them.
        draw_size: draw the two size tokens over the whole vocabulary, with the dynamic k and without guidance, as the
            original does; a draw that names no size, or one that does not fit, is replaced by the size of
            `state.codes`. False forces that size.

    Returns:
        (codes int32 [batch, image_slots] in raster order, entropy float32 likewise, height int32 [batch], width).
    """
    batch, full_height, full_width = state.codes.shape
    sides, code_to_id = jnp.asarray(_sides(vocabulary)), jnp.asarray(vocabulary.code_to_id)
    vocabulary_head = columns(params["lm_head"], slice(vocabulary.size))
    code_head = columns(params["lm_head"], code_to_id)

    def noise(position: Array, n: int) -> Array:
        return state.noise(state.images, position, n)

    def size_token(hidden: Array, position: Array, forced: Array, fits: Any) -> Array:
        if not draw_size:
            return forced
        logits = logits_of(hidden[:batch], vocabulary_head)
        kept = keep_top_k(logits, dynamic_k(entropy(logits), sampling), int(sampling.k_max))
        token = draw(kept, noise(position, vocabulary.size), sampling.temperature)
        return jnp.where((sides[token] > 0) & fits(sides[token]), token, forced)

    def slots(height: Array, width: Array | int) -> Array:
        return 3 + height * (width + 1)

    forced_height, forced_width = state.pending[:, 0], state.pending[:, 1]
    token = size_token(state.hidden, state.position, forced_height, lambda h: slots(h, full_width) <= image_slots)
    height = sides[token]
    hidden, caches = feed(net, params, token[:, None], state.position, state.caches, None)
    token = size_token(hidden[:, 0], state.position + 1, forced_width, lambda w: slots(height, w) <= image_slots)
    width = sides[token]
    hidden, caches = feed(net, params, token[:, None], state.position + 1, caches, None)

    def unfinished(carry: tuple) -> Array:
        index = carry[0]
        return (body_kind(index, height, width) != END).any()

    def step(carry: tuple) -> tuple:
        index, hidden, caches, codes, entropies = carry
        position = state.position + 2 + index
        code, e = sample_code(
            code_logits(hidden[:, 0], code_head, sampling, batch), noise(position, len(code_to_id)), sampling
        )
        kind = body_kind(index, height, width)
        token = jnp.where(kind == CODE, code_to_id[code], vocabulary.image_end)
        token = jnp.where(kind == NEW_LINE, vocabulary.new_line, token)
        place = jnp.where(kind == CODE, index // (width + 1) * width + index % (width + 1), image_slots)
        rows = jnp.arange(batch)
        codes = codes.at[rows, place].set(code, mode="drop")
        entropies = entropies.at[rows, place].set(e, mode="drop")
        hidden, caches = feed(net, params, token[:, None], position, caches, None)
        return index + 1, hidden, caches, codes, entropies

    empty = jnp.zeros((batch, image_slots))
    carry = (jnp.zeros((), jnp.int32), hidden, caches, empty.astype(jnp.int32), empty)
    _, _, _, codes, entropies = lax.while_loop(unfinished, step, carry)
    return codes, entropies, height, width


class Sequential:
    """The model may write any token as text, and chooses the picture's size."""

    def image_slots(self, height: int, width: int) -> int:
        return 3 + height * (width + 1) * 2  # the model may choose a larger picture

    def write(self, job: Job, batch: int, on_codes: Callable[[int], None]) -> Iterator[tuple[int, Written]]:
        slots = self.image_slots(*job.grid)
        for images, new in full_batches(job.count, batch):
            state = open_batch(job, images, slots, faithful=True)
            texts, opened = np.asarray(state.text), np.asarray(state.opened)
            results = decode_tokens(job.net, job.vocabulary, job.sampling, slots, True, job.params, state)
            codes, entropies, heights, widths = map(np.asarray, results)
            on_codes((int(images[0]) + new) * job.grid[0] * job.grid[1])
            for i in range(new):
                h, w = int(heights[i]), int(widths[i])
                own, entropy_of = (array[i, : h * w].reshape(h, w) for array in (codes, entropies))
                yield int(images[i]), Written(own, entropy_of, texts[i], bool(opened[i]), h * (w + 1))
