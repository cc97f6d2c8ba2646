"""From LQ codes to answers: prompts, batches and progress around the compiled decode loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pure_jax.config import SamplingConfig, TransformerConfig
from pure_jax.errors import PureError
from pure_jax.infer.contract import Progress, silent
from pure_jax.infer.decoding.abreast import lanes_for, write_abreast
from pure_jax.infer.decoding.contract import Decoding, Job, Show, Written, unseen
from pure_jax.infer.decoding.cost import Lengths, Network
from pure_jax.infer.decoding.memory import fitting_batch
from pure_jax.infer.decoding.noise import Noise, noise_of
from pure_jax.infer.decoding.prefill import full_batches, open_batch
from pure_jax.infer.decoding.told import Words, told_ids
from pure_jax.infer.decoding.ways import usual_lanes, usual_way
from pure_jax.infer.decoding.windows import Windows
from pure_jax.infer.halving import with_halved_batches
from pure_jax.model import Model
from pure_jax.sequence import INSTRUCTION, answer_text_ids, prompt_ids
from pure_jax.transformer import token_bytes

MAX_BATCH = 64
CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Answer:
    """One picture's answer.

    codes: int32 [h, w]; entropy: float32 [h, w] in nats, of each code's distribution before top-k and temperature;
    text: what the model wrote before the picture; opened: it opened the picture itself (else it was opened by force).
    passes: times that the network was run for the codes.
    """

    codes: np.ndarray
    entropy: np.ndarray
    text: str
    opened: bool
    passes: int


def generate(
    model: Model,
    lq_codes: np.ndarray,
    *,
    seed: int = 0,
    first: int = 0,
    sampling: SamplingConfig | None = None,
    text_prefix: str = "",
    words: Sequence[Words] | None = None,
    decoding: Decoding | None = None,
    noise: Any = None,
    batch: int | None = None,
    memory: int | None = None,
    instruction: str = INSTRUCTION,
    progress: Progress = silent,
    show: Show = unseen,
) -> list[Answer]:
    """Answer each LQ picture with a HQ one.

    The noise of a code depends on the seed, its picture's number and its position only, so `batch` does not change the
    result, up to ties of floating point.

    Args:
        lq_codes: int32 [n, h, w], sides multiples of the vocabulary's codes per grid.
        seed: 0 ... 2**32 - 1.
        first: number of the first picture; the others' follow.
        sampling: None takes the model's defaults.
        text_prefix: text every answer must begin with; the model continues it.
        words: beside it or instead, what each picture's answer says.
        decoding: the way; None takes the fastest that writes the plain loop's codes, see `ways.usual_way`.
        noise: instead of the seed's: float32 [n, positions, codes], or a function as `pure_jax.infer.decoding.noise`
            describes it, which JAX can trace.
        batch: pictures decoded together; 1 or more. None takes as many as keep the caches within 1 GiB, at most 64, or
            64 in each lane where a small model is decoded in several on a CPU (`ways.usual_lanes`).
            Where the device runs out of memory, half as many are tried, with a warning.
        memory: bytes of device memory that weights, caches and programs may take; as many pictures as fit are decoded
            together, at most `batch`.
        show: watches the codes that are there, where the way of decoding shows them.

    Raises:
        PureError: seed or batch out of range; a prefix longer than max_text_tokens or with control tokens;
            too little memory for one picture.
    """
    sampling = sampling or model.config.sampling
    if batch is not None and batch < 1:
        raise PureError(f"the batch is {batch}; decode 1 or more pictures at a time")
    prefix = answer_text_ids(model.tokenizer, model.vocabulary, text_prefix)
    if len(prefix) > sampling.max_text_tokens:
        raise PureError(
            f"the forced text has {len(prefix)} tokens, more than max_text_tokens ({sampling.max_text_tokens})"
        )
    forced = None
    if words is not None:
        forced, sampling = told_ids(model, words, sampling)
    count, height, width = lq_codes.shape
    noise = noise_of(noise, seed, model.vocabulary.codebook_size)
    job = _job(model, lq_codes, sampling, prefix=prefix, noise=noise, instruction=instruction, show=show, forced=forced)
    job = replace(job, first=first)
    # Before the batch is known, the way that takes the most room: that of one picture.
    way = decoding or usual_way(model.config.transformer, model.dtype, 1)
    if memory is not None:
        network = Network(model.config.transformer, model.dtype, model.vocabulary.codebook_size)
        opening = job.prompts.shape[1] + sampling.max_text_tokens
        lengths = Lengths(opening, height, width, sampling.guidance_scale != 1.0)
        window = way.window if isinstance(way, Windows) else 1
        batch = fitting_batch(network, lengths, memory, min(batch or MAX_BATCH, count), window)
    slots = way.image_slots(height, width)
    lanes = usual_lanes(model.config.transformer, model.dtype, count)
    batch = batch or usual_batch(model.config.transformer, model.dtype, sampling, job.prompts.shape[1], slots, lanes)
    batch = min(batch, count)
    way = decoding or usual_way(model.config.transformer, model.dtype, batch)
    progress("compile", 0, 0)  # until the first codes are there, as the programs are compiled when they are called

    def write(batch: int) -> dict[int, Written]:
        return write_abreast(way, job, lanes, batch, lambda done: progress("restore", done, count * height * width))

    written = with_halved_batches(write, batch, "try --weights int8 --cache int8, or smaller tiles")
    answers = (written[image] for image in range(count))
    return [Answer(a.codes, a.entropy, _to_text(model, a.text), a.opened, a.passes) for a in answers]


def read(
    model: Model,
    lq_codes: np.ndarray,
    *,
    sampling: SamplingConfig | None = None,
    words: Sequence[Words] | None = None,
    batch: int | None = None,
) -> list[str]:
    """The texts with which the model would answer LQ pictures, without its images. Arguments as of `generate`.

    Raises:
        PureError: what `generate` refuses of these.
    """
    # Text is drawn without guidance, so the unconditional rows are not needed.
    sampling = replace(sampling or model.config.sampling, guidance_scale=1.0)
    forced = None
    if words is not None:
        forced, sampling = told_ids(model, words, sampling)
    job = _job(model, lq_codes, sampling, forced=forced)
    batch = batch or usual_batch(model.config.transformer, model.dtype, sampling, job.prompts.shape[1], 1)

    def write(batch: int) -> list[str]:
        texts: list[str] = []
        together = lanes_for(job.count, 1, min(batch, job.count)).together
        for images, new in full_batches(job.count, together):
            ids = np.asarray(open_batch(job, images, 1).text)
            texts += [_to_text(model, row) for row in ids[:new]]
        return texts

    return with_halved_batches(write, batch, "try --weights int8 --cache int8, or smaller tiles")


def _job(
    model: Model,
    lq_codes: np.ndarray,
    sampling: SamplingConfig,
    *,
    prefix: np.ndarray | None = None,
    noise: Noise | None = None,
    instruction: str = INSTRUCTION,
    show: Show = unseen,
    forced: np.ndarray | None = None,
) -> Job:
    return Job(
        model.transformer,
        model.vocabulary,
        sampling,
        model.params["transformer"],
        (lq_codes.shape[1], lq_codes.shape[2]),
        np.stack([prompt_ids(model.tokenizer, model.vocabulary, codes, instruction) for codes in lq_codes]),
        np.zeros(0, np.int32) if prefix is None else np.asarray(prefix, np.int32),
        np.asarray(lq_codes, np.int32),
        noise_of(noise, 0, model.vocabulary.codebook_size),
        show,
        forced,
    )


def usual_batch(
    config: TransformerConfig,
    dtype: Any,
    sampling: SamplingConfig,
    prompt_length: int,
    image_slots: int,
    lanes: int = 1,
) -> int:
    """How many pictures are decoded together if nobody says: their caches fit into CACHE_BYTES; 1 to MAX_BATCH, or as
    many in each lane."""
    tokens = prompt_length + sampling.max_text_tokens + image_slots
    tokens += image_slots if sampling.guidance_scale != 1.0 else 0
    return max(1, min(MAX_BATCH * lanes, CACHE_BYTES // (tokens * token_bytes(config, dtype))))


def _to_text(model: Model, ids: np.ndarray) -> str:
    return model.tokenizer.decode(ids[model.vocabulary.is_text[ids]].tolist(), skip_special_tokens=False).strip()
