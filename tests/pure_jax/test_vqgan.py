"""The image tokenizer has VQ-8's size, takes any size its stride divides, and quantises to the nearest unit vector."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import pure_jax.vqgan
from pure_jax.config import VQGANConfig, demo
from pure_jax.model import decode_codes, encode_images
from pure_jax.vqgan import (
    VQGAN,
    AttentionBlock,
    Downsample,
    Norm,
    Upsample,
    VectorQuantizer,
    fitting,
    from_pixels,
    to_pixels,
)

TINY = VQGANConfig(
    channels=4, channel_multipliers=(1, 2), num_res_blocks=1, latent_channels=4, codebook_size=16, num_groups=2
)


def shapes(config: VQGANConfig, side: int = 32) -> dict:
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(VQGAN(config).init, jax.random.key(0), image)["params"]


def count(tree: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_params(config: VQGANConfig) -> dict:
    """Every leaf random, activations of order 1, so that a leaf that is not used or wrongly used shows."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 1.0 if name == "codebook" else 0.1
        return jnp.asarray((name == "scale") + scale * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(config))


@pytest.fixture(scope="module")
def params() -> dict:
    return random_params(TINY)


@partial(jax.jit, static_argnames="method")
def run(params, x, method=None):
    return VQGAN(TINY).apply({"params": params}, x, method=method)


def test_vq8_has_the_published_number_of_parameters() -> None:
    tree = shapes(VQGANConfig())
    assert count(tree) == 70_109_835
    assert count(tree["encoder"]) == 28_559_232
    assert count(tree["decoder"]) == 41_415_171
    assert count(tree["quantizer"]) == 131_072
    assert count([tree["quant_conv"], tree["post_quant_conv"]]) == 4_360


@pytest.mark.parametrize("multipliers", [(1, 1), (1, 2, 2), (1, 2, 2, 4)])
def test_every_size_that_the_stride_divides_keeps_its_shape(multipliers: tuple[int, ...]) -> None:
    config = VQGANConfig(
        channels=4, channel_multipliers=multipliers, num_res_blocks=1, latent_channels=4, codebook_size=16, num_groups=2
    )
    model, tree = VQGAN(config), shapes(config)
    for h, w in [(1, 1), (1, 5), (3, 2), (7, 4)]:
        image = jax.ShapeDtypeStruct((2, h * config.stride, w * config.stride, 3), jnp.float32)
        codes = jax.eval_shape(partial(model.apply, method="encode"), {"params": tree}, image)
        assert codes.shape == (2, h, w) and codes.dtype == jnp.int32
        decoded = jax.eval_shape(partial(model.apply, method="decode"), {"params": tree}, codes)
        assert decoded.shape == image.shape and decoded.dtype == jnp.float32


def test_downsampling_pads_below_and_right_only() -> None:
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 2)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(3, 3, 2, 2)).astype(np.float32)
    ours = Downsample().apply({"params": {"conv": {"kernel": kernel, "bias": np.zeros(2, np.float32)}}}, x)
    padded = torch.nn.functional.pad(torch.tensor(x).permute(0, 3, 1, 2), (0, 1, 0, 1))
    wanted = torch.nn.functional.conv2d(padded, torch.tensor(kernel).permute(3, 2, 0, 1), stride=2)
    np.testing.assert_allclose(ours, wanted.permute(0, 2, 3, 1), atol=1e-5)


def test_upsampling_repeats_every_pixel() -> None:
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    identity = np.zeros((3, 3, 1, 1), np.float32)
    identity[1, 1] = 1
    ours = Upsample().apply({"params": {"conv": {"kernel": identity, "bias": np.zeros(1, np.float32)}}}, x)
    wanted = torch.nn.functional.interpolate(torch.tensor(x).permute(0, 3, 1, 2), scale_factor=2, mode="nearest")
    np.testing.assert_array_equal(ours, wanted.permute(0, 2, 3, 1))


def test_group_norm_equals_torch_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(2, 4, 4, 4)) + 30).astype(np.float32)
    scale, bias = rng.normal(size=(2, 4)).astype(np.float32)
    ours = Norm(TINY).apply({"params": {"group": {"scale": scale, "bias": bias}}}, x)
    tensors = (torch.tensor(v) for v in (scale, bias))
    wanted = torch.nn.functional.group_norm(torch.tensor(x).permute(0, 3, 1, 2), 2, *tensors, eps=1e-6)
    # Measured 3.7e-4: the variance as a difference of two means of squares loses digits where the mean is large.
    np.testing.assert_allclose(ours, wanted.permute(0, 2, 3, 1), rtol=0, atol=8e-4)


def quantizer(codebook: np.ndarray, z: np.ndarray, method: str = "nearest") -> np.ndarray:
    config = VQGANConfig(codebook_size=codebook.shape[0], codebook_dim=codebook.shape[1])
    return np.asarray(VectorQuantizer(config).apply({"params": {"codebook": codebook}}, z, method=method))


def test_of_equally_near_codes_the_lowest_index_wins() -> None:
    codebook = np.eye(4, dtype=np.float32)[[3, 1, 2, 1, 0, 2, 2, 0]]
    np.testing.assert_array_equal(quantizer(codebook, np.eye(4, dtype=np.float32)), [4, 1, 2, 0])
    np.testing.assert_array_equal(quantizer(codebook, np.zeros((2, 3, 4), np.float32)), np.zeros((2, 3)))


def test_nearest_means_the_largest_cosine_whatever_the_rows_lengths() -> None:
    rng = np.random.default_rng(0)
    codebook = (rng.normal(size=(64, 8)) * rng.uniform(0.01, 10, (64, 1))).astype(np.float32)
    z = rng.normal(size=(5, 7, 8))
    z = (z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32)
    unit = codebook / np.linalg.norm(codebook.astype(np.float64), axis=-1, keepdims=True)
    codes = quantizer(codebook, z)
    np.testing.assert_array_equal(codes, np.argmax(z @ unit.T, axis=-1))
    np.testing.assert_allclose(quantizer(codebook, codes, "lookup"), unit[codes], atol=1e-6)


def test_the_codebook_starts_as_unit_vectors() -> None:
    book = VectorQuantizer(TINY).init(jax.random.key(0), jnp.zeros((1, 8)), method="nearest")["params"]["codebook"]
    np.testing.assert_allclose(np.linalg.norm(book, axis=-1), 1, atol=1e-6)


def test_the_training_pass_agrees_with_encode_and_decode(params: dict) -> None:
    image = np.random.default_rng(1).uniform(-1, 1, (2, 6, 8, 3)).astype(np.float32)
    reconstruction, z, e, codes = run(params, image)
    np.testing.assert_array_equal(codes, run(params, image, method="encode"))
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, atol=1e-6)
    assert len(np.unique(codes)) > 1 and np.abs(z - e).max() > 0.1
    # z + (e - z) is e up to rounding.
    np.testing.assert_allclose(reconstruction, run(params, codes, method="decode"), atol=1e-4)


def test_the_gradient_passes_the_quantiser_straight_through() -> None:
    """The latents get the decoder's gradient at e as it is; the codebook gets none from the reconstruction."""
    image = np.random.default_rng(1).uniform(-1, 1, (1, 4, 4, 3)).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=image.shape).astype(np.float32)
    config = dataclasses.replace(TINY, channel_multipliers=(1,))  # one level: a gradient is slow to compile
    params, model = random_params(config), VQGAN(config)

    def apply(part: dict, x: jax.Array, method: str | None = None) -> Any:
        return model.apply({"params": params | part}, x, method=method)

    @jax.jit
    def gradients(part: dict) -> tuple[dict, dict]:
        """Of the reconstruction in `part`; and made by hand, the decoder's gradient at e handed to z as it is."""
        _, straight = jax.vjp(lambda p: apply(p, image)[0], part)
        _, to_latents = jax.vjp(lambda p: apply(p, image, "latents"), part)
        _, to_quantised = jax.vjp(lambda e: apply({}, e, "decode_latents"), apply(part, image)[2])
        return straight(weight)[0], to_latents(*to_quantised(weight))[0]

    got, wanted = gradients({name: params[name] for name in ("quant_conv", "quantizer")})
    assert np.abs(wanted["quant_conv"]["kernel"]).max() > 0.1
    # Measured 3.8e-6, of 5.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=8e-6), got["quant_conv"], wanted["quant_conv"])
    assert not np.any(got["quantizer"]["codebook"])


# ---- large pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2 * 35 * 3 + 5, 1])  # 3 of 35 queries, 13 of 70 vectors at a time; one by one
def test_attention_and_search_in_blocks_give_the_same_result(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    x = np.random.default_rng(1).normal(size=(2, 5, 7, 4)).astype(np.float32)
    attention, search = AttentionBlock(TINY), VectorQuantizer(dataclasses.replace(TINY, codebook_dim=4))
    params = jax.tree.map(lambda p: p + 0.1, attention.init(jax.random.key(0), x))
    codebook = {"params": {"codebook": np.random.default_rng(2).normal(size=(16, 4)).astype(np.float32)}}

    def results() -> tuple[Any, Any]:
        return attention.apply(params, x), search.apply(codebook, x, method="nearest")

    at_once, codes = results()
    monkeypatch.setattr(pure_jax.vqgan, "MAX_MATRIX", limit)
    in_blocks, codes_in_blocks = results()
    np.testing.assert_allclose(in_blocks, at_once, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(codes_in_blocks, codes)


def test_strips_give_the_same_result(params: dict) -> None:
    image = np.random.default_rng(1).uniform(-1, 1, (2, 22, 6, 3)).astype(np.float32)
    codes = np.random.default_rng(1).integers(0, 16, (2, 11, 3))

    @partial(jax.jit, static_argnames="model")
    def results(params: dict, model: Any) -> list[jax.Array]:
        inputs = {"latents": image, "decode": codes}
        return [model.apply({"params": params}, x, method=method) for method, x in inputs.items()]

    for strips, whole in zip(results(params, VQGAN(TINY, 5)), results(params, VQGAN(TINY)), strict=True):
        np.testing.assert_allclose(strips, whole, rtol=0, atol=1e-5)  # measured 3e-6


def test_parameters_do_not_depend_on_the_strips() -> None:
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    init = partial(jax.eval_shape, VQGAN(TINY, strip_rows=4).init, jax.random.key(0))
    assert init(image)["params"] == shapes(TINY)


def memory(config: VQGANConfig, height: int, width: int) -> list[int]:
    """Bytes that encoding and decoding one picture take beside parameters, input and output."""
    (model, _), tree = fitting(config, height, width), shapes(config)
    pixels = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
    codes = jax.ShapeDtypeStruct((1, height // config.stride, width // config.stride), jnp.int32)
    compiled = (encode_images.lower(model, tree, pixels).compile(), decode_codes.lower(model, tree, codes).compile())
    return [program.memory_analysis().temp_size_in_bytes for program in compiled]


def test_memory_of_a_photo_does_not_hold_attention_between_all_positions() -> None:
    assert max(memory(demo().vqgan, 768, 1024)) < 2e9  # one matrix of all weights would be 9.7e9


@pytest.mark.slow
def test_memory_of_4_million_pixels_stays_under_4_gigabytes() -> None:
    assert max(memory(VQGANConfig(), 2048, 2048)) < 4e9  # measured 3.4e9; computed whole 15e9


def test_only_large_pictures_are_computed_in_strips_and_small_ones_together() -> None:
    config = VQGANConfig()
    assert fitting(config, 512, 512) == (VQGAN(config), 2)
    (large, most), (small, many) = fitting(config, 1024, 520), fitting(config, 64, 64)
    assert large.strip_rows and most == 1
    assert small.strip_rows is None and many == 128


def test_pixels_are_truncated_and_clamped() -> None:
    levels = np.array([0, 0.4, 0.999, 1.001, 127.9, 128.5, 254.999, 255.0])
    images = jnp.asarray([*(levels / 255 * 2 - 1), -3.0, 1.5], jnp.float32)
    np.testing.assert_array_equal(to_pixels(images), [0, 0, 0, 1, 127, 128, 254, 255, 0, 255])
    assert to_pixels(images).dtype == jnp.uint8


def test_levels_become_the_numbers_of_float64_arithmetic() -> None:
    levels = np.arange(256, dtype=np.uint8)
    images = from_pixels(jnp.asarray(levels))
    assert images.dtype == jnp.float32 and images[0] == -1 and images[255] == 1
    np.testing.assert_allclose(images, levels / 255 * 2 - 1, rtol=0, atol=3e-7)  # measured 1.5e-7
    # Truncation takes a level back down by at most one.
    assert set(levels.astype(int) - np.asarray(to_pixels(images)).astype(int)) <= {0, 1}
