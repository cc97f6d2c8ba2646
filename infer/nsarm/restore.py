"""NSARM's way to restore tiles: their latents are written scale by scale, then decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pure_jax.infer.contract import Preview, Progress, RestoredTile, RestoredTiles
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
    first: int = 0,
    sampling: SamplingConfig | None = None,
    text: str = "",
    noise: Any = None,
    preview: Preview | None = None,
) -> RestoredTiles:
    """Restore tiles, see `pure_jax.infer.contract.RestoreTiles`.

    Args:
        text: a caption of the whole photo; "" tells the model's own prompt.
        noise: see `pure_jax.infer.nsarm.generate.generate`.
        preview: is shown the tiles after each scale.

    Raises:
        PureError: what `conditioning_of` and `generate` refuse.
    """
    sampling = sampling or model.config.sampling
    progress("encode", 0, len(tiles))
    about = conditioning_of(model, text, sampling.guided)

    def show(places: np.ndarray, share: float, latents: Callable[[], np.ndarray]) -> None:
        if preview is not None:
            preview(places, share, lambda: np.stack(_decoded(model, latents())))

    written = generate(
        model, tiles, about, seed=seed, first=first, sampling=sampling, noise=noise, batch=batch, progress=progress,
        show=show,
    )  # fmt: skip
    images = _decoded(model, written.latents, lambda done: progress("decode", done, len(tiles)))
    restored = [RestoredTile(image, own) for image, own in zip(images, written.entropy, strict=True)]
    return RestoredTiles(restored, [])


def _decoded(
    model: NsarmModel, latents: np.ndarray, begun: Callable[[int], None] = lambda done: None
) -> list[np.ndarray]:
    """Pixels of latents float32 [n, H, W, bits of a position], as many at a time as fit."""
    vae, most = fitting(model.config.vae, *[model.config.tile_size] * 2)
    images: list[np.ndarray] = []
    for places in equal_parts(len(latents), min(most, MAX_BATCH)):
        begun(len(images))
        images.extend(np.asarray(decode_latents(vae, model.params["vae"], latents[places])))
    return images[: len(latents)]


def tiles_together(config: NsarmConfig, dtype: Any) -> int:
    """How many tiles are written together, if there are so many and nobody says."""
    return usual_batch(config, config.sampling, dtype)
