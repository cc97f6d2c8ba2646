"""Writing a native model for PyTorch: a directory that transformers' Chameleon class and LlamaGen's code load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convert.chameleon import config_to_torch, transformer_to_torch
from convert.llamagen import vqgan_to_torch
from convert.tables import size_of
from convert.torch_files import import_torch, write_pt
from convert.upstream import INDEX, ONE_FILE
from pure_jax.checkpoint import Checkpoint, unstack
from pure_jax.tensors import LazyTensor, in_memory, write_safetensors

SHARD_BYTES = 5_000_000_000
"""Upper bound of one file, as transformers writes them."""
RECENT_CODES = 65_536
"""Length of LlamaGen's record of recently used codes, which its strict loading asks for; zeros here."""
VQGAN_FILE = "vq_ds8_c2i.pt"


def torch_tensors(checkpoint: Checkpoint, rows_per_head: bool = True) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """The language model's tensors by Hugging Face name, in module order, and its config.json.

    A model that came from PyTorch gets back its own config.json, and leaves out a head that was tied.
    """
    own = (checkpoint.upstream or {}).get("config")
    config = own or config_to_torch(checkpoint.config.transformer, _names(checkpoint))
    layers = checkpoint.tensors["transformer"]
    tensors = transformer_to_torch(unstack(layers), checkpoint.config.transformer, rows_per_head)
    if config.get("tie_word_embeddings"):
        del tensors["lm_head.weight"]
    return tensors, config


def _names(checkpoint: Checkpoint) -> dict[str, int]:
    content = json.loads(checkpoint.tokenizer_json)
    return content["model"]["vocab"] | {t["content"]: t["id"] for t in content.get("added_tokens") or ()}


def write_upstream(
    directory: Path,
    checkpoint: Checkpoint,
    *,
    rows_per_head: bool = True,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Write config.json, safetensors shards with their index, tokenizer files and the image tokenizer's `.pt`.

    Args:
        directory: exists and is empty.
        rows_per_head: see `convert.chameleon.transformer_to_torch`.
        shard_bytes: most bytes of tensors in one file, if more than one tensor is in it.
        progress: called with numbers of bytes, which add up to the size of all tensors.

    Raises:
        PureError: torch is not installed, or transformers has no such model. OSError.
    """
    import_torch(f"writing {VQGAN_FILE}")  # before the long part
    tensors, config = torch_tensors(checkpoint, rows_per_head)
    _write_json(directory / "config.json", config)
    (directory / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
    _write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})

    image = vqgan_to_torch(checkpoint.tensors["vqgan"])
    image["quantize.codebook_used"] = in_memory(np.zeros(RECENT_CODES, np.float32))
    write_pt(directory / VQGAN_FILE, image)
    progress(size_of(checkpoint.tensors["vqgan"]))

    shards = _shards(tensors, shard_bytes)
    places: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        name = ONE_FILE if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        # transformers refuses files that do not say what they were written for.
        write_safetensors(directory / name, shard, {"format": "pt"}, progress)
        places |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        _write_json(directory / INDEX, {"metadata": {"total_size": size_of(tensors)}, "weight_map": places})


def _shards(tensors: dict[str, LazyTensor], most: int) -> list[dict[str, LazyTensor]]:
    shards: list[dict[str, LazyTensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and size_of(shards[-1]) + tensor.nbytes > most:
            shards.append({})
        shards[-1][name] = tensor
    return shards


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
