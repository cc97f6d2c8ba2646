"""Writing the latents of many pictures, some at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from pure_jax.errors import PureError
from pure_jax.infer.contract import Progress, silent
from pure_jax.infer.halving import with_halved_batches
from pure_jax.infer.nsarm.passes import Networks, first_scales, prefill, write_scale
from pure_jax.infer.nsarm.sampling import Noise, noise_of
from pure_jax.nsarm.conditioning import Conditioning
from pure_jax.nsarm.config import NsarmConfig, SamplingConfig
from pure_jax.nsarm.model import NsarmModel
from pure_jax.nsarm.transformer import row_bytes

CACHE_BYTES = 2**30
MAX_BATCH = 16

Show = Callable[[np.ndarray, float, Callable[[], np.ndarray]], None]
"""Called after the map network's scales and each scale that is drawn, with (which pictures, int [n]; the share of their
tokens that is written; a function that fetches the sum of scales so far, float32 [n, H, W, bits of a position])."""


def unseen(pictures: np.ndarray, share: float, latents: Callable[[], np.ndarray]) -> None:
    """A `Show` that does not look."""


@dataclass(frozen=True)
class Written:
    """What was written for n pictures.

    latents: float32 [n, H, W, bits of a position], sums of all scales' codes. entropy: float32 [n, h, w], nats per
    token of the finest scale. bits: of each scale that was drawn, bool [n, height, width, bits of a position].
    """

    latents: np.ndarray
    entropy: np.ndarray
    bits: list[np.ndarray]


def generate(
    model: NsarmModel,
    pictures: np.ndarray,
    about: Conditioning,
    *,
    seed: int = 0,
    first: int = 0,
    sampling: SamplingConfig | None = None,
    noise: Any = None,
    batch: int | None = None,
    progress: Progress = silent,
    show: Show = unseen,
) -> Written:
    """Write each low-quality picture anew.

    The noise of a bit depends on the seed, its picture's number, its scale, token and place in the token only, so
    `batch` does not change the result, up to ties of floating point.

    Args:
        pictures: uint8 [n, side, side, 3], side as the configuration's low_quality_size.
        first: number of the first picture; the others' follow.
        about: one row; with guidance a second one, whose caption is not told.
        noise: instead of the seed's, for each drawn scale: float32 [n, tokens, bits of a token].
        batch: pictures worked on together; None takes as many as keep the cache within 1 GiB, at most 16. Where the
            device runs out of memory, half as many are tried, with a warning.
        show: watches; changes nothing.

    Raises:
        PureError: seed or batch out of range, noise of other shapes.
    """
    config = model.config
    sampling = sampling or config.sampling
    if batch is not None and batch < 1:
        raise PureError(f"the batch is {batch}; restore 1 or more pictures at a time")
    given, count, ends = config.given_scales, len(pictures), config.ends
    drawn = range(given, len(ends))
    tokens = [ends[i] - ends[i - 1] for i in drawn]
    draw = noise_of(noise, seed, given, [(count, n, config.transformer.token_bits) for n in tokens])
    if batch is None:
        batch = usual_batch(config, sampling, model.dtype)
    nets = Networks(config, model.vae, model.map_network, model.transformer)
    progress("compile", 0, 0)  # until the first scale is there, as programs are compiled when they are called

    def write(batch: int) -> list[tuple]:
        return _write(model, nets, sampling, pictures, about, draw, first, batch, progress, show)

    parts = with_halved_batches(write, batch, "try another --dtype, or a smaller size of the model")
    latents, entropies, *all_bits = (np.concatenate(own)[:count] for own in zip(*parts, strict=True))
    return Written(latents, entropies, all_bits)


def usual_batch(config: NsarmConfig, sampling: SamplingConfig, dtype: Any) -> int:
    """How many pictures are written together if nobody says: their caches fit into CACHE_BYTES; 1 to MAX_BATCH."""
    rows = 2 if sampling.guided else 1
    each = rows * row_bytes(config.transformer, config.ends[-1], dtype)
    return max(1, min(MAX_BATCH, CACHE_BYTES // each))


def _write(
    model: NsarmModel,
    nets: Networks,
    sampling: SamplingConfig,
    pictures: np.ndarray,
    about: Conditioning,
    draw: Noise,
    first: int,
    batch: int,
    progress: Progress,
    show: Show,
) -> list[tuple]:
    """(latents, entropy, *bits of each drawn scale) of all pictures, `batch` at a time."""
    config, count, parts = model.config, len(pictures), list[tuple]()
    ends, drawn = config.ends, range(config.given_scales, len(config.sides))
    tokens = [ends[i] - ends[i - 1] for i in drawn]
    rows = 2 if sampling.guided else 1
    for places in equal_parts(count, batch):
        own = about.rows(jnp.repeat(jnp.arange(rows), len(places)))
        total, inputs = first_scales(nets, model.params, pictures[places])
        cache = prefill(nets, model.params, inputs, own) if tokens else None
        entropy = jnp.zeros((len(places), *config.scales[-1]))
        own_places, bits = np.unique(places), []
        looked = partial(_fetched, len(own_places))
        show(own_places, ends[config.given_scales - 1] / ends[-1], partial(looked, total))
        for i, scale in enumerate(drawn):
            total, cache, entropy, new = write_scale(
                nets, sampling, scale, model.params, own, total, cache, draw, jnp.asarray(first + places)
            )
            bits.append(np.asarray(new))
            done = sum(len(part[0]) for part in parts) * sum(tokens) + len(places) * sum(tokens[: i + 1])
            show(own_places, ends[scale] / ends[-1], partial(looked, total))
            progress("restore", min(done, count * sum(tokens)), count * sum(tokens))
        parts.append((np.asarray(total), np.asarray(entropy), *bits))
    return parts


def _fetched(count: int, total: Array) -> np.ndarray:
    return np.asarray(total[:count])


def equal_parts(count: int, most: int) -> np.ndarray:
    """Places int32 [parts, length], the last ones filled up, so that one compiled program serves all parts."""
    parts = -(-count // most)
    length = -(-count // parts)
    return np.minimum(np.arange(parts * length, dtype=np.int32), count - 1).reshape(parts, length)
