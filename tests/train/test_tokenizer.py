"""The small tokenizer has Chameleon's layout, keeps text exact and never turns text into control tokens."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pure_jax.errors import PureError
from pure_jax.sequence import INSTRUCTION, LEVELS, degradation_sentence
from pure_jax.train.tokenizer import control_names, train_tokenizer
from pure_jax.vocabulary import load_vocabulary

CAPTIONS = ["A red bowl with a cut fig.", "A bridge over a river. Écluse, Дунаю."] * 3
TOKENIZER = train_tokenizer(CAPTIONS, codebook_size=512, text_vocab=370)


def test_ids_are_laid_out_as_in_chameleon(tmp_path):
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(str(path))
    vocab = json.loads(path.read_text())["model"]["vocab"]
    names = sorted(vocab, key=vocab.__getitem__)
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert names[:6] == ["<s>", "<pad>", "</s>", "<unk>", "IMGIMGAZ", "IMGIMGBZ"]
    assert names[4 + 511 :][:7] == [
        "IMGIMGFBBZ", "<eoss>", "<racm3:break>", "<reserved08706>", "<reserved08707>", "<reserved08799>",
        "<reserved08800>",
    ]  # fmt: skip
    text = names.index("<reserved08864>") + 1
    assert names[text] == "!"
    assert all(len(name) == 1 for name in names[text : text + 256])
    assert len(vocab) == text + 370

    vocabulary = load_vocabulary(path, codebook_size=512)
    assert len(vocabulary.grid_ids) == 65
    assert not vocabulary.is_text[:text].any() and vocabulary.is_text[text:].all()


def test_a_saved_tokenizer_encodes_the_same(tmp_path):
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (INSTRUCTION, *CAPTIONS):
        assert loaded.encode(text).ids == TOKENIZER.encode(text).ids


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_decoding_restores_any_text(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_fixed_sentences_take_few_tokens():
    for blur in LEVELS:
        for noise in LEVELS:
            # One token a word and one a mark: "Medium| blur|,| small| noise|."
            assert len(TOKENIZER.encode(degradation_sentence(blur, noise)).ids) == 6
    assert len(TOKENIZER.encode(INSTRUCTION.removesuffix("<|image|>")).ids) <= 20


def test_spelling_a_control_name_gives_ordinary_text():
    controls = control_names(512, 64)
    first_text_id = len(controls)
    for name in controls:
        ids = TOKENIZER.encode(f"{name} a{name}").ids
        assert min(ids) >= first_text_id
        assert TOKENIZER.decode(ids) == f"{name} a{name}"


def test_training_text_cannot_build_a_control_name():
    captions = ["<s> <pad> </s> <unk> <eoss> <racm3:break> <reserved08706> <reserved08801>"] * 5000
    tokenizer = train_tokenizer(captions, codebook_size=4, text_vocab=400)
    assert min(tokenizer.encode(captions[0]).ids) >= len(control_names(4, 64))
    with pytest.raises(PureError, match="contains IMGIMG"):
        train_tokenizer(["An IMGIMGAZ."], codebook_size=4, text_vocab=400)


def test_training_is_deterministic_across_processes():
    program = (
        "from pure_jax.train.tokenizer import train_tokenizer\n"
        f"print(train_tokenizer({CAPTIONS!r}, codebook_size=512, text_vocab=370).to_str())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, encoding="utf-8")
    assert run.stdout.strip() == TOKENIZER.to_str()


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(PureError, match="at least 256, not 255"):
        train_tokenizer(CAPTIONS, codebook_size=4, text_vocab=255)
    only_bytes = train_tokenizer(CAPTIONS, codebook_size=4, text_vocab=256)
    assert len(only_bytes.encode("é").ids) == 2
    assert only_bytes.decode(only_bytes.encode("é").ids) == "é"
