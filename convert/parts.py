"""Loading one of PURE's two networks alone: the language model without tokenizers, the image tokenizer without both."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pure_jax.checkpoint import (
    cast_network,
    compute_dtype,
    demo_directory,
    open_network,
    place_network,
    read_config,
    stack,
    unstack,
)
from pure_jax.config import ModelConfig
from pure_jax.convert.opening import find
from pure_jax.convert.upstream import (
    Network,
    is_upstream,
    open_image_tokenizer,
    open_language_model,
    own_image_tokenizer,
)
from pure_jax.errors import PureError
from pure_jax.pure import parameter_shapes
from pure_jax.tensors import cast
from pure_jax.transformer import Transformer
from pure_jax.vqgan import VQGAN

Params = dict[str, Any]


def load_transformer(
    source: str | os.PathLike | None = None,
    dtype: str = "auto",
    scan_layers: bool | None = None,
    *,
    mesh: Mesh | None = None,
    revision: str | None = None,
) -> tuple[Transformer, Params]:
    """Load a language model alone: `transformer.apply({"params": params}, tokens, positions)` gives logits.

    Args:
        source: a model directory, or config.json with safetensors in Hugging Face's layout (PURE, Lumina-mGPT,
            Chameleon); neither needs any tokenizer. A hub id, or None for the embedded demo model.
        dtype, scan_layers, mesh, revision: as in `pure_jax.load`.

    Raises:
        PureError: a part is missing, broken or of another model; an unknown dtype; a size the mesh does not divide.
    """
    compute = compute_dtype(dtype)
    path = find(demo_directory() if source is None else source, revision)
    config, tensors = open_language_model(path).network if is_upstream(path) else _own(path, "transformer")
    tensors = cast_network(tensors, compute)
    scan = jax.default_backend() != "cpu" if scan_layers is None else scan_layers
    if scan != config.scan_layers:
        config, tensors = dataclasses.replace(config, scan_layers=scan), (stack if scan else unstack)(tensors)
    return Transformer(config, compute), place_network("transformer", tensors, mesh)


def load_vqgan(
    source: str | os.PathLike | None = None,
    *,
    weights: str | None = None,
    mesh: Mesh | None = None,
    revision: str | None = None,
) -> tuple[VQGAN, Params]:
    """Load an image tokenizer alone, in float32: `pure_jax.encode_images` and `pure_jax.decode_codes` take it.

    Args:
        source: LlamaGen's file, `.pt` or `.safetensors`; a directory with one `.pt`; a model directory. A hub id, or
            None for the embedded demo model.
        weights: "model" or "ema" of a `.pt` that has both; None prefers "model".
        mesh, revision: as in `pure_jax.load`.

    Raises:
        PureError: the file is missing, broken, of another model or ambiguous; a size the mesh does not divide.
    """
    source = demo_directory() if source is None else source
    path = Path(source) if Path(source).is_file() else find(source, revision)
    if path.is_dir() and (is_upstream(path) or not (path / "config.json").exists()):
        path = own_image_tokenizer(path)
    if path.is_file():
        (config, tensors), _ = open_image_tokenizer(path, weights)
    elif weights is None:
        config, tensors = _own(path, "vqgan")
    else:
        raise PureError(f"{path} is a model directory of this library, with one set of weights; leave weights out")
    tensors = {name: cast(tensor, jnp.float32, name) for name, tensor in tensors.items()}
    return VQGAN(config), place_network("vqgan", tensors, mesh)


def _own(directory: Path, name: str) -> Network:
    """A network of a model directory of this library."""
    config = read_config(directory)
    if not isinstance(config, ModelConfig):
        raise PureError(f"{directory} is a model of the family {config.family}; only PURE's can be loaded in parts")
    own = getattr(config, name)
    return Network(own, open_network(directory, name, parameter_shapes(own)))
