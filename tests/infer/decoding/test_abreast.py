"""Pictures that are written in lanes are those of one lane; lanes have equal shapes, and one progress."""

from __future__ import annotations

import numpy as np
import pytest

from pure_jax.infer.decoding.abreast import lanes_for
from pure_jax.infer.decoding.generate import generate
from pure_jax.infer.decoding.rows import Rows
from pure_jax.infer.decoding.staggered import Staggered
from pure_jax.infer.decoding.windows import Windows
from tests.models import tiny_model

PICTURES, SIDE = 5, 8


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_layers=1)


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(0, 64, (PICTURES, SIDE, SIDE))


@pytest.fixture
def lanes(monkeypatch):
    def choose(count):
        monkeypatch.setattr("pure_jax.infer.decoding.generate.usual_lanes", lambda *about: count)

    return choose


WAYS = (Rows(), Windows("jacobi", 4), Windows("coupled", 4), Staggered(2))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: getattr(way, "rule", type(way).__name__))
def test_lanes_write_what_one_lane_writes(model, codes, lanes, way):
    lanes(1)
    alone = generate(model, codes, seed=3, decoding=way, batch=2)
    lanes(2)
    abreast = generate(model, codes, seed=3, decoding=way, batch=4)  # two pictures in each lane
    for one, other in zip(alone, abreast, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        assert (one.text, one.opened, one.passes) == (other.text, other.opened, other.passes)


def test_progress_is_that_of_all_lanes(model, codes, lanes):
    lanes(3)
    seen = []
    generate(model, codes, decoding=Rows(), batch=3, progress=lambda stage, done, total: seen.append(done))
    assert seen[0] == 0 and seen[-1] == PICTURES * SIDE * SIDE and seen == sorted(seen)


def test_every_picture_is_shown_by_its_own_number(model, codes, lanes):
    from pure_jax.infer.pure import restore_tiles

    lanes(2)
    complete = {}

    def preview(places, share, make):
        if share == 1.0:
            complete.update(zip(places.tolist(), make(), strict=True))

    tiles = np.random.default_rng(1).integers(256, size=(PICTURES, 32, 32, 3), dtype=np.uint8)
    restored, _ = restore_tiles(
        model, tiles, seed=0, batch=2, progress=lambda *at: None, decode="plain", preview=preview
    )
    assert sorted(complete) == list(range(PICTURES))
    for number, image in complete.items():
        np.testing.assert_array_equal(image, restored[number].image)


def test_whoever_cancels_ends_all_lanes(model, codes, lanes):
    lanes(2)

    class Cancelled(Exception):
        pass

    def progress(stage, done, total):
        if done > 2 * SIDE:
            raise Cancelled

    with pytest.raises(Cancelled):
        generate(model, codes, decoding=Rows(), batch=2, progress=progress)


@pytest.mark.parametrize(
    ("pictures", "lanes", "batch", "shape"),
    [
        (225, 2, 128, (2, 114, 57)),
        (225, 1, 64, (1, 228, 57)),
        (5, 2, 2, (2, 3, 1)),
        (5, 3, 1, (1, 5, 1)),
        (3, 8, 64, (3, 1, 1)),
        (1, 2, 1, (1, 1, 1)),
    ],
)
def test_lanes_have_equal_shapes(pictures, lanes, batch, shape):
    assert tuple(lanes_for(pictures, lanes, batch)) == shape


def test_no_picture_is_left_out_and_no_batch_too_large():
    for pictures in range(1, 40):
        for lanes in range(1, 5):
            for batch in range(1, 20):
                found = lanes_for(pictures, lanes, batch)
                assert (found.lanes - 1) * found.length < pictures <= found.lanes * found.length
                assert found.lanes * found.together <= max(batch, 1) and found.length % found.together == 0
