"""What is timed: a transformer and its vocabulary, of a loaded model or of a bare configuration with random weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array

from pure_jax.checkpoint import compute_dtype
from pure_jax.config import ModelConfig, TransformerConfig
from pure_jax.errors import PureError
from pure_jax.infer.decoding.contract import Params
from pure_jax.infer.decoding.cost import Network
from pure_jax.infer.decoding.memory import available_memory
from pure_jax.model import Model
from pure_jax.pure import parameter_shapes
from pure_jax.quantisation import is_pair
from pure_jax.sequence import image_block
from pure_jax.transformer import Transformer
from pure_jax.vocabulary import (
    BOS,
    EOS,
    FIRST_GRID,
    IMAGE_END,
    IMAGE_START,
    NEW_LINE,
    PAD,
    SEPARATOR,
    UNKNOWN,
    Vocabulary,
    code_name,
    reserved_name,
    vocabulary_from_names,
)

INSTRUCTION_TOKENS = 22
"""PURE's instruction in its tokenizer, about."""
TEXT_TOKENS = 100
"""An answer's text before the picture, about."""
GRIDS = 64


@dataclass(frozen=True, eq=False)
class Subject:
    """`model` is there where the weights are real: only those say how many passes a picture takes."""

    config: ModelConfig
    params: Params
    vocabulary: Vocabulary
    dtype: Any
    model: Model | None = None

    @property
    def net(self) -> Transformer:
        return Transformer(self.config.transformer, self.dtype)

    @property
    def network(self) -> Network:
        return Network(self.config.transformer, self.dtype, self.vocabulary.codebook_size)

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width, in codes, of the pictures that the model was made for."""
        return (self.config.tile_size // self.config.stride,) * 2

    @property
    def guided(self) -> bool:
        return self.config.sampling.guidance_scale != 1.0


def loaded(model: Model) -> Subject:
    """A model in memory. Raises PureError for one of another family than PURE."""
    if not isinstance(model, Model):
        raise PureError(f"a model of the family {model.config.family} cannot be measured here; only PURE's can")
    return Subject(model.config, model.params["transformer"], model.vocabulary, model.dtype, model)


def precision_options(precision: str) -> dict[str, Any]:
    """Options of `pure_jax.load` for a precision; int8: of weights and cache, in the platform's compute dtype."""
    return {"dtype": "auto", "weights": "int8", "cache": "int8"} if precision == "int8" else {"dtype": precision}


def bare_precision(config: ModelConfig, precision: str) -> Subject:
    """`bare` with a precision's name."""
    dtype, *int8 = precision_options(precision).values()
    if int8:
        config = dataclasses.replace(
            config, transformer=dataclasses.replace(config.transformer, weights="int8", cache="int8")
        )
    return bare(config, compute_dtype(dtype))


def bare(config: ModelConfig, dtype: Any, seed: int = 0) -> Subject:
    """Random weights, made on the device. Layers as `pure_jax.load` would have them; text as long as PURE's, at most.

    Raises:
        PureError: the vocabulary is too small for the codes, or the device's memory for the weights.
    """
    network = Network(config.transformer, dtype, config.vqgan.codebook_size)
    available = available_memory()
    if available is not None and network.all_weights > available:
        raise PureError(
            f"the weights take {network.all_weights / 1e9:.1f} GB in {jnp.dtype(dtype).name}, but "
            f"{available / 1e9:.1f} GB of memory are free; choose a smaller configuration or precision"
        )
    scan = jax.default_backend() != "cpu"
    sampling = dataclasses.replace(config.sampling, max_text_tokens=min(TEXT_TOKENS, config.sampling.max_text_tokens))
    transformer = dataclasses.replace(config.transformer, scan_layers=scan)
    config = dataclasses.replace(config, transformer=transformer, sampling=sampling)
    vocabulary = bare_vocabulary(config)
    return Subject(config, random_parameters(transformer, dtype, seed), vocabulary, jnp.dtype(dtype))


def random_parameters(config: TransformerConfig, dtype: Any, seed: int = 0) -> Params:
    """Parameters in `dtype`, each made where it stays: norms are 1, biases 0, all else N(0, 0.02)."""
    key, shapes = jax.random.key(seed), parameter_shapes(config)

    def made(i: int, path: str) -> Array:
        kind = path.rsplit(".", 1)[-1]
        own = {"kernel": jnp.int8, "scale": jnp.float32}[kind] if is_pair(path, shapes) else jnp.dtype(dtype)
        return _random(jax.random.fold_in(key, i), kind, shapes[path], own)

    return traverse_util.unflatten_dict({path: made(i, path) for i, path in enumerate(shapes)}, sep=".")


@partial(jax.jit, static_argnums=(1, 2, 3))
def _random(key: Array, kind: str, shape: tuple[int, ...], dtype: Any) -> Array:
    if kind in ("weight", "bias"):
        return jnp.full(shape, kind == "weight", dtype)
    if kind == "scale":  # of int8 kernels, so that these stand for N(0, 0.02) too
        return jnp.full(shape, 0.02 / 32, dtype)
    if dtype == jnp.int8:
        return (jax.random.normal(key, shape, jnp.bfloat16) * 32).astype(dtype)
    return jax.random.normal(key, shape, dtype) * 0.02


def bare_vocabulary(config: ModelConfig) -> Vocabulary:
    """Ids without a tokenizer, laid out as PURE's: half of the codes in front of the text, half behind it.

    Raises:
        PureError: there is no room for them in the configuration's vocab_size.
    """
    codes = [code_name(code) for code in range(config.vqgan.codebook_size)]
    front = len(codes) - len(codes) // 2
    names = [BOS, PAD, EOS, UNKNOWN, *codes[:front], IMAGE_END, IMAGE_START, SEPARATOR, NEW_LINE]
    names += [reserved_name(FIRST_GRID + n) for n in range(GRIDS + 1)]
    text = config.transformer.vocab_size - len(names) - (len(codes) - front)
    if text < 1:
        raise PureError(
            f"a vocabulary of {config.transformer.vocab_size} ids has no room for {len(codes)} codes, the tokens "
            "around a picture, and text"
        )
    names += [f"text {n}" for n in range(text)] + codes[front:]
    ids = {name: id_ for id_, name in enumerate(names)}
    return vocabulary_from_names(ids, config.codes_per_grid, config.vqgan.codebook_size)


def questions(subject: Subject, grid: tuple[int, int], batch: int, seed: int = 0) -> np.ndarray:
    """Prompts int32 [batch, n] of PURE's length: an instruction of random text ids, a picture of random codes.

    Raises:
        PureError: no token says a picture of this size.
    """
    v, rng = subject.vocabulary, np.random.default_rng(seed)
    text = rng.choice(np.flatnonzero(v.is_text), INSTRUCTION_TOKENS)
    pictures = [image_block(rng.integers(0, v.codebook_size, grid), v) for _ in range(batch)]
    return np.array([[v.bos, *text, *picture, v.separator] for picture in pictures], np.int32)
