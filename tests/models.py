"""Tiny random models for the tests, and a way to teach them which token follows which."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from tokenizers import Tokenizer

from pure_jax.config import ModelConfig, tiny
from pure_jax.model import Model
from pure_jax.pure import parameter_shapes
from pure_jax.train.tokenizer import train_tokenizer
from pure_jax.vocabulary import Vocabulary, vocabulary_from_names

SECTIONS = ("transformer", "vqgan", "sampling")


@lru_cache
def tiny_tokenizer(codebook_size: int) -> tuple[Tokenizer, Vocabulary]:
    """Trained once per size; the vocabulary is one object, so that tests share their compilations."""
    tokenizer = train_tokenizer(["A cat."], codebook_size=codebook_size, text_vocab=300)
    return tokenizer, vocabulary_from_names(tokenizer.get_vocab(), codebook_size=codebook_size)


def tiny_config(**overrides: Any) -> ModelConfig:
    """The preset `tiny`, layers unrolled, with fields of any of its sections replaced by name."""
    config = tiny()
    overrides = {"scan_layers": False, "max_text_tokens": 7, "k_max": 50.0} | overrides
    for name in SECTIONS:
        section = getattr(config, name)
        own = {f.name: overrides.pop(f.name) for f in dataclasses.fields(section) if f.name in overrides}
        config = dataclasses.replace(config, **{name: dataclasses.replace(section, **own)})
    return dataclasses.replace(config, **overrides)


@lru_cache
def tiny_model(seed: int = 0, **overrides: Any) -> Model:
    """A model with random parameters and lively logits; float32. `overrides` as in `tiny_config`."""
    config = tiny_config(**overrides)
    rng = np.random.default_rng(seed)

    def fill(path: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
        normal = rng.normal(size=shape)
        if path[-1] in ("weight", "scale"):  # of the norms
            normal = 1.0 + 0.2 * normal
        elif path[0] == "transformer":
            normal *= 0.5 if "lm_head" in path else 0.15  # codes' distributions neither flat nor certain
        elif len(shape) > 1:
            normal /= np.sqrt(np.prod(shape[:-1]))
        return jax.device_put(normal.astype(np.float32))

    shapes = {
        (name, *path.split(".")): shape
        for name in ("transformer", "vqgan")
        for path, shape in parameter_shapes(getattr(config, name)).items()
    }
    params = traverse_util.unflatten_dict({path: fill(path, shape) for path, shape in shapes.items()})
    return Model(config, params, *tiny_tokenizer(config.vqgan.codebook_size), jnp.float32)


def teach(params: Mapping[str, Any], follows: Mapping[int, int | tuple[int, ...]]) -> dict[str, Any]:
    """Transformer parameters with which each key of `follows` is followed by its value (or by one of its values).

    Each key gets a channel of the residual stream that only its embedding writes and that the head reads.
    """
    flat = {path: np.array(leaf) for path, leaf in traverse_util.flatten_dict(params).items()}
    channels = np.arange(len(follows))
    for path, leaf in flat.items():
        if path[-2] in ("o_proj", "down_proj"):
            leaf[..., channels] = 0.0
    embedding, head = flat["embed", "embedding"], flat["lm_head", "kernel"]
    embedding[:, channels], head[channels] = 0.0, 0.0
    for channel, (token, after) in enumerate(follows.items()):
        embedding[token, channel] = 100.0
        for next_token in after if isinstance(after, tuple) else (after,):
            head[channel, next_token] = 100.0
    return jax.device_put(traverse_util.unflatten_dict(flat))
