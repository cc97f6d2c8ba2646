"""Resizes and the order of channels equal torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pure_jax.nsarm.resize import patchify, resize, resize_matrix, unpatchify
from pure_jax.nsarm.schedule import SIDES_1M

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("side", [2 * s for s in SIDES_1M])
def test_both_ways_equal_torch_for_every_scale(side):
    large = RNG.normal(size=(1, 128, 128, 2)).astype(np.float32)
    small = RNG.normal(size=(1, side, side, 2)).astype(np.float32)
    down = F.adaptive_avg_pool2d(torch.tensor(large).permute(0, 3, 1, 2), side)
    area = F.interpolate(torch.tensor(large).permute(0, 3, 1, 2), size=(side, side), mode="area")
    torch.testing.assert_close(area, down, rtol=0, atol=0)
    # Measured 2.4e-7: sums of many cells in another order.
    np.testing.assert_allclose(resize(large, (side, side), "area"), down.permute(0, 2, 3, 1), rtol=0, atol=1e-6)
    for x, size in ((small, 128), (large, side)):
        five = torch.tensor(x).permute(0, 3, 1, 2)[:, :, None]
        wanted = F.interpolate(five, size=(1, size, size), mode="trilinear", align_corners=False)[:, :, 0]
        # Measured 4.8e-7.
        np.testing.assert_allclose(resize(x, (size, size), "linear"), wanted.permute(0, 2, 3, 1), rtol=0, atol=1e-6)


def test_height_and_width_may_differ():
    x = RNG.normal(size=(2, 7, 12, 3)).astype(np.float32)
    wanted = F.adaptive_avg_pool2d(torch.tensor(x).permute(0, 3, 1, 2), (5, 9)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(resize(x, (5, 9), "area"), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["area", "linear"])
def test_the_same_size_is_the_identity_and_rows_sum_to_1(kind):
    np.testing.assert_array_equal(resize_matrix(kind, 6, 6), np.eye(6))
    np.testing.assert_allclose(resize_matrix(kind, 128, 12).sum(axis=1), 1, atol=1e-6)


def test_patches_are_in_the_order_of_pixel_unshuffle():
    x = RNG.normal(size=(2, 6, 8, 3)).astype(np.float32)
    wanted = F.pixel_unshuffle(torch.tensor(x).permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)
    np.testing.assert_array_equal(patchify(x, 2), wanted)
    np.testing.assert_array_equal(unpatchify(patchify(x, 2), (3, 4), 2), x)
