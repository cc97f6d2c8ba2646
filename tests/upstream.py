"""PyTorch models in the layout of the published ones, from random weights: what the converter's tests read.

The networks are transformers' own (Chameleon, JanusVQVAE), and so is the code that writes the language model's files.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import ChameleonConfig, ChameleonForConditionalGeneration, JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from pure_jax.config import TransformerConfig, VQGANConfig
from tests.models import tiny_tokenizer

CODES = 64
VQGAN = VQGANConfig(channels=32, latent_channels=32, codebook_size=CODES)
"""VQ-8 in small: the depth, and so the names, of LlamaGen's file."""

VARIANTS: dict[str, dict[str, Any]] = {
    "one rank": {},
    "two ranks, grouped queries": {"model_parallel_size": 2, "num_kv_heads": 2},
    "a rank per head": {"model_parallel_size": 4},
    "a row per head, grouped queries": {"model_parallel_size": 4, "num_kv_heads": 2},
    "swin norm, two ranks, grouped queries": {"num_kv_heads": 2, "swin_norm": True, "model_parallel_size": 2},
}


def transformer_config(**changes: Any) -> TransformerConfig:
    """2 layers of 32; the vocabulary covers the tiny tokenizer's."""
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_layers": 2}
    heads = {"num_heads": 4, "num_kv_heads": 4, "head_dim": 8, "dropout": 0.0, "scan_layers": False}
    return TransformerConfig(**(sizes | heads | changes))


def language_model(
    cfg: TransformerConfig, seed: int = 0, names: dict[str, int] | None = None
) -> ChameleonForConditionalGeneration:
    """Random weights, wide enough that every part matters; QK-norm rows repeat as `cfg` says.

    names: vocabulary_map of its configuration, which must name <image> and the image codes.
    """
    torch.manual_seed(seed)
    model = ChameleonForConditionalGeneration(
        ChameleonConfig(
            vocab_size=cfg.vocab_size,
            hidden_size=cfg.hidden_size,
            intermediate_size=cfg.intermediate_size,
            num_hidden_layers=cfg.num_layers,
            num_attention_heads=cfg.num_heads,
            num_key_value_heads=cfg.num_kv_heads,
            rms_norm_eps=cfg.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_theta},
            swin_norm=cfg.swin_norm,
            model_parallel_size=cfg.model_parallel_size,
            vocabulary_map=names or {"<image>": 60, "IMGIMGAZ": 4, "IMGIMGBZ": 5},
            vq_config={
                "base_channels": 32,
                "channel_multiplier": [1],
                "num_res_blocks": 1,
                "latent_channels": 32,
                "embed_dim": 8,
                "num_embeddings": 2,
                "attn_type": "none",
            },
        )
    ).eval()
    for name, p in model.named_parameters():
        noise = torch.randn_like(p)
        if "_norm." in name:
            count = cfg.norm_rows(p.shape[0])
            rows = torch.randn(count, cfg.head_dim).repeat_interleave(p.shape[0] // count, dim=0)
            p.data = 0.3 * rows + name.endswith("weight")
        elif p.ndim == 1:
            p.data = 1 + 0.3 * noise
        else:
            p.data = noise if "embed_tokens" in name else noise * p.shape[-1] ** -0.5
    return model


def image_tokenizer(config: VQGANConfig = VQGAN) -> JanusVQVAE:
    """Random weights; the codebook's rows have length 1, because this class does not normalise them."""
    torch.manual_seed(0)
    model = JanusVQVAE(
        JanusVQVAEConfig(
            base_channels=config.channels,
            channel_multiplier=list(config.channel_multipliers),
            num_res_blocks=config.num_res_blocks,
            latent_channels=config.latent_channels,
            embed_dim=config.codebook_dim,
            num_embeddings=config.codebook_size,
        )
    ).eval()
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.data = 0.2 * torch.randn_like(p) + (name.endswith("weight") and "norm" in name)
        else:
            p.data = torch.randn_like(p) * p[0].numel() ** -0.5
    weight = model.quantize.embedding.weight
    weight.data = torch.nn.functional.normalize(weight.data, dim=-1)
    return model


def llamagen_name(janus: str) -> str:
    """A name of JanusVQVAE -> the same tensor's name in LlamaGen's file."""
    name = re.sub(r"encoder\.down\.", "encoder.conv_blocks.", janus)
    name = re.sub(r"decoder\.up\.", "decoder.conv_blocks.", name)
    name = re.sub(r"(conv_blocks\.\d+)\.block\.", r"\1.res.", name)
    for part, index in (("block_1", 0), ("attn_1", 1), ("block_2", 2)):
        name = name.replace(f".mid.{part}.", f".mid.{index}.")
    return name


@lru_cache
def image_tensors(config: VQGANConfig = VQGAN) -> dict[str, torch.Tensor]:
    """As in LlamaGen's file: its names, codebook rows of any length, and the buffer of used codes. Do not change."""
    out = {llamagen_name(name): tensor.clone() for name, tensor in image_tokenizer(config).state_dict().items()}
    lengths = torch.rand(config.codebook_size, 1, generator=torch.Generator().manual_seed(0)) * 2.9 + 0.1
    out["quantize.embedding.weight"] = out["quantize.embedding.weight"] * lengths
    return out | {"quantize.codebook_used": torch.zeros(65536)}


def write_tokenizer(file: Path, codes: int = CODES) -> None:
    file.write_text(tiny_tokenizer(codes)[0].to_str(), encoding="utf-8")


def write_model(
    directory: Path,
    cfg: TransformerConfig | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "40KB",
    rows_per_head: bool = True,
    seed: int = 0,
) -> Path:
    """A whole model as a user has it on disk, in several shards unless `shard_size` is large.

    rows_per_head: QK-norm rows as transformers writes them; False thins them out to one per rank, as PURE has them.
    """
    cfg = cfg or transformer_config()
    names = tiny_tokenizer(CODES)[0].get_vocab()
    model = language_model(cfg, seed, {"<image>": names["<reserved08707>"], **names}).to(dtype)
    model.save_pretrained(directory, max_shard_size=shard_size)
    if not rows_per_head:
        change_tensors(
            directory,
            lambda name, t: t[:: len(t) // cfg.norm_rows(len(t))] if re.search("[qk]_norm", name) else t,
        )
    write_tokenizer(directory / "tokenizer.json")
    torch.save({"model": image_tensors()}, directory / "vq_ds8_c2i.pt")
    return directory


def change_tensors(directory: Path, change: Any) -> None:
    """Rewrite every shard: change(name, tensor) -> the new tensor, or None to leave it out."""
    from safetensors.torch import load_file, save_file

    for file in directory.glob("*.safetensors"):
        changed = {name: change(name, tensor) for name, tensor in load_file(file).items()}
        kept = {name: tensor.contiguous() for name, tensor in changed.items() if tensor is not None}
        save_file(kept, file, {"format": "pt"}) if kept else file.unlink()
        if (index := directory / "model.safetensors.index.json").is_file():
            content = json.loads(index.read_text())
            for name in changed.keys() - kept.keys():
                del content["weight_map"][name]
            index.write_text(json.dumps(content))


def change_config(directory: Path, **changes: Any) -> None:
    """Set fields of config.json; None removes one."""
    file = directory / "config.json"
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
