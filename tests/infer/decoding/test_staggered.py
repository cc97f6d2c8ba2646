"""Rows side by side: the codes of a plain Python loop that sees what was written by then, and of the plain loop."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax.infer.decoding import contract
from pure_jax.infer.decoding.generate import generate
from pure_jax.infer.decoding.noise import SeedNoise
from pure_jax.infer.decoding.prefill import open_images
from pure_jax.infer.decoding.rows import Rows
from pure_jax.infer.decoding.staggered import Staggered, decode_staggered
from pure_jax.sampling import guide, gumbel_noise, position_keys, sample_code
from pure_jax.sequence import answer_text_ids, prompt_ids
from tests.models import tiny_model

PICTURES, HEIGHT, WIDTH, SEED = 3, 8, 4, 4


@pytest.fixture(scope="module")
def model():
    # With one layer what a token leaves in the cache does not depend on what it sees, so that `written` can read anew.
    return tiny_model(num_layers=1, max_text_tokens=0)


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(0, 64, (PICTURES, HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def plain(model, codes):
    return generate(model, codes, seed=SEED, decoding=Rows())


@pytest.mark.parametrize(("lead", "stage"), [(WIDTH + 1, 1024), (100, 8)])
def test_rows_that_wait_for_the_one_above_are_the_plain_loops(model, codes, plain, monkeypatch, lead, stage):
    monkeypatch.setattr(contract, "STAGE_CODES", stage)
    answers = generate(model, codes, seed=SEED, batch=2, decoding=Staggered(lead))
    for one, other in zip(answers, plain, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_allclose(one.entropy, other.entropy, atol=2e-5)  # as in test_windows.py
        assert (one.text, one.passes) == (other.text, WIDTH + (HEIGHT - 1) * (WIDTH + 1))


LENGTH = 192


@partial(jax.jit, static_argnames="net")
def forward(net, params, tokens, positions, last):
    return net.apply({"params": params}, tokens[None], positions[None])[0][0, last]


def written(model, lq, image, text, lead):
    """Codes [HEIGHT, WIDTH]: each drawn in its pass, from what the passes before it have written before it."""
    v, params = model.vocabulary, model.params["transformer"]
    prompt = [*prompt_ids(model.tokenizer, v, lq), *answer_text_ids(model.tokenizer, v, text)]
    sizes = [int(v.grid_ids[side // v.codes_per_grid]) for side in (HEIGHT, WIDTH)]
    opening = [v.image_start, *sizes]
    codes = np.zeros((HEIGHT, WIDTH), int)

    def logits(known):
        tokens, positions = np.zeros((2, LENGTH), np.int32)
        tokens[: len(known)], positions[: len(known)] = zip(*known, strict=True)
        return forward(model.transformer, params, tokens, positions, len(known) - 1)[v.code_to_id]

    order = sorted((r * lead + c, r, c) for r in range(HEIGHT) for c in range(WIDTH))
    for t, r, c in order:
        place = r * (WIDTH + 1) + c
        body = [
            (v.new_line if j == WIDTH else int(v.code_to_id[codes[i, j]]), i * (WIDTH + 1) + j)
            for i in range(HEIGHT)
            for j in range(WIDTH + 1)
            # A code is fed a pass after it was drawn, a new-line when the row below it begins.
            if i * (WIDTH + 1) + j < place and ((i + 1) * lead if j == WIDTH else i * lead + j + 1) <= t
        ]
        picture = [*zip(opening, range(3), strict=True), *((token, 3 + at) for token, at in body)]
        first = len(prompt)
        whole = [*zip(prompt, range(first), strict=True), *((token, first + at) for token, at in picture)]
        guided = guide(logits(whole), logits(picture), model.config.sampling.guidance_scale)
        key = position_keys(SEED, jnp.array([image]), jnp.array([first + 3 + place]))
        noise = gumbel_noise(key, v.codebook_size)
        codes[r, c] = int(sample_code(guided[None], noise, model.config.sampling)[0][0])
    return codes


@pytest.mark.parametrize("lead", [1, 2])
def test_a_code_sees_what_is_written_by_then(model, codes, plain, lead):
    answers = generate(model, codes, seed=SEED, decoding=Staggered(lead))
    image = 1
    wanted = written(model, codes[image], image, plain[image].text, lead)
    np.testing.assert_array_equal(answers[image].codes, wanted)
    assert (answers[image].codes[0] == plain[image].codes[0]).all()  # a first row has nothing above it
    assert (answers[image].codes != plain[image].codes).any()
    assert answers[image].passes == WIDTH + (HEIGHT - 1) * lead


def test_the_loop_copies_no_cache(model):
    static = (model.transformer, model.vocabulary, model.config.sampling)
    params, noise = model.params["transformer"], SeedNoise(jnp.uint32(0))
    prompts = jax.ShapeDtypeStruct((2, 60), jnp.int32)
    prefix, images = jax.ShapeDtypeStruct((0,), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)
    opened = jax.eval_shape(
        partial(open_images, *static, (HEIGHT, WIDTH), 43, False), params, prompts, prefix, images, noise
    )
    count = jax.ShapeDtypeStruct((), jnp.int32)
    program = decode_staggered.lower(*static, 2, params, opened, count, count).compile().as_text()
    for leaf in jax.tree.leaves([(cache.keys, cache.values) for cache in opened.caches]):
        shape = ",".join(map(str, leaf.shape))
        assert f"f32[{shape}]" in program
        assert not re.search(rf"f32\[(1,)?{shape}\]\S* (copy|transpose)\(", program)
