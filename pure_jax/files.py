"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
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


def not_writable(path: Path, error: OSError) -> PureError:
    """The sentence for an output that cannot be written."""
    # `strerror` is the reason without the path that str(error) repeats.
    reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return PureError(f"output {str(path)!r} cannot be written ({reason}); choose another place or make room")
