"""A picture from standard input, and one to standard output."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import BinaryIO

from pure_jax.errors import PureError
from pure_jax.files import not_writable
from pure_jax.infer.pictures.reading import MAX_BYTES


def read_input() -> bytes:
    """The content of a picture file on standard input.

    Raises:
        PureError: it is a terminal, is empty, or has more than 1 GiB.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise PureError("standard input is a terminal; redirect a picture into it, or name a file")
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if not data:
        raise PureError("standard input is empty (0 bytes); redirect a picture into it")
    if len(data) > MAX_BYTES:
        raise PureError(f"standard input has more than {MAX_BYTES >> 30} GiB; give a smaller file")
    return data


def require_output(json: bool) -> None:
    """Make sure, before work starts, that a picture may be written to standard output.

    Raises:
        PureError: it is a terminal, or --json would be written to it too.
    """
    if json:
        raise PureError("--json and the picture cannot both go to standard output; name a file for the picture")
    if sys.stdout.isatty():
        raise PureError("standard output is a terminal; redirect it, or name a file for the picture")


def write_output(write: Callable[[BinaryIO], None]) -> None:
    """Write a picture to standard output once it is whole. write: writes its file.

    Raises:
        PureError: the disk that it lies on until then is full.
    """
    with tempfile.TemporaryFile() as file:
        try:
            write(file)
        except OSError as error:
            raise not_writable("standard output", error) from error
        file.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
