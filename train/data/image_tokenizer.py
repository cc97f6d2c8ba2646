"""An image tokenizer wherever it lies: in a model directory, in LlamaGen's file, or in a training run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from pure_jax.checkpoint import demo_directory, read_json
from pure_jax.config import VQGANConfig, from_dict, to_dict
from pure_jax.convert.parts import load_vqgan
from pure_jax.errors import PureError
from pure_jax.model import encode_images
from pure_jax.train.runs import CONFIG, Run
from pure_jax.vqgan import fitting

ENCODING = ("encoder", "quant_conv", "quantizer")
"""The parts that codes depend on; a decoder may be trained further."""


@dataclass(frozen=True, eq=False)
class ImageTokenizer:
    """params: plain nested dicts, float32. tile_size: side of the model's tiles in pixels; None where none is said."""

    config: VQGANConfig
    params: Any
    tile_size: int | None = None

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3] -> uint16 codes [n, H / stride, W / stride]; sides are multiples of the stride."""
        vqgan, most = fitting(self.config, *pixels.shape[1:3])
        parts = [encode_images(vqgan, self.params, pixels[i : i + most]) for i in range(0, len(pixels), most)]
        return np.concatenate([np.asarray(part) for part in parts]).astype(np.uint16)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, hexadecimal, of the sizes and of all parameters that codes depend on."""
        digest = hashlib.sha256(json.dumps(to_dict(self.config), sort_keys=True).encode())
        parts = {name: self.params[name] for name in ENCODING if name in self.params}
        for path, leaf in sorted(flatten_dict(parts, sep=".").items()):
            digest.update(path.encode())
            digest.update(np.asarray(leaf, np.float32).tobytes())
        return digest.hexdigest()

    @property
    def codebook(self) -> np.ndarray:
        """float32 [codes, dim]"""
        return np.asarray(self.params["quantizer"]["codebook"])


def load_image_tokenizer(source: Path | None) -> ImageTokenizer:
    """Read one.

    source: --out of `pure train vqgan` (its averaged weights), a model directory, a hub id, LlamaGen's file; None is
    the embedded demo's.

    Raises:
        PureError: there is none; it is broken; it has more codes than records can hold.
    """
    if source is not None and (source / "checkpoints").is_dir():
        stored = read_json(source / CONFIG)
        sizes = stored.get("model") if isinstance(stored, dict) else None
        config = from_dict(VQGANConfig, sizes, f"{source / CONFIG}: model")
        found = ImageTokenizer(config, Run(source).params())
    else:
        vqgan, params = load_vqgan(source)
        file = (demo_directory() if source is None else source) / "config.json"
        values = read_json(file) if file.is_file() else None
        found = ImageTokenizer(vqgan.config, params, values.get("tile_size") if isinstance(values, dict) else None)
    if found.config.codebook_size > 2**16:
        raise PureError(f"the image tokenizer has {found.config.codebook_size} codes; records hold up to {2**16}")
    return found
