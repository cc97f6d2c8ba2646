"""What a benchmark is to measure, and reading it from a command line's words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pure_jax.checkpoint import compute_dtype
from pure_jax.errors import PureError
from pure_jax.infer.benchmark.machine import Sizes
from pure_jax.infer.decoding.ways import DEFAULT_DRAFT, MAX_WINDOW

MOST = {"windows": MAX_WINDOW, "batches": 1024}


@dataclass(frozen=True)
class Plan:
    """Every precision with every batch with every window; window 1 is the plain loop."""

    grid: tuple[int, int] | None
    """Height and width of a picture in codes; None takes the model's tile."""
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    windows: tuple[int, ...]
    decode: str = "jacobi"
    """How windows decide, of `pure_jax.infer.decoding.rules`."""
    draft: str = DEFAULT_DRAFT
    """What their first guesses are, of `pure_jax.infer.decoding.drafts`."""
    against_torch: bool = False
    """Compare the first precision at batch 1."""
    sizes: Sizes | None = None
    """Of what the machine is measured with; None takes the platform's."""


def read_numbers(name: str, text: str) -> tuple[int, ...]:
    """The numbers of "1,4,16", each once, in their order. name: "windows" or "batches", which have each a largest one.

    Raises:
        PureError: something else is between the commas, or a number is out of range.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not re.fullmatch(r"[0-9]{1,9}", word) or not 1 <= int(word) <= MOST[name]:
            raise PureError(
                f"{name} are {text!r}, but they must be whole numbers from 1 to {MOST[name]}, such as 1,4,16"
            )
    return tuple(dict.fromkeys(map(int, words)))


def read_precisions(text: str) -> tuple[str, ...]:
    """The names of "bfloat16,int8", each once, in their order; "auto" becomes the platform's compute dtype.

    Raises:
        PureError: an unknown one.
    """
    words = [word.strip() for word in text.split(",")]
    return tuple(dict.fromkeys(word if word == "int8" else compute_dtype(word).name for word in words))


def read_grid(text: str) -> tuple[int, int]:
    """ "64x48" -> (64, 48), height and width in codes.

    Raises:
        PureError: it is no size.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if match is None:
        raise PureError(f"the grid is {text!r}, but it must be height and width in codes, such as 64x64")
    return int(match[1]), int(match[2])
