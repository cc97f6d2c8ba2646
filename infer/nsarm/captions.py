"""What a model is told of a photo: a caption, or its own prompt; and all that follows from it, computed once."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import jax.numpy as jnp
from jax import Array

from pure_jax.errors import PureError
from pure_jax.nsarm.conditioning import Captions, Conditioning, condition
from pure_jax.nsarm.model import NsarmModel

_KNOWN: WeakKeyDictionary[NsarmModel, dict[tuple[str, bool], Conditioning]] = WeakKeyDictionary()
"""The last caption's conditioning, for each model in memory: the photos of a folder mostly have the same."""


def conditioning_of(model: NsarmModel, caption: str, guided: bool) -> Conditioning:
    """One row of conditioning; a second one, whose caption is not told, for guidance.

    caption: "" is the model's own prompt.

    Raises:
        PureError: a caption for a model without a text encoder, or one that is too long.
    """
    known = _KNOWN.get(model, {})
    if (caption, guided) not in known:
        features = text_features(model, caption)[None]
        rows = 2 if guided else 1
        captions = Captions(
            jnp.repeat(features, rows, axis=0), jnp.ones((rows, features.shape[1]), bool), jnp.arange(rows) == 1
        )
        config, params = model.config.transformer, model.params["transformer"]
        known = {(caption, guided): condition(config, params, captions, model.dtype)}
        _KNOWN[model] = known
    return known[caption, guided]


def text_features(model: NsarmModel, caption: str) -> Array:
    """float32 [tokens, text_size] of a caption, or, where it is "", of the model's prompt."""
    if not caption and "prompt" in model.params:
        return model.params["prompt"]["features"]
    raise PureError("this model has no text encoder and knows its own prompt only; leave the caption out")
