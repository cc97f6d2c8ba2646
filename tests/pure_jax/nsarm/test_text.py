"""The text encoder has the published size and equals transformers' T5; captions end, fill up, and may be too long."""

from __future__ import annotations

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pure_jax.convert.nsarm.names import TEXT_ROWS
from pure_jax.convert.tables import from_torch
from pure_jax.errors import PureError
from pure_jax.nsarm.config import TextConfig
from pure_jax.nsarm.shapes import text_shapes
from pure_jax.nsarm.text import TextEncoder, caption_ids, encode_text, read_tokenizer, relative_buckets
from tests.nsarm_bridge import lazy, nested
from tests.nsarm_models import TEXT, text_encoder, tiny_config, tokenizer


def test_it_has_the_published_number_of_parameters():
    assert sum(map(math.prod, text_shapes(TextConfig()).values())) == 1_223_527_424


def test_it_equals_transformers_t5_and_filling_up_changes_nothing():
    theirs = text_encoder()
    params = nested(from_torch(lazy(theirs), TEXT_ROWS, text_shapes(TEXT), "test")[0])
    rng = np.random.default_rng(0)
    ids = rng.integers(0, TEXT.vocab_size, (2, 40))  # distances beyond max_distance
    valid = np.arange(40) < np.array([[40], [17]])
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids), attention_mask=torch.tensor(valid).long()).last_hidden_state.numpy()
    ours = encode_text(TextEncoder(TEXT), params, jnp.asarray(ids), jnp.asarray(valid))
    np.testing.assert_allclose(np.asarray(ours)[valid], wanted[valid], rtol=0, atol=8e-6)  # measured 4e-6
    alone = encode_text(TextEncoder(TEXT), params, jnp.asarray(ids[1:, :17]), jnp.ones((1, 17), bool))
    np.testing.assert_allclose(alone[0], ours[1, :17], rtol=0, atol=4e-6)  # measured 2e-6


def test_buckets_are_single_near_by_and_shared_far_away():
    buckets = relative_buckets(300, 32, 128)
    assert buckets[0, :9].tolist() == [0, 17, 18, 19, 20, 21, 22, 23, 24]
    assert buckets[:9, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert buckets[0, 128:].tolist() == [31] * 172 and buckets[299, 0] == 15


def test_captions_end_and_are_filled_up():
    ids, valid = caption_ids(tokenizer(), "a cat", 64)
    assert ids.shape == (1, 32) and ids[0, :4].tolist() == [3, 4, 1, 0] and valid.sum() == 3
    ids, valid = caption_ids(tokenizer(), "", 64)
    assert ids[0, :2].tolist() == [1, 0] and valid.sum() == 1
    assert caption_ids(tokenizer(), "a " * 40, 41)[0].shape == (1, 41)
    with pytest.raises(PureError, match="the caption has 42 tokens, more than 41"):
        caption_ids(tokenizer(), "a " * 41, 41)


def test_a_tokenizer_file_must_fit(tmp_path):
    config = tiny_config(text_encoder=TEXT)
    file = tmp_path / "tokenizer.json"
    assert read_tokenizer(file, tiny_config()) == ("", None)
    with pytest.raises(PureError, match="tokenizer.json is missing"):
        read_tokenizer(file, config)
    file.write_text(tokenizer().to_str())
    assert json.loads(read_tokenizer(file, config)[0])
    small = dataclasses.replace(config, text_encoder=dataclasses.replace(TEXT, vocab_size=4))
    with pytest.raises(PureError, match="has 7 ids, more than the text encoder's vocab_size 4"):
        read_tokenizer(file, small)
    file.write_text("{}")
    with pytest.raises(PureError, match="is not a tokenizer file"):
        read_tokenizer(file, config)
