"""Words that answers are told, picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pure_jax.config import SamplingConfig
from pure_jax.errors import PureError
from pure_jax.infer.decoding.contract import FREE
from pure_jax.model import Model
from pure_jax.sequence import answer_text_ids, encode_text


class Words(NamedTuple):
    """What one picture's answer says before its image. closed: and nothing else; else the model goes on."""

    text: str
    closed: bool


def told_ids(model: Model, words: Sequence[Words], sampling: SamplingConfig) -> tuple[np.ndarray, SamplingConfig]:
    """int32 [n, longest]: tokens of each answer, FREE where the model chooses; and the sampling that has room for them.

    Closed words are those of the training: where its answers have text of a fixed length, they are filled up to it
    or cut. The image is opened behind them, by force.

    Raises:
        PureError: words longer than max_text_tokens, or with control tokens.
    """
    closed_length, rows = model.config.text_length, []
    for text, closed in words:
        if closed:
            ids = answer_text_ids(model.tokenizer, model.vocabulary, text, closed_length)
        else:  # without a blank at the end, which the model writes as part of its next word
            ids = encode_text(model.tokenizer, model.vocabulary, text)
        if len(ids) > sampling.max_text_tokens:
            raise PureError(
                f"the forced text has {len(ids)} tokens, more than max_text_tokens ({sampling.max_text_tokens})"
            )
        rows.append(np.append(ids, model.vocabulary.image_start) if closed else ids)
    longest = max(1, *(len(ids) for ids in rows))
    forced = np.full((len(rows), longest), FREE, np.int32)
    for row, ids in zip(forced, rows, strict=True):
        row[: len(ids)] = ids
    free = not all(closed for _, closed in words)
    return forced, replace(sampling, max_text_tokens=max(sampling.max_text_tokens, longest) if free else longest)
