"""A loaded model turns pictures into codes and back, and refuses what is neither."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pure_jax.model
import pure_jax.vqgan
from pure_jax.errors import PureError
from pure_jax.model import Model
from tests.models import tiny_model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_encode_gives_one_code_per_stride_and_knows_height_from_width(model: Model) -> None:
    codes = model.encode(pixels(16, 24, 3))
    assert codes.shape == (4, 6) and codes.dtype == np.int32
    assert codes.min() >= 0 and codes.max() < 64 and len(np.unique(codes)) > 1


def test_decode_gives_a_stride_of_pixels_per_code(model: Model) -> None:
    codes = np.random.default_rng(0).integers(0, 64, (4, 6))
    image = model.decode(codes)
    assert image.shape == (16, 24, 3) and image.dtype == np.uint8 and image.std() > 1.0


def test_a_batch_too_large_to_compute_together_is_computed_in_parts(model: Model, monkeypatch) -> None:
    images, sizes = pixels(3, 16, 24, 3), []

    def encode(vqgan: Any, params: Any, part: np.ndarray) -> np.ndarray:
        sizes.append(len(part))
        return part[..., ::4, ::4, 0]

    monkeypatch.setattr(pure_jax.model, "encode_images", encode)
    monkeypatch.setattr(pure_jax.vqgan, "MAX_ACTIVATION", 2 * 16 * 24 * model.config.vqgan.channels)
    np.testing.assert_array_equal(model.encode(images), images[:, ::4, ::4, 0])
    assert sizes == [2, 1]


def test_a_batch_is_its_pictures_one_by_one(model: Model) -> None:
    images = pixels(2, 16, 24, 3)
    codes = model.encode(images)
    np.testing.assert_array_equal(codes, [model.encode(image) for image in images])
    # Batched convolutions may sum in another order; truncation makes of that one level at most.
    singles = np.stack([model.decode(one) for one in codes]).astype(int)
    assert np.abs(model.decode(codes) - singles).max() <= 1


def test_what_is_decoded_is_clipped_not_wrapped(model: Model) -> None:
    images: Any = model.vqgan.apply({"params": model.params["vqgan"]}, np.arange(24).reshape(1, 4, 6), method="decode")
    expected = np.floor((np.clip(np.asarray(images[0], np.float64), -1, 1) + 1) / 2 * 255)
    assert (np.abs(images) > 1).any()  # else there was nothing to clip
    got = model.decode(np.arange(24).reshape(4, 6)).astype(int)
    assert np.abs(got - expected).max() <= 1  # float32 against float64 before truncation


@pytest.mark.parametrize(
    "image, complaint",
    [
        (pixels(16, 16, 3).astype(np.float32), r"uint8 \[height, width, 3\], not float32 \[16, 16, 3\]"),
        (pixels(16, 16), r"not uint8 \[16, 16\]"),
        (pixels(16, 16, 4), r"not uint8 \[16, 16, 4\]"),
        (pixels(1, 1, 16, 16, 3), "must be uint8"),
        (pixels(18, 16, 3), "16x18 is no multiple of 4 pixels"),
        (pixels(16, 15, 3), "15x16 is no multiple of 4 pixels"),
        (pixels(0, 16, 3), "16x0"),
        (pixels(0, 16, 16, 3), "image"),
    ],
)
def test_encode_refuses_what_is_no_picture(model: Model, image: np.ndarray, complaint: str) -> None:
    with pytest.raises(PureError, match=complaint):
        model.encode(image)


@pytest.mark.parametrize(
    "codes, complaint",
    [
        (np.zeros((4, 4), np.float32), r"integers \[height, width\], not float32 \[4, 4\]"),
        (np.zeros((4, 4), bool), "integers"),
        (np.zeros(4, np.int32), r"not int32 \[4\]"),
        (np.zeros((0, 4), np.int32), r"\[0, 4\]"),
        (np.full((4, 4), 64), r"0\.\.63, but range over 64\.\.64"),
        (np.full((4, 4), -1), r"range over -1\.\.-1"),
    ],
)
def test_decode_refuses_what_are_no_codes(model: Model, codes: np.ndarray, complaint: str) -> None:
    with pytest.raises(PureError, match=complaint):
        model.decode(codes)


def test_descriptions_of_the_networks_compare_equal_so_that_jit_compiles_once(model: Model) -> None:
    assert model.transformer == model.transformer and hash(model.transformer) == hash(model.transformer)
    assert model.vqgan == model.vqgan and hash(model.vqgan) == hash(model.vqgan)
