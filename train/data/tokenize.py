"""`pure tokenize`: photos -> records, by any number of processes, that go on where they were killed.

Which photos make which file of records follows from their names, and what a photo's records are from its name, the
options and the tokenizer alone. A file appears whole; one that is there is not made again.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from pure_jax.errors import PureError
from pure_jax.files import not_writable, replacing, scratch
from pure_jax.shards import WHOLE, Shard
from pure_jax.train.data.job import Job
from pure_jax.train.data.pixels import encoded, make_pixels
from pure_jax.train.data.records import MANIFEST, Manifest, Record, manifest_values, read_manifest, write_records
from pure_jax.train.runs import differences

OTHER = {"tokenizer": "another image tokenizer", "names": "other photos", "captions": "other captions"}
"""What it means when digests in a manifest differ."""

logger = logging.getLogger(__name__)


class Report(NamedTuple):
    """Of one call: files and records that it made, photos it left out, files that were there already."""

    files: int
    records: int
    skipped: int
    there: int


def tokenize(
    job: Job, out: Path, shard: Shard = WHOLE, workers: int = 1, progress: Callable[[int], None] = lambda n: None
) -> Report:
    """Make the files of records that are this shard's and not there yet.

    A photo that cannot be read, or is smaller than a region, is reported and left out. progress: told the number of
    photos that are done, also those of files that are there.

    Raises:
        PureError: `out` was begun with other photos, options or another tokenizer, or cannot be written; another
            process makes the same file; no photo of the whole shard could be used.
    """
    _begin(out, job.manifest)
    made = Report(0, 0, 0, 0)
    with ThreadPoolExecutor(workers) as pool:
        for name, names in job.files(shard):
            path = out / name
            if path.is_file():
                made = made._replace(there=made.there + 1)
            else:
                records, skipped = _write_file(job, path, names, pool, workers)
                made = made._replace(
                    files=made.files + 1, records=made.records + records, skipped=made.skipped + skipped
                )
            progress(len(names))
    if made.files and not made.records and not made.there:
        raise PureError(f"none of the {made.skipped} photos of {job.photos} could be used; the warnings say why")
    return made


def _begin(out: Path, manifest: Manifest) -> None:
    """The folder with its manifest; the first process that comes writes it, all the others write the same."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / MANIFEST).is_file():
            changed = differences(manifest_values(read_manifest(out)), manifest_values(manifest))
            for name, words in OTHER.items():
                if name in changed:
                    raise PureError(f"{out} was begun with {words}; give the same or a new folder")
            # what was said before what follows from it
            for name, (stored, own) in sorted(changed.items(), key=lambda item: not item[0].startswith("options.")):
                raise PureError(f"{out} was begun with {name} {stored!r}, not {own!r}; give the same or a new folder")
        elif any(out.glob("*.array_record")):
            raise PureError(f"{out} holds records, but no {MANIFEST}; name a new folder")
        else:
            with replacing(out / MANIFEST) as beside:
                beside.write_text(json.dumps(manifest_values(manifest), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise not_writable(out, error) from error


def _write_file(job: Job, path: Path, names: Sequence[str], pool: ThreadPoolExecutor, workers: int) -> tuple[int, int]:
    """(records, photos left out) of one file, which appears when it is whole."""
    partial, skipped = path.with_name(f".{path.stem}.partial"), 0

    def records() -> Iterator[Record]:
        nonlocal skipped
        work = ((name, crop) for name in names for crop in range(job.options.crops))
        for name, made in _ahead(pool, lambda item: make_pixels(job, *item), work, workers + 1):
            if isinstance(made, str):
                logger.warning("skipped %s: %s", job.photos / name, made)
                skipped += 1
            elif made is not None:
                yield from encoded(job, made)

    try:
        with scratch(partial, path):
            count = write_records(partial / path.name, records())
            os.replace(partial / path.name, path)
    except OSError as error:
        raise not_writable(path, error) from error
    return count, skipped


def _ahead(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any], depth: int) -> Iterator[Any]:
    """work(item) of all items in their order, `depth` of them begun before they are wanted."""
    begun: deque[Future[Any]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > depth:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
