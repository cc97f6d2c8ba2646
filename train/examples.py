"""From records to the language model's batches: the text is written, the sequence is put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pure_jax.config import ModelConfig
from pure_jax.errors import PureError
from pure_jax.sequence import IGNORE, prompt_ids, training_example, unconditional_example
from pure_jax.train.config import LanguageModelTrainConfig, TextConfig
from pure_jax.train.data.image_tokenizer import ImageTokenizer
from pure_jax.train.data.labels import Thresholds
from pure_jax.train.data.pipeline import Row, batches, stream
from pure_jax.train.data.records import Record, RecordSet, manifest_values
from pure_jax.train.data.texts import Scores, Texts
from pure_jax.train.language_model import drifted
from pure_jax.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MULTIPLE = 128
"""Of which the length of sequences is one, where texts are of any length and no other is asked for."""
SHORTEST = 40
"""Tokens that there must be for a text of any length: enough for its levels."""


@dataclass(frozen=True, eq=False)
class RecordBatches:
    """All that the batches of a run over folders of records follow from, but for the model's own files.

    captions, scores: see `Texts`; their files' digests are in `sources`.
    """

    sets: Sequence[RecordSet]
    weights: Sequence[float]
    text: TextConfig
    thresholds: Thresholds
    sources: dict[str, str]
    captions: dict[str, str] | None = None
    scores: Scores | None = None

    def about(self) -> dict[str, Any]:
        """As a run's configuration keeps it."""
        folders = [manifest_values(found.manifest) | {"records": len(found)} for found in self.sets]
        return {"text": asdict(self.text), "weights": list(self.weights), "folders": folders, **self.sources}

    def stream(
        self,
        config: ModelConfig,
        train: LanguageModelTrainConfig,
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        codebook: np.ndarray,
        rows: Sequence[int] | None = None,
    ) -> Any:
        """An iterator over (tokens, labels), int32 [batch, length], see `pure_jax.train.data.pipeline`.

        codebook: float32 [codes, dim], unit rows. rows: those that this process needs.
        """
        row = self.row_maker(config, train, tokenizer, vocabulary, codebook)
        return stream(batches(self.sets, self.weights, train.seed, train.batch, row, rows))

    def row_maker(
        self,
        config: ModelConfig,
        train: LanguageModelTrainConfig,
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        codebook: np.ndarray,
    ) -> Callable[[Record, int, np.random.Generator], Row]:
        """(record, variant, generator) -> tokens and labels, int32 [length], padded; every row is as long."""
        side = config.tile_size // config.vqgan.stride
        prompt = len(prompt_ids(tokenizer, vocabulary, np.zeros((side, side), np.int32)))
        most, length = _lengths(config, train, self.text, prompt + side * (side + 1) + 4 + 1)
        write = Texts(tokenizer, vocabulary, self.thresholds, self.text, most, self.captions, self.scores)

        def row(record: Record, variant: int, rng: np.random.Generator) -> Row:
            text = write(record, variant, rng)
            pair = record.lq_codes[variant], record.hq_codes
            own = training_example(tokenizer, vocabulary, *pair, text, text_length=config.text_length)
            if train.uncond_prob and rng.random() < train.uncond_prob:
                own = unconditional_example(vocabulary, record.hq_codes)
            tokens, labels = (
                np.pad(ids, (0, length - len(ids)), constant_values=fill)
                for ids, fill in zip(own, (vocabulary.pad, IGNORE), strict=True)
            )
            if train.drift:
                tokens = drifted(tokens[None], labels[None], vocabulary, codebook, train.drift, rng)[0]
            return tokens, labels

        return row


def _lengths(config: ModelConfig, train: LanguageModelTrainConfig, text: TextConfig, others: int) -> tuple[int, int]:
    """Tokens of a text at most, and of a whole row; others: those of a row that are no text.

    Raises:
        PureError: the sequence that is asked for has no room for a text.
    """
    most = config.text_length or text.text_tokens
    if not train.sequence:
        return most, others + most + (0 if config.text_length else -(others + most) % MULTIPLE)
    room = train.sequence - others
    if room < (config.text_length or SHORTEST):
        needed = others + (config.text_length or SHORTEST)
        raise PureError(f"a sequence of {train.sequence} tokens is too short for an answer, which needs {needed}")
    return min(most, room), train.sequence


def require_fitting(sets: Sequence[RecordSet], tokenizer: ImageTokenizer, source: Path, config: ModelConfig) -> None:
    """Raises PureError unless all records are of this image tokenizer, and of the model's sizes."""
    side, codes = config.tile_size // config.vqgan.stride, config.vqgan.codebook_size
    for found in sets:
        own = found.manifest
        if own.tokenizer != tokenizer.fingerprint:
            raise PureError(
                f"the records in {found.directory} were written with another image tokenizer than {source}; give the "
                "one they were made with (--vqgan), or make them again with `pure tokenize`"
            )
        if (own.codes_per_side, own.codebook_size) != (side, codes):
            raise PureError(
                f"the records in {found.directory} have tiles of {own.codes_per_side}x{own.codes_per_side} codes of "
                f"{own.codebook_size}, but the model's are {side}x{side} of {codes}; choose the preset that fits"
            )
