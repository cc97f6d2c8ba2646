"""Pictures of many megapixels, each in a process of its own: restored from end to end by a small network of random
weights, and written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.config import VQGANConfig
from tests.models import tiny_model

pytestmark = [pytest.mark.long, pytest.mark.slow]

VQGAN = VQGANConfig(
    channels=32, channel_multipliers=(1, 1, 1, 1), num_res_blocks=1, latent_channels=32, codebook_size=64
)
PROGRAM = """
import resource
import sys

from pure_jax.__main__ import main

try:
    main(sys.argv[1:])
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""
WRITING = """
import resource
import sys
from pathlib import Path

import numpy as np

from pure_jax.infer.pictures.large import let_go, on_disk, strips
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.pictures.reading import Frames
from pure_jax.infer.pictures.writing import encode

pixels = on_disk((10_000, 10_000, 3), np.uint8)
for first, behind in strips(10_000, 10_000):
    pixels[first:behind] = (np.arange(10_000)[:, None] // 40) % 256
    let_go(pixels)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = Path(sys.argv[1])
with path.open("x+b") as file:
    encode(file, path.suffix, Frames([Picture(pixels)]))
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def restored(photo: Path, output: Path, model: Path) -> int:
    """Bytes that the process had in memory at its peak."""
    options = ["--model", model, "--overlap", "0", "--scale", "4", "--batch", "64", "--unchecked", "--quiet"]
    command = [sys.executable, "-c", PROGRAM, "restore", photo, output, *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return 1024 * int(done.stderr.split("peak")[-1])


def test_memory_does_not_grow_with_the_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    model = tiny_model(tile_size=128, num_layers=1, max_text_tokens=1, vqgan=VQGAN)
    pure_jax.save(tmp_path / "model", model.config, model.params, model.tokenizer.to_str(), "Random weights.\n")
    peaks = []
    for side in (1250, 2500):  # results of 25 and 100 million pixels
        noise = np.random.default_rng(0).integers(0, 256, (side // 10, side // 10, 3), dtype=np.uint8)
        photo = tmp_path / f"{side}.png"
        Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(photo)
        output = photo.with_name("large.png")
        peaks.append(restored(photo, output, tmp_path / "model"))
        print(f"{(4 * side) ** 2 / 1e6:.0f} million pixels: {peaks[-1] / 1e6:.0f} MB")
        with Image.open(output) as image:
            assert image.size == (4 * side, 4 * side)
        output.unlink()
    assert peaks[1] - peaks[0] < 1.5 * 75e6  # bytes; measured 61e6, 14e6 of them the photo. Held whole, 525e6


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_file_of_100_million_pixels_is_written_from_the_disk(tmp_path, suffix):
    command = [sys.executable, "-c", WRITING, tmp_path / f"large{suffix}"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    before, peak = (1024 * int(number) for number in done.stdout.split())
    assert peak - before < 50e6  # bytes; measured 3e6
