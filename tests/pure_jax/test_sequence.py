"""Prompt, answer and labels have PURE's layout, and parsing gives back what went in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pure_jax.errors import PureError
from pure_jax.sequence import (
    IGNORE,
    INSTRUCTION,
    LEVELS,
    answer_ids,
    degradation_sentence,
    encode_text,
    image_block,
    normalise_caption,
    parse_answer,
    parse_image_block,
    prompt_ids,
    split_reading,
    training_example,
)
from pure_jax.train.tokenizer import train_tokenizer
from pure_jax.vocabulary import Vocabulary, vocabulary_from_names

CODES = 1100
TOKENIZER = train_tokenizer(["A cat on a wall."], codebook_size=CODES, text_vocab=300, max_grids=16)
VOCABULARY = vocabulary_from_names(TOKENIZER.get_vocab())
TEXT = "Medium blur, small noise. A cat on a wall."


def random_codes(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CODES, (h, w), np.int32)


@st.composite
def code_images(draw) -> np.ndarray:
    h, w = (4 * draw(st.integers(1, 4)) for _ in range(2))
    return random_codes(h, w, draw(st.integers(0, 2**32 - 1)))


# ---- image block ---------------------------------------------------------------------------------------------------


def test_an_image_block_is_written_out():
    block = image_block(np.arange(32).reshape(4, 8), VOCABULARY)
    names = [TOKENIZER.id_to_token(id_) for id_ in block]
    assert names[:5] == ["<racm3:break>", "<reserved08801>", "<reserved08802>", "IMGIMGAZ", "IMGIMGBZ"]  # h, then w
    assert names[11:13] == ["<reserved08799>", "IMGIMGIZ"]
    assert names[-3:] == ["IMGIMGDBZ", "<reserved08799>", "<eoss>"]
    assert block.dtype == np.int32


def test_a_block_of_512_pixels_has_4164_tokens():
    assert len(image_block(np.zeros((64, 64), int), VOCABULARY)) == 4164


@settings(max_examples=40, deadline=None)
@given(code_images())
def test_block_to_ids_to_block_is_the_identity(codes):
    ids = image_block(codes, VOCABULARY)
    assert len(ids) == 3 + codes.shape[0] * (codes.shape[1] + 1) + 1
    np.testing.assert_array_equal(parse_image_block(ids, VOCABULARY), codes)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((5, 4), int), "side of 5 codes has no grid token"),
        (np.zeros((4, 0), int), "side of 0 codes"),
        (np.zeros((4, 68), int), "up to 64"),
        (np.full((4, 4), CODES), "must lie in 0..1099"),
        (np.full((4, 4), -1), "must lie in 0..1099"),
        (np.zeros((1, 4, 4), int), "must be integers"),
        (np.zeros((4, 4)), "must be integers"),
    ],
)
def test_codes_that_are_no_image_are_refused(codes, message):
    with pytest.raises(PureError, match=message):
        image_block(codes, VOCABULARY)


@pytest.mark.parametrize(
    ("position", "id_", "message"),
    [
        (0, VOCABULARY.bos, "must open with image start"),
        (-1, VOCABULARY.separator, "close with image end"),
        (1, VOCABULARY.new_line, "no grid token"),
        (1, -1, "no grid token"),
        (2, int(VOCABULARY.grid_ids[0]), "no grid token"),
        (2, int(VOCABULARY.grid_ids[2]), "needs 36 body tokens, but has 20"),
        (7, int(VOCABULARY.code_to_id[0]), "row 0 .* lacks its new-line"),
        (9, VOCABULARY.new_line, "row 1, column 1 .* no image code"),
        (9, VOCABULARY.size, "row 1, column 1 .* no image code"),
        (9, -1, "row 1, column 1 .* no image code"),
    ],
)
def test_every_frame_token_is_checked(position, id_, message):
    ids = image_block(random_codes(4, 4), VOCABULARY)
    ids[position] = id_
    with pytest.raises(PureError, match=message):
        parse_image_block(ids, VOCABULARY)


# ---- prompt and answer ---------------------------------------------------------------------------------------------


def test_the_prompt_is_bos_instruction_block_separator():
    codes = random_codes(8, 4)
    ids = prompt_ids(TOKENIZER, VOCABULARY, codes)
    block = image_block(codes, VOCABULARY)
    assert (ids[0], ids[-1]) == (VOCABULARY.bos, VOCABULARY.separator)
    np.testing.assert_array_equal(ids[-1 - len(block) : -1], block)
    text = TOKENIZER.decode(ids[1 : -1 - len(block)].tolist(), skip_special_tokens=False)
    assert text == (
        "Perceive the degradation level, understand the image content, and restore the high-quality image. "
    )


def test_an_instruction_without_a_place_for_the_image_gets_it_in_front():
    codes = random_codes(4, 4)
    np.testing.assert_array_equal(
        prompt_ids(TOKENIZER, VOCABULARY, codes, "Restore."),
        prompt_ids(TOKENIZER, VOCABULARY, codes, "<|image|> Restore."),
    )


def test_text_may_follow_the_image_but_a_second_image_may_not():
    ids = prompt_ids(TOKENIZER, VOCABULARY, random_codes(4, 4), "Look: <|image|> Now restore.")
    end = int(np.flatnonzero(ids == VOCABULARY.image_end)[0])
    assert TOKENIZER.decode(ids[end + 1 : -1].tolist()) == " Now restore."
    with pytest.raises(PureError, match="more than one image"):
        prompt_ids(TOKENIZER, VOCABULARY, random_codes(4, 4), "<|image|> and <|image|>")


NAMES = ["<reserved08706>", "<s>", "<pad>", "IMGIMGAZ", "<racm3:break>", "<reserved08801>", "<unk>"]


@pytest.mark.parametrize("name", NAMES)
def test_spelling_a_control_token_in_the_instruction_injects_nothing(name):
    plain = prompt_ids(TOKENIZER, VOCABULARY, random_codes(4, 4), INSTRUCTION)
    spelled = prompt_ids(TOKENIZER, VOCABULARY, random_codes(4, 4), name + INSTRUCTION)
    assert (~VOCABULARY.is_text[spelled]).sum() == (~VOCABULARY.is_text[plain]).sum()


@pytest.mark.parametrize("name", NAMES)
def test_a_tokenizer_that_reads_names_as_control_tokens_is_stopped(name):
    # Chameleon's own file lists its specials as added tokens, which are matched inside any text.
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.add_special_tokens([name])
    with pytest.raises(PureError, match=f"contains the control token {name}"):
        prompt_ids(tokenizer, VOCABULARY, random_codes(4, 4), f"Restore {name} this. <|image|>")
    with pytest.raises(PureError, match=f"contains the control token {name}"):
        answer_ids(tokenizer, VOCABULARY, f"A {name}.", random_codes(4, 4))


def test_a_text_that_is_no_unicode_is_stopped():
    with pytest.raises(PureError, match="is no valid Unicode"):
        encode_text(TOKENIZER, VOCABULARY, "a \udcff")


def test_a_token_beyond_the_vocabulary_is_stopped():
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.add_tokens(["beyond"])
    with pytest.raises(PureError, match="control token beyond"):
        encode_text(tokenizer, VOCABULARY, "far beyond")


def test_the_image_placeholder_is_no_answer_text():
    with pytest.raises(PureError, match="contains <|image|>"):
        answer_ids(TOKENIZER, VOCABULARY, "A <|image|>.", random_codes(4, 4))


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30), code_images())
def test_answer_to_ids_to_answer_is_the_identity(text, codes):
    read, images = parse_answer(answer_ids(TOKENIZER, VOCABULARY, text, codes), VOCABULARY, TOKENIZER)
    assert read == text.strip()
    assert len(images) == 1
    np.testing.assert_array_equal(images[0], codes)


def test_one_blank_stands_between_text_and_image_and_none_without_text():
    ids = answer_ids(TOKENIZER, VOCABULARY, TEXT, random_codes(4, 4))
    start = int(np.flatnonzero(ids == VOCABULARY.image_start)[0])
    assert TOKENIZER.decode(ids[:start].tolist()) == TEXT + " "
    assert answer_ids(TOKENIZER, VOCABULARY, "", random_codes(4, 4))[0] == VOCABULARY.image_start


@pytest.mark.parametrize("text", ["", "A cat.", TEXT, TEXT * 20])
def test_a_text_length_fixes_the_distance_between_the_images(text):
    ids = answer_ids(TOKENIZER, VOCABULARY, text, random_codes(4, 4), text_length=24)
    assert ids[24] == VOCABULARY.image_start
    assert len(ids) == 24 + 24 + 1
    read, _ = parse_answer(ids, VOCABULARY, TOKENIZER)
    assert (TEXT * 20).startswith(read) if text == TEXT * 20 else read == text


def test_labels_cover_exactly_the_answer():
    lq, hq = random_codes(4, 8, 1), random_codes(4, 8, 2)
    tokens, labels = training_example(TOKENIZER, VOCABULARY, lq, hq, TEXT, text_length=24)
    prompt = prompt_ids(TOKENIZER, VOCABULARY, lq)
    np.testing.assert_array_equal(tokens[: len(prompt)], prompt)
    assert (labels[: len(prompt)] == IGNORE).all()
    np.testing.assert_array_equal(labels[len(prompt) :], tokens[len(prompt) :])  # unshifted
    read, images = parse_answer(labels[labels != IGNORE], VOCABULARY, TOKENIZER)
    assert read == TEXT
    np.testing.assert_array_equal(images[0], hq)
    assert tokens.dtype == labels.dtype == np.int32


def answer(vocabulary: Vocabulary = VOCABULARY) -> np.ndarray:
    return answer_ids(TOKENIZER, vocabulary, TEXT, random_codes(4, 4))


def test_reading_stops_at_the_separator_and_needs_none():
    whole = parse_answer(answer(), VOCABULARY, TOKENIZER)
    for ids in (answer()[:-1], np.concatenate([answer(), answer()]), np.pad(answer(), (0, 5), constant_values=-1)):
        read, images = parse_answer(ids, VOCABULARY, TOKENIZER)
        assert read == whole[0]
        np.testing.assert_array_equal(images, whole[1])
    assert parse_answer([], VOCABULARY, TOKENIZER) == ("", [])


def test_an_image_that_never_closes_is_reported():
    with pytest.raises(PureError, match="opens an image at token .* never closes"):
        parse_answer(answer()[:-2], VOCABULARY, TOKENIZER)


@pytest.mark.parametrize("id_", [VOCABULARY.bos, int(VOCABULARY.code_to_id[3]), VOCABULARY.size, -1])
def test_a_stray_control_token_is_reported(id_):
    with pytest.raises(PureError, match=f"control token {id_} at 0"):
        parse_answer([id_, *answer()], VOCABULARY, TOKENIZER)


# ---- text ----------------------------------------------------------------------------------------------------------


def test_the_nine_degradation_sentences_are_read_back():
    assert degradation_sentence("medium", "small") == "Medium blur, small noise."  # PURE paper, figure 2
    for blur in LEVELS:
        for noise in LEVELS:
            text = f"{degradation_sentence(blur, noise)} A cat."
            assert split_reading(text) == ({"blur": blur, "noise": noise}, "A cat.")


@pytest.mark.parametrize("text", ["", "A cat.", "Huge blur, small noise. A cat.", "A cat. Small blur, small noise."])
def test_text_without_a_degradation_sentence_is_all_description(text):
    assert split_reading(text) == (None, text)


def test_a_degradation_sentence_may_stand_alone():
    assert split_reading("Large blur, large noise.") == ({"blur": "large", "noise": "large"}, "")


@pytest.mark.parametrize("levels", [("huge", "small"), ("small", "Large"), ("", "small")])
def test_an_unknown_level_is_refused(levels):
    with pytest.raises(PureError, match="is no degradation level"):
        degradation_sentence(*levels)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A photo of a lemur. (Lemur (37122852696))", "A photo of a lemur."),
        ("A photo of a dog. (German-shepherd-4040871920. (2))", "A photo of a dog."),
        ("A photo of a cat (asleep)", "A photo of a cat (asleep)."),
        ("A cat. (It sleeps.) A dog. (Title)", "A cat. (It sleeps.) A dog."),
        ("A cat. Odd)", "A cat. Odd)."),
        ("  Two\n\tlines\u00a0here ", "Two lines here."),
        ("Is it a cat?", "Is it a cat?"),
        ("  ", ""),
    ],
)
def test_captions_become_one_line_of_sentences(caption, expected):
    assert normalise_caption(caption) == expected
    assert normalise_caption(expected) == expected
