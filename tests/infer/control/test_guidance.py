"""Which words each tile is told, and that an answer says just these before its picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.infer.control.guidance import Guidance, once, vote
from pure_jax.infer.decoding.generate import generate, read
from pure_jax.infer.decoding.told import Words, told_ids
from pure_jax.sequence import answer_text_ids
from tests.models import tiny_model

SAID = ["Small blur, large noise. A cat.", "Large blur, large noise. A dog.", "A dog."]


def model_says(words: Sequence[Words] | None) -> list[str]:
    """Stands in for the model: it goes on behind a reading with the description it has in mind."""
    if words is None:
        return SAID
    return [f"{told.text} {text.split('. ')[-1]}".strip() for told, text in zip(words, SAID, strict=True)]


OWN = {"blur": "medium", "noise": "small"}


@pytest.mark.parametrize(
    ("guidance", "texts", "closed"),
    [
        (Guidance("none"), ["", "", ""], True),
        (Guidance("perception"), ["Small blur, large noise.", "Large blur, large noise.", ""], True),
        (Guidance("perception", {"blur": "medium"}), ["Medium blur, large noise."] * 2 + [""], True),
        (Guidance("perception", OWN), ["Medium blur, small noise."] * 3, True),
        (Guidance("understanding"), ["A cat.", "A dog.", "A dog."], True),
        (Guidance("understanding", one_description=True), ["A dog."] * 3, True),
        (Guidance("understanding", description="A  lemur"), ["A lemur."] * 3, True),
        (Guidance(reading=OWN), ["Medium blur, small noise."] * 3, False),
        (Guidance(reading=OWN, description="A lemur."), ["Medium blur, small noise. A lemur."] * 3, True),
        (
            Guidance(one_description=True),
            ["Small blur, large noise. A dog.", "Large blur, large noise. A dog.", "A dog."],
            True,
        ),
    ],
)
def test_the_user_and_the_model_say_the_parts_of_each_template(guidance, texts, closed):
    assert guidance.words(3, model_says) == [Words(text, closed) for text in texts]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"mode": "some"}, "choose one of none, perception, understanding, full"),
        ({"reading": {"blur": "tiny"}}, "'tiny'"),
        ({"reading": {"rain": "large"}}, "rain"),
        ({"mode": "understanding", "reading": OWN}, "has no meaning with guidance understanding"),
        ({"mode": "perception", "description": "A cat."}, "has no meaning with guidance perception"),
        ({"mode": "none", "one_description": True}, "has no meaning with guidance none"),
        ({"description": "A cat.", "one_description": True}, "not both"),
    ],
)
def test_what_a_mode_leaves_out_cannot_be_said(options, complaint):
    with pytest.raises(PureError, match=complaint):
        Guidance(**options)


@pytest.fixture(scope="module")
def lq() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 16, (2, 4, 4)).astype(np.int32)


def test_told_words_are_the_whole_text_and_the_codes_are_those_of_the_same_prefix(lq):
    model = tiny_model(num_layers=1, text_length=None, max_text_tokens=12)
    answers = generate(model, lq, words=[Words("Hm.", True), Words("", True)])
    assert [answer.text for answer in answers] == ["Hm.", ""] and all(answer.opened for answer in answers)
    tokens = len(answer_text_ids(model.tokenizer, model.vocabulary, "Hm."))
    from dataclasses import replace

    [alone] = generate(
        model, lq[:1], text_prefix="Hm.", sampling=replace(model.config.sampling, max_text_tokens=tokens)
    )
    np.testing.assert_array_equal(answers[0].codes, alone.codes)


def test_open_words_are_continued_and_reading_gives_the_texts_of_the_answers(lq):
    model = tiny_model(num_layers=1, text_length=None, max_text_tokens=12)
    words = [Words("Hm.", False), Words("A cat", False)]
    texts = [answer.text for answer in generate(model, lq, words=words)]
    assert texts[0].startswith("Hm.") and texts[1].startswith("A cat")
    assert read(model, lq, words=words) == texts
    assert read(model, lq, words=words, batch=1) == texts


def test_closed_words_have_the_fixed_length_of_the_models_answers():
    model = tiny_model(num_layers=1, text_length=6)
    forced, sampling = told_ids(model, [Words("Hm.", True), Words("", True)], model.config.sampling)
    vocabulary = model.vocabulary
    assert forced.shape == (2, 7) and sampling.max_text_tokens == 7
    np.testing.assert_array_equal(forced[1], [vocabulary.pad] * 6 + [vocabulary.image_start])
    np.testing.assert_array_equal(forced[0, :6], answer_text_ids(model.tokenizer, vocabulary, "Hm.", 6))


def test_too_many_words_are_refused(lq):
    model = tiny_model(num_layers=1, text_length=None)
    with pytest.raises(PureError, match=r"more than max_text_tokens \(7\)"):
        generate(model, lq, words=[Words("A very long description of it all.", True)] * 2)


def test_the_vote_takes_the_middle_level_and_the_most_frequent_description():
    texts = [
        "Small blur, large noise. A cat.",
        "Large blur, large noise. A dog.",
        "",
        "Medium blur, small noise. A dog.",
    ]
    assert vote(texts) == ({"blur": "medium", "noise": "large"}, "A dog.")


def test_tiles_without_a_reading_have_novote():
    assert vote(["A cat.", "A cat.", "Small blur, small noise."]) == ({"blur": "small", "noise": "small"}, "A cat.")
    assert vote(["A cat."]) == (None, "A cat.")
    assert vote(["", ""]) == (None, "")


def test_corrections_are_told_and_what_is_not_corrected_stays_the_models():
    shown = []

    def ask(reading, description):
        shown.append((reading, description))
        return {"noise": "small"}, "A lemur"

    corrected = Guidance(reading={"blur": "medium"}).asked(SAID, ask)
    assert shown == [({"blur": "medium", "noise": "large"}, "A dog.")]
    assert corrected == Guidance(reading={"blur": "medium", "noise": "small"}, description="A lemur")
    assert Guidance(one_description=True).asked(SAID, lambda *_: ({}, "")) == Guidance(one_description=True)
    assert Guidance(one_description=True).asked(SAID, lambda *_: ({}, "A cat")) == Guidance(description="A cat")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("full", ({"blur": "", "noise": ""}, "")),
        ("perception", ({"blur": "", "noise": ""}, None)),
        ("understanding", ({}, "")),
    ],
)
def test_parts_that_a_mode_leaves_out_are_not_asked_and_unsaid_ones_are(mode, expected):
    shown = []
    assert Guidance(mode).asked([""], lambda *parts: (shown.append(parts), ({}, ""))[1]) == Guidance(mode)
    assert shown == [expected]


def test_where_nothing_guides_nothing_is_asked():
    with pytest.raises(PureError, match="nothing to ask with guidance none"):
        Guidance("none").asked(SAID, lambda *_: ({}, ""))


def test_the_user_is_asked_once():
    answers = iter([({}, "A cat"), ({}, "A dog")])
    ask = once(lambda *_: next(answers))
    assert ask({}, "") == ask({}, "") == ({}, "A cat")
