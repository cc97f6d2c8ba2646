"""What a photo is expected to take, against models that take a known time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.infer import stages
from pure_jax.infer.contract import RestoredTile, RestoredTiles
from pure_jax.infer.decoding import generate as generating
from pure_jax.infer.doctor import forecast as module
from pure_jax.infer.doctor.forecast import forecast
from pure_jax.infer.doctor.surroundings import memory_plan
from pure_jax.infer.families import RESTORE_TILES, TILES_TOGETHER
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.restore import Restorer
from pure_jax.transformer import token_bytes
from tests import toy
from tests.models import tiny_model
from tests.nsarm_models import tiny_pair

ENCODE, OPEN, ROW, DECODE = 0.25, 3.0, 2.0, 0.5
"""Seconds: of a tile, of a batch, of each of four rows of a batch, of a tile."""


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(time=0.0)
    for used in (stages, module):
        monkeypatch.setattr(used, "time", SimpleNamespace(perf_counter=lambda: clock.time))
    return clock


@pytest.fixture
def model(clock, monkeypatch) -> Iterator[Any]:
    """Of a family that writes 5 tiles together and needs the times above."""

    def restore_tiles(model, tiles, *, seed, batch, progress, first=0):
        progress("encode", 0, len(tiles))
        clock.time += ENCODE * len(tiles)
        parts = -(-len(tiles) // 5)
        progress("compile", 0, 0)
        for part, row in itertools.product(range(parts), range(4)):
            clock.time += ROW + (OPEN if row == 0 else 0.0)
            progress("restore", 4 * part + row + 1, 4 * parts)
        progress("decode", 0, len(tiles))
        clock.time += DECODE * len(tiles)
        large = tiles.repeat(2, axis=1).repeat(2, axis=2)
        return RestoredTiles([RestoredTile(tile, np.ones((4, 4), np.float32)) for tile in large], [])

    class Timed(toy.ToyModel):
        def decode(self, codes):
            clock.time += DECODE
            return super().decode(codes)

    with toy.registered():
        monkeypatch.setitem(RESTORE_TILES, "toy", restore_tiles)
        monkeypatch.setitem(TILES_TOGETHER, "toy", lambda config, dtype: 5)
        yield Timed(toy.ToyConfig(), toy.params(), None, "", np.float32)


def noise(height: int, width: int) -> Picture:
    return Picture(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(16, 16), (16, 64), (40, 52), (100, 90)])
def test_it_is_what_the_photo_then_takes(model, clock, size):
    picture = noise(*size)
    found = forecast(model, picture, scale=1.0)
    before = clock.time
    Restorer(model).restore(picture, scale=1.0)
    taken = clock.time - before
    assert found.tiles == len(Restorer(model).plan(picture, 1.0).corners) and found.flat == 0
    # A batch is as large as those of the photo, so only the last one, which may be smaller, costs the same here.
    assert found.seconds == pytest.approx(taken, rel=1e-9)
    assert found.measured == 1.0 and found.together <= 5


def test_long_ones_are_broken_off_and_the_rest_follows(model):
    whole = forecast(model, noise(100, 90), scale=1.0)
    found = forecast(model, noise(100, 90), scale=1.0, enough_s=6.0)  # an opening and two rows take 7
    assert found.measured == 0.5
    for stage in ("write codes", "decode"):
        assert found.stages[stage] == pytest.approx(whole.stages[stage]) and whole.stages[stage] > 0


def test_flat_tiles_cost_nothing(model, clock):
    picture = noise(64, 64)
    picture.rgb[:, 32:] = 7
    found = forecast(model, picture, scale=1.0)
    before = clock.time
    Restorer(model).restore(picture, scale=1.0)
    assert 0 < found.flat < found.tiles and found.seconds == pytest.approx(clock.time - before)
    flat = forecast(model, Picture(np.full((64, 64, 3), 7, np.uint8)), scale=1.0)
    assert (flat.flat, flat.seconds) == (flat.tiles, 0.0)


def test_a_real_model_is_measured_with_its_compiler_apart():
    found = forecast(tiny_model(num_layers=1), noise(16, 20), scale=1.0)
    assert (found.width, found.height, found.tiles, found.measured) == (20, 16, 1, 1.0)
    names = ["cut", "programs", "encode", "write codes", "decode", "blend", "write file"]
    assert list(found.stages) == names and min(found.stages.values()) >= 0
    assert found.stages["programs"] + found.compiling > 0


def test_a_scale_out_of_range_is_refused(model):
    with pytest.raises(PureError, match="the scale is 99"):
        forecast(model, noise(16, 16), scale=99.0)


def test_so_many_tiles_are_expected_together_as_are_written_together(monkeypatch):
    model = tiny_model(num_layers=1)
    monkeypatch.setattr(generating, "CACHE_BYTES", 3 * 200 * token_bytes(model.config.transformer, model.dtype))
    batches: list[int] = []

    def halved(run: Any, batch: int, advice: str) -> Any:
        batches.append(batch)
        raise PureError("enough")

    monkeypatch.setattr(generating, "with_halved_batches", halved)
    with pytest.raises(PureError, match="enough"):
        Restorer(model).restore(noise(96, 96).rgb, scale=1.0)
    expected = TILES_TOGETHER["pure"](model.config, model.dtype)
    assert batches == [expected] and 1 < expected < 9


def test_nsarm_is_measured_too():
    model = tiny_pair().model
    found = forecast(model, noise(18, 21), scale=2.0)
    assert found.measured == 1.0 and found.stages["write codes"] > 0 and found.stages["decode"] > 0
    plan = memory_plan(model.config, "float32")
    assert plan.needed is None and plan.together > 1 and plan.advice == ""
