"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pure_jax.errors import PureError


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
        partial.mkdir(parents=True, exist_ok=True)
        with _locked(partial, path):
            try:
                for rest in partial.iterdir():
                    shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
                yield partial
                os.replace(partial, path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise PureError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def _locked(directory: Path, path: Path) -> Iterator[None]:
    """Keep other runs out of `directory`; the lock goes with the process, even a killed one."""
    import fcntl  # not on Windows, which can still restore pictures

    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise PureError(f"{path} is being written by another run; wait for it or name another directory") from error
    finally:
        os.close(descriptor)


def refuse_existing(path: Path, overwrite: bool = False) -> None:
    """Raises PureError if there is anything at `path`, a dangling link too, that may not be replaced."""
    if not overwrite and os.path.lexists(path):
        raise PureError(f"output {str(path)!r} exists already; choose another name, or replace it with --overwrite")


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


def not_writable(path: Path, error: OSError) -> PureError:
    """The sentence for an output that cannot be written."""
    # `strerror` is the reason without the path that str(error) repeats.
    reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return PureError(f"output {str(path)!r} cannot be written ({reason}); choose another place or make room")
