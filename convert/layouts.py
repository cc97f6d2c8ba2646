"""PyTorch layouts: for each family that has one, how its files are recognised, opened and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pure_jax.convert.export import write_upstream
from pure_jax.convert.nsarm.opening import is_nsarm, open_nsarm
from pure_jax.convert.nsarm.writing import write_nsarm
from pure_jax.convert.upstream import Upstream, is_upstream, open_upstream


class Layout(NamedTuple):
    """A family's PyTorch files. Options, such as the image tokenizer's file, are the functions' own."""

    recognises: Callable[[Path], bool]
    """Whether a model lies there in this layout; looks at little, raises nothing for what is not its own."""
    open: Callable[..., Upstream]
    """(path, **options) -> the opened model, layers unrolled."""
    write: Callable[..., None]
    """(empty directory, checkpoint, progress=..., **options)"""


LAYOUTS: dict[str, Layout] = {
    "pure": Layout(is_upstream, open_upstream, write_upstream),
    "nsarm": Layout(is_nsarm, open_nsarm, write_nsarm),
}


def layout_of(path: Path) -> tuple[str, Layout] | None:
    """The family and layout that a path has; None for a model directory of this library, or for nothing at all."""
    return next(((family, layout) for family, layout in LAYOUTS.items() if layout.recognises(path)), None)
