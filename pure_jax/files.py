"""Files that are read only if they can be, and that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pure_jax.errors import PureError

LARGEST_TEXT = 64 << 20
"""Bytes; the tokenizer files of the largest vocabularies are a third of it."""


def read_text(path: Path) -> str:
    """The text (UTF-8) of an ordinary file of at most LARGEST_TEXT bytes: a pipe or a device may never end.

    Raises:
        OSError, ValueError: it cannot be read, or is not that.
    """
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file")
    if info.st_size > LARGEST_TEXT:
        raise OSError(errno.EFBIG, f"it has more than {LARGEST_TEXT >> 20} MiB")
    return path.read_text(encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: it takes the place of `path` if the block succeeds and is removed if not.

    Raises:
        PureError: for any OSError of the block or the renaming; `path` then holds what it held before.
    """
    beside = path.with_name(f".pure-{secrets.token_hex(8)}.part")  # short, whatever the length of the name
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise not_writable(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """An empty directory beside `path` to write to: it becomes `path` if the block succeeds and is removed if not.

    What a killed run left behind is removed by the next one.

    Raises:
        PureError: `path` exists already, or another run is writing it; or for any OSError of the block or the renaming.
    """
    if path.exists():
        raise PureError(f"{path} exists already; name a new directory or remove it first")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with scratch(partial, path):
            yield partial
            os.replace(partial, path)
    except OSError as error:
        raise PureError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def scratch(directory: Path, path: Path) -> Iterator[None]:
    """A directory that is there for the block only: empty, whatever a killed run left in it, and no other run's.

    path: what is being made in it, for the message.

    Raises:
        PureError: another run has it. OSError: it cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, f"{path} is being written by another run; wait for it or name another directory"):
        try:
            for rest in directory.iterdir():
                shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
            yield
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Keep other runs out by a lock on a directory, or on a file, which is made.

    It goes with the process, even a killed one. Where there are no such locks (on Windows, on some network disks),
    nobody is kept out.

    Raises:
        PureError: another has the lock; says `busy`. OSError: the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PureError(busy) from error
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


def refuse_existing(path: Path, overwrite: bool = False) -> None:
    """Raises PureError if there is anything at `path`, a dangling link too, that may not be replaced."""
    if not overwrite and os.path.lexists(path):
        raise PureError(f"output {str(path)!r} exists already; choose another name, or replace it with --overwrite")


def file_sha256(path: Path) -> str:
    """A file's digest in hex. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def directory_sha256(directory: Path) -> str:
    """A digest of all files in and below a directory, names and contents, in hex; hidden ones and Markdown excepted.

    Raises:
        PureError: a file cannot be read.
    """
    total = hashlib.sha256()
    try:
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            name = path.relative_to(directory)
            if path.suffix == ".md" or any(part.startswith(".") for part in name.parts):
                continue
            total.update(f"{file_sha256(path)} {name.as_posix()}\n".encode())
    except OSError as error:
        raise PureError(f"{directory} cannot be read: {error.strerror or error}") from error
    return total.hexdigest()


def check_output_file(path: Path, overwrite: bool = False) -> None:
    """Make sure, before work starts, that a file may be written to `path`.

    Raises:
        PureError: a directory, a name in no directory, or what `refuse_existing` refuses.
    """
    if path.is_dir():
        raise PureError(f"output {str(path)!r} is a directory; give the name of a file")
    if not path.parent.is_dir():
        raise PureError(f"output {str(path)!r} cannot be written: there is no directory {path.parent}")
    refuse_existing(path, overwrite)


def require_writable(path: Path) -> None:
    """Make the directory that a file is to lie in, and see that files can be made there: before the work, not after it.

    Raises:
        PureError: it cannot be.
    """
    try:
        if path.is_dir():
            raise OSError(errno.EISDIR, "it is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".pure-{secrets.token_hex(8)}.part")
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise not_writable(path, error) from error


def not_writable(path: Path | str, error: OSError) -> PureError:
    """The sentence for an output that cannot be written."""
    # `strerror` is the reason without the path that str(error) repeats.
    reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return PureError(f"output {str(path)!r} cannot be written ({reason}); choose another place or make room")
