"""What the token ids mean: special tokens, grid-count tokens and the two-way map between image codes and ids.

Everything is read from the names in the tokenizer's vocabulary; no id is written down here. The names and their
roles are Chameleon's, as PURE uses them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pure_jax.errors import PureError
from pure_jax.files import read_text

BOS = "<s>"
PAD = "<pad>"
EOS = "</s>"
UNKNOWN = "<unk>"
SEPARATOR = "<reserved08706>"
IMAGE_START = "<racm3:break>"
IMAGE_END = "<eoss>"
NEW_LINE = "<reserved08799>"
FIRST_GRID = 8800  # <reserved{8800 + n}> says "n grids"
IMAGE_PLACEHOLDER = "<|image|>"  # stands for an image in text; replaced before the model sees it

CODE_PREFIX = "IMGIMG"
_LETTERS = "ABCDEFGHIJ"
_TO_DIGITS = str.maketrans(_LETTERS, "0123456789")
_TO_LETTERS = str.maketrans("0123456789", _LETTERS)
_RESERVED = re.compile(r"<reserved(\d{5})>")
_SPECIALS = (BOS, PAD, EOS, UNKNOWN, SEPARATOR, IMAGE_START, IMAGE_END, NEW_LINE)
_IMAGE = "<image>"  # what Hugging Face's Chameleon calls <reserved08707>

LARGEST_SIZE = 2**24
"""Bound of the ids in a tokenizer file, far above every known one."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Ids of one tokenizer. It may be a static argument of a jitted function: equal ones share a compiled program.

    `grid_ids[n]` is the id that says "n grids along this side"; one grid spans `codes_per_grid` latent positions.
    Both maps hold -1 where there is nothing. `is_text[id]` is True for ids that ordinary text may encode to.
    """

    size: int  # largest id + 1
    bos: int
    pad: int
    eos: int
    separator: int  # ends the prompt and the answer; the only stop token
    image_start: int
    image_end: int
    new_line: int  # closes each row of codes
    grid_ids: np.ndarray  # int32 [grids]
    code_to_id: np.ndarray  # int32 [codes]
    id_to_code: np.ndarray  # int32 [size]
    is_text: np.ndarray  # bool [size]
    codes_per_grid: int = 4

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value.tobytes() if isinstance(value, np.ndarray) else value for value in values)

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Vocabulary) and self._hash == other._hash and self._key == other._key
        )

    @property
    def codebook_size(self) -> int:
        """Number of image codes."""
        return len(self.code_to_id)


def reserved_name(number: int) -> str:
    """Name of a reserved token: 8706 -> "<reserved08706>"."""
    return f"<reserved{number:05d}>"


def code_name(code: int) -> str:
    """Name of an image code: its decimal digits written A..J, between "IMGIMG" and "Z". 10 -> "IMGIMGBAZ"."""
    return f"{CODE_PREFIX}{str(code).translate(_TO_LETTERS)}Z"


def vocabulary_from_names(
    names: Mapping[str, int], codes_per_grid: int = 4, codebook_size: int | None = None
) -> Vocabulary:
    """Build the vocabulary from token names.

    names: token name -> id, the tokenizer's whole vocabulary (`tokenizer.get_vocab()`).
    codes_per_grid: latent positions along one side of a grid (PURE: 32 px grids, stride 8).
    codebook_size: number of codes the image tokenizer has; given, it must equal the number of code names.

    Raises PureError if a special token is missing, the codes are not exactly 0..n-1, two of these tokens share an id,
    or the number of codes differs from `codebook_size`.
    """
    # Files saved after use may keep the placeholder, at an id beyond the model's vocabulary or on top of a code.
    names = {name: id_ for name, id_ in names.items() if name != IMAGE_PLACEHOLDER}
    missing = [name for name in _SPECIALS if name not in names]
    if missing:
        raise PureError(
            f"the tokenizer's vocabulary lacks {', '.join(missing)}; use a tokenizer with Chameleon's special tokens"
        )

    code_ids = {_code(name): id_ for name, id_ in names.items() if name.startswith(CODE_PREFIX)}
    if not code_ids:
        raise PureError(f"the tokenizer's vocabulary names no image codes ({CODE_PREFIX}...Z); it is a text tokenizer")
    absent = next((code for code in range(len(code_ids)) if code not in code_ids), None)
    if absent is not None:
        raise PureError(
            f"the tokenizer's vocabulary has {len(code_ids)} image codes but not code {absent} ({code_name(absent)}); "
            "the codes must be exactly 0..n-1, so use the tokenizer file that was made for the model"
        )
    if codebook_size is not None and len(code_ids) != codebook_size:
        raise PureError(
            f"the tokenizer's vocabulary names {len(code_ids)} image codes but the image tokenizer has "
            f"{codebook_size}; use the tokenizer file that was made for the model"
        )

    grids = {n: id_ for name, id_ in names.items() if (n := _grid_count(name)) is not None}
    if not grids:
        raise PureError(f"the tokenizer's vocabulary lacks the grid tokens {reserved_name(FIRST_GRID)} and following")
    roles = [*(names[name] for name in _SPECIALS), *code_ids.values(), *grids.values()]
    if len(set(roles)) != len(roles):
        raise PureError("the tokenizer's vocabulary gives one id to two control tokens; the tokenizer file is damaged")

    size = max(names.values()) + 1
    code_to_id = np.array([code_ids[code] for code in range(len(code_ids))], np.int32)
    id_to_code = np.full(size, -1, np.int32)
    id_to_code[code_to_id] = np.arange(len(code_to_id))
    grid_ids = np.full(max(grids) + 1, -1, np.int32)
    grid_ids[list(grids)] = list(grids.values())
    is_text = np.ones(size, bool)
    is_text[[id_ for name, id_ in names.items() if is_control_name(name)]] = False
    return Vocabulary(
        size=size,
        bos=names[BOS],
        pad=names[PAD],
        eos=names[EOS],
        separator=names[SEPARATOR],
        image_start=names[IMAGE_START],
        image_end=names[IMAGE_END],
        new_line=names[NEW_LINE],
        grid_ids=grid_ids,
        code_to_id=code_to_id,
        id_to_code=id_to_code,
        is_text=is_text,
        codes_per_grid=codes_per_grid,
    )


def load_vocabulary(
    tokenizer_json_path: str | Path, codes_per_grid: int = 4, codebook_size: int | None = None
) -> Vocabulary:
    """Read the vocabulary from a Hugging Face `tokenizers` json file (`model.vocab` and `added_tokens`).

    Raises PureError if the file is missing, is not such a json, or `vocabulary_from_names` refuses its names.
    """
    path = Path(tokenizer_json_path)
    try:
        content = json.loads(read_text(path))
        names = dict(content["model"]["vocab"])
        names |= {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
        if not all(isinstance(id_, int) and 0 <= id_ < LARGEST_SIZE for id_ in names.values()):
            raise ValueError("ids must be whole numbers, and small enough for a table")
    except OSError as error:
        raise PureError(f"cannot read the tokenizer file {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PureError(f"{path} is not a tokenizer file of the Hugging Face tokenizers library") from error
    try:
        return vocabulary_from_names(names, codes_per_grid, codebook_size)
    except PureError as error:
        raise PureError(f"{path}: {error}") from error


def is_control_name(name: str) -> bool:
    """True for names that text must never encode to: specials, reserved tokens and image codes."""
    return name in (*_SPECIALS, _IMAGE) or name.startswith(CODE_PREFIX) or _RESERVED.fullmatch(name) is not None


def _code(name: str) -> int:
    digits = name[len(CODE_PREFIX) : -1].translate(_TO_DIGITS)
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise PureError(f"the tokenizer's vocabulary has an image code without a number: {name!r}")
    return int(digits)


def _grid_count(name: str) -> int | None:
    match = _RESERVED.fullmatch(name)
    return int(match[1]) - FIRST_GRID if match and int(match[1]) >= FIRST_GRID else None
