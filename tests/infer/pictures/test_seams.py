"""Tiles that disagree leave no grid that could be seen: along their borders a picture is no rougher than elsewhere.

Every tile gets a shade of its own, as a model gives it. The score of a picture is the mean step between neighbouring
pixels across the lines where tiles begin and end, over the mean step elsewhere: 1 is no grid at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from pure_jax.infer.contract import RestoredTiles
from pure_jax.infer.families import RESTORE_TILES
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.restore import Restorer
from tests import toy

SIDE, MOST = 96, 8  # pixels; levels that a tile may be off
NOISE = np.random.default_rng(0).normal(size=(SIDE, SIDE, 3))
PHOTOS = {
    "flat": 128 + 1.5 * NOISE,
    "soft": 128 + 900 * gaussian_filter(NOISE, (6, 6, 0)),
    "textured": 128 + 30 * NOISE,
}


@pytest.fixture
def restorer(monkeypatch) -> Iterator[Restorer]:
    with toy.registered():

        def restore_tiles(model: Any, tiles: np.ndarray, **options: Any) -> RestoredTiles:
            restored, remarks = toy.restore_tiles(model, tiles, **options)
            rng = np.random.default_rng(1)
            shades = rng.integers(-MOST, MOST + 1, len(restored))
            images = [(t.image.astype(int) + s).clip(0, 255) for t, s in zip(restored, shades, strict=True)]
            return RestoredTiles(
                [type(t)(i.astype(np.uint8), t.entropy) for t, i in zip(restored, images, strict=True)], remarks
            )

        monkeypatch.setitem(RESTORE_TILES, "toy", restore_tiles)
        yield Restorer(toy.ToyModel(toy.ToyConfig(), toy.params(), None, "", None))


def seam_score(picture: np.ndarray, corners: list[tuple[int, int]], tile: int) -> float:
    """picture: [H, W, 3]; corners: (top, left) of each tile."""
    scores = []
    for axis in (0, 1):
        steps = np.abs(np.diff(picture.astype(float), axis=axis)).mean(axis=(1 - axis, 2))
        lines = {corner[axis] - 1 for corner in corners} | {corner[axis] + tile - 1 for corner in corners}
        border = np.isin(np.arange(len(steps)), list(lines))
        elsewhere = ~border & (np.arange(len(steps)) % 2 == 1)  # the toy's pixels are pairs, which begin at even places
        scores.append(steps[border].mean() / steps[elsewhere].mean())
    return max(scores)


def score_of(restorer: Restorer, kind: str, overlap: int | None) -> float:
    photo = Image.fromarray(PHOTOS[kind].clip(0, 255).astype(np.uint8))
    plan = restorer.plan(Picture(np.asarray(photo)), 2.0, overlap)
    image = restorer.restore(photo, scale=2, overlap=overlap).image
    return seam_score(np.asarray(image), list(plan.corners), restorer.model.config.tile_size)


@pytest.mark.parametrize("kind", PHOTOS)
def test_blended_tiles_show_no_grid(restorer, kind):
    assert score_of(restorer, kind, overlap=None) < 1.15  # measured at most 1.04


@pytest.mark.parametrize("kind", ["flat", "soft"])
def test_tiles_side_by_side_do_so_the_score_sees_it(restorer, kind):
    assert score_of(restorer, kind, overlap=0) > 1.5  # measured 3.5 and 1.8
