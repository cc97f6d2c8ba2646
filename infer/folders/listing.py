"""Which pictures the inputs of a command line are: files, folders with all below them, and patterns."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pure_jax.errors import PureError
from pure_jax.infer.pictures.reading import SUFFIXES
from pure_jax.shards import Shard

_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Job:
    """One picture to restore.

    source: its file. name: what it is called in the output folder's book-keeping, a relative path with "/", unlike any
    other's; where the result will lie follows from it (`pure_jax.infer.folders.naming`).
    """

    source: Path
    name: str


@dataclass(frozen=True)
class Listing:
    """The pictures in the order of their names; files that are passed over, and folders that cannot be read."""

    jobs: list[Job]
    ignored: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def is_pattern(text: str) -> bool:
    """Whether an input stands for several files that the shell has not put in its place."""
    return bool(_PATTERN.search(text)) and not os.path.lexists(text)


def list_pictures(inputs: Sequence[str], output: Path, results: Collection[Path] = ()) -> Listing:
    """All pictures of the inputs, each file once, whatever leads to it.

    A folder stands for every file in and below it whose name ends like a picture's; hidden ones and the output folder
    are passed over, links to folders not followed. A pattern may have *, ?, [...] and ** for folders of any depth. With
    one folder or pattern, names are relative to it; with several inputs, to the folder that each lies in, as `cp -r`
    does. results: files, by where they really lie, that are no input, as earlier runs made them.

    Raises:
        PureError: an input that is not there, or no picture at all.
    """
    found = _Finds(output, results)
    for text in inputs:
        path = Path(text)
        if is_pattern(text):
            found.add_pattern(text)
        elif os.path.isdir(path):
            found.add_folder(path, prefix="" if len(inputs) == 1 else path.resolve().name)
        elif os.path.lexists(path):
            found.add(path, path.name)
        else:
            raise PureError(f"{text!r} does not exist; check the name of the picture or folder")
    if not found.jobs and not found.unreadable:
        raise PureError(f"there is no picture in {', '.join(map(repr, inputs))}; name a folder that holds some")
    return Listing(_told_apart(list(found.jobs.values())), found.ignored, found.unreadable)


def check_folders(inputs: Sequence[str], output: Path, allow_inside: bool) -> None:
    """Raises PureError where the output folder is an input folder or lies in one, unless that is allowed."""
    for text in inputs:
        folder = Path(_fixed_part(text) if is_pattern(text) else text)
        if not allow_inside and os.path.isdir(folder) and output.resolve().is_relative_to(folder.resolve()):
            raise PureError(
                f"the output folder {str(output)!r} lies in the input {text!r}, among the originals; name another, or "
                "say --allow-inside"
            )


def share(jobs: Sequence[Job], shard: Shard | None) -> list[Job]:
    """The part of the jobs for a shard: by a digest of each name, so it hangs on nothing else; all without one."""
    if shard is None:
        return list(jobs)
    return [job for job in jobs if int(_digest(job.name), 16) % shard.parts == shard.number]


def real_path(path: Path) -> Path:
    """Where a file really lies. A link in a loop of links counts for itself; reading it will say what it is."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


class _Finds:
    """Files by where they really lie."""

    def __init__(self, output: Path, results: Collection[Path]) -> None:
        self.jobs: dict[Path, Job] = {}
        self.ignored = 0
        self.unreadable: dict[str, str] = {}
        self._output = output.resolve()
        self._results = frozenset(results)

    def add(self, path: Path, name: str) -> None:
        real = real_path(path)
        if real not in self._results:
            self.jobs.setdefault(real, Job(path, name))

    def add_folder(self, folder: Path, prefix: str) -> None:
        def unreadable(error: OSError) -> None:
            self.unreadable[str(error.filename)] = f"{error.filename!r} cannot be read ({error.strerror})"

        for place, folders, files in os.walk(folder, onerror=unreadable):
            here = Path(place)
            # The output folder is no input, unless it is the input folder itself.
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and (here / name).resolve() != self._output
            )
            for name in sorted(files):
                if name.startswith(".") or Path(name).suffix.lower() not in SUFFIXES:
                    self.ignored += not name.startswith(".")
                    continue
                path = here / name
                self.add(path, (Path(prefix) / path.relative_to(folder)).as_posix())

    def add_pattern(self, pattern: str) -> None:
        root = Path(_fixed_part(pattern))
        # Unlike those of `glob`, the patterns of pathlib do not follow links through **, which may go round.
        parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in Path(pattern).relative_to(root).parts]
        wanted = "/".join([*parts, "*"] if parts[-1] == "**" else parts)
        matches = sorted(path for path in root.glob(wanted) if _shown(path.relative_to(root), parts))
        files = [path for path in matches if not path.is_dir()]
        if not files:
            raise PureError(f"no file is called like {pattern!r}")
        for path in files:
            self.add(path, path.relative_to(root).as_posix())


def _shown(path: Path, parts: Sequence[str]) -> bool:
    """Whether a pattern of these parts means a file: one that is hidden, or lies in a hidden folder, if it says so."""
    return any(part.startswith(".") for part in parts) or not any(part.startswith(".") for part in path.parts)


def _fixed_part(pattern: str) -> str:
    """The folder before the first sign of a pattern: "a/b" of "a/b/c*/*.png"."""
    parts: list[str] = []
    for part in Path(pattern).parts:
        if _PATTERN.search(part):
            break
        parts.append(part)
    return str(Path(*parts))


def _told_apart(jobs: list[Job]) -> list[Job]:
    """Jobs in the order of their names, which become different where two inputs give the same."""
    often = Counter(job.name for job in jobs)

    def own(job: Job) -> str:
        path = Path(job.name)
        return path.with_name(f"{path.stem}-{_digest(str(job.source))[:8]}{path.suffix}").as_posix()

    named: Iterator[Job] = (job if often[job.name] == 1 else replace(job, name=own(job)) for job in jobs)
    return sorted(named, key=lambda job: job.name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
