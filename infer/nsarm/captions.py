"""What a model is told of a photo: a caption, or its own prompt; and all that follows from it, computed once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path, PurePosixPath
from weakref import WeakKeyDictionary

import jax.numpy as jnp
from jax import Array

from pure_jax.errors import PureError
from pure_jax.nsarm.conditioning import Captions, Conditioning, condition
from pure_jax.nsarm.model import NsarmModel
from pure_jax.nsarm.text import caption_ids, encode_text

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
        features, valid = text_features(model, caption)
        rows = 2 if guided else 1
        features, valid = (jnp.repeat(x, rows, axis=0) for x in (features, valid))
        captions = Captions(features, valid, jnp.arange(rows) == 1)
        config, params = model.config.transformer, model.params["transformer"]
        known = {(caption, guided): condition(config, params, captions, model.dtype)}
        _KNOWN[model] = known
    return known[caption, guided]


def text_features(model: NsarmModel, caption: str) -> tuple[Array, Array]:
    """(float32 [1, n, text_size], bool [1, n]): a caption's features, or, where it is "", those of the model's prompt.

    Raises:
        PureError: as `conditioning_of`.
    """
    if caption in ("", model.config.prompt) and model.config.prompt_length:
        features = model.params["prompt"]["features"][None]
        return features, jnp.ones(features.shape[:2], bool)
    encoder = model.text_encoder
    assert model.tokenizer is not None, "a model with a text encoder is read with its tokenizer"
    ids, valid = caption_ids(model.tokenizer, caption or model.config.prompt, model.config.transformer.text_length)
    return encode_text(encoder, model.params["text_encoder"], ids, valid), jnp.asarray(valid)


def with_prompt(model: NsarmModel, prompt: str = "") -> NsarmModel:
    """The same model with the features of its prompt in the place of its text encoder: it reads no other captions.

    prompt: a new one; "" keeps the model's. Raises PureError as `conditioning_of`.
    """
    config = dataclasses.replace(model.config, prompt=prompt or model.config.prompt)
    features, valid = text_features(dataclasses.replace(model, config=config), "")
    features = features[:, : int(valid.sum())]
    kept = {name: own for name, own in model.params.items() if name not in ("text_encoder", "prompt")}
    return dataclasses.replace(
        model,
        config=dataclasses.replace(config, text_encoder=None, prompt_length=features.shape[1]),
        params=kept | {"prompt": {"features": features[0]}},
        tokenizer=None,
    )


def read_captions(file: Path) -> dict[str, str]:
    """Captions by the names of their photos, without folder and ending, of a file with a JSON object in each line.

    An object has `image_path` and `long_caption`, as NSARM's test sets have them.

    Raises:
        PureError: the file is missing, or a line is no such object.
    """
    captions = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise PureError(f"{file} cannot be read as text; name a file with one JSON object in each line") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            name, caption = content["image_path"], content["long_caption"]
            captions[PurePosixPath(name.replace("\\", "/")).stem] = caption.strip()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PureError(f"{file}, line {number}: no JSON object with image_path and long_caption") from error
    return captions


def caption_of(file: Path, photo: Path) -> str:
    """A photo's caption in a file of `read_captions`. Raises PureError if it has none, and what that raises."""
    captions = read_captions(file)
    if photo.stem not in captions:
        raise PureError(f"{file} has no caption for {photo.stem!r} among its {len(captions)}; give it with --text")
    return captions[photo.stem]
