"""Texts of answers, byte for byte, and the files that scores and captions may come from."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter

import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.sequence import answer_ids, guiding_text, parse_answer
from pure_jax.train.config import TextConfig
from pure_jax.train.data.labels import Thresholds, load_thresholds, save_thresholds, terciles
from pure_jax.train.data.records import open_records
from pure_jax.train.data.texts import Texts, find_thresholds, read_captions_by_key, read_scores
from tests.models import tiny_tokenizer
from tests.train.data.test_records import record, write_folder

BORDERS = Thresholds("params", blur=(2.0, 4.0), noise=(1.0, 3.0))


def texts(most=240, captions=None, scores=None, borders=BORDERS, **options) -> Texts:
    return Texts(*tiny_tokenizer(64), borders, TextConfig(**options), most, captions, scores)


def said(write: Texts, number: int = 2, seed: int = 0, **changes) -> str:
    return write(dataclasses.replace(record(number), **changes), 0, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        ("full", "Medium blur, medium noise. A cat. <|image|>"),
        ("perception", "Medium blur, medium noise. <|image|>"),
        ("understanding", "A cat. <|image|>"),
        ("none", "<|image|>"),
    ],
)
def test_answers_are_the_templates_byte_for_byte(guidance, expected):
    """Decoded from the ids that are trained on, the image put in as its symbol."""
    tokenizer, vocabulary = tiny_tokenizer(64)
    text = said(texts(guidance=guidance), caption="A cat.")
    codes = np.zeros((4, 4), np.int32)
    ids = answer_ids(tokenizer, vocabulary, text, codes)
    start = int(np.flatnonzero(ids == vocabulary.image_start)[0])
    assert tokenizer.decode(ids[:start].tolist(), skip_special_tokens=False) + "<|image|>" == expected
    assert ids[-1] == vocabulary.separator
    again, [image] = parse_answer(ids, vocabulary, tokenizer)
    assert again == text and (image == codes).all()


@pytest.mark.parametrize(("caption", "guidance"), [("", "full"), ("A cat.", "perception")])
def test_what_is_not_there_leaves_no_blank(caption, guidance):
    assert said(texts(guidance=guidance), caption=caption) == "Medium blur, medium noise."
    assert said(texts(guidance="understanding"), caption="") == ""


def test_an_unknown_guidance_is_refused():
    with pytest.raises(PureError, match="the guidance is 'all'"):
        guiding_text("all", "", "")
    for guidance, words in (
        ("all", "guidance is 'all'"),
        ("full=1,all=1", "guidance is 'all'"),
        ("full=0", "guidance has 'full=0'"),
        ("full=x", "guidance has 'full=x'"),
        ("full=1,full=2", "each name once"),
    ):
        with pytest.raises(PureError, match=words):
            TextConfig(guidance=guidance)
    with pytest.raises(PureError, match="labels is 'mood'"):
        TextConfig(labels="mood")


def test_guidances_are_mixed_by_their_shares():
    write = texts(guidance="full=6, none=2, perception=1, understanding=1", caption_dropout=0.0)
    seen = Counter(said(write, seed=seed, caption="A cat.") for seed in range(2000))
    for text, share in zip(
        ("Medium blur, medium noise. A cat.", "", "Medium blur, medium noise.", "A cat."), (6, 2, 1, 1), strict=True
    ):
        assert seen[text] / 2000 == pytest.approx(share / 10, abs=0.035)  # standard error at most 1.1 %
    assert said(write, seed=5, caption="A cat.") == said(write, seed=5, caption="A cat.")


def test_captions_are_left_out_at_the_rate_that_is_asked_for():
    write = texts(caption_dropout=0.25)
    kept = [said(write, seed=seed, caption="A cat.").endswith("A cat.") for seed in range(2000)]
    assert np.mean(kept) == pytest.approx(0.75, abs=0.03)


def test_long_captions_lose_sentences_and_then_words():
    tokenizer, _ = tiny_tokenizer(64)
    caption = "One cat sits. Two dogs run away. Three birds sing loudly."
    for most in range(16, 70):
        text = said(texts(most=most, guidance="understanding"), caption=caption)
        assert len(tokenizer.encode(f"{text} ").ids) <= most
        body = text.removesuffix(".")
        assert caption.startswith(body)
        if len(tokenizer.encode("One cat sits. ").ids) <= most:  # then whole sentences
            assert text in ("One cat sits.", "One cat sits. Two dogs run away.", caption)
    assert text == caption


def test_a_caption_that_spells_a_control_token_is_left_out_and_named(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert said(texts(), caption="A <|image|> here.") == "Medium blur, medium noise."
    assert caplog.text.count("is left out") == 1


def test_levels_are_those_of_the_scores_that_are_asked_for():
    twin = np.array([[9.0, 0.0], [0.0, 9.0]], np.float32)
    measured = dataclasses.replace(BORDERS, kind="twin")
    assert said(texts(borders=measured), twin=twin, caption="") == "Large blur, small noise."
    given = {(record(2).key, 0): (0.0, 0.0)}
    from_file = texts(borders=dataclasses.replace(BORDERS, kind="file"), scores=given)
    assert said(from_file, caption="") == "Small blur, small noise."
    with pytest.raises(PureError, match="the scores have none for .*0,3', variant 0"):
        said(from_file, number=3)


def test_thresholds_are_terciles(tmp_path):
    found = open_records(write_folder(tmp_path / "r", [9]))
    borders = find_thresholds("params", [found], None)
    assert borders == Thresholds("params", *[tuple(np.quantile(np.arange(9).repeat(2), [1 / 3, 2 / 3]))] * 2)
    assert borders.samples == 18 and len(borders.source) == 64
    other = open_records(write_folder(tmp_path / "other", [8]))
    assert find_thresholds("params", [other], None).source != borders.source  # of other photos
    save_thresholds(tmp_path / "thresholds.json", borders)
    again = load_thresholds(tmp_path / "thresholds.json")
    assert (again, again.samples, again.source) == (borders, 18, borders.source)
    (tmp_path / "older.json").write_text(json.dumps(borders.borders()))
    assert load_thresholds(tmp_path / "older.json") == borders
    with pytest.raises(PureError, match='no finite scores of the kind "twin"'):
        find_thresholds("twin", [found], None)
    with pytest.raises(PureError, match="give it with --scores"):
        find_thresholds("file", [found], None)
    rng = np.random.default_rng(0)
    given = {(str(i), 0): tuple(rng.random(2)) for i in range(300)}
    counts = np.searchsorted(find_thresholds("file", [], given).blur, [blur for blur, _ in given.values()])
    assert Counter(counts.tolist()) == {0: 100, 1: 100, 2: 100}
    with pytest.raises(PureError, match="no finite scores"):
        terciles("file", np.empty((0, 2)))


def lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_captions_by_key_are_tidied_and_take_the_place_of_the_records(tmp_path):
    row = {"key": record(2).key, "caption": "A cat\n sits. The image is blurry. It sleeps", "model": "m", "prompt": "?"}
    found = read_captions_by_key(lines(tmp_path / "c.jsonl", row, ""))
    assert found == {record(2).key: "A cat sits. It sleeps."}
    assert said(texts(guidance="understanding", captions=found)) == "A cat sits. It sleeps."
    assert said(texts(guidance="understanding", captions=found), number=3) == "Caption 3."


def test_scores_by_key(tmp_path):
    path = lines(
        tmp_path / "s.jsonl", {"key": "a", "variant": 1, "blur": 0.5, "noise": 1}, {"key": "a", "blur": 0, "noise": 0}
    )
    assert read_scores(path) == {("a", 1): (0.5, 1.0), ("a", 0): (0.0, 0.0)}


@pytest.mark.parametrize(
    ("read", "row", "words"),
    [
        (read_scores, "{", 'line 1 is no JSON object with a "key"'),
        (read_scores, {"blur": 1, "noise": 1}, 'line 1 is no JSON object with a "key"'),
        (read_scores, {"key": "a", "blur": 1}, "line 1 has no finite numbers"),
        (read_scores, '{"key": "a", "blur": NaN, "noise": 1}', "line 1 has no finite numbers"),
        (read_scores, {"key": "a", "blur": "much", "noise": 1}, "line 1 has no finite numbers"),
        (read_captions_by_key, {"key": "a"}, 'line 1 has no text as "caption"'),
        (read_captions_by_key, "", "holds no captions"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, read, row, words):
    with pytest.raises(PureError, match=words):
        read(lines(tmp_path / "f.jsonl", row))
    with pytest.raises(PureError, match="cannot be read as a file of"):
        read(tmp_path / "absent.jsonl")
