"""What commands read from the files that their options name."""

from __future__ import annotations

from pathlib import Path

from pure_jax.errors import PureError


def read_words(path: Path) -> str:
    """The text of a file. Raises PureError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PureError(f"cannot read {path} as text: {error}") from error


def read_names(path: Path | None) -> list[str] | None:
    """The lines of a list of file names; None without one."""
    if path is None:
        return None
    names = [line.strip() for line in read_words(path).splitlines() if line.strip()]
    if not names:
        raise PureError(f"{path} names no photo; write one file name a line")
    return names
