"""The embedded demo models: PURE's loads by default and answers in the format it was trained on; both stay near their
input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.checkpoint import EMBEDDED, demo_directory
from pure_jax.config import demo
from pure_jax.infer.restore import Restorer

SAMPLE = demo_directory() / "sample.png"


@pytest.fixture(scope="module")
def corner() -> Image.Image:
    with Image.open(SAMPLE) as image:
        return image.convert("RGB").crop((0, 0, 32, 24))


@pytest.fixture(scope="module")
def results(corner):
    return {name: Restorer(pure_jax.load(name)).restore(corner, seed=1) for name in EMBEDDED}


def test_the_model_is_the_demo_preset_up_to_its_sampling_defaults() -> None:
    config, preset = pure_jax.load(scan_layers=False).config, demo()
    assert (config.transformer, config.vqgan, config.tile_size) == (preset.transformer, preset.vqgan, preset.tile_size)


def test_it_reads_the_degradation_describes_and_opens_every_picture_itself(results) -> None:
    restoration = results["demo"]
    assert restoration.degradation is not None and restoration.description
    assert restoration.remarks == []


def test_nsarms_has_its_prompt_with_it_and_says_nothing(results) -> None:
    model: Any = pure_jax.load("demo-nsarm")
    assert model.config.family == "nsarm" and model.tokenizer is None and "prompt" in model.params
    assert (results["demo-nsarm"].degradation, results["demo-nsarm"].remarks) == (None, [])


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_result_is_the_input_four_times_larger_and_not_something_else(name, results, corner) -> None:
    restoration = results[name]
    assert restoration.image.size == (128, 96)
    enlarged = np.asarray(corner.resize((128, 96), Image.Resampling.BICUBIC), np.float32)
    error = np.mean((np.asarray(restoration.image, np.float32) - enlarged) ** 2)
    assert 10 * np.log10(255**2 / error) > 15  # unrelated photographs are 8 to 12 dB apart


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_comes_out_flat(name: str, level: int) -> None:
    image = Restorer(pure_jax.load(name)).restore(Image.new("L", (40, 30), level)).image
    low, high = image.getextrema()
    assert level - 3 <= low <= high <= level + 3


def test_the_sample_is_small_and_the_models_under_25_megabytes() -> None:
    with Image.open(SAMPLE) as image:
        assert image.size == (128, 128)
    for name in EMBEDDED:
        assert sum(file.stat().st_size for file in demo_directory(name).iterdir()) < 25e6
