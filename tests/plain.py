"""The oracle of the decode loops: one answer as a plain Python loop over full forwards, without any cache.

Everything after the network is numpy in float64, written from the published order of operations; only the noise is
jax's, because the seed must mean the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pure_jax.model import Model

LENGTH = 192
"""Sequences are filled up to this, so that all forwards are one compilation; what follows a token never reaches it."""


@dataclass
class Answer:
    text: list[int]
    opened: bool
    codes: np.ndarray
    entropy: np.ndarray


@partial(jax.jit, static_argnames="net")
def _forward(net, params, tokens):
    return net.apply({"params": params}, tokens[None], jnp.arange(LENGTH)[None])[0][0]


def plain_answer(model: Model, prompt: np.ndarray, image: int, seed: int, grid: tuple[int, int]) -> Answer:
    """Text (greedy, control tokens masked), image start, the two sizes of `grid` by force, then the codes."""
    v, sampling = model.vocabulary, model.config.sampling

    def logits(tokens: list[int]) -> np.ndarray:
        filled = np.zeros(LENGTH, np.int32)
        filled[: len(tokens)] = tokens
        out = _forward(model.transformer, model.params["transformer"], jnp.asarray(filled))
        return np.asarray(out, np.float64)[len(tokens) - 1, : v.size]

    def noise(position: int) -> np.ndarray:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), image), position)
        return np.asarray(jax.random.gumbel(key, (v.codebook_size,), jnp.float32), np.float64)

    writable = v.is_text.copy()
    writable[[v.image_start, v.separator, v.pad]] = True
    text: list[int] = []
    while True:
        token = int(np.argmax(np.where(writable, logits([*prompt, *text]), -np.inf)))
        if len(text) == sampling.max_text_tokens or token in (v.image_start, v.separator):
            break
        text.append(token)

    height, width = grid
    sizes = [int(v.grid_ids[side // v.codes_per_grid]) for side in grid]
    picture = [v.image_start, *sizes]
    codes, entropies = [], []
    for n in range(height * (width + 1)):
        if (n + 1) % (width + 1) == 0:
            picture.append(v.new_line)
            continue
        context = [*prompt, *text, *picture]
        scores = logits(context)
        if sampling.guidance_scale != 1.0:
            unconditional = logits(picture)
            scores = unconditional + sampling.guidance_scale * (scores - unconditional)
        masked = np.full(v.size, -np.inf)
        masked[v.code_to_id] = scores[v.code_to_id]
        p = np.exp(masked - masked.max())
        p /= p.sum()
        e = float(-(p * np.log(p + 1e-10)).sum())
        span = sampling.k_max - sampling.k_min
        k = round(sampling.k_min + span / (1 + math.exp(-(min(max(e, 0.0), 10.0) - sampling.entropy_center))))
        masked[masked < np.sort(masked)[-k]] = -np.inf
        code = int(np.argmax(masked[v.code_to_id] / sampling.temperature + noise(len(context))))
        picture.append(int(v.code_to_id[code]))
        codes.append(code)
        entropies.append(e)
    return Answer(text, token == v.image_start, np.reshape(codes, grid), np.reshape(entropies, grid))
