"""Writing an NSARM model as PyTorch files, which the original's code and `pure_jax.convert.nsarm.opening` read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pure_jax.checkpoint import Checkpoint, unstack, write_manifest
from pure_jax.config import to_dict
from pure_jax.convert.nsarm.names import TEXT_ROWS, TRANSFORMER_ROWS, chunked, map_rows, vae_rows
from pure_jax.convert.nsarm.opening import CONFIG_FILE
from pure_jax.convert.tables import to_torch
from pure_jax.convert.torch_files import import_torch
from pure_jax.convert.torch_streams import write_large
from pure_jax.nsarm.config import TextConfig
from pure_jax.tensors import in_memory, write_safetensors

TRANSFORMER_FILE, VAE_FILE, PROMPT_FILE, TEXT_FOLDER = "nsarm.pth", "vae.pth", "prompt.safetensors", "text_encoder"


def write_nsarm(
    directory: Path, checkpoint: Checkpoint, *, progress: Callable[[int], None] = lambda count: None
) -> None:
    """Write the files that `opening` describes; the text encoder as safetensors.

    directory: exists and is empty. progress: called with numbers of bytes, which add up to the size of all tensors.

    Raises:
        PureError: torch is not installed. OSError.
    """
    import_torch(f"writing {TRANSFORMER_FILE}")
    config, networks = checkpoint.config, checkpoint.tensors
    unrolled = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, scan_layers=False))
    (directory / CONFIG_FILE).write_text(json.dumps(to_dict(unrolled), indent=2) + "\n", encoding="utf-8")
    if checkpoint.card:
        (directory / "README.md").write_text(checkpoint.card, encoding="utf-8")
    per_chunk = (checkpoint.upstream or {}).get("chunk_length", 0)
    transformer = {
        chunked(name, per_chunk): tensor
        for name, tensor in to_torch(unstack(networks["transformer"]), TRANSFORMER_ROWS).items()
    }
    zeros = np.zeros(config.transformer.hidden_size, np.float32)
    for name in [name for name in transformer if name.endswith(".v_bias")]:  # attention without a bias of its keys
        transformer[f"{name.removesuffix('v_bias')}zero_k_bias"] = in_memory(zeros)
    of_map = to_torch(networks["map_network"], map_rows(config.map_network))
    write_large(directory / TRANSFORMER_FILE, transformer | of_map, None, progress)
    write_large(directory / VAE_FILE, to_torch(networks["vae"], vae_rows(config.vae)), "vae", progress)
    sums = {}
    if "prompt" in networks:
        sums[PROMPT_FILE] = write_safetensors(directory / PROMPT_FILE, networks["prompt"], progress=progress)
    if config.text_encoder is not None:
        folder = directory / TEXT_FOLDER
        folder.mkdir()
        (folder / "config.json").write_text(
            json.dumps(t5_config(config.text_encoder), indent=2) + "\n", encoding="utf-8"
        )
        (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
        tensors = to_torch(networks["text_encoder"], TEXT_ROWS)
        name = "model.safetensors"
        sums[f"{TEXT_FOLDER}/{name}"] = write_safetensors(folder / name, tensors, {"format": "pt"}, progress)
    write_manifest(directory, sums)


def t5_config(config: TextConfig) -> dict[str, object]:
    """transformers' configuration of it."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "d_ff": config.intermediate_size,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "d_kv": config.head_dim,
        "relative_attention_num_buckets": config.num_buckets,
        "relative_attention_max_distance": config.max_distance,
        "layer_norm_epsilon": config.norm_eps,
    }
