"""The decode loop gives the ids of a plain loop over full forwards, whatever the batch, stacking or portions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax.infer.decoding.contract import DecodeState
from pure_jax.infer.decoding.noise import SeedNoise
from pure_jax.infer.decoding.prefill import open_images
from pure_jax.infer.decoding.rows import decode_rows
from pure_jax.infer.decoding.sequential import decode_tokens
from pure_jax.model import Model
from pure_jax.sequence import prompt_ids
from pure_jax.transformer import stack_layers
from tests.models import teach, tiny_model
from tests.plain import Answer, plain_answer

GRID = HEIGHT, WIDTH = 8, 4
SLOTS = 3 + HEIGHT * (WIDTH + 1)
BATCH, SEED = 3, 5
BUDGET = 7  # tiny_model's max_text_tokens
ATOL = 8e-6  # entropies of cached steps against full forwards; measured 4.1e-6


@pytest.fixture(scope="module")
def model() -> Model:
    """Rows ending in different last prompt tokens open their image after 0, 1 and 3 text tokens."""
    model = tiny_model()
    v = model.vocabulary
    a, b, c, d = text_ids(model, 4)
    chain = {v.separator: v.image_start, a: b, b: c, c: d, d: v.image_start}
    return dataclasses.replace(model, params={"transformer": teach(model.params["transformer"], chain)})


@pytest.fixture(scope="module")
def prompts(model: Model) -> np.ndarray:
    """int32 [BATCH, n]; different pictures, and different last tokens as `model` wants them."""
    codes = np.random.default_rng(0).integers(0, 64, (BATCH, *GRID))
    prompts = np.stack([prompt_ids(model.tokenizer, model.vocabulary, one) for one in codes])
    a, _, c, _ = text_ids(model, 4)
    prompts[1:, -1] = c, a
    return prompts


def text_ids(model: Model, n: int) -> list[int]:
    """n different ids of ordinary text."""
    return np.flatnonzero(model.vocabulary.is_text)[100 : 100 + n].tolist()


def start(
    model: Model,
    prompts: np.ndarray,
    images: Any = None,
    *,
    seed: int = SEED,
    prefix: Any = (),
    slots: int = SLOTS,
    faithful: bool = False,
    grid: tuple[int, int] = GRID,
) -> DecodeState:
    return open_images(
        model.transformer,
        model.vocabulary,
        model.config.sampling,
        grid,
        slots,
        faithful,
        model.params["transformer"],
        jnp.asarray(prompts),
        jnp.asarray(prefix, jnp.int32),
        jnp.arange(len(prompts)) if images is None else jnp.asarray(images),
        SeedNoise(jnp.uint32(seed)),
    )


def rows(model: Model, state: DecodeState, count: int = HEIGHT) -> DecodeState:
    return decode_rows(
        model.transformer, model.vocabulary, model.config.sampling, model.params["transformer"], state, jnp.int32(count)
    )


@pytest.fixture(scope="module")
def decoded(model: Model, prompts: np.ndarray) -> DecodeState:
    return rows(model, start(model, prompts))


@pytest.fixture(scope="module")
def plain(model: Model, prompts: np.ndarray) -> list[Answer]:
    return [plain_answer(model, prompt, image, SEED, GRID) for image, prompt in enumerate(prompts)]


def assert_same(got: DecodeState, expected: DecodeState) -> None:
    np.testing.assert_array_equal(got.text, expected.text)
    np.testing.assert_array_equal(got.opened, expected.opened)
    np.testing.assert_array_equal(got.codes, expected.codes)
    np.testing.assert_allclose(got.entropy, expected.entropy, atol=ATOL)


# ---- the plain loop ------------------------------------------------------------------------------------------------


def test_ids_and_entropies_are_those_of_the_plain_loop(model: Model, decoded: DecodeState, plain: list[Answer]) -> None:
    assert [len(answer.text) for answer in plain] == [0, 1, 3]
    for row, answer in enumerate(plain):
        text = np.asarray(decoded.text[row])
        np.testing.assert_array_equal(text[: len(answer.text)], answer.text)
        assert (text[len(answer.text) :] == model.vocabulary.pad).all()
        assert bool(decoded.opened[row]) == answer.opened
        np.testing.assert_array_equal(decoded.codes[row], answer.codes)
        np.testing.assert_allclose(decoded.entropy[row], answer.entropy, atol=ATOL)


def test_the_pictures_are_lively_enough_to_tell_a_wrong_loop(plain: list[Answer]) -> None:
    entropies = np.stack([answer.entropy for answer in plain])
    assert entropies.std() > 0.1 and 0.5 < entropies.mean() < 4.0
    assert all(len(np.unique(answer.codes)) > 10 for answer in plain)
    assert (plain[0].codes != plain[1].codes).mean() > 0.5


def test_without_guidance_too(model: Model, prompts: np.ndarray) -> None:
    sampling = dataclasses.replace(model.config.sampling, guidance_scale=1.0)
    other = dataclasses.replace(model, config=dataclasses.replace(model.config, sampling=sampling))
    got = rows(other, start(other, prompts[2:], [2]))
    expected = plain_answer(other, prompts[2], 2, SEED, GRID)
    np.testing.assert_array_equal(got.codes[0], expected.codes)
    np.testing.assert_allclose(got.entropy[0], expected.entropy, atol=ATOL)


def test_without_guidance_there_is_no_second_cache(model: Model, prompts: np.ndarray) -> None:
    def groups(scale: float) -> list[int]:
        sampling = dataclasses.replace(model.config.sampling, guidance_scale=scale)
        other = dataclasses.replace(model, config=dataclasses.replace(model.config, sampling=sampling))
        return [cache.slots for cache in jax.eval_shape(partial(start, other, prompts)).caches]

    full = prompts.shape[1] + BUDGET + SLOTS
    assert groups(1.0) == [full]
    assert groups(0.8) == [full, SLOTS]  # the unconditional one is only as long as the image block


def test_one_token_a_step_gives_the_same(model: Model, prompts: np.ndarray, decoded: DecodeState) -> None:
    state = start(model, prompts)
    codes, entropy, height, width = decode_tokens(
        model.transformer,
        model.vocabulary,
        model.config.sampling,
        SLOTS,
        False,
        model.params["transformer"],
        state,
    )
    assert height.tolist() == [HEIGHT] * BATCH and width.tolist() == [WIDTH] * BATCH
    pixels = HEIGHT * WIDTH
    np.testing.assert_array_equal(codes[:, :pixels].reshape(BATCH, *GRID), decoded.codes)
    np.testing.assert_allclose(entropy[:, :pixels].reshape(BATCH, *GRID), decoded.entropy, atol=ATOL)


def test_scanned_layers_give_the_same(model: Model, prompts: np.ndarray, decoded: DecodeState) -> None:
    transformer = dataclasses.replace(model.config.transformer, scan_layers=True)
    scanned = dataclasses.replace(
        model,
        config=dataclasses.replace(model.config, transformer=transformer),
        params={"transformer": stack_layers(model.params["transformer"])},
    )
    assert_same(rows(scanned, start(scanned, prompts)), decoded)


# ---- batch and portions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", range(BATCH))
def test_a_row_alone_equals_the_row_in_a_batch(
    model: Model, prompts: np.ndarray, decoded: DecodeState, row: int
) -> None:
    alone = rows(model, start(model, prompts[row : row + 1], [row]))
    for name in ("text", "opened", "codes"):
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(decoded, name)[row])
    np.testing.assert_allclose(alone.entropy[0], decoded.entropy[row], atol=ATOL)


def test_the_order_of_rows_does_not_matter(model: Model, prompts: np.ndarray, decoded: DecodeState) -> None:
    order = np.array([2, 0, 1])
    got = rows(model, start(model, prompts[order], order))
    np.testing.assert_array_equal(got.codes, np.asarray(decoded.codes)[order])


def test_seed_and_image_index_change_the_draw(model: Model, prompts: np.ndarray, decoded: DecodeState) -> None:
    for images, seed in [(None, SEED + 1), ([3, 4, 5], SEED)]:
        other = rows(model, start(model, prompts, images, seed=seed))
        assert all((other.codes != decoded.codes).any(axis=(1, 2)))
        np.testing.assert_array_equal(other.text, decoded.text)


def test_rows_in_portions_equal_all_rows_at_once(model: Model, prompts: np.ndarray, decoded: DecodeState) -> None:
    state = start(model, prompts)
    for done in range(HEIGHT):
        state = rows(model, state, 1)
        assert int(state.row) == done + 1
        assert not np.asarray(state.codes)[:, done + 1 :].any()
    assert_same(state, decoded)


# ---- text ----------------------------------------------------------------------------------------------------------


def taught(model: Model, follows: dict[int, Any]) -> Model:
    return dataclasses.replace(model, params={"transformer": teach(tiny_params(), follows)})


def tiny_params() -> dict[str, Any]:
    return tiny_model().params["transformer"]


def test_a_model_that_never_opens_the_image_is_cut_off_and_says_so(model: Model, prompts: np.ndarray) -> None:
    a = text_ids(model, 1)[0]
    endless = taught(model, {a: a})
    prompts = np.where(np.arange(prompts.shape[1]) == prompts.shape[1] - 1, a, prompts)
    state = start(endless, prompts)
    assert (np.asarray(state.text) == a).all() and state.text.shape == (BATCH, BUDGET)
    assert not state.opened.any()
    expected = plain_answer(endless, prompts[1], 1, SEED, GRID)
    np.testing.assert_array_equal(rows(endless, state).codes[1], expected.codes)


def test_without_a_text_phase_the_picture_comes_at_once(model: Model, prompts: np.ndarray) -> None:
    config = dataclasses.replace(model.config.sampling, max_text_tokens=0)
    silent = dataclasses.replace(model, config=dataclasses.replace(model.config, sampling=config))
    state = start(silent, prompts)
    assert state.text.shape == (BATCH, 0)
    assert state.opened.tolist() == [True, False, False]  # the first prompt's end is what the model opens after
    expected = plain_answer(silent, prompts[1], 1, SEED, GRID)
    np.testing.assert_array_equal(rows(silent, state).codes[1], expected.codes)


def test_opening_right_at_the_limit_counts_as_opened(model: Model, prompts: np.ndarray) -> None:
    chain = text_ids(model, BUDGET)
    last = model.vocabulary.separator
    follows = dict(zip([last, *chain], [*chain, model.vocabulary.image_start], strict=True))
    prompts = np.where(np.arange(prompts.shape[1]) == prompts.shape[1] - 1, last, prompts)
    state = start(taught(model, follows), prompts)
    assert state.text.tolist() == [chain] * BATCH and state.opened.all()


def test_an_answer_that_stops_without_an_image_is_opened_by_force(model: Model, prompts: np.ndarray) -> None:
    a, stop = text_ids(model, 1)[0], model.vocabulary.separator
    prompts = np.where(np.arange(prompts.shape[1]) == prompts.shape[1] - 1, a, prompts)
    state = start(taught(model, {a: stop, stop: model.vocabulary.image_start}), prompts)
    assert (np.asarray(state.text) == model.vocabulary.pad).all()
    assert not state.opened.any()


def test_control_tokens_stay_out_of_the_text_unless_faithful(model: Model, prompts: np.ndarray) -> None:
    code = int(model.vocabulary.code_to_id[9])
    wild = taught(model, {model.vocabulary.separator: code})
    assert start(wild, prompts[:1], [0], faithful=True).text[0, 0] == code
    text = np.asarray(start(wild, prompts[:1], [0]).text)
    assert (model.vocabulary.is_text[text] | (text == model.vocabulary.pad)).all()


def test_a_forced_prefix_stands_in_front_and_is_read_by_the_model(model: Model, prompts: np.ndarray) -> None:
    x, y, z, a, b = text_ids(model, 5)
    reader = taught(model, {z: a, a: b, b: model.vocabulary.image_start})
    state = start(reader, prompts, prefix=[x, y, z])
    assert state.text.tolist() == [[x, y, z, a, b] + [model.vocabulary.pad] * (BUDGET - 5)] * BATCH
    assert state.opened.all()
    expected = plain_answer(reader, np.concatenate([prompts[1], [x, y, z]]), 1, SEED, GRID)
    np.testing.assert_array_equal(rows(reader, state).codes[1], expected.codes)


# ---- the device ----------------------------------------------------------------------------------------------------


def test_other_prompts_seeds_and_portions_compile_nothing_new(model: Model, prompts: np.ndarray) -> None:
    rows(model, start(model, prompts))
    assert open_images._cache_size() > 0 and decode_rows._cache_size() > 0
    before = open_images._cache_size(), decode_rows._cache_size()
    state = start(model, prompts[::-1].copy(), [7, 8, 9], seed=77)
    rows(model, rows(model, state, 3), HEIGHT - 3)
    assert (open_images._cache_size(), decode_rows._cache_size()) == before


def test_nothing_is_sent_to_the_device_after_the_arguments(model: Model, prompts: np.ndarray) -> None:
    static = (model.transformer, model.vocabulary, model.config.sampling)
    params = model.params["transformer"]
    arguments = jax.device_put(
        (
            prompts,
            np.zeros(0, np.int32),
            np.arange(BATCH, dtype=np.int32),
            SeedNoise(jnp.uint32(SEED)),
            np.int32(HEIGHT),
        )
    )

    def generate() -> DecodeState:
        *first, count = arguments
        state = open_images(*static, GRID, SLOTS, False, params, *first)
        return decode_rows(*static, params, state, count)

    expected = generate()
    with jax.transfer_guard("disallow"):
        got = generate()
        with pytest.raises(Exception, match="[Dd]isallowed"):
            open_images(*static, GRID, SLOTS, False, params, prompts, *arguments[1:4])
    assert_same(got, expected)


HOST = re.compile(r"callback|infeed|outfeed|\bsend\(|\brecv\(|is_host_transfer=true")


def test_the_compiled_loops_hold_no_way_to_the_host(model: Model, prompts: np.ndarray) -> None:
    """A guard on device-to-host copies does not bite on CPU, whose memory is the host's; so the program is read."""

    def program(function: Callable, *arguments: Any, **static: Any) -> str:
        return function.lower(*arguments, **static).compile().as_text()

    def talks(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda value: None, x)
        return x + 1

    assert HOST.search(program(jax.jit(talks), jnp.zeros(3)))  # the pattern finds what it should
    static = (model.transformer, model.vocabulary, model.config.sampling)
    params, state = model.params["transformer"], start(model, prompts)
    arguments = (jnp.asarray(prompts), jnp.zeros(0, jnp.int32), jnp.arange(BATCH), SeedNoise(jnp.uint32(SEED)))
    for text in (
        program(open_images, *static, GRID, SLOTS, False, params, *arguments),
        program(decode_rows, *static, params, state, jnp.int32(HEIGHT)),
    ):
        assert "while" in text and not HOST.search(text)


def test_the_cache_is_given_away_not_copied(model: Model, prompts: np.ndarray) -> None:
    state = start(model, prompts)
    held = jax.tree.leaves(state.caches)
    after = rows(model, state, 1)
    assert all(leaf.is_deleted() for leaf in held)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(model.params["transformer"]))
