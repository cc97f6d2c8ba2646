"""`generate` gives the same answers however pictures are batched, says how far it is, and refuses bad values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax.config import SamplingConfig, pure_7b, tiny
from pure_jax.errors import PureError
from pure_jax.infer.contract import override
from pure_jax.infer.decoding.cost import Lengths, Network
from pure_jax.infer.decoding.generate import Answer, generate, usual_batch
from pure_jax.infer.decoding.memory import decode_memory, fitting_batch, read_bytes
from pure_jax.infer.decoding.rows import Rows
from pure_jax.infer.decoding.sequential import Sequential
from pure_jax.infer.pure import fitting_precision
from pure_jax.model import Model
from pure_jax.sequence import answer_text_ids
from tests.models import tiny_model

PICTURES, HEIGHT, WIDTH = 5, 8, 8
ENTROPY_ATOL = 1e-5  # nats, between batch sizes; measured 2.4e-6 on values near 2


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(num_layers=1)


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, (PICTURES, HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def together(model: Model, codes: np.ndarray) -> list[Answer]:
    """All pictures in one batch."""
    return generate(model, codes, seed=3, batch=PICTURES)


def stacked(answers: list[Answer]) -> np.ndarray:
    return np.stack([answer.codes for answer in answers])


@pytest.mark.parametrize("batch", [1, 2])  # 2 of 5: the last batch is not full
def test_the_batch_does_not_change_the_answers(model, codes, together, batch):
    apart = generate(model, codes, seed=3, batch=batch)
    np.testing.assert_array_equal(stacked(apart), stacked(together))
    assert [answer.text for answer in apart] == [answer.text for answer in together]
    assert [answer.opened for answer in apart] == [answer.opened for answer in together]
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(one.entropy, other.entropy, atol=ENTROPY_ATOL)


def test_answers_have_the_promised_shapes_and_ranges(together):
    assert len(together) == PICTURES
    for answer in together:
        assert answer.codes.shape == answer.entropy.shape == (HEIGHT, WIDTH)
        assert (answer.codes.dtype, answer.entropy.dtype) == (np.int32, np.float32)
        assert 0 <= answer.codes.min() and answer.codes.max() < 64
        # 1e-4: the entropy's +1e-10 inside the logarithm and float32 sums
        assert 0 <= answer.entropy.min() and answer.entropy.max() < np.log(64) + 1e-4


def test_the_seed_decides_the_codes_and_nothing_else_does(model, codes, together):
    again = generate(model, codes, seed=3, batch=PICTURES)
    other = generate(model, codes, seed=4, batch=PICTURES)
    np.testing.assert_array_equal(stacked(again), stacked(together))
    for one, two in zip(together, other, strict=True):
        assert (one.codes != two.codes).any()
        assert one.text == two.text  # the text is greedy


def test_equal_pictures_get_noise_of_their_own(model, codes):
    first, second, *_ = generate(model, np.repeat(codes[:1], PICTURES, axis=0), seed=3, batch=PICTURES)
    assert first.text == second.text
    assert (first.codes != second.codes).any()


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_whole_range_of_seeds_works(model, codes, seed):
    assert len(generate(model, codes[:1], seed=seed, batch=1)) == 1


@pytest.mark.parametrize("guidance_scale", [0.0, 100.0])
def test_the_ends_of_guidance_work(model, codes, guidance_scale):
    sampling = replace(model.config.sampling, guidance_scale=guidance_scale)
    [answer] = generate(model, codes[:1], sampling=sampling, batch=1)
    assert np.isfinite(answer.entropy).all() and 0 <= answer.codes.min() and answer.codes.max() < 64


@pytest.mark.parametrize(("batch", "faithful"), [(1, False), (2, False), (PICTURES, False), (1, True)])
def test_progress_rises_to_the_total(model, codes, batch, faithful):
    seen: list[tuple[str, int, int]] = []
    generate(
        model, codes, batch=batch, decoding=Sequential() if faithful else Rows(), progress=lambda *at: seen.append(at)
    )
    assert seen.pop(0) == ("compile", 0, 0)
    stages, done, totals = zip(*seen, strict=True)
    assert set(stages) == {"restore"}
    assert set(totals) == {PICTURES * HEIGHT * WIDTH}
    assert done[-1] == totals[-1]
    assert 0 < done[0] and all(before < after for before, after in zip(done, done[1:], strict=False))
    batches = -(-PICTURES // batch)
    assert len(seen) == batches * (1 if faithful else HEIGHT)


def test_a_forced_prefix_opens_every_text(model, codes):
    for answer in generate(model, codes[:2], text_prefix="Hm.", batch=1):
        assert answer.text.startswith("Hm. ")
        assert len(answer.text) > len("Hm. ")  # and the model goes on


@pytest.mark.parametrize("prefix", ["", "Hm."])
def test_a_text_may_be_as_long_as_its_prefix(model, codes, prefix):
    length = len(answer_text_ids(model.tokenizer, model.vocabulary, prefix))
    sampling = replace(model.config.sampling, max_text_tokens=length)
    [answer] = generate(model, codes[:1], sampling=sampling, text_prefix=prefix, batch=1)
    assert answer.text == prefix
    with pytest.raises(PureError, match=rf"more than max_text_tokens \({length}\)"):
        generate(model, codes[:1], sampling=sampling, text_prefix=f"{prefix} Hm.", batch=1)


def test_the_faithful_path_answers_too(model, codes):
    answers = generate(model, codes, seed=3, decoding=Sequential(), batch=1)
    assert len(answers) == PICTURES
    for answer in answers:
        assert answer.codes.shape == answer.entropy.shape
        assert min(answer.codes.shape) > 0 and not any(side % 4 for side in answer.codes.shape)
        assert 0 <= answer.codes.min() and answer.codes.max() < 64


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": -3}, "batch is -3"),
        ({"text_prefix": "A very long prefix."}, r"more than max_text_tokens \(7\)"),
        ({"text_prefix": "A cat. " * 150_000}, r"more than max_text_tokens \(7\)"),
        ({"text_prefix": "<|image|>"}, "remove it"),
    ],
)
def test_arguments_out_of_range_are_refused(model, codes, arguments: dict[str, Any], complaint):
    with pytest.raises(PureError, match=complaint):
        generate(model, codes, **arguments)


def test_override_replaces_what_is_given_and_checks_it():
    defaults = SamplingConfig()
    assert override(defaults, temperature=None, k_max=None) == defaults
    assert override(defaults, temperature=0.0, k_max=None) == SamplingConfig(temperature=0.0)
    with pytest.raises(PureError, match="temperature is -1"):
        override(defaults, temperature=-1.0)


def test_the_default_batch_keeps_the_caches_of_a_7b_model_to_one_picture() -> None:
    sampling = SamplingConfig()
    assert usual_batch(tiny().transformer, np.float32, sampling, 100, 100) == 64
    assert usual_batch(pure_7b().transformer, np.float16, sampling, 4188, 4163) == 1  # 6.8 GB a picture
    wide = replace(tiny().transformer, num_layers=64)
    # 2 (keys, values) x 64 layers x 4 heads x 8 x 4 bytes = 16 KiB a token; 2 x 1,000 + 256 tokens with guidance
    assert usual_batch(wide, np.float32, sampling, 0, 1000) == 2**30 // (16384 * 2256)


def test_memory_decides_the_batch(model, codes) -> None:
    network = Network(model.config.transformer, model.dtype, model.vocabulary.codebook_size)
    lengths = Lengths(100 + 7, HEIGHT, WIDTH, True)
    needed = [decode_memory(network, lengths, batch).total for batch in (1, 2, 3)]
    assert fitting_batch(network, lengths, needed[1], 64) == 2
    assert fitting_batch(network, lengths, needed[2] - 1, 64) == 2
    assert fitting_batch(network, lengths, needed[2], 1) == 1
    with pytest.raises(PureError, match=r"one picture takes 0\.0\d+ GB .* more than the 1e-06 GB"):
        generate(model, codes, memory=1000)


def test_memory_decides_the_precision() -> None:
    """PURE-7B takes 14.2 GB of bfloat16 weights and 4.4 GB of cache for a picture."""
    sizes = [fitting_precision(pure_7b(), jnp.bfloat16, gb * 10**9) for gb in (80, 18, 12, 1)]
    int8 = {"weights": "int8", "cache": "int8"}
    assert sizes == [{}, {"weights": "int8"}, int8, int8]


@pytest.mark.parametrize(
    ("text", "wanted"), [("8GB", 8 * 10**9), ("512 MiB", 2**29), ("1.5g", 15 * 10**8), ("4096", 4096), ("2kib", 2048)]
)
def test_amounts_of_memory_are_read(text, wanted):
    assert read_bytes(text) == wanted


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "8 QB", "nan"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(PureError, match="is no amount of memory; write it as 8GB"):
        read_bytes(text)


class Hungry(Rows):
    """Needs more memory than there is for more than `room` pictures."""

    def __init__(self, room: int, words: str = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."):
        self.room, self.words, self.tried = room, words, list[int]()

    def write(self, job, batch, on_codes):
        self.tried.append(batch)
        if batch > self.room:
            raise jax.errors.JaxRuntimeError(self.words)
        return super().write(job, batch, on_codes)


def test_where_memory_runs_out_half_as_many_are_tried(model, codes, together, caplog):
    way = Hungry(1)
    assert stacked(generate(model, codes, seed=3, decoding=way)).tolist() == stacked(together).tolist()
    assert way.tried == [5, 2, 1]
    assert [record.message.split(" with ")[1] for record in caplog.records] == [
        f"{n} pictures at a time" for n in (2, 1)
    ]
    with pytest.raises(PureError, match="too little memory for one picture"):
        generate(model, codes, decoding=Hungry(0))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        generate(model, codes, decoding=Hungry(0, "INTERNAL: broken"))
