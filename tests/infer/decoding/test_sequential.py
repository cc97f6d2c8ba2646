"""The token-by-token loop follows the size that the model draws, and replaces sizes that make no sense."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax.infer.decoding.contract import DecodeState
from pure_jax.infer.decoding.noise import SeedNoise
from pure_jax.infer.decoding.prefill import open_images
from pure_jax.infer.decoding.sequential import decode_tokens
from pure_jax.model import Model
from pure_jax.sequence import prompt_ids
from tests.models import teach, tiny_model
from tests.plain import plain_answer

GRID = HEIGHT, WIDTH = 8, 4
SLOTS = 3 + HEIGHT * (WIDTH + 1)
BATCH = 3
ATOL = 6e-6  # entropies of cached steps against full forwards; measured 2.7e-6

BASE = tiny_model()
V = BASE.vocabulary
ONE, TWO, MOST = (int(V.grid_ids[n]) for n in (1, 2, 64))  # latent sides 4, 8 and 256
NO_SIZE = int(V.code_to_id[7])


def taught(follows: dict[int, int | tuple[int, ...]]) -> Model:
    """Opens the image at once, then writes sizes as `follows` says."""
    params = teach(BASE.params["transformer"], {V.separator: V.image_start} | follows)
    return dataclasses.replace(BASE, params={"transformer": params})


@pytest.fixture(scope="module")
def prompts() -> np.ndarray:
    codes = np.random.default_rng(0).integers(0, 64, (BATCH, *GRID))
    return np.stack([prompt_ids(BASE.tokenizer, V, one) for one in codes])


def decode(model: Model, prompts: np.ndarray, seed: int = 5) -> tuple[np.ndarray, ...]:
    """Codes and entropies [batch, SLOTS], heights and widths [batch], the size being drawn."""
    static = (model.transformer, V, model.config.sampling)
    params = model.params["transformer"]
    prefix, images = jnp.zeros(0, jnp.int32), jnp.arange(BATCH)
    state: DecodeState = open_images(
        *static, GRID, SLOTS, False, params, jnp.asarray(prompts), prefix, images, SeedNoise(jnp.uint32(seed))
    )
    return tuple(map(np.asarray, decode_tokens(*static, SLOTS, True, params, state)))


@pytest.mark.parametrize("sizes, grid", [((ONE, TWO), (4, 8)), ((TWO, ONE), (8, 4)), ((ONE, ONE), (4, 4))])
def test_a_drawn_size_is_followed(prompts: np.ndarray, sizes: tuple[int, int], grid: tuple[int, int]) -> None:
    h, w = sizes
    model = taught({V.image_start: h, h: w})
    codes, entropy, height, width = decode(model, prompts)
    assert (height.tolist(), width.tolist()) == ([grid[0]] * BATCH, [grid[1]] * BATCH)
    n = grid[0] * grid[1]
    expected = plain_answer(model, prompts[1], 1, 5, grid)
    np.testing.assert_array_equal(codes[1, :n].reshape(grid), expected.codes)
    np.testing.assert_allclose(entropy[1, :n].reshape(grid), expected.entropy, atol=ATOL)
    assert not codes[:, n:].any() and not entropy[:, n:].any()


def test_pictures_of_different_sizes_share_a_batch(prompts: np.ndarray) -> None:
    model = taught({V.image_start: (ONE, TWO), ONE: (ONE, TWO), TWO: ONE})
    seed = 3  # draws three different sizes
    codes, _, height, width = decode(model, prompts, seed)
    grids = list(zip(height.tolist(), width.tolist(), strict=True))
    assert sorted(grids) == [(4, 4), (4, 8), (8, 4)]
    for row, grid in enumerate(grids):
        expected = plain_answer(model, prompts[row], row, seed, grid)
        np.testing.assert_array_equal(codes[row, : grid[0] * grid[1]].reshape(grid), expected.codes)


@pytest.mark.parametrize(
    "follows, grid",
    [
        pytest.param({V.image_start: NO_SIZE, TWO: ONE}, (8, 4), id="height is an image code"),
        pytest.param({V.image_start: MOST, TWO: ONE}, (8, 4), id="height does not fit"),
        pytest.param({V.image_start: int(V.grid_ids[0]), TWO: ONE}, (8, 4), id="height of no grids"),
        pytest.param({V.image_start: TWO, TWO: NO_SIZE}, (8, 4), id="width is an image code"),
        pytest.param({V.image_start: TWO, TWO: TWO}, (8, 4), id="width does not fit that height"),
        pytest.param({V.image_start: ONE, ONE: MOST}, (4, 4), id="width does not fit"),
    ],
)
def test_a_size_that_makes_no_sense_is_replaced(
    prompts: np.ndarray, follows: dict[int, int], grid: tuple[int, int]
) -> None:
    model = taught(follows)
    codes, _, height, width = decode(model, prompts)
    assert (height.tolist(), width.tolist()) == ([grid[0]] * BATCH, [grid[1]] * BATCH)
    expected = plain_answer(model, prompts[2], 2, 5, grid)
    np.testing.assert_array_equal(codes[2, : grid[0] * grid[1]].reshape(grid), expected.codes)
