"""The two books of an output folder: what is done (the manifest), and what became of each picture (the report).

Both are files of one JSON object a line. While a run goes on, lines are added behind the last; when it ends, and when
the next begins, each book is put in order: one line for each picture, the latest, by name. A kill at any moment leaves
books that can be read, and a run that goes on afterwards leaves the manifest that it would have left without the kill.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pure_jax.errors import PureError
from pure_jax.files import not_writable, scratch
from pure_jax.shards import Shard

MANIFEST, REPORT = "manifest", "report"


@dataclass(frozen=True)
class Entry:
    """One line of the manifest: a result that is in its place, and all that it follows from.

    name: the picture's. settings: options that were given, by name. Digests are SHA-256 in hex.
    """

    name: str
    input_sha256: str
    settings: dict[str, Any]
    model_sha256: str
    output: str
    output_sha256: str


class Books:
    """An output folder's books, open for one run. `scratch` is a folder for what is being written, `result` a file in
    it: the picture's."""

    def __init__(self, folder: Path, shard: Shard | None, scratch_folder: Path) -> None:
        ending = _ending(shard)
        self.scratch = scratch_folder
        self.result = scratch_folder / "result"
        self.report = folder / f"{REPORT}{ending}.jsonl"
        self._manifest = folder / f"{MANIFEST}{ending}.jsonl"
        self.entries: dict[str, list[Entry]] = {}
        """Of this run's shard and all others, by the pictures' names."""
        for file in sorted(folder.glob(f"{MANIFEST}*.jsonl")):
            for line in _latest(file):
                entry = _entry(line)
                if entry is not None:
                    self.entries.setdefault(entry.name, []).append(entry)

    def tidy(self) -> None:
        """Put both books in order."""
        for file in (self._manifest, self.report):
            lines = "".join(_line(record) for record in _latest(file))
            if lines:
                beside = self.scratch / file.name
                beside.write_text(lines, encoding="utf-8")
                _sync(beside)
                os.replace(beside, file)
            else:
                file.unlink(missing_ok=True)

    def tell(self, record: dict[str, Any]) -> None:
        """Add a line to the report; `record["input"]` is the picture's name."""
        _append(self.report, record)

    def finish(self, entry: Entry, target: Path) -> None:
        """Put what was written to `result` into its place, as a whole, after a line in the manifest.

        The line comes first: a result without a line would be a stranger's file to the next run, while a line whose
        result is missing only means that the work is done again.

        Raises:
            OSError: it cannot be written.
        """
        _sync(self.result)
        target.parent.mkdir(parents=True, exist_ok=True)
        _append(self._manifest, asdict(entry))
        os.replace(self.result, target)


@contextmanager
def open_books(folder: Path, shard: Shard | None) -> Iterator[Books]:
    """The books of an output folder, which is made; tidied before and after. What a killed run left unfinished goes.

    Raises:
        PureError: another run, of the same shard, is at work in the folder, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / f".pure-unfinished{_ending(shard)}"
        with scratch(place, folder):
            books = Books(folder, shard, place)
            books.tidy()
            try:
                yield books
            finally:
                books.tidy()
    except OSError as error:
        raise not_writable(folder, error) from error


def results_in(folder: Path) -> set[Path]:
    """Where the results of earlier runs lie, or lay.

    Raises:
        PureError: a manifest cannot be read.
    """
    try:
        entries = [_entry(line) for file in folder.glob(f"{MANIFEST}*.jsonl") for line in _latest(file)]
    except OSError as error:
        raise PureError(f"output {str(folder)!r} cannot be read ({error.strerror or error})") from error
    return {(folder / entry.output).resolve() for entry in entries if entry is not None}


def _ending(shard: Shard | None) -> str:
    """Each shard has books of its own: it may run on another machine."""
    return "" if shard is None else f"-{shard.number + 1}-of-{shard.parts}"


def _latest(file: Path) -> list[dict[str, Any]]:
    """The last record of each picture in a book, by name; a line that was cut short counts for nothing."""
    records: dict[str, dict[str, Any]] = {}
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            record = json.loads(line)
            name = record["name" if file.name.startswith(MANIFEST) else "input"]
        except (ValueError, TypeError, KeyError):
            continue
        if isinstance(name, str):
            records[name] = record
    return [records[name] for name in sorted(records)]


def _entry(record: dict[str, Any]) -> Entry | None:
    """None for what this version would not have written: its picture is not known to be done."""
    try:
        entry = Entry(**record)
    except TypeError:
        return None
    path = PurePosixPath(entry.output) if isinstance(entry.output, str) else PurePosixPath("/")
    return None if path.is_absolute() or ".." in path.parts else entry


def _append(file: Path, record: dict[str, Any]) -> None:
    with file.open("ab") as book:
        book.write(_line(record).encode())
        book.flush()
        os.fsync(book.fileno())


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True) + "\n"


def _sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())
