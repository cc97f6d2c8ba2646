"""Tiles on the disk are read as they were written; a full disk is one sentence."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.infer.pictures.tile_file import TileFile


def test_tiles_are_read_as_they_were_written():
    tiles = np.random.default_rng(0).random((5, 3, 4), np.float32)
    file = TileFile((3, 4), np.float32)
    for number, tile in enumerate(tiles):
        file.append(tile)
        np.testing.assert_array_equal(file[number], tile)  # between two writings, too
    assert len(file) == 5
    np.testing.assert_array_equal(file[-1], tiles[4])
    np.testing.assert_array_equal(file[1:4:2], tiles[1:4:2])
    np.testing.assert_array_equal(list(file), tiles)
    for index in (5, -6):
        with pytest.raises(IndexError):
            file[index]


def test_a_tile_may_lie_in_any_order_of_memory():
    tile = np.arange(24, dtype=np.uint8).reshape(4, 6).T
    file = TileFile((6, 4), np.uint8)
    file.append(tile)
    np.testing.assert_array_equal(file[0], tile)


def test_a_full_disk_is_one_sentence(monkeypatch):
    file = TileFile((2, 2), np.uint8)

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file, "_file", Full())
    with pytest.raises(PureError, match=r"cannot be kept in .* \(No space left on device\).*TMPDIR"):
        file.append(np.zeros((2, 2)))
