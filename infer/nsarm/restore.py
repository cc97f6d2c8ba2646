"""NSARM's way to restore tiles: their latents are written scale by scale, then decoded."""

from __future__ import annotations

from typing import Any

import numpy as np

from pure_jax.infer.contract import Progress, RestoredTile, RestoredTiles
from pure_jax.infer.nsarm.captions import conditioning_of
from pure_jax.infer.nsarm.generate import MAX_BATCH, equal_parts, generate, usual_batch
from pure_jax.nsarm.config import NsarmConfig, SamplingConfig
from pure_jax.nsarm.model import NsarmModel, decode_latents
from pure_jax.nsarm.vae import fitting


def restore_tiles(
    model: NsarmModel,
    tiles: np.ndarray,
    *,
    seed: int,
    batch: int | None,
    progress: Progress,
    sampling: SamplingConfig | None = None,
    text: str = "",
    noise: Any = None,
) -> RestoredTiles:
    """Restore tiles, see `pure_jax.infer.contract.RestoreTiles`.

    Args:
        text: a caption of the whole photo; "" tells the model's own prompt.
        noise: see `pure_jax.infer.nsarm.generate.generate`.

    Raises:
        PureError: what `conditioning_of` and `generate` refuse.
    """
    sampling = sampling or model.config.sampling
    progress("encode", 0, len(tiles))
    about = conditioning_of(model, text, sampling.guided)
    written = generate(model, tiles, about, seed=seed, sampling=sampling, noise=noise, batch=batch, progress=progress)
    vae, most = fitting(model.config.vae, *[model.config.tile_size] * 2)
    images: list[np.ndarray] = []
    for places in equal_parts(len(tiles), min(most, MAX_BATCH)):
        progress("decode", len(images), len(tiles))
        images.extend(np.asarray(decode_latents(vae, model.params["vae"], written.latents[places])))
    restored = [RestoredTile(image, own) for image, own in zip(images, written.entropy, strict=False)]
    return RestoredTiles(restored, [])


def tiles_together(config: NsarmConfig, dtype: Any) -> int:
    """How many tiles are written together, if there are so many and nobody says."""
    return usual_batch(config, config.sampling, dtype)
