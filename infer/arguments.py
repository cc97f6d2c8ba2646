"""Which of the paths on a command line are read and which is written: IN, IN OUT, or IN ... OUT_FOLDER."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pure_jax.errors import PureError
from pure_jax.infer.folders.listing import is_pattern
from pure_jax.infer.pictures.reading import SUFFIXES

STREAM = "-"
"""Stands for standard input or output."""


@dataclass(frozen=True)
class Arranged:
    """inputs: at least one. output: None where it is left to the command. is_folder: many pictures into a folder."""

    inputs: tuple[str, ...]
    output: str | None
    is_folder: bool


def arrange(paths: Sequence[str]) -> Arranged:
    """Take a command line's paths apart; the last of two or more is the output.

    Results go into a folder where there are several inputs, a folder, or a pattern, and where a single photo is given
    to a folder whose name does not end like a picture's.

    Raises:
        PureError: no input, several of them without a folder at the end, or standard input or output among them.
    """
    if not paths:
        raise PureError("there is nothing to restore; give a photo, or a folder and one for the results")
    inputs, output = tuple(paths[:-1]) or tuple(paths), paths[-1] if len(paths) > 1 else None
    into_folder = output not in (None, STREAM) and _is_folder_name(str(output))
    if len(inputs) == 1 and not os.path.isdir(inputs[0]) and not is_pattern(inputs[0]) and not into_folder:
        return Arranged(inputs, output, is_folder=False)
    if STREAM in paths:
        raise PureError("standard input and output take one photo each; name files and a folder instead of -")
    if output is None:
        kind = "is a directory" if os.path.isdir(inputs[0]) else "stands for several pictures"
        raise PureError(f"{inputs[0]!r} {kind}; name a folder for the results behind it")
    if os.path.lexists(output) and not os.path.isdir(output):
        raise PureError(f"output {output!r} is a file; several pictures need a folder at the end")
    if not into_folder and Path(output).suffix.lower() in SUFFIXES:
        raise PureError(f"output {output!r} has the name of a picture; several pictures need a folder at the end")
    return Arranged(inputs, output, is_folder=True)


def _is_folder_name(path: str) -> bool:
    return path.endswith(("/", os.sep)) or os.path.isdir(path) and Path(path).suffix.lower() not in SUFFIXES
