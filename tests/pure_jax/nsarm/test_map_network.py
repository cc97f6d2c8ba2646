"""T has the published size and equals PyTorch's own layers, in both readings of its output."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pure_jax.convert.nsarm import torch_networks
from pure_jax.convert.nsarm.names import MAP_PREFIX, map_rows
from pure_jax.convert.tables import Row
from pure_jax.nsarm.bsq import decompose
from pure_jax.nsarm.config import MapConfig
from pure_jax.nsarm.map_network import MapNetwork, as_map, residuals_of
from pure_jax.nsarm.resize import resize
from pure_jax.nsarm.schedule import SIDES_1M
from pure_jax.nsarm.shapes import map_shapes
from tests.nsarm_bridge import params_of

# 9 -> 4 and 9 -> 6: overlapping bins.
TINY = MapConfig(latent_side=9, stem=(6, 8), widths=(8, 12), layers=(1, 2), heads=(2, 3))
SIDES = (4, 6)
WHOLE = 8


def test_it_has_the_published_number_of_parameters():
    shapes = map_shapes(MapConfig(), 14, tuple(2 * side for side in SIDES_1M[:7]))
    assert sum(map(math.prod, shapes.values())) == 385_103_600


@pytest.fixture(scope="module")
def theirs() -> torch_networks.MapNetwork:
    return torch_networks.randomised(torch_networks.MapNetwork(TINY, 5, list(SIDES), WHOLE))


@pytest.fixture(scope="module")
def params(theirs) -> dict:
    rows = [Row(r.source.removeprefix(MAP_PREFIX), r.target, r.transform, r.fields) for r in map_rows(TINY)]
    return params_of(theirs, rows, map_shapes(TINY, 5, SIDES))


@pytest.mark.parametrize(
    ("layout", "predicts"), [("raw", "residuals"), ("channels_last", "residuals"), ("channels_last", "latents")]
)
def test_it_equals_pytorch(theirs, params, layout, predicts):
    features = np.random.default_rng(0).normal(size=(2, 9, 9, 5)).astype(np.float32)
    network = MapNetwork(dataclasses.replace(TINY, layout=layout, predicts=predicts), 5, SIDES, WHOLE)
    ours = jax.jit(network.apply)({"params": params}, features)
    theirs.layout, theirs.predicts = layout, predicts
    with torch.no_grad():
        wanted = theirs(torch.tensor(features).permute(0, 3, 1, 2))
    for own, other, side in zip(ours, wanted, SIDES, strict=True):
        assert own.shape == (2, side, side, 5)
        np.testing.assert_allclose(own, other.permute(0, 2, 3, 1), rtol=0, atol=2e-6)  # measured 1e-6


def test_raw_is_the_same_memory_read_as_channels_first():
    tokens = jnp.arange(2 * 9 * 5).reshape(2, 9, 5)
    raw = as_map(tokens, 3, "raw")
    assert raw[1, 2, 0, 3] == 45 + 3 * 9 + 2 * 3 + 0
    assert as_map(tokens, 3, "channels_last")[1, 2, 0, 3] == 45 + (2 * 3 + 0) * 5 + 3


def test_latents_that_are_the_ground_truths_leave_its_residuals():
    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 5)), jnp.float32)
    sides = [(2, 2), (3, 3), (6, 6), (8, 8)]
    found = residuals_of([resize(features, side, "area") for side in sides[:3]], 8)
    for own, wanted in zip(found, decompose(features, sides).residuals, strict=False):
        np.testing.assert_allclose(own, wanted, rtol=0, atol=1e-6)  # measured 2.4e-7


def test_dropout_is_for_training_only(params):
    network, features = MapNetwork(TINY, 5, SIDES), jnp.ones((1, 9, 9, 5))

    @jax.jit
    def run(key):
        return network.apply({"params": params}, features, deterministic=False, rngs={"dropout": key})[1]

    one, two = (run(jax.random.key(i)) for i in range(2))
    assert (one != two).any()
