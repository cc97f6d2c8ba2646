"""A model as transformers computes it in PyTorch, for the parity report: nothing of this library computes anything.

The network is made without memory for its parameters; each module gets its own when its turn comes and gives them back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pure_jax.checkpoint import Checkpoint, unstack
from pure_jax.convert.chameleon import transformer_to_torch
from pure_jax.convert.export import torch_config
from pure_jax.convert.llamagen import vqgan_to_torch
from pure_jax.convert.torch_files import import_torch, to_torch_tensor
from pure_jax.tensors import LazyTensor, cast

_WHY = "computing a PyTorch model"


def activations(
    checkpoint: Checkpoint, ids: np.ndarray, dtype: str, observe: Callable[[str, np.ndarray], None]
) -> None:
    """Run the transformer on one sequence; arguments as in `pure_jax.convert.jax_runner.activations`.

    The logits are those of the head itself, before transformers masks the ids of image codes.

    Raises:
        PureError: torch is not installed, or transformers has no such model.
    """
    torch = import_torch(_WHY)
    config = checkpoint.config.transformer
    model = _chameleon(checkpoint)
    # Permutations that the way here through the same table has made are undone by the way back.
    tensors = transformer_to_torch(unstack(checkpoint.tensors["transformer"]), config)
    modules = {"model.embed_tokens": "embedding"}
    modules |= {f"model.layers.{i}": f"layer {i}" for i in range(config.num_layers)}
    modules |= {"model.norm": "final norm", "lm_head": "logits"}
    for path, name in modules.items():
        own = {key[len(path) + 1 :]: cast(t, dtype, key) for key, t in tensors.items() if key.startswith(f"{path}.")}
        _lend(model.get_submodule(path), own, name, observe)
    with torch.no_grad():
        model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)


def _chameleon(checkpoint: Checkpoint) -> Any:
    """transformers' network without parameters; attention by torch's fused function, the original's default."""
    import torch
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    config = ChameleonConfig.from_dict(torch_config(checkpoint) | {"attn_implementation": "sdpa"})
    with torch.device("meta"):
        model = ChameleonForConditionalGeneration(config).eval()
    # Its frequencies are no parameters: they are computed when it is made, so it is made again, in memory.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    return model


def _lend(
    module: Any, parameters: Mapping[str, LazyTensor], name: str, observe: Callable[[str, np.ndarray], None]
) -> None:
    """Let a module read its parameters just before it runs, and drop them just after."""
    import torch

    def read(module: Any, args: Any) -> None:
        state = {key: to_torch_tensor(np.asarray(tensor)) for key, tensor in parameters.items()}
        module.load_state_dict(state, assign=True)

    def record(module: Any, args: Any, output: Any) -> None:
        module.to("meta")
        hidden = output[0] if isinstance(output, tuple) else output
        # A copy, because transformers writes into the logits afterwards.
        observe(name, hidden[0].to(torch.float32, copy=True).numpy())

    module.register_forward_pre_hook(read)
    module.register_forward_hook(record)


# ---- image tokenizer -----------------------------------------------------------------------------------------------


def encode(checkpoint: Checkpoint, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] -> (int32 codes [h, w], the float32 unit vectors [h, w, codebook_dim] they are nearest to).

    Raises PureError if torch is not installed.
    """
    torch = import_torch(_WHY)
    model = _janus(checkpoint)
    images = torch.from_numpy((pixels / 255.0 * 2.0 - 1.0).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        # This class leaves the latents as long as they are, but LlamaGen's are compared by direction.
        latents = torch.nn.functional.normalize(model.quant_conv(model.encoder(images)), dim=1)
        codes = model.quantize(latents)[2]
    vectors = latents[0].permute(1, 2, 0).numpy()
    return codes.numpy().reshape(vectors.shape[:2]).astype(np.int32), vectors


def decode(checkpoint: Checkpoint, codes: np.ndarray) -> np.ndarray:
    """int32 codes [h, w] -> uint8 [H, W, 3], truncated as the original does. Raises PureError if torch is missing."""
    torch = import_torch(_WHY)
    model = _janus(checkpoint)
    with torch.no_grad():
        # The class's own decode() knows only pictures as large as its configuration says.
        vectors = model.quantize.embedding(torch.from_numpy(codes.astype(np.int64))[None]).permute(0, 3, 1, 2)
        images = model.decoder(model.post_quant_conv(vectors))[0].permute(1, 2, 0)
        return ((images.clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0).to(torch.uint8).numpy()


def _janus(checkpoint: Checkpoint) -> Any:
    """transformers' class for LlamaGen's network, float32; the codebook normalised, which this class does not do."""
    import torch
    from transformers import JanusVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAE

    cfg = checkpoint.config.vqgan
    config = JanusVQVAEConfig(
        base_channels=cfg.channels,
        channel_multiplier=list(cfg.channel_multipliers),
        num_res_blocks=cfg.num_res_blocks,
        latent_channels=cfg.latent_channels,
        embed_dim=cfg.codebook_dim,
        num_embeddings=cfg.codebook_size,
    )
    with torch.device("meta"):
        model = JanusVQVAE(config).eval()
    tensors = vqgan_to_torch(checkpoint.tensors["vqgan"])
    state = {_janus_name(name): to_torch_tensor(np.asarray(cast(t, np.float32, name))) for name, t in tensors.items()}
    codebook = "quantize.embedding.weight"
    state[codebook] = torch.nn.functional.normalize(state[codebook], dim=-1)
    model.load_state_dict(state, assign=True)
    return model


def _janus_name(llamagen: str) -> str:
    """A name of LlamaGen's file -> the same tensor's in transformers' JanusVQVAE."""
    name = re.sub(r"(conv_blocks\.\d+)\.res\.", r"\1.block.", llamagen)
    name = name.replace("encoder.conv_blocks.", "encoder.down.").replace("decoder.conv_blocks.", "decoder.up.")
    for index, part in enumerate(("block_1", "attn_1", "block_2")):
        name = name.replace(f".mid.{index}.", f".mid.{part}.")
    return name
