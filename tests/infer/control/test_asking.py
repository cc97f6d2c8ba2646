"""Corrections on the terminal, and what they change of a restoration."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.errors import PureError
from pure_jax.infer import pure
from pure_jax.infer.control.asking import ask_on_terminal
from pure_jax.infer.restore import Restorer
from tests.models import tiny_model


@pytest.fixture
def typed(monkeypatch):
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_empty_answers_leave_all_as_it_is(typed, capsys):
    typed("\n\n\n")
    assert ask_on_terminal({"blur": "medium", "noise": ""}, "A cat.") == ({}, "")
    out, err = capsys.readouterr()
    assert out == "" and "blur" in err and "(medium)" in err and "(unsaid)" in err and "(A cat.)" in err


def test_other_answers_are_corrections_and_what_is_no_level_is_asked_again(typed):
    typed("huge\nlarge\nsmall\n A dog. \n")
    assert ask_on_terminal({"blur": "medium", "noise": ""}, "") == ({"blur": "large", "noise": "small"}, "A dog.")


def test_what_the_mode_leaves_out_is_no_question(typed):
    typed("A dog.\n")
    assert ask_on_terminal({}, "A cat.") == ({}, "A dog.")
    typed("")
    assert ask_on_terminal({}, None) == ({}, "")


def test_nobody_there_is_said(typed):
    typed("large\n")
    with pytest.raises(PureError, match="nobody answered"):
        ask_on_terminal({"blur": "medium", "noise": "small"}, "")


def test_a_corrected_restoration_is_the_one_that_was_told_so():
    restorer = Restorer(tiny_model(num_layers=1), unchecked=True)
    photo = np.random.default_rng(0).integers(256, size=(16, 20, 3), dtype=np.uint8)
    plain = restorer.restore(photo, scale=1)
    kept = restorer.restore(photo, scale=1, ask=lambda reading, description: ({}, ""))
    np.testing.assert_array_equal(kept.picture.rgb, plain.picture.rgb)
    own = {"blur": "large", "noise": "small"}
    asked = restorer.restore(photo, scale=1, ask=lambda reading, description: (own, ""))
    told = restorer.restore(photo, scale=1, reading=own)
    np.testing.assert_array_equal(asked.picture.rgb, told.picture.rgb)
    assert asked.texts == told.texts != plain.texts
    with pytest.raises(PureError, match="text says how answers begin"):
        restorer.restore(photo, scale=1, text="Hm.", ask=lambda *_: ({}, ""))


def test_the_model_is_read_once_for_the_question_and_for_what_it_leaves_open(monkeypatch):
    told = []
    read = pure.read

    def counted(*arguments, words, **options):
        told.append(words)
        return read(*arguments, words=words, **options)

    monkeypatch.setattr(pure, "read", counted)
    restorer = Restorer(tiny_model(num_layers=1), unchecked=True)
    photo = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    restorer.restore(photo, scale=1, guidance="perception", ask=lambda *_: ({"blur": "large"}, ""))
    assert told == [None]


@pytest.mark.slow
def test_the_command_asks_and_restores_as_it_is_told(tmp_path, typed, capsys):
    from pure_jax.__main__ import main

    model = tiny_model(num_layers=1, max_text_tokens=32)
    pure_jax.save(tmp_path / "model", model.config, model.params, model.tokenizer.to_str(), "A random model for tests.")
    common = ["--scale", "1", "--model", str(tmp_path / "model")]
    photo = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)).save(photo)
    typed("large\nsmall\nA cat.\n")
    main(["restore", str(photo), str(tmp_path / "asked.png"), *common, "--ask", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["degradation"] == {"blur": "large", "noise": "small"} and said["description"] == "A cat."
    told = ["--blur", "large", "--noise", "small", "--description", "A cat."]
    main(["restore", str(photo), str(tmp_path / "told.png"), *common, *told])
    assert (tmp_path / "asked.png").read_bytes() == (tmp_path / "told.png").read_bytes()


def test_the_command_cannot_ask_through_the_photo_or_for_a_folder(tmp_path, capsys):
    from pure_jax.__main__ import main

    for paths, complaint in ((["-", "-"], "name the photo's file"), ([str(tmp_path), str(tmp_path / "out")], "--ask")):
        with pytest.raises(SystemExit) as stop:
            main(["restore", *paths, "--ask"])
        assert stop.value.code == 2 and complaint in capsys.readouterr().err
