"""Opening folders of records with the files that go with them, for a run that begins or goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from pure_jax.errors import PureError
from pure_jax.train.config import TextConfig
from pure_jax.train.data.labels import load_thresholds
from pure_jax.train.data.records import RecordSet, open_records
from pure_jax.train.data.texts import find_thresholds, read_captions_by_key, read_scores
from pure_jax.train.examples import RecordBatches
from pure_jax.train.stages import THRESHOLDS


def open_batches(
    folders: Sequence[Path],
    weights: Sequence[float],
    text: TextConfig,
    captions: Path | None,
    scores: Path | None,
    thresholds: Path | None,
    out: Path,
) -> RecordBatches:
    """Everything that a run in `out` reads. weights: empty takes as much of each folder as is in it.

    The level borders are those of `thresholds`; else those that `out` was begun with; else the terciles.

    Raises:
        PureError: a folder without whole records, or given twice; a file that is not what it should be, or useless.
    """
    if not folders:
        raise PureError("a run needs records; give the folders that `pure tokenize` made (--records)")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise PureError(f"the folder {folders[0]} is given twice; use --weights to read more of it")
    if (scores is not None) != (text.labels == "file"):
        raise PureError("levels from a file need both: --labels file, and the file with --scores")
    sets = [open_records(folder) for folder in folders]
    said = None if captions is None else read_captions_by_key(captions)
    read = None if scores is None else read_scores(scores)
    for path, keys in ((captions, said), (scores, {key for key, _ in read} if read else None)):
        if path is not None and keys is not None:
            _require_known(path, keys, sets)
    begun = out / THRESHOLDS
    if thresholds is not None:
        borders = load_thresholds(thresholds)
    else:
        borders = load_thresholds(begun) if begun.is_file() else find_thresholds(text.labels, sets, read)
    if borders.kind != text.labels:
        raise PureError(
            f"{thresholds or begun} has borders for the labels {borders.kind!r}, not {text.labels!r}; give the same "
            "--labels or other --thresholds"
        )
    digests = {"captions": _digest(captions), "scores": _digest(scores)}
    shares = list(weights) or [float(len(found)) for found in sets]
    return RecordBatches(sets, shares, text, borders, digests, said, read)


def _require_known(path: Path, keys: Collection[str], sets: Sequence[RecordSet]) -> None:
    """Raises PureError when the file has nothing for any of a sample of the records."""
    sample = [found[i].key for found in sets for i in range(0, len(found), max(1, len(found) // 1000))]
    if not any(key in keys for key in sample):
        raise PureError(f"{path} has nothing for these records; their keys are such as {sample[0]!r}")


def _digest(path: Path | None) -> str:
    return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
