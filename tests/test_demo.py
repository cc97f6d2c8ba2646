"""The embedded demo model: it loads by default, answers in the format it was trained on, and stays near its input."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.checkpoint import demo_directory
from pure_jax.config import demo
from pure_jax.infer.restore import Restorer

SAMPLE = demo_directory() / "sample.png"


@pytest.fixture(scope="module")
def result():
    with Image.open(SAMPLE) as image:
        corner = image.convert("RGB").crop((0, 0, 32, 24))
    return corner, Restorer(pure_jax.load()).restore(corner, seed=1)


def test_the_model_is_the_demo_preset_up_to_its_sampling_defaults() -> None:
    config, preset = pure_jax.load(scan_layers=False).config, demo()
    assert (config.transformer, config.vqgan, config.tile_size) == (preset.transformer, preset.vqgan, preset.tile_size)


def test_it_reads_the_degradation_describes_and_opens_every_picture_itself(result) -> None:
    _, restoration = result
    assert restoration.degradation is not None and restoration.description
    assert restoration.remarks == []


def test_the_result_is_the_input_four_times_larger_and_not_something_else(result) -> None:
    corner, restoration = result
    assert restoration.image.size == (128, 96)
    enlarged = np.asarray(corner.resize((128, 96), Image.Resampling.BICUBIC), np.float32)
    error = np.mean((np.asarray(restoration.image, np.float32) - enlarged) ** 2)
    assert 10 * np.log10(255**2 / error) > 15  # unrelated photographs are 8 to 12 dB apart


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_comes_out_flat(level: int) -> None:
    image = Restorer(pure_jax.load()).restore(Image.new("L", (40, 30), level)).image
    low, high = image.getextrema()
    assert level - 3 <= low <= high <= level + 3


def test_the_sample_is_small_and_the_model_under_25_megabytes() -> None:
    with Image.open(SAMPLE) as image:
        assert image.size == (128, 128)
    assert sum(file.stat().st_size for file in demo_directory().iterdir()) < 25e6
