"""Batches for NSARM, by step: crops of photographs, and pairs of them with a low-quality picture."""

from __future__ import annotations

import dataclasses

import numpy as np
from einops import rearrange
from PIL import Image

from pure_jax.nsarm.config import NsarmConfig
from pure_jax.train.data.degradation import PRESETS, degrade
from pure_jax.train.data.photos import Photo, random_crop
from pure_jax.train.nsarm.config import MapTrainConfig, ScalesTrainConfig, VAETrainConfig

TILES = 2
"""Tiles along a region's side. A region is degraded as a whole, so that a tile's blur reaches beyond its edges."""


def pairs_at(
    photos: list[Photo], config: NsarmConfig, options: MapTrainConfig | ScalesTrainConfig, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Low-quality tiles uint8 [batch, low, low, 3] and the photos' [batch, tile, tile, 3]; depends on (seed, step)."""
    degradation = PRESETS[options.degradation]
    if options.sharpen:
        degradation = dataclasses.replace(degradation, usm_gt="input_only")
    low: list[np.ndarray] = []
    high: list[np.ndarray] = []
    for region in range(-(-options.batch // TILES**2)):
        rng = np.random.default_rng([options.seed, step, region])
        photo = random_crop(photos, TILES * config.tile_size, rng)[0]
        lq, _ = degrade(
            photo.astype(np.float32) / 255, degradation, int(rng.integers(2**31)), scale=config.magnification
        )
        for tiles, image in ((low, lq), (high, photo)):
            tiles.extend(rearrange(image, "(r y) (c x) d -> (r c) y x d", r=TILES, c=TILES))
    return np.stack(low[: options.batch]), np.stack(high[: options.batch])


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
