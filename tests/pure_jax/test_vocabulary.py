"""The vocabulary is read from names alone, and a broken tokenizer file is refused with one clear sentence."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.vocabulary import code_name, load_vocabulary, vocabulary_from_names


def chameleon_names(codes: int = 8192) -> dict[str, int]:
    """Names and ids as published for Chameleon: specials, 8,192 codes, image end and start, reserved, text."""
    names = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    names |= {code_name(code): 4 + code for code in range(min(codes, 8192))}
    names |= {"<eoss>": 8196, "<racm3:break>": 8197}
    names |= {f"<reserved{n:05d}>": n + 4 for n in range(8194, 16380)}
    names |= {f"text{n}": n for n in range(16384, 65536)}
    return names | {code_name(code): 57344 + code for code in range(8192, codes)}


def test_code_names_match_published_examples():
    # Ids 4, 5 and 8195 of the public Chameleon tokenizers.
    assert [code_name(code) for code in (0, 1, 8191)] == ["IMGIMGAZ", "IMGIMGBZ", "IMGIMGIBJBZ"]


def test_chameleon_ids_are_the_published_ones():
    vocabulary = vocabulary_from_names(chameleon_names(), codebook_size=8192)
    assert (vocabulary.bos, vocabulary.pad, vocabulary.eos) == (0, 1, 2)
    assert (vocabulary.image_end, vocabulary.image_start) == (8196, 8197)
    assert (vocabulary.separator, vocabulary.new_line) == (8710, 8803)
    assert vocabulary.grid_ids[16] == 8820  # 512 px
    assert vocabulary.size == 65536
    np.testing.assert_array_equal(vocabulary.code_to_id, np.arange(8192) + 4)
    assert not vocabulary.is_text[:16384].any() and vocabulary.is_text[16384:].all()


def test_pure_vocabulary_has_a_second_range_of_codes():
    vocabulary = vocabulary_from_names(chameleon_names(16384), codebook_size=16384)
    assert vocabulary.size == 73728
    assert (vocabulary.code_to_id[8191], vocabulary.code_to_id[8192]) == (8195, 65536)
    assert not vocabulary.is_text[65536:].any()


def test_the_map_follows_the_names_wherever_the_ids_are():
    names = chameleon_names()
    code_names = [name for name in names if name.startswith("IMGIMG")]
    ids = [names[name] for name in code_names]
    random.Random(0).shuffle(ids)
    shuffled = names | dict(zip(code_names, ids, strict=True))
    vocabulary = vocabulary_from_names(shuffled)
    assert vocabulary.code_to_id[7] == shuffled["IMGIMGHZ"] and vocabulary.code_to_id[10] == shuffled["IMGIMGBAZ"]
    np.testing.assert_array_equal(vocabulary.id_to_code[vocabulary.code_to_id], np.arange(8192))
    assert (vocabulary.id_to_code >= 0).sum() == 8192


def test_absent_grid_tokens_read_minus_one():
    names = chameleon_names()
    del names["<reserved08802>"]
    np.testing.assert_array_equal(vocabulary_from_names(names).grid_ids[:4], [8804, 8805, -1, 8807])


def test_a_placeholder_kept_in_the_file_is_no_part_of_the_vocabulary():
    names = chameleon_names(16384)
    for id_ in (73728, 65536):  # appended after all names, or on top of a code
        vocabulary = vocabulary_from_names(names | {"<|image|>": id_})
        assert (vocabulary.size, vocabulary.id_to_code[65536]) == (73728, 8192)


def test_the_other_name_of_a_reserved_token_is_no_text():
    names = chameleon_names()
    names["<image>"] = names.pop("<reserved08707>")
    assert not vocabulary_from_names(names).is_text[8711]


@pytest.mark.parametrize(
    "name", ["<s>", "<pad>", "</s>", "<unk>", "<reserved08706>", "<racm3:break>", "<eoss>", "<reserved08799>"]
)
def test_a_missing_special_is_named(name):
    names = chameleon_names()
    del names[name]
    with pytest.raises(PureError, match=f"lacks {name};"):
        vocabulary_from_names(names)


def test_codes_must_be_complete_and_as_many_as_the_codebook():
    names = chameleon_names()
    with pytest.raises(PureError, match="names 8192 image codes but the image tokenizer has 16384"):
        vocabulary_from_names(names, codebook_size=16384)
    del names["IMGIMGFZ"]
    with pytest.raises(PureError, match=r"not code 5 \(IMGIMGFZ\)"):
        vocabulary_from_names(names)
    with pytest.raises(PureError, match="without a number: 'IMGIMGxyZ'"):
        vocabulary_from_names(names | {"IMGIMGxyZ": 5})
    without = {name: id_ for name, id_ in names.items() if not name.startswith("IMGIMG")}
    with pytest.raises(PureError, match="no image codes"):
        vocabulary_from_names(without)


def test_two_control_tokens_may_not_share_an_id():
    with pytest.raises(PureError, match="one id to two control tokens"):
        vocabulary_from_names(chameleon_names() | {"IMGIMGAZ": 8710})


def test_added_tokens_of_a_tokenizer_file_count(tmp_path):
    names = chameleon_names(codes=16)
    moved = {name: names.pop(name) for name in ("<s>", "<eoss>")}
    added = [{"content": name, "id": id_, "special": True} for name, id_ in moved.items()]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": names}, "added_tokens": added}))
    vocabulary = load_vocabulary(path, codes_per_grid=2, codebook_size=16)
    assert (vocabulary.bos, vocabulary.image_end, vocabulary.codes_per_grid) == (0, 8196, 2)
    with pytest.raises(PureError, match=r"tokenizer.json: .* 16 image codes"):
        load_vocabulary(path, codebook_size=32)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"model": {"vocab": [["a", -1.5]]}}', '{"model": {"vocab": {"a": "b"}}}', "\x00\x01"],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(PureError, match="is not a tokenizer file"):
        load_vocabulary(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(PureError, match="cannot read .*absent.json: No such file"):
        load_vocabulary(tmp_path / "absent.json")
