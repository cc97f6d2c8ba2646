"""On whole photos the demo model writes the codes of the plain loop, whatever the window, the draft and the batch."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.infer.decoding.drafts import DRAFTS
from pure_jax.infer.decoding.generate import Answer, generate
from pure_jax.infer.decoding.noise import SeedNoise
from pure_jax.infer.decoding.rows import Rows
from pure_jax.infer.decoding.windows import Windows
from pure_jax.infer.pictures.enlarge import enlarge
from pure_jax.infer.pictures.tiles import cut, plan_tiles
from pure_jax.sequence import answer_text_ids, image_block, prompt_ids
from pure_jax.train.data.degrade import degrade_folder

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.optimised]

NAMES = Path(__file__).resolve().parents[3] / "train" / "recipes" / "demo-val.txt"
PHOTOS, SIDE = 20, 256
WAYS = [Windows("jacobi", window, draft) for window, draft in product((2, 4, 8, 16, 32, 64), DRAFTS)]
BATCHES = (49, 64, 7, 20)  # of a photo's 49 tiles: all of them, more than there are, equal parts, parts of other sizes
TIE = 1e-4
"""Difference of two scores (logit / temperature + noise) that rounding may turn around; the entropies of
windows and single steps differ by 7e-6 (test_windows.py)."""


@pytest.fixture(scope="module")
def model():
    return pure_jax.load()


@pytest.fixture(scope="module")
def photos(shared_data, tmp_path_factory, model):
    """Low-quality codes int32 [tiles, h, w] of each photo."""
    pairs = tmp_path_factory.mktemp("pairs") / "val"
    names = NAMES.read_text().split()[:PHOTOS]
    degrade_folder(shared_data / "photos", pairs, crop=SIDE, split="val", names=names)
    plan = plan_tiles(SIDE, SIDE, model.config.tile_size, model.config.tile_size // 2, model.config.stride)
    pictures = [np.asarray(Image.open(path)) for path in sorted((pairs / "lq").iterdir())]
    assert len(pictures) == PHOTOS
    return [model.encode(cut(enlarge(picture, SIDE, SIDE), plan)) for picture in pictures]


def scores(model, lq: np.ndarray, picture: int, answer: Answer, count: int, seed: int) -> np.ndarray:
    """What the code behind the answer's first `count` is the argmax of, by one forward pass without a cache."""
    question = prompt_ids(model.tokenizer, model.vocabulary, lq)
    text = answer_text_ids(model.tokenizer, model.vocabulary, answer.text, model.config.text_length)
    so_far = image_block(answer.codes, model.vocabulary)[: 3 + count + count // lq.shape[1]]
    context = np.concatenate([question, text, so_far])
    found = pure_jax.next_code_distribution(model, context)
    position, image = jnp.asarray([len(context)]), jnp.asarray([picture])
    noise = SeedNoise(jnp.uint32(seed))(image, position, model.vocabulary.codebook_size)
    return np.log(np.asarray(found.probabilities)) + np.asarray(noise[0])


def assert_same(model, lq: np.ndarray, written: list[Answer], plain: list[Answer], seed: int) -> None:
    """The same texts and codes, or, from the first difference on, others that a tie of two scores allows."""
    for picture, (one, other) in enumerate(zip(written, plain, strict=True)):
        assert one.text == other.text
        places = np.flatnonzero(one.codes.reshape(-1) != other.codes.reshape(-1))
        if len(places):
            value = scores(model, lq[picture], picture, other, int(places[0]), seed)
            both = [answer.codes.reshape(-1)[places[0]] for answer in (one, other)]
            assert value[both].min() > value.max() - TIE, f"tile {picture}, code {places[0]}"


def test_the_plain_loop_draws_by_these_scores(model, photos):
    """So that `assert_same` asks the right question where codes differ."""
    lq = photos[0][:3]
    for picture, answer in enumerate(generate(model, lq, seed=5, decoding=Rows())):
        for count in (0, 1, 15, 16, 17, 100, 255):
            drawn = scores(model, lq[picture], picture, answer, count, seed=5).argmax()
            assert drawn == answer.codes.reshape(-1)[count]


@pytest.mark.parametrize("number", range(PHOTOS))
def test_windows_write_the_codes_of_the_plain_loop(model, photos, number):
    """Two ways for each photo: all pairs of a window and a draft come in turn, and every size of batch."""
    lq = photos[number]
    plain = generate(model, lq, seed=number, decoding=Rows())
    for turn in (2 * number, 2 * number + 1):
        way, batch = WAYS[turn % len(WAYS)], BATCHES[turn % len(BATCHES)]
        assert_same(model, lq, generate(model, lq, seed=number, decoding=way, batch=batch), plain, number)
