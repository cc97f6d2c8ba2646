"""What is seen of a photo before it is done: codes as they are written, tiles in their places, at no other result."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pure_jax.infer.pure
from pure_jax.infer import preview as module
from pure_jax.infer.decoding.generate import generate
from pure_jax.infer.decoding.ways import way_of_decoding
from pure_jax.infer.pictures.tiles import cut, plan_tiles
from pure_jax.infer.preview import Canvas
from pure_jax.infer.restore import Restorer
from tests import toy
from tests.models import tiny_model


@pytest.mark.parametrize(("decode", "window"), [("plain", None), ("jacobi", 3)])
def test_what_is_shown_is_what_is_written_in_the_end(decode, window):
    model = tiny_model(num_layers=1)
    codes = np.random.default_rng(0).integers(0, model.config.vqgan.codebook_size, (3, 8, 8))
    seen: list[tuple[np.ndarray, float, np.ndarray]] = []

    def show(pictures: np.ndarray, share: float, fetch: Any) -> None:
        seen.append((pictures.copy(), share, fetch()))

    answers = generate(model, codes, decoding=way_of_decoding(decode, window), batch=2, show=show)
    final = np.stack([answer.codes for answer in answers]).reshape(3, -1)
    complete: list[int] = []
    for pictures, share, written in seen:
        assert written.shape == (len(pictures), 8, 8) and 0 < share <= 1
        there = written.reshape(len(pictures), -1) >= 0
        count = there.sum(axis=1)
        assert all((own == (np.arange(64) < n)).all() for own, n in zip(there, count, strict=True))  # in raster order
        assert count.mean() / 64 == pytest.approx(share) if share < 1 else (count == 64).all()
        assert np.array_equal(written.reshape(len(pictures), -1)[there], final[pictures][there])
        complete += pictures.tolist() if share == 1.0 else []
    assert sorted(complete) == [0, 1, 2]  # each once
    assert any(share < 1 for _, share, _ in seen)


def test_rows_side_by_side_are_shown_as_far_as_each_is():
    model = tiny_model(num_layers=1)
    codes = np.random.default_rng(0).integers(0, model.config.vqgan.codebook_size, (3, 8, 8))
    seen: list[tuple[np.ndarray, float, np.ndarray]] = []

    def show(pictures: np.ndarray, share: float, fetch: Any) -> None:
        seen.append((pictures.copy(), share, fetch()))

    answers = generate(model, codes, decoding=way_of_decoding("staggered", None), batch=2, show=show)
    final = np.stack([answer.codes for answer in answers])
    for pictures, share, written in seen:
        there = written >= 0
        assert np.array_equal(written[there], final[pictures][there]) and there.mean() == share
        lengths = there.sum(axis=2)
        assert (np.diff(lengths, axis=1) <= 0).all()  # no row is ahead of the one above it
        assert (there == (np.arange(8) < lengths[..., None])).all()
    assert any(((0 < own) & (own < 8)).sum() > 1 for _, _, w in seen for own in (w >= 0).sum(axis=2))
    assert sorted(place for pictures, share, _ in seen if share == 1.0 for place in pictures) == [0, 1, 2]


def test_nothing_is_fetched_for_nobody():
    model = tiny_model(num_layers=1)
    codes = np.zeros((1, 8, 8), np.int32)
    watched = generate(model, codes, show=lambda pictures, share, fetch: None)
    assert np.array_equal(watched[0].codes, generate(model, codes)[0].codes)


@pytest.mark.parametrize("alpha", ["bicubic", "model"])
def test_the_last_preview_is_the_result_and_the_result_is_the_same(monkeypatch, alpha):
    monkeypatch.setattr(pure_jax.infer.pure, "VQGAN_BATCH", 1)
    monkeypatch.setattr(module, "REST", 0.0)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 4), np.uint8)
    pixels[..., 3] = np.maximum(pixels[..., 3], 1)
    pixels[:, :, :3][:32] = 9  # the first tile has one colour
    restorer = Restorer(tiny_model(num_layers=1))
    options: dict[str, Any] = {"scale": 1.0, "batch": 1, "alpha": alpha, "overlap": 0, "colour_fix": "none"}
    seen: list[np.ndarray] = []
    result = restorer.restore(pixels, preview=lambda image: seen.append(image.copy()), **options)
    assert np.array_equal(np.asarray(result.image), np.asarray(restorer.restore(pixels, **options).image))
    assert np.array_equal(seen[-1], np.asarray(result.image)[..., :3])
    assert len(seen) > 2 and not np.array_equal(seen[0], seen[-1])
    assert all((image[:32] == 9).all() for image in seen)  # as it came


def test_a_family_that_shows_nothing_is_not_asked():
    with toy.registered():
        model: Any = toy.ToyModel(toy.ToyConfig(), toy.params(), None, "", np.float32)
        photo = Image.linear_gradient("L").resize((20, 24))
        assert Restorer(model).restore(photo, scale=1, preview=lambda image: pytest.fail("it did")).image.size == (
            20,
            24,
        )


def test_it_rests_between_previews_but_takes_over_what_is_complete(monkeypatch):
    clock = SimpleNamespace(time=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.time))
    photo = np.zeros((8, 16, 3), np.uint8)
    plan = plan_tiles(8, 16, 8, 0)
    seen: list[np.ndarray] = []
    canvas = Canvas(cut(photo, plan), plan, photo, "none", seen.append)

    def bring(place: int, share: float, level: int) -> None:
        def make() -> np.ndarray:
            clock.time += 1.0
            return np.full((1, 8, 8, 3), level, np.uint8)

        canvas.update(np.array([0, 1]), np.array([place]), share, make)

    bring(0, 0.5, 100)
    bring(0, 0.75, 150)  # too soon
    assert len(seen) == 1
    bring(0, 1.0, 200)
    assert [image[0, 0, 0] for image in seen] == [100, 200]
    clock.time += module.REST
    bring(1, 0.5, 50)
    assert (seen[-1][0, 0, 0], seen[-1][0, 15, 0]) == (200, 50)
