"""Enlarging is Pillow's bicubic on the grid of the result; hidden colours are the nearest visible pixel's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pure_jax.infer.pictures.enlarge import enlarge, enlarge_fine, fill_hidden


@st.composite
def enlargements(draw):
    """A photo uint8 [h, w, 3] of middle values, which overshoot without being cut off, and a result's height and
    width, 1 to 16 times as large."""
    seed, *photo = (draw(st.integers(1, most)) for most in (2**31, 24, 24))
    scale = draw(st.floats(1, 16))
    pixels = np.random.default_rng(seed).integers(96, 160, (*photo, 3), np.uint8)
    return pixels, *(round(side * scale) for side in photo)


@settings(max_examples=100, deadline=None)
@given(enlargements(), st.integers(1, 4))
def test_any_photo_has_the_size_that_is_wanted_and_a_flat_one_stays_flat(drawn, magnification):
    pixels, height, width = drawn
    enlarged = enlarge(pixels, height, width, magnification)
    assert enlarged.dtype == np.uint8
    assert enlarged.shape == (-(-height // magnification), -(-width // magnification), 3)
    flat = np.full_like(pixels, pixels[0, 0])
    assert (enlarge(flat, height, width, magnification) == pixels[0, 0]).all()


@settings(max_examples=100, deadline=None)
@given(enlargements())
def test_a_mirrored_or_turned_photo_is_enlarged_alike(drawn):
    pixels, height, width = drawn
    enlarged = enlarge(pixels, height, width).astype(int)
    # Pillow rounds between both directions. Measured over 2,000 draws: 0 mirrored, 2 turned.
    np.testing.assert_allclose(enlarge(pixels[:, ::-1], height, width)[:, ::-1], enlarged, rtol=0, atol=0)
    np.testing.assert_allclose(np.rot90(enlarge(np.rot90(pixels), width, height), -1), enlarged, rtol=0, atol=4)


@settings(max_examples=100, deadline=None)
@given(enlargements())
def test_16_bits_are_enlarged_as_8_bits_are_without_their_rounding(drawn):
    pixels, height, width = drawn
    fine = enlarge_fine(pixels.astype(np.uint16) * 257, height, width)
    assert fine.dtype == np.float32 and fine.min() >= 0 and fine.max() <= 1
    # 8 bits are rounded after each direction. Measured over 2,000 draws: 1.11.
    np.testing.assert_allclose(fine * 255, enlarge(pixels, height, width), rtol=0, atol=2.25)


@pytest.mark.parametrize("shape", [(12, 20, 3), (12, 20)])
def test_enlarging_is_pillows_bicubic(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    wanted = Image.fromarray(pixels).resize((33, 21), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(enlarge(pixels, 21, 33), np.asarray(wanted))


@pytest.mark.parametrize("size", [(20, 12), (21, 13), (23, 15)])
@pytest.mark.parametrize("scale", [1, 1.5, 4])
def test_a_smaller_copy_lies_on_the_grid_of_the_result(size, scale):
    width, height = (round(side * scale) for side in size)
    ramp = np.tile(np.arange(size[0], dtype=np.uint8)[None, :, None] * 10, (size[1], 1, 3))  # 10 levels per pixel
    copy = enlarge(ramp, height, width, 4)
    assert copy.shape == (-(-height // 4), -(-width // 4), 3)
    centre = (4 * np.arange(copy.shape[1]) + 2) / width * size[0] - 0.5  # in pixels of the photo
    inside = slice(2, -2)  # the kernel reaches over the border elsewhere
    assert copy.shape[1] <= 4 or np.abs(copy[0, inside, 0] - 10 * centre[inside]).max() <= 1  # rounding


def test_hidden_colours_become_those_of_the_nearest_visible_pixel():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (9, 11, 3), np.uint8)
    alpha = np.where(rng.random((9, 11)) < 0.2, rng.integers(1, 256, (9, 11)), 0).astype(np.uint8)
    filled = fill_hidden(rgb, alpha)
    visible = np.argwhere(alpha > 0)
    for place in np.ndindex(9, 11):
        distances = ((visible - place) ** 2).sum(axis=1)
        nearest = visible[distances == distances.min()]
        assert any((filled[place] == rgb[tuple(other)]).all() for other in nearest)


def test_without_a_visible_pixel_colours_stay():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    np.testing.assert_array_equal(fill_hidden(rgb, np.zeros((4, 5), np.uint8)), rgb)


@pytest.mark.parametrize(
    ("magnification", "height", "most"), [(1, 120, 0), (2, 240, 0), (3, 720, 0), (1, 143, 1), (2, 183, 1), (3, 250, 1)]
)
def test_rows_are_those_of_the_whole(magnification, height, most):
    """Exactly where a row of the result is an exact fraction of the photo's; else Pillow rounds places otherwise."""
    photo = np.random.default_rng(0).integers(256, size=(60, 17, 3), dtype=np.uint8)
    whole = enlarge(photo, height, 60, magnification)
    for rows in ((0, len(whole)), (0, 1), (4, 12), (12, 32), (len(whole) - 5, len(whole))):
        part = enlarge(photo, height, 60, magnification, rows)
        assert np.abs(part.astype(int) - whole[slice(*rows)]).max() <= most
