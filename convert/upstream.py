"""Opening a PyTorch model in Hugging Face's layout (PURE, Lumina-mGPT, Chameleon) with LlamaGen's tokenizer beside it.

config.json, model.safetensors or shards with model.safetensors.index.json, tokenizer.json, vq_ds8_c2i.pt
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pure_jax.checkpoint import Checkpoint, Tensors, read_json
from pure_jax.config import ModelConfig
from pure_jax.convert.chameleon import canonical, config_from_torch, norm_ranks, transformer_from_torch
from pure_jax.convert.hub import origin_of
from pure_jax.convert.llamagen import config_from_tensors, vqgan_from_torch
from pure_jax.convert.torch_files import open_pt
from pure_jax.errors import PureError
from pure_jax.pure import read_tokenizer
from pure_jax.tensors import LazyTensor, open_safetensors
from pure_jax.vocabulary import IMAGE_PLACEHOLDER, load_vocabulary

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
GRID_PIXELS = 32
"""Side of one grid, the unit in which PURE's size tokens count."""


class Upstream(NamedTuple):
    """An opened PyTorch model: the checkpoint as this library sees it, layers unrolled, and what a user should know."""

    checkpoint: Checkpoint
    remarks: list[str]


class Network(NamedTuple):
    """One network's configuration and its parameters, not read yet, layers unrolled."""

    config: Any
    tensors: Tensors


class LanguageModel(NamedTuple):
    """The language model of a directory, what a user should know, names of tensors not needed, config.json."""

    network: Network
    remarks: list[str]
    unused: list[str]
    values: dict[str, Any]


def is_upstream(directory: Path) -> bool:
    """True for a directory whose config.json names its model type, as Hugging Face's layout does.

    Raises:
        PureError: config.json is no JSON.
    """
    file = directory / "config.json"
    values = read_json(file) if file.exists() else None
    return isinstance(values, dict) and "model_type" in values


def open_upstream(
    directory: Path,
    *,
    vqgan: str | os.PathLike | None = None,
    vqgan_weights: str | None = None,
    tokenizer: str | os.PathLike | None = None,
) -> Upstream:
    """Open a PyTorch model; only headers (and the small QK-norms) are read now.

    Args:
        vqgan: LlamaGen's file, `.pt` or `.safetensors`; None takes the one that lies in the directory.
        vqgan_weights: "model" or "ema" of a `.pt` that has both; None prefers "model", as PURE does.
        tokenizer: a tokenizer file; None takes the directory's tokenizer.json.

    Raises:
        PureError: a part is missing, broken, of another size or of another model; the message names file and tensor.
    """
    transformer, remarks, not_used, values = open_language_model(directory)
    if values.get("mask_image_logits"):
        remarks.append(
            "config.json asks to mask the logits of image codes (mask_image_logits); such a model cannot write "
            "pictures, so they stay unmasked here"
        )
    image_file = Path(vqgan) if vqgan is not None else own_image_tokenizer(directory)
    image, unused = open_image_tokenizer(image_file, vqgan_weights)
    if unused:
        remarks.append(f"not used of {image_file.name}: {_listed(unused)}")
    not_used += [f"{image_file.name}: {name}" for name in unused]

    config = ModelConfig(
        transformer=transformer.config,
        vqgan=image.config,
        codes_per_grid=max(1, GRID_PIXELS // image.config.stride),
    )
    tokenizer_file = Path(tokenizer) if tokenizer is not None else directory / "tokenizer.json"
    _check_codes(tokenizer_file, config, image_file)
    text, vocabulary = read_tokenizer(tokenizer_file, config)
    _check_names(tokenizer_file, text, values)
    name, commit = origin_of(directory)
    record = {
        "model": name,
        "commit": commit,
        "vqgan": image_file.name,
        "tokenizer": tokenizer_file.name,
        "unused": not_used,
        "config": values,
    }
    networks = {"transformer": transformer.tensors, "vqgan": image.tensors}
    return Upstream(Checkpoint(directory, config, networks, text, vocabulary, record), remarks)


def open_language_model(directory: Path) -> LanguageModel:
    """Open config.json and the safetensors beside it, nothing else.

    Raises:
        PureError: as `open_upstream`.
    """
    config_file = directory / "config.json"
    values = read_json(config_file)
    if not isinstance(values, dict):
        raise PureError(f"{config_file} must hold a JSON object")
    remarks: list[str] = []
    not_used: list[str] = []

    tensors, places = _language_tensors(directory)
    tied = bool(values.get("tie_word_embeddings"))
    if tied:
        if "lm_head.weight" in tensors:
            remarks.append("not used: lm_head.weight, because config.json ties the head to the embedding")
            not_used.append("lm_head.weight")
        if "model.embed_tokens.weight" in tensors:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    layers = values.get("num_hidden_layers")
    if isinstance(layers, int) and layers > len(tensors):
        raise PureError(f"{config_file}: num_hidden_layers is {layers}, more than the {len(tensors)} tensors there are")
    ranks = norm_ranks(tensors, layers if isinstance(layers, int) else 0)
    config = config_from_torch(values, str(config_file), ranks)
    language, unused = _named(directory, transformer_from_torch, tensors, config, places=places)
    if unused:
        remarks.append(f"not used: {_listed(unused)}")
    return LanguageModel(Network(config, language), remarks, not_used + unused, values)


def open_image_tokenizer(file: Path, weights: str | None = None) -> tuple[Network, list[str]]:
    """Open LlamaGen's file; also returns the names in it that are not needed. Arguments and errors: `open_upstream`."""
    others: list[str] = []
    if file.suffix != ".safetensors":
        tensors, others = open_pt(file, weights)
    elif weights is None:
        tensors = open_safetensors(file)
    else:
        raise PureError(f"{file} has one set of weights; leave vqgan_weights out")
    config = _named(file, config_from_tensors, {name: t.shape for name, t in tensors.items()})
    named, unused = _named(file, vqgan_from_torch, tensors, config)
    return Network(config, named), unused + others


def open_shards(directory: Path) -> dict[str, dict[str, LazyTensor]]:
    """Every tensor of a model in Hugging Face's layout by file and by its name there."""
    index_file = directory / INDEX
    if not index_file.is_file():
        if not (directory / ONE_FILE).is_file():
            raise PureError(f"{directory} has neither {ONE_FILE} nor {INDEX}; other weight files are not read")
        return {ONE_FILE: open_safetensors(directory / ONE_FILE)}
    index = read_json(index_file)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise PureError(f"{index_file} has no weight_map of tensor names to file names")
    shards = sorted(set(places.values()))
    foreign = next((name for name in shards if Path(name).name != name), None)
    if foreign is not None:
        raise PureError(f"{index_file} points to {foreign!r}, outside of its directory; get the file again")
    missing = [name for name in shards if not (directory / name).is_file()]
    if missing:
        raise PureError(f"{directory / missing[0]} is missing, but {INDEX} lists it; get the file")
    unlisted = sorted(path.name for path in directory.glob("*-of-*.safetensors") if path.name not in shards)
    if unlisted:
        raise PureError(f"{directory / unlisted[0]} is a shard that {INDEX} does not list; get the index again")
    opened = {shard: open_safetensors(directory / shard) for shard in shards}
    for shard, tensors in opened.items():
        listed = {name for name, file in places.items() if file == shard}
        for name in sorted(listed ^ tensors.keys()):
            problem = "is missing, but" if name in listed else "is there, but not where"
            raise PureError(f"{directory / shard}: tensor {name!r} {problem} {INDEX} lists it; get both files again")
    return opened


def _language_tensors(directory: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The language model's tensors, and the name of the file that each lies in, by canonical name."""
    tensors: dict[str, LazyTensor] = {}
    places: dict[str, str] = {}
    for file, found in open_shards(directory).items():
        for name, tensor in found.items():
            if canonical(name) in tensors:
                raise PureError(
                    f"{directory / file}: tensor {name!r} is there already under another name, "
                    f"in {places[canonical(name)]}; get the model again"
                )
            tensors[canonical(name)], places[canonical(name)] = tensor, file
    return tensors, places


def _named(path: Path, function: Any, *args: Any, places: Mapping[str, str] | None = None) -> Any:
    """function(*args), its error preceded by the path it is about and followed by the files of the tensors it names."""
    try:
        return function(*args)
    except PureError as error:
        named = re.findall(r"tensor '([^']+)'", str(error))
        files = sorted({places[name] for name in named if name in places}) if places else []
        before = "" if str(path) in str(error) else f"{path}: "
        raise PureError(f"{before}{error}" + (f" (in {_listed(files)})" if files else "")) from error


def own_image_tokenizer(directory: Path) -> Path:
    """The one .pt file of a directory. Raises PureError if there is none, or several."""
    found = sorted(directory.glob("*.pt"))
    if len(found) != 1:
        several = ", ".join(path.name for path in found)
        raise PureError(
            f"{directory} has {f'several .pt files ({several})' if found else 'no image tokenizer'}; name LlamaGen's "
            "file (vq_ds8_c2i.pt for PURE) with --vqgan of pure convert, or vqgan= in Python"
        )
    return found[0]


def _check_codes(tokenizer_file: Path, config: ModelConfig, image_file: Path) -> None:
    named, there = load_vocabulary(tokenizer_file).codebook_size, config.vqgan.codebook_size
    if named != there:
        raise PureError(
            f"{image_file}: tensor 'quantize.embedding.weight' has {there} codes, but {tokenizer_file} names {named}; "
            "use the image tokenizer (--vqgan) and the text tokenizer (--tokenizer) that belong to the model"
        )


def _check_names(tokenizer_file: Path, text: str, values: Mapping[str, Any]) -> None:
    """The names in config.json, where they are, must have the tokenizer's ids."""
    from tokenizers import Tokenizer

    listed = values.get("vocabulary_map")
    if not isinstance(listed, dict):
        return
    try:
        names = Tokenizer.from_str(text).get_vocab()
    except Exception as error:  # the library has no class of its own for this
        raise PureError(f"{tokenizer_file} is not a tokenizer file of the Hugging Face tokenizers library") from error
    for name, id_ in listed.items():
        # The placeholder stands for an image in text only and never reaches the model.
        if name in names and names[name] != id_ and name != IMAGE_PLACEHOLDER:
            raise PureError(
                f"{tokenizer_file} gives {name!r} the id {names[name]}, but config.json's vocabulary_map {id_}; "
                "it is another model's tokenizer"
            )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
