"""A loaded model turns pictures into codes and back, and refuses what is neither."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import pure_jax.model
import pure_jax.vqgan
from pure_jax.config import SamplingConfig
from pure_jax.errors import PureError
from pure_jax.infer.decoding.generate import generate
from pure_jax.model import Model, next_code_distribution
from pure_jax.sampling import draw, gumbel_noise, position_keys
from pure_jax.sequence import answer_text_ids, image_block, prompt_ids
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


# ---- the next code -------------------------------------------------------------------------------------------------


def context(model: Model, codes: np.ndarray, text: str, answered: np.ndarray, place: int) -> np.ndarray:
    """What stands before the code at `place` of the answer, counted in raster order."""
    row, column = divmod(place, answered.shape[1])
    block = image_block(answered, model.vocabulary)[: 3 + row * (answered.shape[1] + 1) + column]
    parts = [
        prompt_ids(model.tokenizer, model.vocabulary, codes),
        answer_text_ids(model.tokenizer, model.vocabulary, text),
    ]
    return np.concatenate([*parts, block])


@pytest.mark.parametrize("guidance", [1.0, 0.8])
def test_the_next_code_is_drawn_from_its_distribution_as_in_decoding(model: Model, guidance: float) -> None:
    text, seed = "A cat.", 3
    codes = np.random.default_rng(0).integers(0, 64, (1, 4, 4))
    length = len(answer_text_ids(model.tokenizer, model.vocabulary, text))  # then the text is the forced one
    sampling = SamplingConfig(guidance_scale=guidance, k_max=50.0, max_text_tokens=length)
    [answer] = generate(model, codes, seed=seed, sampling=sampling, text_prefix=text)
    for place in (0, 6):
        tokens = context(model, codes[0], text, answer.codes, place)
        found = next_code_distribution(model, tokens, sampling)
        assert float(found.entropy) == pytest.approx(answer.entropy.ravel()[place], abs=1e-4)
        noise = gumbel_noise(position_keys(seed, jnp.zeros(1, jnp.int32), jnp.array([len(tokens)])), 64)
        drawn = draw(jnp.log(found.probabilities), noise[0], 1.0)
        assert int(drawn) == answer.codes.ravel()[place]


@pytest.mark.parametrize(
    ("stop", "complaint"),
    [
        (0, "must end inside an image"),
        (2, "must end inside an image"),
        (3 + 4, "no code follows 4 tokens of an image of 4 x 4 codes"),
        (3 + 4 * 5, "no code follows 20 tokens"),
        (3 + 4 * 5 + 1, "must end inside an image"),
    ],
)
def test_a_context_that_no_code_follows_is_refused(model: Model, stop: int, complaint: str) -> None:
    block = image_block(np.zeros((4, 4), np.int32), model.vocabulary)
    with pytest.raises(PureError, match=complaint):
        next_code_distribution(model, block[:stop])
