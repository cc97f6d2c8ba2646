"""What the transformer is told of the photos it is trained on: their captions, for the model's text encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pure_jax.errors import PureError
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.nsarm.text import caption_ids
from pure_jax.train.data.photos import Photo

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Told(NamedTuple):
    """Captions as the text encoder reads them; arrays of either NumPy or JAX."""

    ids: Any
    """int32 [captions, length]"""
    valid: Any
    """bool [captions, length]: False for what only fills up."""


def captions_of(photos: list[Photo], tokenizer: Tokenizer, config: NsarmConfig) -> Told:
    """Each photo's caption, or the model's prompt where it has none; all as long as the longest.

    Raises:
        PureError: a caption has more tokens than the model reads; its photo is named.
    """
    each = []
    for photo in photos:
        try:
            each.append(caption_ids(tokenizer, photo.caption or config.prompt, config.transformer.text_length))
        except PureError as error:
            raise PureError(f"{photo.name}: {error}") from error
    length = max(ids.shape[1] for ids, _ in each)
    return Told(*(np.concatenate([_padded(part, length) for part in parts]) for parts in zip(*each, strict=True)))


def _padded(row: np.ndarray, length: int) -> np.ndarray:
    return np.pad(row, ((0, 0), (0, length - row.shape[1])))
