"""A caption is read by the text encoder, once; a model may know its own prompt without one."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import pure_jax
from pure_jax.errors import PureError
from pure_jax.infer.nsarm import captions
from pure_jax.infer.nsarm.captions import caption_of, conditioning_of, read_captions, text_features, with_prompt
from tests.nsarm_models import reading_model


@pytest.fixture(scope="module")
def model():
    """With a text encoder and the features of a prompt."""
    return reading_model()


def test_the_prompts_features_need_no_text_encoder(model, monkeypatch):
    monkeypatch.setattr(captions, "encode_text", None)
    for caption in ("", "a small house"):
        features, valid = text_features(model, caption)
        np.testing.assert_array_equal(features[0], model.params["prompt"]["features"])
        assert valid.all()


def test_without_them_the_prompt_is_read_like_a_caption(model):
    bare = dataclasses.replace(model, config=dataclasses.replace(model.config, prompt_length=0))
    np.testing.assert_array_equal(text_features(bare, "")[0], text_features(bare, "a small house")[0])


def test_a_model_keeps_the_features_of_its_prompt_instead_of_the_text_encoder(model, tmp_path):
    bare = dataclasses.replace(model, config=dataclasses.replace(model.config, prompt_length=0))
    fixed = with_prompt(bare, "a cat")
    pure_jax.save(tmp_path / "fixed", fixed.config, fixed.params, "", "# Fixed\n")
    again = pure_jax.load(tmp_path / "fixed", scan_layers=False)
    assert again.config.prompt_length == 3 and "text_encoder" not in again.params
    one, two = (conditioning_of(m, c, False).shared for m, c in ((again, ""), (model, "a cat")))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)
    with pytest.raises(PureError, match="no text encoder"):
        conditioning_of(again, "a house", False)


def test_conditioning_is_made_once_for_a_caption(model, monkeypatch):
    one = conditioning_of(model, "a cat", True)
    assert one.start.shape == (2, 32) and (one.start[0] != one.start[1]).any()
    monkeypatch.setattr(captions, "text_features", None)
    assert conditioning_of(model, "a cat", True) is one


def test_captions_of_different_lengths_share_a_shape(model):
    one, two = (conditioning_of(model, caption, False) for caption in ("a cat", "a small small cat"))
    assert one.valid.shape == two.valid.shape and one.valid.sum() + 2 == two.valid.sum()
    assert jnp.abs(one.start - two.start).max() > 1e-3


def test_a_caption_that_is_too_long_is_refused(model):
    with pytest.raises(PureError, match="the caption has 17 tokens, more than 16; shorten it"):
        conditioning_of(model, "a " * 16, False)


def test_a_file_has_captions_by_the_photos_names(tmp_path):
    file = tmp_path / "captions.jsonl"
    lines = [
        {"image_path": "/x/y/one.png", "long_caption": " A cat. "},
        {"image_path": "c:\\z\\two.jpg", "long_caption": "B"},
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert read_captions(file) == {"one": "A cat.", "two": "B"}
    assert caption_of(file, tmp_path / "two.webp") == "B"
    with pytest.raises(PureError, match="has no caption for 'three' among its 2"):
        caption_of(file, tmp_path / "three.png")
    for content in ("{}", "no", "[1]", '{"image_path": 1, "long_caption": "x"}'):
        file.write_text(content)
        with pytest.raises(PureError, match="line 1: no JSON object with"):
            read_captions(file)
    with pytest.raises(PureError, match="cannot be read as text"):
        read_captions(tmp_path / "none.jsonl")
