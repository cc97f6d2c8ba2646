"""Restores the pictures of a list into a folder, one after the other, and keeps its books."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pure_jax import __version__
from pure_jax.errors import PureError
from pure_jax.files import file_sha256
from pure_jax.infer.contract import Progress
from pure_jax.infer.folders.books import Books, Entry, open_books
from pure_jax.infer.folders.listing import Job, real_path, share
from pure_jax.infer.folders.naming import output_names
from pure_jax.infer.pictures.picture import reason_of
from pure_jax.infer.pictures.reading import Frames, decode, read_file
from pure_jax.infer.pictures.sizing import Size
from pure_jax.infer.pictures.writing import check_frames, encode, lost_by
from pure_jax.infer.restore import Restoration, output_size
from pure_jax.shards import Shard

_ENDS_THE_RUN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Failures to write that every further picture would meet."""

RestoreFrames = Callable[[Frames, float, Mapping[str, Any]], list[Restoration]]
"""(the pictures of a file, scale, the file's own options) -> the restored ones."""


@dataclass(frozen=True)
class FolderRun:
    """What is the same for all pictures of a run.

    suffix: of the results. settings: options that were given and decide the pixels, by name, for the books.
    own_settings: those of one picture, such as its caption; raises PureError. overwrite: replace what exists, except
    what is done already and would come out the same. every: all frames of a file. The others are options of the command
    line.
    """

    folder: Path
    suffix: str
    model_sha256: str
    settings: Mapping[str, Any]
    size: Size = Size()
    seed: int = 0
    quality: int | None = None
    every: bool = False
    keep_gps: bool = False
    overwrite: bool = False
    shard: Shard | None = None
    own_settings: Callable[[Path], Mapping[str, Any]] = lambda source: {}


@dataclass
class Summary:
    """How a run ended: numbers of pictures, and of those that failed, why, by name. report: the book that says more."""

    report: Path
    restored: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    """A picture that is read, checked and not done yet."""

    frames: Frames
    scale: float
    size: tuple[int, int]
    input_sha256: str
    settings: dict[str, Any]
    own: Mapping[str, Any]


def restore_folder(
    run: FolderRun,
    jobs: Sequence[Job],
    restore: RestoreFrames,
    progress: Progress,
    failed: Callable[[str, str], None] = lambda name, reason: None,
) -> Summary:
    """Restore the run's share of the jobs; what one picture is at fault for is written down, and the next one's turn.

    Args:
        restore: called for pictures only that are not done yet.
        progress: called with ("pictures", done, total).
        failed: called with the name of each picture that fails, and why.

    Raises:
        PureError: the folder cannot be written to or is in use, or the very first picture shows that no picture can be
            restored like this.
    """
    sources = {real_path(job.source) for job in jobs}
    with open_books(run.folder, run.shard) as books:
        summary = Summary(books.report)
        owned = {name: entries[-1].output for name, entries in books.entries.items()}
        root = run.folder.resolve()
        inside = [path.relative_to(root).as_posix() for path in sources if path.is_relative_to(root)]
        names = output_names([job.name for job in jobs], run.suffix, owned, inside)
        mine = share(jobs, run.shard)
        for done, job in enumerate(mine):
            progress("pictures", done, len(mine))
            began, output = time.monotonic(), names[job.name]
            try:
                task = _prepare(run, job, output, books)
                if task is None:
                    summary.skipped += 1
                    continue
                results = _restored(task, restore, first=not summary.restored)
                with books.result.open("w+b") as file:
                    encode(file, run.suffix, _with_timing(results, task.frames), run.quality)
                books.tell(_report(run, job, task, output, results) | _when(began))
                digest = file_sha256(books.result)
                entry = Entry(job.name, task.input_sha256, task.settings, run.model_sha256, output, digest)
                books.finish(entry, run.folder / output)
                summary.restored += 1
            except _Unusable as error:
                raise PureError(str(error)) from error
            except Exception as error:  # whatever a file, a decoder or the device comes up with
                if isinstance(error, OSError) and error.errno in _ENDS_THE_RUN:
                    raise
                reason = str(error) if isinstance(error, PureError) else f"{str(job.source)!r}: {_described(error)}"
                summary.failed[job.name] = reason
                failed(job.name, reason)
                books.tell(_facts(run, job) | {"status": "failed", "error": reason} | _when(began))
        progress("pictures", len(mine), len(mine))
    return summary


class _Unusable(PureError):
    """What is wrong with the options, not with a picture."""


def _prepare(run: FolderRun, job: Job, output: str, books: Books) -> _Task | None:
    """Read a picture and make sure that its result can be made and written; None where it is done already.

    Raises:
        PureError: it cannot be.
    """
    name, target = repr(str(job.source)), run.folder / output
    data = read_file(job.source)
    own = run.own_settings(job.source)
    settings, digest = {**run.settings, **own}, hashlib.sha256(data).hexdigest()
    if _stands_there(target):
        if target.is_dir():
            raise PureError(f"output {str(target)!r} is a directory; move it away")
        there = file_sha256(target)
        entries = [e for e in books.entries.get(job.name, []) if (e.output, e.output_sha256) == (output, there)]
        if any((e.input_sha256, e.settings, e.model_sha256) == (digest, settings, run.model_sha256) for e in entries):
            return None
        if not run.overwrite:
            why = "" if not entries else f", made {_difference(entries[-1], digest, settings)}"
            raise PureError(f"output {str(target)!r} exists already{why}; replace it with --overwrite")
    frames = decode(data, name, every=run.every, keep_gps=run.keep_gps)
    height, width = frames.pictures[0].rgb.shape[:2]
    try:
        scale = run.size.scale_for(width, height)
        sizes = [output_size(picture, scale) for picture in frames.pictures]
        check_frames(target, frames, sizes, run.quality)
    except PureError as error:
        raise PureError(f"{name}: {error}") from error
    return _Task(frames, scale, sizes[0], digest, settings, own)


def _restored(task: _Task, restore: RestoreFrames, first: bool) -> list[Restoration]:
    """Restore a picture. One that was read and fails at once, before any other succeeded, tells of the options."""
    try:
        return restore(task.frames, task.scale, task.own)
    except PureError as error:
        if first and not task.own:
            raise _Unusable(str(error)) from error
        raise


def _with_timing(results: Sequence[Restoration], source: Frames) -> Frames:
    return Frames([result.picture for result in results], source.durations, source.loop)


def _stands_there(path: Path) -> bool:
    """Whether there is anything of that name. Raises OSError for a name that the disk cannot have."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _difference(entry: Entry, input_sha256: str, settings: Mapping[str, Any]) -> str:
    if entry.input_sha256 != input_sha256:
        return "from another version of this picture"
    return "by another model" if entry.settings == settings else "with other settings"


def _facts(run: FolderRun, job: Job) -> dict[str, Any]:
    return {"input": job.name, "source": str(job.source), "seed": run.seed, "settings": dict(run.settings)}


def _report(
    run: FolderRun, job: Job, task: _Task, output: str, results: Sequence[Restoration]
) -> dict[str, Any]:  # fmt: skip
    remarks = [remark for result in results for remark in (*result.remarks, *lost_by(run.suffix, result.picture))]
    warnings = dict.fromkeys(remarks)
    return _facts(run, job) | {
        "status": "restored",
        "output": output,
        "settings": task.settings,
        "seed": results[0].seed,
        "width": task.size[0],
        "height": task.size[1],
        "frames": len(results),
        "scale": task.scale,
        "degradation": results[0].degradation,
        "description": results[0].description,
        "warnings": list(warnings),
    }


def _when(began: float) -> dict[str, Any]:
    """What differs from run to run."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"seconds": round(time.monotonic() - began, 3), "finished": now, "version": __version__}


def _described(error: Exception) -> str:
    return f"{reason_of(error)} ({type(error).__name__})"
