"""PURE's way to restore tiles: encode, answer token by token, decode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from pure_jax.config import ModelConfig, SamplingConfig
from pure_jax.errors import PureError
from pure_jax.infer.contract import Preview, Progress, RestoredTile, RestoredTiles
from pure_jax.infer.control.guidance import Ask, Guidance
from pure_jax.infer.decoding.cost import Lengths, Network
from pure_jax.infer.decoding.generate import Answer, generate, read, usual_batch
from pure_jax.infer.decoding.memory import Memory, decode_memory
from pure_jax.infer.decoding.told import Words
from pure_jax.infer.decoding.ways import FAST, usual_lanes, usual_way, way_of_decoding
from pure_jax.infer.halving import with_halved_batches
from pure_jax.infer.lanes import in_lanes, lanes_of_cpu
from pure_jax.model import Model

TYPICAL_QUESTION = 40
"""Tokens of a question beside its picture's codes and new-lines; PURE's instruction has 31."""
VQGAN_BATCH = 16  # tiles; bounds the memory of the convolutions, whatever the picture's size


def restore_tiles(
    model: Model,
    tiles: np.ndarray,
    *,
    seed: int,
    batch: int | None,
    progress: Progress,
    first: int = 0,
    sampling: SamplingConfig | None = None,
    text: str = "",
    guidance: str = "full",
    reading: Mapping[str, str] | None = None,
    description: str = "",
    one_description: bool = False,
    ask: Ask | None = None,
    faithful: bool = False,
    decode: str | None = None,
    fast: bool = False,
    window: int | None = None,
    draft: str | None = None,
    memory: int | None = None,
    preview: Preview | None = None,
) -> RestoredTiles:
    """Restore tiles, see `pure_jax.infer.contract.RestoreTiles`.

    Args:
        text: words that every answer must begin with; the model continues them.
        guidance, reading, description, one_description: see `pure_jax.infer.control.guidance.Guidance`; not with text.
        ask: is shown what the model says of the photo before it draws, and may correct it; not with text.
        memory: see `pure_jax.infer.decoding.generate.generate`.
        faithful, decode, window, draft: see `pure_jax.infer.decoding.ways.way_of_decoding`.
        fast: decode in the fastest lossy way.
        preview: is shown tiles with the low-quality picture's codes where none is written yet; not by faithful
            or sjd_compat.

    Raises:
        PureError: what `generate` and `way_of_decoding` refuse.
    """
    guided = Guidance(guidance, reading or {}, description, one_description)
    if text and not (guided.usual and ask is None):
        raise PureError("text says how answers begin; leave it out, or guidance, reading, descriptions and ask")
    if fast:
        if faithful or decode is not None:
            raise PureError(f"--fast has no meaning with {'--faithful' if faithful else '--decode'}")
        decode = FAST
    count, decoding = len(tiles), way_of_decoding(decode, window, draft, faithful)
    codes = _in_parts(model.encode, tiles, lambda done: progress("encode", done, count))

    def show(places: np.ndarray, share: float, written: Callable[[], np.ndarray]) -> None:
        def so_far() -> np.ndarray:
            own = written()
            return _in_parts(model.decode, np.where(own < 0, codes[places], own))

        if preview is not None:
            preview(places, share, so_far)

    unasked = cache(lambda: read(model, codes, sampling=sampling, words=None, batch=batch))

    def says(told: Sequence[Words] | None) -> list[str]:
        return unasked() if told is None else read(model, codes, sampling=sampling, words=told, batch=batch)

    if ask is not None:
        progress("read", 0, 0)
        guided = guided.asked(says(None), ask)
    words = None if guided.usual else guided.words(count, says)
    answers = generate(
        model,
        codes,
        seed=seed,
        first=first,
        sampling=sampling,
        text_prefix=text,
        words=words,
        decoding=decoding,
        batch=batch,
        memory=memory,
        progress=progress,
        show=show,
    )
    side = tiles.shape[1] // model.config.stride
    images = _decode(model, answers, side, lambda done: progress("decode", done, count))
    restored = [
        RestoredTile(image, _resized(answer.entropy, side), answer.text)
        for image, answer in zip(images, answers, strict=True)
    ]
    return RestoredTiles(restored, _remarks(answers, side))


def fitting_precision(config: ModelConfig, dtype: Any, memory: int) -> dict[str, str]:
    """The options of `pure_jax.load` with which one picture fits: none, int8 weights, or int8 weights and cache.

    The last of them where it does not fit either.

    Args:
        dtype: the compute dtype. memory: bytes that weights, caches and programs of the transformer may take.
    """
    options: dict[str, Any] = {}
    for option in ({}, {"weights": "int8"}, {"cache": "int8"}):
        options |= option
        quantised = replace(config, transformer=replace(config.transformer, **options))
        if memory_of(quantised, dtype, 1).total <= memory:
            break
    return options


def memory_of(config: ModelConfig, dtype: Any, batch: int) -> Memory:
    """What the transformer takes to write so many tiles together."""
    network = Network(config.transformer, dtype, config.vqgan.codebook_size)
    return decode_memory(network, _lengths(config), batch)


def tiles_together(config: ModelConfig, dtype: Any) -> int:
    """How many tiles are written together, if there are so many and nobody says."""
    lengths, net = _lengths(config), config.transformer
    question = lengths.opening - config.sampling.max_text_tokens
    slots = usual_way(net, dtype, 1).image_slots(lengths.height, lengths.width)
    return usual_batch(net, dtype, config.sampling, question, slots, usual_lanes(net, dtype, 2**30))


def _lengths(config: ModelConfig) -> Lengths:
    """Of a tile's answer, its text at its longest."""
    side = config.tile_size // config.stride
    opening = side * (side + 1) + TYPICAL_QUESTION + config.sampling.max_text_tokens
    return Lengths(opening, side, side, config.sampling.guidance_scale != 1.0)


def _decode(model: Model, answers: list[Answer], side: int, on_part: Callable[[int], None]) -> np.ndarray:
    """uint8 [n, tile, tile, 3]; a picture of another size (faithful mode only) is resized to its tile."""
    if all(answer.codes.shape == (side, side) for answer in answers):
        return _in_parts(model.decode, np.stack([answer.codes for answer in answers]), on_part)
    images = [Image.fromarray(model.decode(answer.codes)) for answer in answers]
    size = (side * model.config.stride,) * 2
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in images])


def _resized(entropy: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(entropy).resize((side, side)))


def _in_parts(
    apply: Callable[[np.ndarray], np.ndarray], array: np.ndarray, on_part: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """Apply a function to at most VQGAN_BATCH items at a time, or to as few as the device has room for; on_part is told
    before each how many are done.

    All parts are equally long, the last filled up with the last item, so that one compiled program serves them all.
    """

    def run(most: int) -> np.ndarray:
        parts = -(-len(array) // most)
        length = -(-len(array) // parts)
        places = np.minimum(np.arange(parts * length), len(array) - 1).reshape(parts, length)
        on_part(0)
        own = apply(array[places[0]])
        # Filled part by part, as a list to be joined would take the memory twice.
        results = np.empty((len(array), *own.shape[1:]), own.dtype)
        results[:length] = own[: len(array)]
        waiting = iter(range(1, parts))

        def lane(step: Callable[[], None]) -> None:
            for number in waiting:
                step()
                begin = number * length
                on_part(begin)
                results[begin : begin + length] = apply(array[places[number]])[: len(array) - begin]

        in_lanes([lane] * lanes_of_cpu(parts - 1))
        return results

    return with_halved_batches(run, min(VQGAN_BATCH, len(array)), "free some of it, or try --device cpu")


def _remarks(answers: list[Answer], side: int) -> list[str]:
    remarks = []
    unopened = sum(not answer.opened for answer in answers)
    if unopened:
        remarks.append(f"the model did not open a picture itself in {unopened} of {len(answers)} tiles; it was forced")
    resized = sum(answer.codes.shape != (side, side) for answer in answers)
    if resized:
        remarks.append(f"the model chose another size in {resized} of {len(answers)} tiles; they were resized")
    return remarks
