"""The model directory: config.json, tokenizer.json, and the two networks' parameters as safetensors or Orbax.

    config.json          ModelConfig
    tokenizer.json       Hugging Face tokenizers file
    transformer.safetensors | transformer/     names are parameter paths joined by "."
    vqgan.safetensors       | vqgan/
    README.md            model card

A directory appears whole or not at all: it is written beside and renamed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pure_jax.config import ModelConfig, from_dict, to_dict
from pure_jax.errors import PureError
from pure_jax.model import Model
from pure_jax.transformer import Transformer, stack_layers, unstack_layers
from pure_jax.vocabulary import load_vocabulary
from pure_jax.vqgan import VQGAN

NETWORKS = ("transformer", "vqgan")
DTYPES = ("auto", "float32", "bfloat16", "float16")
Format = Literal["safetensors", "orbax"]


def demo_directory() -> Path:
    """Where the embedded demo model lies."""
    return Path(str(files("pure_jax") / "assets" / "demo"))


def save(
    directory: str | os.PathLike,
    config: ModelConfig,
    params: Mapping[str, Any],
    tokenizer_json: str,
    card: str,
    format: Format = "safetensors",
    dtype: Any = None,
) -> None:
    """Write a model directory.

    Args:
        directory: must not exist yet.
        params: {"transformer": nested dict, "vqgan": nested dict}, laid out as `config` says.
        tokenizer_json: the tokenizer file's text; card: README.md's text.
        dtype: cast floating parameters to this before writing; None keeps them.

    Raises:
        PureError: the directory exists or cannot be written.
    """
    target = Path(directory)
    if target.exists():
        raise PureError(f"{target} exists already; name a new directory or remove it first")
    partial = target.with_name(target.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "config.json").write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
        (partial / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")
        for name in NETWORKS:
            tree = params[name] if dtype is None else jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params[name])
            _write_network(partial, name, jax.tree.map(np.asarray, tree), format)
        os.replace(partial, target)
    except OSError as error:
        raise PureError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_network(directory: Path, name: str, tree: Any, format: Format) -> None:
    """Write one network's parameters, numpy arrays; raises OSError."""
    try:
        if format == "orbax":
            import orbax.checkpoint as ocp

            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(directory.resolve() / name, tree)
        else:
            flat = traverse_util.flatten_dict(tree, sep=".")
            file = directory / f"{name}.safetensors"
            save_file({k: np.ascontiguousarray(v) for k, v in flat.items()}, file)
            file.chmod((directory / "config.json").stat().st_mode)  # safetensors leaves it readable by its owner only
    except (SafetensorError, ValueError) as error:  # how the two libraries report a full disk
        raise OSError(str(error).splitlines()[0]) from error


def read_config(directory: Path) -> ModelConfig:
    """Parse and check config.json.

    Raises:
        PureError: no such directory or file, no JSON, unknown or ill-typed fields, values out of range.
    """
    path = directory / "config.json"
    if not directory.is_dir():
        raise PureError(f"{directory} is not a model directory: there is no such directory")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PureError(f"{directory} is not a model directory: config.json is missing") from error
    except (OSError, ValueError) as error:
        raise PureError(f"{path} cannot be read as JSON: {error}") from error
    try:
        return from_dict(ModelConfig, values, str(path))
    except PureError as error:
        raise error if str(path) in str(error) else PureError(f"{path}: {error}") from error


def expected_shapes(config: ModelConfig) -> dict[str, Any]:
    """Shapes and dtypes of every parameter, from the configuration alone: {"transformer": tree, "vqgan": tree}."""
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    side = config.vqgan.stride
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    key = jax.random.key(0)
    return {
        "transformer": jax.eval_shape(Transformer(config.transformer).init, key, token, token)["params"],
        "vqgan": jax.eval_shape(VQGAN(config.vqgan).init, key, image)["params"],
    }


def _read_network(directory: Path, name: str, shapes: Any) -> Any:
    """One network's parameters as numpy arrays, checked leaf by leaf against `shapes`."""
    file, folder = directory / f"{name}.safetensors", directory / name
    wanted = traverse_util.flatten_dict(shapes, sep=".")
    if file.is_file():
        try:
            found: dict[str, Any] = dict(load_file(file))
        except (SafetensorError, OSError, ValueError) as error:
            raise PureError(f"{file} is broken and cannot be read ({error}); get the file again") from error
    elif folder.is_dir():
        import orbax.checkpoint as ocp

        try:
            with ocp.StandardCheckpointer() as checkpointer:
                tree = checkpointer.restore(folder.resolve())
        except (ValueError, OSError, KeyError) as error:
            raise PureError(f"{folder} is no complete Orbax checkpoint; get the directory again") from error
        found = {key: np.asarray(leaf) for key, leaf in traverse_util.flatten_dict(tree, sep=".").items()}
        file = folder
    else:
        raise PureError(f"{directory} is not a complete model directory: {name}.safetensors is missing")
    problems = [f"{key} is missing" for key in wanted if key not in found]
    problems += [f"{key} is unknown" for key in found if key not in wanted]
    problems += [
        f"{key} has shape {list(found[key].shape)} instead of {list(leaf.shape)}"
        for key, leaf in wanted.items()
        if key in found and found[key].shape != leaf.shape
    ]
    problems += [
        f"{key} holds {value.dtype} instead of floating-point numbers"
        for key, value in found.items()
        if not jnp.issubdtype(value.dtype, jnp.floating)
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise PureError(f"{file} does not fit config.json: {problems[0]}{more}")
    for key, value in found.items():
        if not np.isfinite(value.astype(np.float32)).all():
            raise PureError(f"{file} holds values that are not finite in {key}; get the file again")
    return traverse_util.unflatten_dict(found, sep=".")


def load(directory: str | os.PathLike | None = None, dtype: str = "auto", scan_layers: bool | None = None) -> Model:
    """Load a native model directory.

    Args:
        directory: None means the embedded demo model.
        dtype: the transformer's compute and parameter dtype; "auto" is float32 on CPU (where bfloat16 is slow) and
            bfloat16 elsewhere. The image tokenizer always runs in float32.
        scan_layers: scan over stacked layers or unroll them; None unrolls on CPU, where that decodes faster.

    Raises:
        PureError: what `read_config` refuses; a missing, broken or unfitting part; an unknown dtype.
    """
    from tokenizers import Tokenizer

    path = demo_directory() if directory is None else Path(directory)
    if dtype not in DTYPES:
        raise PureError(f"dtype is {dtype!r}, but it must be one of {', '.join(DTYPES)}")
    on_cpu = jax.default_backend() == "cpu"
    compute = jnp.dtype(("float32" if on_cpu else "bfloat16") if dtype == "auto" else dtype)
    config = read_config(path)
    tokenizer_file = path / "tokenizer.json"
    vocabulary = load_vocabulary(tokenizer_file, config.codes_per_grid, config.vqgan.codebook_size)
    if vocabulary.size > config.transformer.vocab_size:
        raise PureError(
            f"{tokenizer_file} has {vocabulary.size} ids, more than the model's vocab_size "
            f"{config.transformer.vocab_size}; it belongs to another model"
        )
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library has no class of its own for this
        raise PureError(f"{tokenizer_file} is not a tokenizer file of the Hugging Face tokenizers library") from error
    shapes = expected_shapes(config)
    params = {name: _read_network(path, name, shapes[name]) for name in NETWORKS}
    scan = not on_cpu if scan_layers is None else scan_layers
    if scan != config.transformer.scan_layers:
        params["transformer"] = (stack_layers if scan else unstack_layers)(params["transformer"])
        config = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, scan_layers=scan))
    params["transformer"] = jax.tree.map(lambda leaf: jnp.asarray(leaf, compute), params["transformer"])
    params["vqgan"] = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params["vqgan"])
    return Model(config, params, tokenizer, vocabulary, compute)
