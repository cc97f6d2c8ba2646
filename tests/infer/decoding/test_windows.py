"""Decoding in windows: with fixed noise the codes of the plain loop, whatever window, draft and batch."""

from __future__ import annotations

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax.config import PRESETS
from pure_jax.errors import PureError
from pure_jax.infer.decoding import contract, windows
from pure_jax.infer.decoding.drafts import DRAFTS
from pure_jax.infer.decoding.generate import generate
from pure_jax.infer.decoding.noise import SeedNoise
from pure_jax.infer.decoding.prefill import open_images
from pure_jax.infer.decoding.rows import Rows, decode_rows
from pure_jax.infer.decoding.rules import RULES
from pure_jax.infer.decoding.sjd_compat import SjdCompat
from pure_jax.infer.decoding.staggered import Staggered
from pure_jax.infer.decoding.ways import usual_way, way_of_decoding
from pure_jax.infer.decoding.windows import Windows
from tests.models import tiny_model

# A seed without draws that rounding could decide: with seed 3 two codes of one picture are 4e-6 apart.
PICTURES, HEIGHT, WIDTH, SEED = 5, 8, 4, 4
ENTROPY_ATOL = 2e-5  # nats, between windows and single steps; measured 7e-6 on values near 2


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_layers=1)


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(0, 64, (PICTURES, HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def plain(model, codes):
    return generate(model, codes, seed=SEED, decoding=Rows())


def assert_same(answers, plain):
    for one, other in zip(answers, plain, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_allclose(one.entropy, other.entropy, atol=ENTROPY_ATOL)
        assert (one.text, one.opened) == (other.text, other.opened)


# 16 covers three rows and more than is left at the end; 2 of 5 pictures at a time makes places free one by one.
@pytest.mark.parametrize(("window", "draft", "batch"), [(3, "above", 5), (16, "like", 2)])
def test_jacobi_writes_the_codes_of_the_plain_loop(model, codes, plain, window, draft, batch):
    answers = generate(model, codes, seed=SEED, batch=batch, decoding=Windows("jacobi", window, draft))
    assert_same(answers, plain)
    # A pass accepts a code or a new-line at least, and the codes of a window at most.
    assert all(HEIGHT * (WIDTH + 1) / window <= answer.passes <= HEIGHT * (WIDTH + 1) for answer in answers)


def test_jacobi_without_guidance_and_with_scanned_layers(model, codes):
    from pure_jax.transformer import stack_layers

    sampling = dataclasses.replace(model.config.sampling, guidance_scale=1.0)
    transformer = dataclasses.replace(model.config.transformer, scan_layers=True)
    config = dataclasses.replace(model.config, sampling=sampling, transformer=transformer)
    params = model.params | {"transformer": stack_layers(model.params["transformer"])}
    scanned = dataclasses.replace(model, config=config, params=params)
    answers = (generate(scanned, codes, seed=SEED, batch=3, decoding=way) for way in (Windows("jacobi", 6), Rows()))
    assert_same(*answers)


def test_a_perfect_draft_needs_one_pass_for_each_window(model, codes, plain, monkeypatch):
    """With the answers themselves as drafts nothing is ever drawn twice."""
    written = np.stack([answer.codes.reshape(-1) for answer in plain])

    def known(images, places, so_far, lq, size):
        return jnp.take_along_axis(jnp.asarray(written)[images], places, axis=1)

    monkeypatch.setitem(DRAFTS, "known", known)
    answers = generate(model, codes, seed=SEED, decoding=Windows("jacobi", 10, "known"))
    assert_same(answers, plain)
    assert {answer.passes for answer in answers} == {HEIGHT * (WIDTH + 1) // 10}


@pytest.mark.parametrize("way", [Rows(), Windows("jacobi", 6)])
def test_room_that_grows_in_stages_changes_nothing(model, codes, plain, monkeypatch, way):
    monkeypatch.setattr(contract, "STAGE_CODES", 16)
    monkeypatch.setattr(windows, "PASSES_PER_CALL", 1)
    assert contract.stage_end((HEIGHT, WIDTH), 1) == contract.stage_end((HEIGHT, WIDTH), 20) == 20
    assert contract.stage_end((HEIGHT, WIDTH), 21) == contract.stage_end((HEIGHT, WIDTH), 999) == 40
    assert_same(generate(model, codes, seed=SEED, decoding=way), plain)


def test_a_relaxed_window_takes_no_more_passes(model, codes, plain):
    relaxed = generate(model, codes, seed=SEED, decoding=Windows("relaxed", 6))
    exact = generate(model, codes, seed=SEED, decoding=Windows("jacobi", 6))
    assert sum(answer.passes for answer in relaxed) < sum(answer.passes for answer in exact)
    assert any((one.codes != other.codes).any() for one, other in zip(relaxed, plain, strict=True))


def test_greedy_decoding_too(model, codes):
    sampling = dataclasses.replace(model.config.sampling, temperature=0.0)
    ways = (Windows("jacobi", 7), Windows("coupled", 7), Rows())
    jacobi, coupled, plain = (generate(model, codes[:2], sampling=sampling, decoding=way) for way in ways)
    assert_same(jacobi, plain)
    assert_same(coupled, plain)  # with all probability in one code there is nothing to draw
    # Of one code that is kept, too: compiled at level 0, windows once ranked it by other numbers than they compared.
    single = dataclasses.replace(model.config.sampling, k_min=1.0, k_max=1.0)
    assert_same(generate(model, codes[:2], seed=SEED, sampling=single, decoding=Windows("jacobi", 3)), plain)


# ---- noise ---------------------------------------------------------------------------------------------------------


def test_noise_may_be_given_as_numbers_or_as_a_function(model, codes):
    positions = 256
    keyed = partial(_numbers, n=64)
    numbers = np.stack([[keyed(image, position) for position in range(positions)] for image in range(PICTURES)])
    function = generate(model, codes, noise=_replayed, decoding=Rows())
    assert_same(generate(model, codes, noise=numbers, decoding=Windows("jacobi", 4)), function)
    with pytest.raises(PureError, match=r"noise has the shape \(5, 256, 64, 1\)"):
        generate(model, codes, noise=numbers[..., None])
    with pytest.raises(PureError, match="no meaning with coupled decoding"):
        generate(model, codes[:2], noise=numbers, decoding=Windows("coupled"))


def _numbers(image: int, position: int, n: int) -> np.ndarray:
    return np.asarray(3 * np.sin((image + 1) * (position + 1) * np.arange(1, n + 1, dtype=np.float32)), np.float32)


def _replayed(images, positions, n):
    factors = ((images + 1) * (positions + 1))[:, None] * jnp.arange(1, n + 1, dtype=jnp.float32)
    return 3 * jnp.sin(factors)


# ---- which way -----------------------------------------------------------------------------------------------------


def test_what_is_said_decides_and_else_the_model_and_the_batch():
    assert way_of_decoding() is None
    assert way_of_decoding(window=4) == Windows("jacobi", 4, "above")
    assert isinstance(way_of_decoding("plain"), Rows)
    assert way_of_decoding("staggered") == Staggered(None) and way_of_decoding("staggered", 1) == Staggered(1)
    assert way_of_decoding("sjd_compat") == SjdCompat(16)
    assert isinstance(usual_way(PRESETS["demo"]().transformer, np.float32, 1), Rows)
    assert isinstance(usual_way(PRESETS["pure_7b"]().transformer, np.float32, 16), Rows)
    assert usual_way(PRESETS["pure_7b"]().transformer, np.float32, 1) == Windows("jacobi", 16, "above")


# ---- the compiled program ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_no_loop_copies_a_cache(model, batch):
    static = (model.transformer, model.vocabulary, model.config.sampling)
    params = model.params["transformer"]
    parts = windows.Parts(*static, (HEIGHT, WIDTH), 4, RULES["jacobi"], DRAFTS["lq"])
    noise = SeedNoise(jnp.uint32(0))
    state = jax.eval_shape(lambda noise: windows.empty_state(parts, noise, batch, (97, 43)), noise)
    prompts = jax.ShapeDtypeStruct((batch, 60), jnp.int32)
    prefix, images = jax.ShapeDtypeStruct((0,), jnp.int32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    opened = jax.eval_shape(
        partial(open_images, *static, (HEIGHT, WIDTH), 43, False), params, prompts, prefix, images, noise
    )
    count = jax.ShapeDtypeStruct((), jnp.int32)
    for lowered, caches in (
        (windows.decode_windows.lower(parts, params, state, count), state.caches),
        (decode_rows.lower(*static, params, opened, count), opened.caches),
    ):
        program = lowered.compile().as_text()
        for leaf in jax.tree.leaves([(cache.keys, cache.values) for cache in caches]):
            shape = ",".join(map(str, leaf.shape))
            assert f"f32[{shape}]" in program
            assert not re.search(rf"f32\[(1,)?{shape}\]\S* (copy|transpose)\(", program)


# ---- drafts --------------------------------------------------------------------------------------------------------

LQ = jnp.asarray([[0, 1, 2, 3, 0, 1, 7, 3, 8, 8, 8, 9]])
SO_FAR = jnp.asarray([[50, 51, 52, 53, 54, 99, 99, 99, 99, 99, 99, 99]])
PLACES = jnp.asarray([[5, 6, 7, 8, 9]])


def guess(name, images=None, places=PLACES):
    images = jnp.zeros(1, jnp.int32) if images is None else images
    return DRAFTS[name](images, places, SO_FAR, LQ, (4, 10))


def test_drafts_are_what_their_names_say():
    np.testing.assert_array_equal(guess("lq"), [[1, 7, 3, 8, 8]])
    # The row above ends in front of the first place, which is not known; the rest is taken from the LQ picture.
    np.testing.assert_array_equal(guess("above"), [[51, 52, 53, 54, 8]])
    np.testing.assert_array_equal(guess("left"), [[54] * 5])
    # 5 and 7 have the LQ code above them; 6, 8 and 9 are like no neighbour that is known.
    np.testing.assert_array_equal(guess("like"), [[51, 7, 53, 8, 8]])
    drawn = guess("random", jnp.arange(50), jnp.zeros((50, 2), jnp.int32))
    assert set(np.unique(drawn)) <= set(range(10)) and len(np.unique(drawn)) > 5
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 1])


# ---- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decode": "fast"}, "no way of decoding 'fast'; choose one of plain, jacobi"),
        ({"draft": "right"}, "no draft 'right'; choose one of lq, above"),
        ({"window": 1}, "window is 1, but it must lie in 2 ... 256"),
        ({"window": 257}, "window is 257"),
        ({"decode": "staggered", "window": 0}, "window is 0, but it must lie in 1 ... 256"),
        ({"decode": "sjd_compat", "draft": "lq"}, "--draft has no meaning with --decode sjd_compat"),
        ({"decode": "plain", "window": 4}, "--window has no meaning with --decode plain"),
        ({"faithful": True, "draft": "lq"}, "--draft has no meaning with --faithful"),
        ({"faithful": True, "decode": "jacobi"}, "--decode has no meaning with --faithful"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(PureError, match=words):
        way_of_decoding(**options)
