"""Records in ArrayRecord files: a tile of a photo, its codes, and those of K degradations of it.

Codes are stored, not token ids, and scores, not levels: so templates, thresholds and captions can change without
encoding again. docs/data.md says what the fields are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize

from pure_jax.checkpoint import read_json
from pure_jax.errors import PureError

FORMAT = 1
MANIFEST = "records.json"
"""In a folder of records: what decided them."""
MAKE = "make them with `pure tokenize`"


@contextmanager
def installed() -> Iterator[None]:
    """Around the import of Grain or ArrayRecord, which only records need.

    Raises:
        PureError: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise PureError(
            'records need the packages grain and array_record: pip install "pure-jax[train]" (Linux or macOS)'
        ) from error


@dataclass(frozen=True, eq=False)
class Record:
    """One tile of a photo.

    key: unique in a folder, "<photo>#<region>/<row>,<column>". region: top, left and side of the region in the photo's
    pixels, before `flipped` and `turned`. tile: row and column in the region. hq_codes: uint16 [h, w]. lq_codes: uint16
    [K, h, w]. params, twin: float32 [K, 2], scores of blur and noise by formula and by measurement (NaN: not measured).
    draws: K objects, see `degradation.recorded`. tokenizer: `ImageTokenizer.fingerprint`. degrader:
    `degradation.VERSION`.
    """

    key: str
    photo: str
    region: list[int]
    flipped: bool
    turned: bool
    tile: list[int]
    hq_codes: np.ndarray
    lq_codes: np.ndarray
    params: np.ndarray
    twin: np.ndarray
    draws: list[Any]
    caption: str
    caption_source: str
    seed: int
    tokenizer: str
    degrader: int

    def pack(self) -> bytes:
        """MessagePack of all fields, the draws as JSON; the inverse of `unpack`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return msgpack_serialize(values | {"draws": json.dumps(self.draws)})


def unpack(data: bytes) -> Record:
    """Raises ValueError or another error of its bytes when they are no record."""
    values = msgpack_restore(data)
    return Record(**values | {"draws": json.loads(values["draws"])})


@dataclass(frozen=True)
class Manifest:
    """What decided a folder of records. photos: number of them; names: SHA-256 of their names; captions: of theirs."""

    tokenizer: str
    codes_per_side: int
    codebook_size: int
    photos: int
    names: str
    captions: str
    files: int
    options: dict[str, Any]
    format: int = FORMAT

    @property
    def variants(self) -> int:
        return int(self.options["variants"])


def file_name(index: int, files: int) -> str:
    """The index-th file of records of so many."""
    return f"records-{index:05}-of-{files:05}.array_record"


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write an ArrayRecord file and see it on the disk; returns how many records there were.

    Raises:
        OSError: it cannot be written.
    """
    with installed():
        from array_record.python.array_record_module import ArrayRecordWriter
    writer, count = ArrayRecordWriter(str(path), "group_size:1,zstd:3"), 0
    for record in records:
        writer.write(record.pack())
        count += 1
    try:
        writer.close()  # says what went wrong with any of the writing before
    except RuntimeError as error:
        raise OSError(str(error).partition(";")[0] or "it cannot be closed") from error
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return count


@dataclass(frozen=True, eq=False)
class RecordSet:
    """A whole folder of records, read by index: `len(found)`, `found[i]`."""

    directory: Path
    manifest: Manifest

    @cached_property
    def _source(self) -> Any:
        with installed():
            from grain.sources import ArrayRecordDataSource
        files = self.manifest.files
        return ArrayRecordDataSource([str(self.directory / file_name(i, files)) for i in range(files)])

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Raises PureError for a record that cannot be read."""
        try:
            return unpack(self._source[index])
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise PureError(f"record {index} of {self.directory} cannot be read; remove its file and {MAKE}") from error


def read_manifest(directory: Path) -> Manifest:
    """Raises PureError when there is none, or none of this version."""
    if not (directory / MANIFEST).is_file():
        raise PureError(f"{directory} holds no records; {MAKE}")
    values = read_json(directory / MANIFEST)
    if not isinstance(values, dict) or values.keys() != {field.name for field in fields(Manifest)}:
        raise PureError(f"{directory / MANIFEST} is not of this version of pure-jax; {MAKE} again")
    return Manifest(**values)


def open_records(directory: Path) -> RecordSet:
    """A folder that `pure tokenize` has finished.

    Raises:
        PureError: no such folder, files are missing or broken, or there is no record in it.
    """
    manifest = read_manifest(directory)
    names = [file_name(i, manifest.files) for i in range(manifest.files)]
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise PureError(
            f"{len(missing)} of the {len(names)} files of {directory} are missing, the first {missing[0]}; let `pure "
            "tokenize` finish"
        )
    found = RecordSet(directory, manifest)
    try:
        empty = len(found) == 0
    except RuntimeError as error:
        broken = next((name for name in names if not _opens(directory / name)), names[0])
        raise PureError(f"{directory / broken} is not a file of records; remove it and {MAKE} again") from error
    if empty:
        raise PureError(f"{directory} has no record, as none of its photos could be used; {MAKE} of others")
    return found


def _opens(path: Path) -> bool:
    from grain.sources import ArrayRecordDataSource

    try:
        return len(ArrayRecordDataSource([str(path)])) >= 0
    except RuntimeError:
        return False


def scores(found: RecordSet, kind: str, sample: int = 20_000) -> np.ndarray:
    """float [n, 2]: scores of blur and noise of a sample of the records, spread evenly, with all their variants."""
    indices = np.unique(np.linspace(0, len(found) - 1, min(sample, len(found))).astype(int))
    return np.concatenate([getattr(found[int(i)], kind) for i in indices])


def manifest_values(manifest: Manifest) -> dict[str, Any]:
    """As JSON holds it."""
    return json.loads(json.dumps(asdict(manifest)))
