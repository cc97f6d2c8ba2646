"""A small byte-level BPE tokenizer in Chameleon's layout of ids, for models trained from scratch.

Order of ids: specials, image codes, image end, image start, reserved tokens, then text (256 bytes, then merges).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pure_jax.errors import PureError
from pure_jax.sequence import INSTRUCTION, LEVELS, degradation_sentence
from pure_jax.vocabulary import (
    BOS,
    CODE_PREFIX,
    EOS,
    FIRST_GRID,
    IMAGE_END,
    IMAGE_PLACEHOLDER,
    IMAGE_START,
    NEW_LINE,
    PAD,
    SEPARATOR,
    UNKNOWN,
    code_name,
    reserved_name,
)

BYTES = 256
# The instruction and the nine degradation sentences are in every sequence: counted often, they become few tokens.
FIXED_TEXT_REPEATS = 1000


def control_names(codebook_size: int, max_grids: int) -> list[str]:
    """Names in front of the text, in order of id: 4 + codebook_size + 2 + 3 + max_grids + 1 of them."""
    return [
        *(BOS, PAD, EOS, UNKNOWN),
        *map(code_name, range(codebook_size)),
        *(IMAGE_END, IMAGE_START),
        *(SEPARATOR, "<reserved08707>", NEW_LINE),
        *(reserved_name(FIRST_GRID + n) for n in range(max_grids + 1)),
    ]


def train_tokenizer(texts: Iterable[str], *, codebook_size: int, text_vocab: int, max_grids: int = 64) -> Tokenizer:
    """Train the text part on captions and put the control tokens in front.

    texts: captions. codebook_size: image codes, at least 1. text_vocab: text tokens at most, 256 bytes included (fewer
    if the captions offer no more merges). max_grids: longest image side in grids.
    Deterministic. Control names are entries of the model's vocabulary only, never "added tokens", so that text which
    spells one is encoded as the text it is.

    Raises PureError if `text_vocab` is below 256 or a caption spells an image code.
    """
    if text_vocab < BYTES:
        raise PureError(f"a byte-level tokenizer needs a text vocabulary of at least {BYTES}, not {text_vocab}")
    captions = list(texts)
    # The only control names that are one word to the pre-tokenizer, hence the only ones that merges could build.
    spelling = next((caption for caption in captions if CODE_PREFIX in caption), None)
    if spelling is not None:
        raise PureError(f"the caption {spelling!r} contains {CODE_PREFIX}, which is kept for image codes; remove it")

    sentences = [degradation_sentence(blur, noise) + " " for blur in LEVELS for noise in LEVELS]
    fixed = [INSTRUCTION.replace(IMAGE_PLACEHOLDER, ""), *sentences]
    control = control_names(codebook_size, max_grids)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(control) + text_vocab,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*captions, *(fixed * FIXED_TEXT_REPEATS)], trainer)

    layout = json.loads(tokenizer.to_str())
    layout["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(layout, ensure_ascii=False))
