"""The model directory: config.json, tokenizer.json, and the networks' parameters as safetensors or Orbax.

    config.json          the family's name and its configuration
    tokenizer.json       Hugging Face tokenizers file, in a family that has one
    NETWORK.safetensors | NETWORK/     names are parameter paths joined by "."; PURE has transformer and vqgan
    README.md            model card
    upstream.json        converted models only: where they came from, and the original's config.json
    SHA256SUMS           for `sha256sum --check`

A directory appears whole or not at all: it is written beside and renamed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from pure_jax.config import from_dict, require_precision, to_dict
from pure_jax.errors import PureError
from pure_jax.families import FAMILIES
from pure_jax.files import file_sha256, new_directory, read_text
from pure_jax.quantisation import Quantised, is_pair, quantise
from pure_jax.sharding import parameter_sharding
from pure_jax.tensors import (
    STORED,
    Index,
    LazyTensor,
    cast,
    entry,
    in_memory,
    open_safetensors,
    stacked,
    write_safetensors,
)

DTYPES = ("auto", "float32", "bfloat16", "float16")
Format = Literal["safetensors", "orbax"]
Tensors = dict[str, LazyTensor]
"""One network's parameters by path, joined by "."."""

_LAYER = re.compile(r"layers_(\d+)\.(.+)")
_STACK = "layers."


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk whose parameters have not been read yet."""

    directory: Path
    """Where its files lie."""
    config: Any
    """Of the family's own class."""
    tensors: dict[str, Tensors]
    """By network."""
    tokenizer_json: str
    """tokenizer.json's text; "" in a model without."""
    vocabulary: Any
    """What the family makes of its tokenizer file: PURE a `Vocabulary`."""
    upstream: dict[str, Any] | None = None
    """Contents of upstream.json."""
    card: str | None = None
    """README.md's text."""


EMBEDDED = ("demo", "demo-nsarm")
"""Names of the models that ship with this package: one for each family."""


def demo_directory(name: str = EMBEDDED[0]) -> Path:
    """Where an embedded demo model lies."""
    return Path(str(files("pure_jax") / "assets" / name))


# ---- writing -------------------------------------------------------------------------------------------------------


def save(
    directory: str | os.PathLike,
    config: Any,
    params: Mapping[str, Any],
    tokenizer_json: str,
    card: str,
    format: Format = "safetensors",
    dtype: Any = None,
) -> None:
    """Write a model directory.

    Args:
        directory: must not exist yet.
        config: of a family's own class. params: a nested dict for each of its networks, laid out as `config` says.
        tokenizer_json: the tokenizer file's text, "" in a model without; card: README.md's text.
        dtype: cast the parameters to this before writing, but for int8 kernels with their scales; None keeps them.

    Raises:
        PureError: the directory exists or cannot be written, or float16 is too small for a parameter.
    """
    tensors = {}
    for name in FAMILIES[config.family].shapes(config):
        flat = traverse_util.flatten_dict(params[name], sep=".")
        own = {path: in_memory(leaf) for path, leaf in flat.items()}
        tensors[name] = own if dtype is None else cast_network(own, dtype)
    with new_directory(Path(directory)) as partial:
        write_checkpoint(partial, config, tensors, tokenizer_json, card, format)


def write_checkpoint(
    directory: Path,
    config: Any,
    tensors: Mapping[str, Tensors],
    tokenizer_json: str,
    card: str,
    format: Format = "safetensors",
    upstream: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Write a model's files into an existing, empty directory, a few tensors in memory at a time.

    progress: called with numbers of bytes, which add up to the size of all tensors. Raises OSError.
    """
    texts = {"config.json": json.dumps(to_dict(config), indent=2) + "\n"}
    if tokenizer_json:
        texts["tokenizer.json"] = tokenizer_json
    if upstream is not None:
        texts["upstream.json"] = json.dumps(upstream, indent=1) + "\n"
    texts["README.md"] = card
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    sums = {}
    for name, network in tensors.items():
        if format == "safetensors":
            file = directory / f"{name}.safetensors"
            sums[file.name] = write_safetensors(file, network, progress=progress)
        else:
            from pure_jax.orbax_tensors import write_orbax

            write_orbax(directory / name, network, progress)
    write_manifest(directory, sums)


def write_manifest(directory: Path, known: Mapping[str, str]) -> None:
    """Write SHA256SUMS over all files of a directory. known: digests there are already, by name. Raises OSError."""
    sums = dict(known)
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and name not in sums:
            sums[name] = file_sha256(path)
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    (directory / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


# ---- reading -------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """Parse a JSON file of a model directory.

    Raises:
        PureError: no such directory or file, no ordinary file, or no JSON.
    """
    if not path.parent.is_dir():
        raise PureError(f"{path.parent} is not a model directory: there is no such directory")
    try:
        return json.loads(read_text(path))
    except FileNotFoundError as error:
        raise PureError(f"{path.parent} is not a model directory: {path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise PureError(f"{path} cannot be read as JSON: {getattr(error, 'strerror', None) or error}") from error
    except RecursionError as error:
        raise PureError(f"{path} cannot be read as JSON: its brackets are nested too deep") from error


def read_config(directory: Path) -> Any:
    """Parse and check config.json, whose `family` says what it holds.

    Raises:
        PureError: no such directory or file, no JSON, an unknown family, unknown, absent or ill-typed fields, values
            out of range.
    """
    path = directory / "config.json"
    values = read_json(path)
    name = values.get("family", "pure") if isinstance(values, dict) else "pure"
    if not isinstance(name, str) or name not in FAMILIES:
        raise PureError(
            f"{path}: family is {name!r}, but it must be one of {', '.join(FAMILIES)}; "
            "the model may need a newer version of pure-jax"
        )
    try:
        return from_dict(FAMILIES[name].config, values, str(path))
    except PureError as error:
        raise error if str(directory) in str(error) else PureError(f"{path}: {error}") from error


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open a native model directory; only headers are read now, parameters when asked for.

    Raises:
        PureError: what `read_config` refuses; a missing, broken or unfitting part.
    """
    config = read_config(directory)
    family = FAMILIES[config.family]
    tokenizer_json, vocabulary = family.read_tokenizer(directory / "tokenizer.json", config)
    tensors = {name: open_network(directory, name, wanted) for name, wanted in family.shapes(config).items()}
    upstream, card = directory / "upstream.json", directory / "README.md"
    return Checkpoint(
        directory,
        config,
        tensors,
        tokenizer_json,
        vocabulary,
        read_json(upstream) if upstream.is_file() else None,
        card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None,
    )


def open_network(directory: Path, name: str, wanted: Mapping[str, tuple[int, ...]]) -> Tensors:
    """One network's parameters, checked one by one against the shapes `wanted`."""
    file, folder = directory / f"{name}.safetensors", directory / name
    if file.is_file():
        found = open_safetensors(file, STORED)
    elif folder.is_dir():
        from pure_jax.orbax_tensors import open_orbax

        file, found = folder, open_orbax(folder)
    else:
        raise PureError(f"{directory} is not a complete model directory: {name}.safetensors is missing")
    problems = [f"{key} is missing" for key in wanted if key not in found]
    problems += [f"{key} is unknown" for key in found if key not in wanted]
    problems += [
        f"{key} has shape {list(found[key].shape)} instead of {list(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key].shape != shape
    ]
    problems += [
        f"{key} holds {tensor.dtype.name} instead of {'int8' if tensor.dtype != np.int8 else 'floats'}"
        for key, tensor in found.items()
        if (tensor.dtype == np.int8) != (key.endswith(".kernel") and is_pair(key, wanted))
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise PureError(f"{file} does not fit config.json: {problems[0]}{more}")
    return found


def stack(tensors: Tensors) -> Tensors:
    """Per-layer tensors (`layers_0.`, ...) -> stacked ones (`layers.`, first axis layer); nothing is read."""
    layers: dict[str, dict[int, LazyTensor]] = {}
    for path, tensor in tensors.items():
        if match := _LAYER.fullmatch(path):
            layers.setdefault(match[2], {})[int(match[1])] = tensor
    rest = {path: tensor for path, tensor in tensors.items() if not _LAYER.fullmatch(path)}
    return rest | {_STACK + path: stacked([own[i] for i in sorted(own)]) for path, own in layers.items()}


def unstack(tensors: Tensors) -> Tensors:
    """Stacked tensors -> per-layer ones; nothing is read."""
    out: Tensors = {}
    for path, tensor in tensors.items():
        if path.startswith(_STACK):
            out |= {f"layers_{i}.{path[len(_STACK) :]}": entry(tensor, i) for i in range(tensor.shape[0])}
        else:
            out[path] = tensor
    return out


def with_layers(config: Any, tensors: dict[str, Tensors], scan: bool) -> tuple[Any, dict[str, Tensors]]:
    """A model with the transformer's layers stacked (scan) or one by one, whatever they were; nothing is read."""
    if scan == config.transformer.scan_layers:
        return config, tensors
    transformer = dataclasses.replace(config.transformer, scan_layers=scan)
    arranged = (stack if scan else unstack)(tensors["transformer"])
    return dataclasses.replace(config, transformer=transformer), tensors | {"transformer": arranged}


def cast_network(tensors: Tensors, dtype: Any) -> Tensors:
    """One network's parameters in another dtype; int8 kernels and their scales stay as they are."""
    return {path: t if is_pair(path, tensors) else cast(t, dtype, path) for path, t in tensors.items()}


def with_precision(checkpoint: Checkpoint, weights: str | None = None, cache: str | None = None) -> Checkpoint:
    """A model with int8 weights or an int8 cache, as `pure_jax.config.TransformerConfig` has them; nothing is read.

    weights, cache: None leaves them as they are.

    Raises:
        PureError: no such precision; a family that knows none; floats are asked of weights that are int8.
    """
    asked = {name: value for name, value in (("weights", weights), ("cache", cache)) if value is not None}
    if not asked:
        return checkpoint
    config, own = checkpoint.config, checkpoint.config.transformer
    for name, value in asked.items():
        if not hasattr(own, name):
            raise PureError(f"a model of the family {config.family} cannot be quantised; leave {name} out")
        require_precision(name, value)
    config = dataclasses.replace(config, transformer=dataclasses.replace(own, **asked))
    tensors = dict(checkpoint.tensors["transformer"])
    if config.transformer.weights != own.weights:
        if own.weights != "float":
            raise PureError(f"{checkpoint.directory} has {own.weights} weights, not {weights}; take the full model")
        shapes = FAMILIES[config.family].shapes(config)["transformer"]
        for path in [path for path in shapes if path.endswith(".kernel") and is_pair(path, shapes)]:
            tensors[path], tensors[f"{path.removesuffix('kernel')}scale"] = quantised(tensors[path])
    return dataclasses.replace(checkpoint, config=config, tensors=checkpoint.tensors | {"transformer": tensors})


def quantised(kernel: LazyTensor) -> tuple[LazyTensor, LazyTensor]:
    """A kernel [..., in, out] as int8 of the same shape, and its scales, float32 [..., out]; nothing is read.

    Later whole columns are, whatever part is asked for.
    """
    *lead, height, width = kernel.shape

    def columns(index: Index) -> Quantised:
        return quantise(kernel.read((*index[:-1], slice(0, height), index[-1])), axis=-2)

    def values(index: Index) -> np.ndarray:
        return columns((*index[:-2], index[-1])).values[..., index[-2], :]

    def scale(index: Index) -> np.ndarray:
        return columns(index).scale[..., 0, :]

    return (
        LazyTensor(kernel.shape, np.dtype(np.int8), values, kernel.step if lead else height),
        LazyTensor((*lead, width), np.dtype(np.float32), scale, kernel.step if lead else width),
    )


# ---- placing -------------------------------------------------------------------------------------------------------


def compute_dtype(dtype: str) -> jnp.dtype:
    """One of DTYPES; "auto" is float32 on CPU, where bfloat16 is slow, and bfloat16 elsewhere.

    Raises:
        PureError: another name.
    """
    if dtype not in DTYPES:
        raise PureError(f"dtype is {dtype!r}, but it must be one of {', '.join(DTYPES)}")
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(dtype)


def place(
    checkpoint: Checkpoint, dtype: str = "auto", scan_layers: bool | None = None, *, mesh: Mesh | None = None
) -> Any:
    """Read an opened model's parameters into device memory; arguments and result are those of `pure_jax.load`.

    Raises:
        PureError: a broken tokenizer or tensor; an unknown dtype; a size that the mesh does not divide.
    """
    from tokenizers import Tokenizer

    compute, family = compute_dtype(dtype), FAMILIES[checkpoint.config.family]
    text = None
    if checkpoint.tokenizer_json:
        try:
            text = Tokenizer.from_str(checkpoint.tokenizer_json)
        except Exception as error:  # the library has no class of its own for this
            raise PureError(
                f"{checkpoint.directory}: tokenizer.json is not a tokenizer file of the Hugging Face tokenizers library"
            ) from error
    tensors = {
        name: cast_network(own, compute if name in family.follow_dtype else jnp.float32)
        for name, own in checkpoint.tensors.items()
    }
    scan = jax.default_backend() != "cpu" if scan_layers is None else scan_layers
    config, tensors = with_layers(checkpoint.config, tensors, scan)
    params = {name: place_network(name, own, mesh) for name, own in tensors.items()}
    return family.model(config, params, text, checkpoint.vocabulary, compute)


def place_network(name: str, tensors: Tensors, mesh: Mesh | None = None) -> dict[str, Any]:
    """Read one network's parameters into device memory, as nested dicts. name: of the network, for the sharding."""
    placed = {path: _place(t, _sharding(mesh, f"{name}.{path}", t.shape)) for path, t in tensors.items()}
    return traverse_util.unflatten_dict(placed, sep=".")


def _sharding(mesh: Mesh | None, path: str, shape: tuple[int, ...]) -> Sharding:
    return SingleDeviceSharding(jax.local_devices()[0]) if mesh is None else parameter_sharding(mesh, path, shape)


def _place(tensor: LazyTensor, sharding: Sharding) -> jax.Array:
    """Read into device memory; each part once, however many devices hold it."""
    parts: dict[tuple, np.ndarray] = {}

    def read(index: Index | None) -> np.ndarray:
        bounds = [range(n)[part] for n, part in zip(tensor.shape, index or (), strict=True)]
        key = tuple((b.start, b.stop) for b in bounds)
        if key not in parts:
            parts[key] = tensor.read(tuple(slice(*b) for b in key))
        return parts[key]

    return jax.make_array_from_callback(tensor.shape, sharding, read)
