"""What the answer of a record says: its levels, its caption, or neither, and where scores and captions come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pure_jax.errors import PureError
from pure_jax.sequence import LEVELS, degradation_sentence, encode_text, guiding_text, normalise_caption
from pure_jax.train.config import TextConfig
from pure_jax.train.data.labels import Thresholds, levels, terciles
from pure_jax.train.data.records import Record, RecordSet, manifest_values, scores
from pure_jax.vocabulary import IMAGE_PLACEHOLDER, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

Scores = Mapping[tuple[str, int], tuple[float, float]]

_QUALITY = re.compile(
    r"\b(blurry|low[- ]resolution|low[- ]quality|image quality|pixelated|grainy|artifacts?)\b", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def _rows(path: Path, what: str) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PureError(f"{path} cannot be read as a file of {what}: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("key"), str):
            raise PureError(f'{path} line {number} is no JSON object with a "key"; mend or remove the line')
        rows.append(row | {"line": number})
    if not rows:
        raise PureError(f"{path} holds no {what}; give another file")
    return rows


def read_captions_by_key(path: Path) -> dict[str, str]:
    """JSON lines with `key` (of a record) and `caption`, and whatever else, such as `model` and `prompt`.

    Sentences about the picture's quality are left out: what is to be described is the target.

    Raises:
        PureError: the file is missing, empty, or has another line in it.
    """
    found = {}
    for row in _rows(path, "captions"):
        if not isinstance(row.get("caption"), str):
            raise PureError(f'{path} line {row["line"]} has no text as "caption"; mend or remove the line')
        sentences = _SENTENCE.split(normalise_caption(row["caption"]))
        found[row["key"]] = " ".join(sentence for sentence in sentences if not _QUALITY.search(sentence))
    return found


def read_scores(path: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """JSON lines with `key` (of a record), `variant`, `blur` and `noise`; larger is worse, the scale is free.

    Raises:
        PureError: the file is missing, empty, or has another line in it.
    """
    found = {}
    for row in _rows(path, "scores"):
        variant, values = row.get("variant", 0), (row.get("blur"), row.get("noise"))
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
        if len(numbers) < 2 or not isinstance(variant, int):
            raise PureError(f'{path} line {row["line"]} has no finite numbers as "blur" and "noise"; mend the line')
        found[row["key"], variant] = (float(numbers[0]), float(numbers[1]))
    return found


def find_thresholds(labels: str, sets: list[RecordSet], given: Scores | None) -> Thresholds:
    """The terciles of the scores that `labels` names: of a sample of the records, or of all that are given.

    Raises:
        PureError: the records were made without twin measurement; no scores are given for "file".
    """
    if labels != "file":
        borders = terciles(labels, np.concatenate([scores(found, labels) for found in sets]))
        manifests = json.dumps([manifest_values(found.manifest) for found in sets], sort_keys=True)
        return dataclasses.replace(borders, source=hashlib.sha256(manifests.encode()).hexdigest())
    if not given:
        raise PureError("levels from a file need the file; give it with --scores")
    return terciles(labels, np.array(list(given.values())))


@dataclass(frozen=True, eq=False)
class Texts:
    """The text of an answer. captions: by key, before those of the records; scores: for labels of a file.

    most: tokens of the text, the blank behind it included.
    """

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    thresholds: Thresholds
    options: TextConfig
    most: int
    captions: Mapping[str, str] | None = None
    scores: Scores | None = None

    def __call__(self, record: Record, variant: int, rng: np.random.Generator) -> str:
        """What is said of one variant of a record; two numbers are drawn, always.

        Raises:
            PureError: the file of scores has none for it.
        """
        shares = self.options.shares()
        guidance = list(shares)[int(np.searchsorted(np.cumsum(list(shares.values())), rng.random(), side="right"))]
        dropped = rng.random() < self.options.caption_dropout
        reading = degradation_sentence(*levels(*self._scores_of(record, variant), self.thresholds))
        caption = "" if dropped or "caption" not in guiding_text(guidance, "", "caption") else self._caption(record)
        return self._fitting(guidance, reading, caption)

    def _scores_of(self, record: Record, variant: int) -> tuple[float, float]:
        kind = self.thresholds.kind
        if kind != "file":
            blur, noise = getattr(record, kind)[variant]
            return float(blur), float(noise)
        found = (self.scores or {}).get((record.key, variant))
        if found is None:
            raise PureError(f"the scores have none for {record.key!r}, variant {variant}; add it to the file")
        return found

    def _caption(self, record: Record) -> str:
        """Empty where there is none, or where it spells a control token."""
        caption = record.caption if self.captions is None else self.captions.get(record.key, record.caption)
        try:
            if IMAGE_PLACEHOLDER in caption:
                raise PureError(f"the caption contains {IMAGE_PLACEHOLDER}")
            encode_text(self.tokenizer, self.vocabulary, caption)
        except PureError as error:
            _report_once(record.key, str(error))
            return ""
        return caption

    def _fitting(self, guidance: str, reading: str, caption: str) -> str:
        """Sentences of the caption, then words, are left out from the end on until the text is short enough."""
        pieces = _SENTENCE.split(caption)
        while True:
            text = guiding_text(guidance, reading, " ".join(pieces))
            if len(encode_text(self.tokenizer, self.vocabulary, f"{text} ")) <= self.most or not any(pieces):
                return text
            pieces = pieces[:-1] if len(pieces) > 1 else _shorter(pieces[0])


@cache
def _report_once(key: str, reason: str) -> None:
    logger.warning("the caption of %s is left out: %s", key, reason)


def _shorter(sentence: str) -> list[str]:
    """Without its last word, and still a sentence."""
    words = sentence.split()[:-1]
    return [" ".join(words).rstrip(",;:.!?") + "." if words else ""]


def longest_reading(tokenizer: Tokenizer) -> int:
    """Tokens of the longest sentence on blur and noise, with its blank."""
    sentences = [degradation_sentence(blur, noise) for blur in LEVELS for noise in LEVELS]
    return max(len(tokenizer.encode(f"{sentence} ", add_special_tokens=False).ids) for sentence in sentences)
