"""Opening NSARM's PyTorch files: a directory with the weights of transformer and map network, image tokenizer, and T5.

    *.pth               transformer with map_transformer.*: flat, or a training checkpoint (trainer.gpt_fsdp)
    *.pth.part0, ...    the same in parts, joined in the order of their names
    *.pth               image tokenizer: {"vae": ...}
    FOLDER/             text encoder in Hugging Face's layout (flan-t5-xl); may be absent
    prompt.safetensors  features of the prompt, where this library wrote the files and the model has them
    nsarm.json          sizes, where this library wrote the files; else they are read off the tensors

Files are known by what is in them, not by their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from pure_jax.checkpoint import Checkpoint, Tensors, open_network, read_json
from pure_jax.config import from_dict
from pure_jax.convert.nsarm.names import (
    MAP_PREFIX,
    TEXT_ROWS,
    TRANSFORMER_BUFFERS,
    TRANSFORMER_ROWS,
    VAE_BUFFERS,
    canonical_transformer,
    canonical_vae,
    chunk_length,
    map_rows,
    vae_rows,
)
from pure_jax.convert.nsarm.sizes import map_config, text_config, transformer_config, vae_config
from pure_jax.convert.tables import Row, from_torch
from pure_jax.convert.torch_files import from_torch_tensor, load_pt
from pure_jax.convert.torch_streams import is_archive, lazy_tensor, load_joined
from pure_jax.convert.upstream import Upstream, open_shards
from pure_jax.errors import PureError
from pure_jax.nsarm.config import MapConfig, NsarmConfig
from pure_jax.nsarm.map_network import map_network
from pure_jax.nsarm.shapes import network_shapes
from pure_jax.nsarm.text import read_tokenizer
from pure_jax.tensors import LazyTensor, in_memory

CONFIG_FILE = "nsarm.json"
_PART = re.compile(r"(.+\.pth)[._-].+")


def weight_files(directory: Path) -> list[list[Path]]:
    """The `.pth` files of a directory, each a list of its parts."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    parts: dict[str, list[Path]] = {}
    for path in files:
        if match := _PART.fullmatch(path.name):
            parts.setdefault(match[1], []).append(path)
    return [[path] for path in files if path.suffix == ".pth"] + list(parts.values())


def is_nsarm(path: Path) -> bool:
    """True for a directory with `.pth` files, or parts of them, and no config.json."""
    return path.is_dir() and not (path / "config.json").exists() and bool(weight_files(path))


def open_nsarm(directory: Path, map_network: str | None = None) -> Upstream:
    """Open a PyTorch model; tensors are read when asked for.

    map_network: "fresh" puts random weights, of the published sizes, in the place of a map network that is not there:
    what `pure train map` begins with, where the transformer is Infinity's.

    Raises:
        PureError: a part is missing, broken, of another size or of another model; the message names file and tensor.
    """
    remarks: list[str] = []
    found: dict[str, tuple[str, dict[str, LazyTensor]]] = {}
    unused: list[str] = []
    for files in weight_files(directory):
        name, content = files[0].name, _content(files)
        kind, tensors, others = _sorted_out(content, files)
        if kind in found:
            raise PureError(f"{directory} has two files of the {kind}, {found[kind][0]} and {name}; leave one there")
        found[kind] = (name, tensors)
        unused += [f"{name}: {other}" for other in others]
    for kind in ("transformer", "image tokenizer"):
        if kind not in found:
            raise PureError(f"{directory} has no .pth file with the {kind}; put it there")
    (file, both), (vae_file, vae) = found["transformer"], found["image tokenizer"]
    of_map = {name: tensor for name, tensor in both.items() if name.startswith(MAP_PREFIX)}
    if not of_map and map_network is None:
        raise PureError(
            f"{directory / file} has no {MAP_PREFIX}* tensors: it is a text-to-image transformer without the map "
            "network, not NSARM's; to train one behind it, convert it with --map-network fresh"
        )
    if of_map and map_network is not None:
        raise PureError(f"{directory / file} has a map network; leave map_network out")
    per_chunk = chunk_length(both)
    transformer = {canonical_transformer(n, per_chunk): t for n, t in both.items() if n not in of_map}
    if unused:
        shown = ", ".join(unused[:3]) + (f" and {len(unused) - 3} more" if len(unused) > 3 else "")
        remarks.append(f"not used: {shown}")

    folder = _text_folder(directory)
    config = _config(directory, transformer, of_map, vae, folder, (file, vae_file))
    shapes = network_shapes(config)
    networks: dict[str, Tensors] = {
        "transformer": _named(directory / file, transformer, TRANSFORMER_ROWS, shapes["transformer"]),
        "map_network": _named(directory / file, of_map, map_rows(config.map_network), shapes["map_network"])
        if of_map
        else _fresh_map(config),
        "vae": _named(directory / vae_file, vae, vae_rows(config.vae), shapes["vae"]),
    }
    if not of_map:
        remarks.append("the map network has random weights: train it, with `pure train map`")
    text = ""
    if folder is None:
        remarks.append("there is no text encoder; the model will know its own prompt at most, and no captions")
    else:
        tensors = {name: tensor for shard in open_shards(folder).values() for name, tensor in shard.items()}
        networks["text_encoder"] = _named(folder, tensors, TEXT_ROWS, shapes["text_encoder"])
        text, _ = read_tokenizer(folder / "tokenizer.json", config)
    if config.prompt_length:
        networks["prompt"] = open_network(directory, "prompt", shapes["prompt"])
    record = {"model": directory.name, "commit": None, "vqgan": vae_file, "chunk_length": per_chunk, "unused": unused}
    return Upstream(Checkpoint(directory, config, networks, text, None, record), remarks)


def _content(files: Sequence[Path]) -> Mapping[str, Any]:
    content = load_joined(files) if is_archive(files[0]) else load_pt(files[0])
    if not isinstance(content, Mapping):
        raise PureError(f"{files[0]} holds a {type(content).__name__} instead of tensors by name")
    return content


def _sorted_out(content: Mapping[str, Any], files: Sequence[Path]) -> tuple[str, dict[str, LazyTensor], list[str]]:
    """(which network, its tensors by canonical name, names in the file that are not needed)."""
    others: list[str] = []
    for wrapper in ("trainer", "gpt_fsdp", "vae"):
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            others += [str(name) for name in content if name != wrapper]
            content = inner
    is_vae = any(str(name).startswith("encoder.") for name in content)
    if not is_vae and "pos_start" not in content:
        raise PureError(
            f"{files[0]} holds neither NSARM's transformer nor its image tokenizer; take it away from there"
        )
    buffers = VAE_BUFFERS if is_vae else TRANSFORMER_BUFFERS
    planned = is_archive(files[0])
    tensors = {}
    for name, value in content.items():
        if buffers.fullmatch(str(name)):
            others.append(str(name))
            continue
        what = f"{files[0]}: tensor {name!r}"
        if not hasattr(value, "untyped_storage"):
            raise PureError(f"{what} is a {type(value).__name__}; is it another model's file?")
        key = canonical_vae(str(name)) if is_vae else str(name)
        if key in tensors:
            raise PureError(f"{what} is there in two spellings; get the file again")
        tensors[key] = lazy_tensor(value, files, what) if planned else from_torch_tensor(value, what)
    return "image tokenizer" if is_vae else "transformer", tensors, others


def _text_folder(directory: Path) -> Path | None:
    """The folder with a T5 in it."""
    folders = []
    for file in sorted(directory.glob("*/config.json")):
        values = read_json(file)
        if isinstance(values, dict) and values.get("model_type") == "t5":
            folders.append(file.parent)
    if len(folders) > 1:
        raise PureError(
            f"{directory} has several text encoders ({', '.join(f.name for f in folders)}); leave one there"
        )
    return folders[0] if folders else None


def _config(
    directory: Path,
    transformer: Tensors,
    of_map: Tensors,
    vae: Tensors,
    folder: Path | None,
    names: tuple[str, str],
) -> NsarmConfig:
    own = directory / CONFIG_FILE
    if own.is_file():
        config: NsarmConfig = from_dict(NsarmConfig, read_json(own), str(own))
        if (config.text_encoder is None) != (folder is None):
            there = "none lies there" if folder is None else f"{folder.name} is there"
            raise PureError(f"{own} and the directory do not agree on a text encoder: {there}; get the model again")
        return config
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (transformer, of_map, vae)]
    text = None if folder is None else text_config(read_json(folder / "config.json"), str(folder / "config.json"))
    try:
        return NsarmConfig(
            transformer=transformer_config(shapes[0]),
            map_network=map_config(shapes[1]) if of_map else MapConfig(),
            vae=vae_config(shapes[2]),
            text_encoder=text,
        )
    except PureError as error:
        raise PureError(f"{directory} ({', '.join(names)}): {error}") from error


def _fresh_map(config: NsarmConfig) -> Tensors:
    side = config.map_network.latent_side
    low = jnp.zeros((1, side, side, config.vae.latent_channels))
    params = jax.jit(map_network(config).init)(jax.random.key(0), low)["params"]
    return {path: in_memory(np.asarray(leaf)) for path, leaf in traverse_util.flatten_dict(params, sep=".").items()}


def _named(path: Path, tensors: Tensors, rows: Sequence[Row], shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    try:
        return from_torch(tensors, rows, shapes, "NSARM")[0]
    except PureError as error:
        raise PureError(f"{path}: {error}") from error
