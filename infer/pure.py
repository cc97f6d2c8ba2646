"""PURE's way to restore tiles: encode, answer token by token, decode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from pure_jax.config import SamplingConfig
from pure_jax.infer.contract import Progress, RestoredTile, RestoredTiles
from pure_jax.infer.decoding.generate import Answer, generate
from pure_jax.model import Model

VQGAN_BATCH = 16  # tiles; bounds the memory of the convolutions, whatever the picture's size


def restore_tiles(
    model: Model,
    tiles: np.ndarray,
    *,
    seed: int,
    batch: int | None,
    progress: Progress,
    sampling: SamplingConfig | None = None,
    text: str = "",
    faithful: bool = False,
) -> RestoredTiles:
    """Restore tiles, see `pure_jax.infer.contract.RestoreTiles`.

    Args:
        text: words that every answer must begin with; the model continues them.
        faithful: as the original: text unmasked, the picture's size drawn by the model, one token a step.

    Raises:
        PureError: what `generate` refuses.
    """
    answers = generate(
        model,
        _in_parts(model.encode, tiles),
        seed=seed,
        sampling=sampling,
        text_prefix=text,
        faithful=faithful,
        batch=batch,
        progress=progress,
    )
    side = tiles.shape[1] // model.config.stride
    restored = [
        RestoredTile(image, _resized(answer.entropy, side), answer.text)
        for image, answer in zip(_decode(model, answers, side), answers, strict=True)
    ]
    return RestoredTiles(restored, _remarks(answers, side))


def _decode(model: Model, answers: list[Answer], side: int) -> np.ndarray:
    """uint8 [n, tile, tile, 3]; a picture of another size (faithful mode only) is resized to its tile."""
    if all(answer.codes.shape == (side, side) for answer in answers):
        return _in_parts(model.decode, np.stack([answer.codes for answer in answers]))
    images = [Image.fromarray(model.decode(answer.codes)) for answer in answers]
    size = (side * model.config.stride,) * 2
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in images])


def _resized(entropy: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(entropy).resize((side, side)))


def _in_parts(apply: Callable[[np.ndarray], np.ndarray], array: np.ndarray) -> np.ndarray:
    """Apply a function to at most VQGAN_BATCH items at a time.

    All parts are equally long, the last filled up with the last item, so that one compiled program serves them all.
    """
    parts = -(-len(array) // VQGAN_BATCH)
    length = -(-len(array) // parts)
    places = np.minimum(np.arange(parts * length), len(array) - 1).reshape(parts, length)
    return np.concatenate([apply(array[part]) for part in places])[: len(array)]


def _remarks(answers: list[Answer], side: int) -> list[str]:
    remarks = []
    unopened = sum(not answer.opened for answer in answers)
    if unopened:
        remarks.append(f"the model did not open a picture itself in {unopened} of {len(answers)} tiles; it was forced")
    resized = sum(answer.codes.shape != (side, side) for answer in answers)
    if resized:
        remarks.append(f"the model chose another size in {resized} of {len(answers)} tiles; they were resized")
    return remarks
