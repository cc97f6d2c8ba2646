"""The decoder's own training moves the decoder only, by gradients whose adversarial part has the length it is given."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.train.config import DecoderTrainConfig, OptimiserConfig
from pure_jax.train.decoder import PARTS, RestoredTiles, batch_at, init_state, load_tiles, make_step, save_tiles
from tests.models import tiny_config, tiny_model

MODEL = tiny_config(tile_size=16, channels=8, channel_multipliers=(1, 1), latent_channels=8, num_groups=2)
PARAMS = tiny_model(tile_size=16, channels=8, channel_multipliers=(1, 1), latent_channels=8, num_groups=2).params[
    "vqgan"
]
OPTIONS = DecoderTrainConfig(
    batch=2,
    steps=10,
    perceptual_weight=0.0,
    adversarial_start=1,
    discriminator_width=16,
    discriminator_layers=1,
    optimiser=OptimiserConfig(1e-3, 1e-3, warmup_steps=0, weight_decay=0.0, clip_norm=1e9),
)


@pytest.fixture(scope="module")
def tiles():
    rng = np.random.default_rng(0)
    return RestoredTiles(
        rng.integers(64, size=(5, 8, 8)).astype(np.uint16), rng.integers(256, size=(5, 16, 16, 3), dtype=np.uint8)
    )


def crops_at(step: int) -> np.ndarray:
    return np.random.default_rng([step, 7]).integers(256, size=(2, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def two_steps(tiles):
    """States before, after the first and after the second step, and the metrics of both."""
    step_fn, states, metrics = make_step(MODEL.vqgan, PARAMS, OPTIONS, None), [init_state(PARAMS, OPTIONS, 16)], []
    for step in range(2):
        state, measured = step_fn(states[-1], batch_at(tiles, crops_at, OPTIONS, step))
        states.append(state)
        metrics.append(measured)
    return states, metrics


def test_only_the_decoder_is_there_to_be_moved(two_steps):
    states, _ = two_steps
    assert set(states[0].params) == set(PARTS) == {"decoder", "post_quant_conv"}
    same = jax.tree.map(np.array_equal, states[0].params, states[1].params)
    assert np.mean(jax.tree.leaves(same)) < 0.1
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, states[0].disc_params, states[1].disc_params)))


def test_the_adversarial_term_begins_where_it_is_told(tiles, two_steps):
    states, _ = two_steps
    without = make_step(MODEL.vqgan, PARAMS, dataclasses.replace(OPTIONS, adversarial_start=100), None)
    first, _ = without(states[0], batch_at(tiles, crops_at, OPTIONS, 0))
    jax.tree.map(np.testing.assert_array_equal, first.params, states[1].params)
    second, _ = without(states[1], batch_at(tiles, crops_at, OPTIONS, 1))
    same = jax.tree.map(np.array_equal, second.params, states[2].params)
    assert not all(jax.tree.leaves(same))


def test_the_batch_follows_from_seed_and_step(tiles):
    crops, codes, pixels = batch_at(tiles, crops_at, OPTIONS, 3)
    again = batch_at(tiles, crops_at, OPTIONS, 3)
    for a, b in zip((crops, codes, pixels), again, strict=True):
        np.testing.assert_array_equal(a, b)
    for row, image in zip(codes, pixels, strict=True):
        index = next(i for i in range(5) if (tiles.codes[i] == row).all())
        np.testing.assert_array_equal(image, tiles.pixels[index])


def test_tiles_survive_the_disk_and_other_files_are_refused(tiles, tmp_path):
    path = tmp_path / "tiles.npz"
    save_tiles(path, tiles)
    loaded = load_tiles([path, path])
    np.testing.assert_array_equal(loaded.codes, np.concatenate([tiles.codes, tiles.codes]))
    np.testing.assert_array_equal(loaded.pixels, np.concatenate([tiles.pixels, tiles.pixels]))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PureError, match="cannot be read"):
        load_tiles([path])
