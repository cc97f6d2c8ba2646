"""Token sequences: image block, prompt, answer and labels, and the way back to codes and text (PURE's layout).

Everything here runs on the host with numpy, before or after the model. The answer is
`<degradation sentence> <caption> <image block> <separator>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pure_jax.errors import PureError
from pure_jax.vocabulary import IMAGE_PLACEHOLDER, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INSTRUCTION = (
    "Perceive the degradation level, understand the image content, and restore the high-quality image. "
    + IMAGE_PLACEHOLDER
)
IGNORE = -100  # label of positions that the loss leaves out
LEVELS = ("small", "medium", "large")
GUIDANCE = ("none", "perception", "understanding", "full")
"""What an answer says before its image: nothing, how degraded the photo is, what it shows, or both."""

_READING = re.compile(rf"\s*({'|'.join(LEVELS)}) blur, ({'|'.join(LEVELS)}) noise\.(?=\s|$)", re.IGNORECASE)


# ---- images --------------------------------------------------------------------------------------------------------


def image_block(codes: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Frame one image: start, grids down, grids across, rows of codes each closed by new-line, end.

    codes: int [h, w], 0..codebook_size-1; h and w are multiples of `vocabulary.codes_per_grid`.
    Returns int32 [3 + h * (w + 1) + 1]. Raises PureError for a size without a grid token or a code out of range.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise PureError(f"image codes must be integers [h, w], not {codes.dtype} {list(codes.shape)}")
    h, w = codes.shape
    head = [vocabulary.image_start, _grid_id(h, vocabulary), _grid_id(w, vocabulary)]
    if codes.min() < 0 or codes.max() >= vocabulary.codebook_size:
        raise PureError(
            f"image codes must lie in 0..{vocabulary.codebook_size - 1}, but range over {codes.min()}..{codes.max()}"
        )
    rows = np.full((h, w + 1), vocabulary.new_line, np.int32)
    rows[:, :-1] = vocabulary.code_to_id[codes]
    return np.concatenate([head, rows.ravel(), [vocabulary.image_end]], dtype=np.int32)


def parse_image_block(ids: Sequence[int] | np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Inverse of `image_block`: int [n] -> int32 [h, w].

    Every frame token is checked (the original trusts them). Raises PureError naming what is out of place.
    """
    ids = np.asarray(ids, np.int32)
    if len(ids) < 4 or ids[0] != vocabulary.image_start or ids[-1] != vocabulary.image_end:
        raise PureError("an image block must open with image start and close with image end")
    h, w = (latent_side(id_, vocabulary) for id_ in ids[1:3])
    body = ids[3:-1]
    if len(body) != h * (w + 1):
        raise PureError(f"an image block of {h} x {w} codes needs {h * (w + 1)} body tokens, but has {len(body)}")
    rows = body.reshape(h, w + 1)
    unclosed = np.flatnonzero(rows[:, -1] != vocabulary.new_line)
    if len(unclosed):
        raise PureError(f"row {unclosed[0]} of an image block lacks its new-line")
    inside = (rows >= 0) & (rows < vocabulary.size)
    codes = np.where(inside, vocabulary.id_to_code[np.where(inside, rows, 0)], -1)[:, :-1]
    if (codes < 0).any():
        row, column = np.argwhere(codes < 0)[0]
        raise PureError(f"id {rows[row, column]} at row {row}, column {column} of an image block is no image code")
    return codes


def _grid_id(side: int, vocabulary: Vocabulary) -> int:
    grids, rest = divmod(side, vocabulary.codes_per_grid)
    if rest or not 0 < grids < len(vocabulary.grid_ids) or vocabulary.grid_ids[grids] < 0:
        raise PureError(
            f"an image side of {side} codes has no grid token; use a multiple of {vocabulary.codes_per_grid} "
            f"up to {vocabulary.codes_per_grid * (len(vocabulary.grid_ids) - 1)}"
        )
    return int(vocabulary.grid_ids[grids])


def latent_side(id_: int, vocabulary: Vocabulary) -> int:
    """Latent positions that a size token names. Raises PureError for an id that is none."""
    grids = np.flatnonzero(vocabulary.grid_ids == id_)
    if id_ < 0 or len(grids) != 1 or grids[0] == 0:
        raise PureError(f"id {id_} stands where an image block says its size, but is no grid token")
    return int(grids[0]) * vocabulary.codes_per_grid


# ---- text ----------------------------------------------------------------------------------------------------------


def encode_text(tokenizer: Tokenizer, vocabulary: Vocabulary, text: str) -> np.ndarray:
    """Encode ordinary text: int32 [n]; no special token is added, and none can be smuggled in.

    Raises PureError if the text would yield a special, reserved or image id (for instance by spelling its name), or
    an id outside the vocabulary; or if it is no valid Unicode.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PureError(f"the text {_shorten(text)!r} is no valid Unicode; write it in UTF-8")
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int32) if text else np.zeros(0, np.int32)
    allowed = (ids < vocabulary.size) & vocabulary.is_text[np.minimum(ids, vocabulary.size - 1)]
    if not allowed.all():
        name = tokenizer.id_to_token(int(ids[~allowed][0]))
        raise PureError(f"the text {_shorten(text)!r} contains the control token {name}; remove it")
    return ids


def degradation_sentence(blur: str, noise: str) -> str:
    """The perceived degradation as PURE words it: ("medium", "small") -> "Medium blur, small noise."

    Raises PureError unless both are one of `LEVELS`.
    """
    for level in (blur, noise):
        if level not in LEVELS:
            raise PureError(f"{level!r} is no degradation level; use one of {', '.join(LEVELS)}")
    return f"{blur.capitalize()} blur, {noise} noise."


def guiding_text(guidance: str, reading: str, caption: str) -> str:
    """The text of an answer: "", "{reading}", "{caption}" or "{reading} {caption}", one for each of GUIDANCE.

    An empty part is left out, with its blank. `answer_text_ids` puts the blank between text and image.
    Raises PureError for another guidance.
    """
    parts = {"none": (), "perception": (reading,), "understanding": (caption,), "full": (reading, caption)}
    if guidance not in parts:
        raise PureError(f"the guidance is {guidance!r}; choose one of {', '.join(GUIDANCE)}")
    return " ".join(part for part in parts[guidance] if part)


def split_reading(text: str) -> tuple[dict[str, str] | None, str]:
    """Split an answer's text into what was perceived and the description of the content.

    "Medium blur, small noise. A cat." -> ({"blur": "medium", "noise": "small"}, "A cat."); without a degradation
    sentence in front, (None, text).
    """
    match = _READING.match(text)
    if match is None:
        return None, text.strip()
    return {"blur": match[1].lower(), "noise": match[2].lower()}, text[match.end() :].strip()


def normalise_caption(caption: str) -> str:
    """One line of sentences: whitespace collapsed, ending in . ! or ?, without a file title in brackets at the end.

    "A photo of a lemur. (Lemur (37122852696))" -> "A photo of a lemur."; an empty caption stays empty.
    """
    caption = _without_title(" ".join(caption.split()))
    return caption if not caption or caption[-1] in ".!?" else caption + "."


def _without_title(caption: str) -> str:
    """Drop a trailing bracket, nested ones included, that follows a finished sentence."""
    if not caption.endswith(")"):
        return caption
    depth = 0
    for start in range(len(caption) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(caption[start], 0)
        if depth == 0:
            before = caption[:start].rstrip()
            return before if before.endswith((".", "!", "?")) else caption
    return caption


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


# ---- prompt, answer, labels ----------------------------------------------------------------------------------------


def prompt_ids(
    tokenizer: Tokenizer, vocabulary: Vocabulary, codes: np.ndarray, instruction: str = INSTRUCTION
) -> np.ndarray:
    """The question: bos, the instruction with the LQ image in place of `<|image|>`, separator. int32 [n].

    codes: int [h, w] of the LQ image. An instruction without the placeholder gets "<|image|> " put in front.
    Raises PureError for a second placeholder or an instruction that spells a control token.
    """
    if IMAGE_PLACEHOLDER not in instruction:
        instruction = f"{IMAGE_PLACEHOLDER} {instruction}"
    before, _, after = instruction.partition(IMAGE_PLACEHOLDER)
    if IMAGE_PLACEHOLDER in after:
        raise PureError(f"the instruction {_shorten(instruction)!r} names more than one image; there is one to restore")
    return np.concatenate(
        [
            [vocabulary.bos],
            encode_text(tokenizer, vocabulary, before),
            image_block(codes, vocabulary),
            encode_text(tokenizer, vocabulary, after),
            [vocabulary.separator],
        ],
        dtype=np.int32,
    )


def answer_text_ids(
    tokenizer: Tokenizer, vocabulary: Vocabulary, text: str, text_length: int | None = None
) -> np.ndarray:
    """The answer's text part: the text and one blank (nothing for an empty text). int32 [n].

    text_length: cut or fill with pad to exactly this many tokens, which keeps the distance between LQ and HQ codes
    constant for small models. None (PURE) leaves the length free.
    Raises PureError for text that spells a control token or the image placeholder.
    """
    if IMAGE_PLACEHOLDER in text:
        raise PureError(f"the answer text {_shorten(text)!r} contains {IMAGE_PLACEHOLDER}; remove it")
    text = text.strip()
    ids = encode_text(tokenizer, vocabulary, f"{text} " if text else "")
    if text_length is None:
        return ids
    ids = ids[:text_length]
    return np.pad(ids, (0, text_length - len(ids)), constant_values=vocabulary.pad)


def answer_ids(
    tokenizer: Tokenizer, vocabulary: Vocabulary, text: str, codes: np.ndarray, text_length: int | None = None
) -> np.ndarray:
    """The answer: text (see `answer_text_ids`), HQ image block, separator. int32 [n]; codes: int [h, w]."""
    return np.concatenate(
        [
            answer_text_ids(tokenizer, vocabulary, text, text_length),
            image_block(codes, vocabulary),
            [vocabulary.separator],
        ],
        dtype=np.int32,
    )


def unconditional_example(vocabulary: Vocabulary, hq_codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What guidance's unconditional rows continue, as (tokens, labels), both int32 [n]: the HQ picture alone, from
    position 0 on, and separator. All but the first token is to be learned."""
    tokens = np.concatenate([image_block(hq_codes, vocabulary), [vocabulary.separator]], dtype=np.int32)
    return tokens, np.concatenate([[IGNORE], tokens[1:]], dtype=np.int32)


def training_example(
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    lq_codes: np.ndarray,
    hq_codes: np.ndarray,
    text: str,
    *,
    instruction: str = INSTRUCTION,
    text_length: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One question and answer: (tokens, labels), both int32 [n].

    Labels are an unshifted copy: labels[t] == tokens[t] on the whole answer (pad of a fixed-length text included, for
    the model must write it too) and IGNORE on the prompt. The loss shifts: logits at t are scored against
    labels[t + 1].
    """
    prompt = prompt_ids(tokenizer, vocabulary, lq_codes, instruction)
    answer = answer_ids(tokenizer, vocabulary, text, hq_codes, text_length)
    return np.concatenate([prompt, answer]), np.concatenate([np.full_like(prompt, IGNORE), answer])


def parse_answer(
    ids: Sequence[int] | np.ndarray, vocabulary: Vocabulary, tokenizer: Tokenizer
) -> tuple[str, list[np.ndarray]]:
    """Inverse of `answer_ids`: the text without pad and outer blanks, and the codes int32 [h, w] of each image.

    Reading stops at the first separator; one need not be there. Raises PureError for an image that never closes, a
    broken block, or a control token outside an image.
    """
    ids = np.asarray(ids, np.int32)
    stops = np.flatnonzero(ids == vocabulary.separator)
    ids = ids[: stops[0]] if len(stops) else ids
    text: list[int] = []
    images: list[np.ndarray] = []
    at = 0
    while at < len(ids):
        id_ = int(ids[at])
        if id_ == vocabulary.image_start:
            ends = np.flatnonzero(ids[at:] == vocabulary.image_end)
            if len(ends) == 0:
                raise PureError(f"the answer opens an image at token {at} that never closes; allow more new tokens")
            images.append(parse_image_block(ids[at : at + ends[0] + 1], vocabulary))
            at += int(ends[0]) + 1
            continue
        if id_ != vocabulary.pad:
            if not (0 <= id_ < vocabulary.size and vocabulary.is_text[id_]):
                raise PureError(f"the answer has the control token {id_} at {at}, outside an image")
            text.append(id_)
        at += 1
    return tokenizer.decode(text, skip_special_tokens=False).strip(), images
