"""Batches for NSARM, by step: crops of photographs, and pairs of them with a low-quality picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from PIL import Image

from pure_jax.infer.pictures.enlarge import enlarge
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.train.data.degradation import PRESETS, degrade
from pure_jax.train.data.photos import Photo, random_crop
from pure_jax.train.nsarm.config import MapTrainConfig, ScalesTrainConfig, VAETrainConfig
from pure_jax.train.nsarm.told import Told


class Pairs(NamedTuple):
    """A batch of both stages; arrays of either NumPy or JAX."""

    low: Any
    """Low-quality tiles, uint8 [batch, low, low, 3]."""
    high: Any
    """The photos' tiles, uint8 [batch, tile, tile, 3]."""
    told: Told | None = None
    """What is told of each; None where all have the model's prompt."""


def pairs_at(
    photos: list[Photo],
    config: NsarmConfig,
    options: MapTrainConfig | ScalesTrainConfig,
    step: int,
    told: Told | None = None,
    rows: Collection[int] | None = None,
) -> Pairs:
    """The batch of a step; it depends on (seed, step) alone.

    told: of each photo, in their order. rows: those of the batch that are wanted; others may be zeros. None wants all.
    """
    degradation = PRESETS[options.degradation]
    if options.sharpen:
        degradation = dataclasses.replace(degradation, usm_gt="input_only")
    per_region, side = options.region**2, config.tile_size
    regions = -(-options.batch // per_region)
    wanted = range(regions) if rows is None else sorted({row // per_region for row in rows})
    low, high = (np.zeros((regions * per_region, n, n, 3), np.uint8) for n in (config.low_quality_size, side))
    shown = np.zeros(regions * per_region, np.int64)
    for region in wanted:
        rng = np.random.default_rng([options.seed, step, region])
        photo, index = random_crop(photos, options.region * side, rng)
        lq, _ = degrade(photo.astype(np.float32) / 255, degradation, int(rng.integers(2**31)), scale=options.reduction)
        shown_side = options.region * config.low_quality_size
        lq = enlarge(lq, shown_side, shown_side)
        own = slice(region * per_region, (region + 1) * per_region)
        shown[own] = index
        for tiles, image in ((low, lq), (high, photo)):
            tiles[own] = rearrange(image, "(r y) (c x) d -> (r c) y x d", r=options.region, c=options.region)
    taken = shown[: options.batch]
    texts = None if told is None else Told(told.ids[taken], told.valid[taken])
    return Pairs(low[: options.batch], high[: options.batch], texts)


def crops_at(photos: list[Photo], config: NsarmConfig, options: VAETrainConfig, step: int) -> np.ndarray:
    """uint8 [batch, tile, tile, 3], some of them low-quality pictures; depends on (seed, step)."""
    rng = np.random.default_rng([options.seed, step])
    return np.stack([_crop(photos, config.tile_size, options.degraded_share, rng) for _ in range(options.batch)])


def _crop(photos: list[Photo], size: int, degraded_share: float, rng: np.random.Generator) -> np.ndarray:
    """A low-quality picture is shown half as large as restored: what the tokenizer reads is small, and what it need not
    read is not worth its bits."""
    if rng.random() >= degraded_share:
        return random_crop(photos, size, rng)[0]
    clean = random_crop(photos, 2 * size, rng)[0].astype(np.float32) / 255
    lq, _ = degrade(clean, PRESETS["real-esrgan"], int(rng.integers(2**31)), scale=2)
    return np.asarray(Image.fromarray(lq).resize((size, size), Image.Resampling.BICUBIC))
