"""PURE, the first family, as a model directory sees it: its networks' parameters and its tokenizer file."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import traverse_util

from pure_jax.config import ModelConfig, TransformerConfig, VQGANConfig
from pure_jax.errors import PureError
from pure_jax.transformer import Transformer
from pure_jax.vocabulary import Vocabulary, load_vocabulary
from pure_jax.vqgan import VQGAN


@cache
def parameter_shapes(config: TransformerConfig | VQGANConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of a network by path, sorted, from its configuration alone."""
    key = jax.random.key(0)
    if isinstance(config, TransformerConfig):
        token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        # Scanned, a block is traced once, however many layers there are.
        scanned = dataclasses.replace(config, scan_layers=True)
        variables = jax.eval_shape(Transformer(scanned).init, key, token, token)
    else:
        image = jax.ShapeDtypeStruct((1, config.stride, config.stride, 3), jnp.float32)
        variables = jax.eval_shape(VQGAN(config).init, key, image)
    flat = traverse_util.flatten_dict(variables["params"], sep=".")
    shapes = {path: leaf.shape for path, leaf in flat.items()}
    if isinstance(config, TransformerConfig) and not config.scan_layers:
        stack = [path for path in shapes if path.startswith("layers.")]
        layer = {path.removeprefix("layers."): shapes.pop(path)[1:] for path in stack}
        shapes |= {f"layers_{i}.{path}": shape for i in range(config.num_layers) for path, shape in layer.items()}
    return dict(sorted(shapes.items(), key=lambda item: item[0].split(".")))


def network_shapes(config: ModelConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Both networks' parameters."""
    return {"transformer": parameter_shapes(config.transformer), "vqgan": parameter_shapes(config.vqgan)}


def read_tokenizer(file: Path, config: ModelConfig) -> tuple[str, Vocabulary]:
    """A tokenizer file's text and what its names mean.

    Raises:
        PureError: the file is missing or broken, or made for a model of other sizes.
    """
    vocabulary = load_vocabulary(file, config.codes_per_grid, config.vqgan.codebook_size)
    if vocabulary.size > config.transformer.vocab_size:
        raise PureError(
            f"{file} has {vocabulary.size} ids, more than the model's vocab_size "
            f"{config.transformer.vocab_size}; it belongs to another model"
        )
    return file.read_text(encoding="utf-8"), vocabulary
