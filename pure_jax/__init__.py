"""pure-jax: restoring real-world low-quality photographs with autoregressive multimodal models, in JAX and Flax.

model = pure_jax.load()            # the embedded demo model, or load("path")
codes = model.encode(image)        # uint8 [H, W, 3] -> int32 [H / stride, W / stride]
image = model.decode(codes)        # int32 [h, w] -> uint8 [stride * h, stride * w, 3]
result = pure_jax.Restorer(model).restore(photo, scale=4, seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pure_jax.errors import PureError

if TYPE_CHECKING:
    from pure_jax.checkpoint import save
    from pure_jax.config import ModelConfig, SamplingConfig, TransformerConfig, VQGANConfig
    from pure_jax.convert.opening import find, load, load_config
    from pure_jax.convert.parts import load_transformer, load_vqgan
    from pure_jax.infer.restore import Restoration, Restorer
    from pure_jax.model import Model, decode_codes, encode_images, next_code_distribution
    from pure_jax.sampling import CodeDistribution, code_distribution

__version__ = "0.1.0"

_HOMES = {
    "find": "pure_jax.convert.opening",
    "load": "pure_jax.convert.opening",
    "load_config": "pure_jax.convert.opening",
    "load_transformer": "pure_jax.convert.parts",
    "load_vqgan": "pure_jax.convert.parts",
    "save": "pure_jax.checkpoint",
    "CodeDistribution": "pure_jax.sampling",
    "code_distribution": "pure_jax.sampling",
    "decode_codes": "pure_jax.model",
    "encode_images": "pure_jax.model",
    "next_code_distribution": "pure_jax.model",
    "Model": "pure_jax.model",
    "ModelConfig": "pure_jax.config",
    "Restoration": "pure_jax.infer.restore",
    "Restorer": "pure_jax.infer.restore",
    "SamplingConfig": "pure_jax.config",
    "TransformerConfig": "pure_jax.config",
    "VQGANConfig": "pure_jax.config",
}
__all__ = [
    "CodeDistribution",
    "Model",
    "ModelConfig",
    "PureError",
    "Restoration",
    "Restorer",
    "SamplingConfig",
    "TransformerConfig",
    "VQGANConfig",
    "code_distribution",
    "decode_codes",
    "encode_images",
    "find",
    "load",
    "load_config",
    "load_transformer",
    "load_vqgan",
    "next_code_distribution",
    "save",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import pure_jax` and `pure --help` stay quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pure_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
