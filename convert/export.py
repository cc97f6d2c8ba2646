"""Writing a native model for PyTorch: a directory that transformers' Chameleon class and LlamaGen's code load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pure_jax.checkpoint import Checkpoint, unstack, write_manifest
from pure_jax.config import VQGANConfig
from pure_jax.convert.chameleon import config_to_torch, transformer_to_torch
from pure_jax.convert.llamagen import vqgan_to_torch
from pure_jax.convert.torch_files import import_torch, write_pt
from pure_jax.convert.upstream import INDEX, ONE_FILE
from pure_jax.errors import PureError
from pure_jax.tensors import LazyTensor, in_memory, total_bytes, write_safetensors
from pure_jax.vocabulary import BOS, EOS, PAD, UNKNOWN

SHARD_BYTES = 5_000_000_000
"""Upper bound of one file, as transformers writes them."""
RECENT_CODES = 65_536
"""Length of LlamaGen's record of recently used codes, which its strict loading asks for; zeros here."""
VQGAN_FILE = "vq_ds8_c2i.pt"


def torch_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The language model's config.json for transformers; fields that its own original had are the original's.

    Raises:
        PureError: transformers has no such model.
    """
    weights = checkpoint.config.transformer.weights
    if weights != "float":
        raise PureError(f"{checkpoint.directory} has {weights} weights, which PyTorch's has not; take the full model")
    content = json.loads(checkpoint.tokenizer_json)
    names = content["model"]["vocab"] | {t["content"]: t["id"] for t in content.get("added_tokens") or ()}
    own = {k: v for k, v in (checkpoint.upstream or {}).get("config", {}).items() if v is not None}
    # Merged, since either may lack the name by which transformers looks up the token of an image.
    ours = config_to_torch(checkpoint.config.transformer, names | own.get("vocabulary_map", {}))
    return ours | own | {"vocabulary_map": ours["vocabulary_map"]}


def torch_tensors(checkpoint: Checkpoint, rows_per_head: bool = True) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """The language model's tensors by Hugging Face name and its config.json; a head that was tied is left out."""
    config = torch_config(checkpoint)
    tensors = transformer_to_torch(
        unstack(checkpoint.tensors["transformer"]), checkpoint.config.transformer, rows_per_head
    )
    if config.get("tie_word_embeddings"):
        del tensors["lm_head.weight"]
    dtypes = {tensor.dtype.name for tensor in tensors.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    return tensors, config | {name: dtype for name in ("dtype", "torch_dtype") if name in config or name == "dtype"}


def write_upstream(
    directory: Path,
    checkpoint: Checkpoint,
    *,
    rows_per_head: bool = True,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Write config.json, safetensors shards with their index, tokenizer files, the image tokenizer's `.pt`, SHA256SUMS.

    Args:
        directory: exists and is empty.
        rows_per_head: see `pure_jax.convert.chameleon.transformer_to_torch`.
        shard_bytes: most bytes of tensors in one file, if more than one tensor is in it.
        progress: called with numbers of bytes, which add up to the size of all tensors.

    Raises:
        PureError: torch is not installed, or there is no such model in transformers or LlamaGen. OSError.
    """
    import_torch(f"writing {VQGAN_FILE}")  # before the long part
    vqgan = checkpoint.config.vqgan
    if (vqgan.num_groups, vqgan.norm_eps) != (VQGANConfig.num_groups, VQGANConfig.norm_eps):
        raise PureError(
            f"LlamaGen's networks have group norms of {VQGANConfig.num_groups} groups and epsilon "
            f"{VQGANConfig.norm_eps:g}, this image tokenizer {vqgan.num_groups} and {vqgan.norm_eps:g}; "
            "PyTorch would compute other codes, so it cannot be written for it"
        )
    tensors, config = torch_tensors(checkpoint, rows_per_head)
    _write_json(directory / "config.json", config)
    (directory / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
    specials = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "unk_token": UNKNOWN}
    _write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"} | specials)
    if checkpoint.card:
        (directory / "README.md").write_text(checkpoint.card, encoding="utf-8")

    image = vqgan_to_torch(checkpoint.tensors["vqgan"])
    image["quantize.codebook_used"] = in_memory(np.zeros(RECENT_CODES, np.float32))
    write_pt(directory / VQGAN_FILE, image)
    progress(total_bytes(checkpoint.tensors["vqgan"]))

    shards = _shards(tensors, shard_bytes)
    places: dict[str, str] = {}
    sums: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        name = ONE_FILE if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        # transformers refuses files that do not say what they were written for.
        sums[name] = write_safetensors(directory / name, shard, {"format": "pt"}, progress)
        places |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        _write_json(directory / INDEX, {"metadata": {"total_size": total_bytes(tensors)}, "weight_map": places})
    write_manifest(directory, sums)


def _shards(tensors: dict[str, LazyTensor], most: int) -> list[dict[str, LazyTensor]]:
    shards: list[dict[str, LazyTensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and total_bytes(shards[-1]) + tensor.nbytes > most:
            shards.append({})
        shards[-1][name] = tensor
    return shards


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
