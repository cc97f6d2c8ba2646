"""Each network's training from data to finished checkpoint: what `pure train vqgan`, `lm` and `demo` have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pure_jax.config import ModelConfig, to_dict
from pure_jax.errors import PureError
from pure_jax.files import replacing
from pure_jax.infer.metrics.perceptual import load_params
from pure_jax.sequence import prompt_ids
from pure_jax.train import decoder, language_model, vqgan
from pure_jax.train.config import require_discriminated
from pure_jax.train.data.labels import Thresholds
from pure_jax.train.data.photos import Photo, random_crop
from pure_jax.train.data.records import RecordRounds, Records
from pure_jax.train.loop import newest_tree, resumed, train
from pure_jax.train.runs import run_folder
from pure_jax.vocabulary import load_vocabulary
from pure_jax.vqgan import l2_normalize

STEPS = ("train.steps",)
"""What may change when a run goes on: it can be made longer."""

CODEBOOK_SAMPLE = 256
"""Crops whose latents fill the codebook."""


def train_vqgan(
    photos: list[Photo],
    config: ModelConfig,
    options: vqgan.VQGANTrainConfig,
    out: Path,
    *,
    save_every: int = 200,
    deadline: float | None = None,
    allow_change: bool | None = None,
) -> bool:
    """Train the image tokenizer in `out`, from where it was left; True when all steps are done.

    allow_change: see `run_folder`.
    """
    if options.crop % config.vqgan.stride:
        raise PureError(f"the crop of {options.crop} pixels is no multiple of the tokenizer's {config.vqgan.stride}")
    own = {"model": to_dict(config.vqgan), "train": asdict(options)}
    with run_folder(out, own, may_change=STEPS, allow_change=allow_change):
        return _train_vqgan(photos, config, options, out, save_every, deadline)


def _train_vqgan(
    photos: list[Photo],
    config: ModelConfig,
    options: vqgan.VQGANTrainConfig,
    out: Path,
    save_every: int,
    deadline: float | None,
) -> bool:
    perceptual = load_params() if options.perceptual_weight else None
    run = partial(
        train,
        batch_at=lambda step: vqgan.crops_at(photos, options, step),
        directory=out,
        save_every=save_every,
        deadline=deadline,
    )
    state, first = resumed(out, vqgan.init_state(config.vqgan, options)), options.autoencoder_steps
    if first and int(state.step) <= first:
        state = run(state, vqgan.make_step(config.vqgan, options, perceptual, quantise=False), steps=first)
        if int(state.step) < first:
            return False
        count = -(-CODEBOOK_SAMPLE // options.batch)
        sample = np.concatenate([vqgan.crops_at(photos, options, options.steps + i) for i in range(count)])
        state = vqgan.fill_codebook(config.vqgan, state, sample, options.seed)
    state = run(state, vqgan.make_step(config.vqgan, options, perceptual), steps=options.steps)
    if int(state.step) < options.steps:
        return False
    held = np.concatenate([vqgan.crops_at(photos, options, options.steps + i) for i in range(8)])
    vqgan.write_samples(out / "samples.png", config.vqgan, state.ema, held[:8])
    print(f"codebook usage on {len(held)} crops: {vqgan.codebook_usage(config.vqgan, state.ema, held):.1%}")
    return True


def train_language_model(
    source: Records | RecordRounds,
    thresholds: Thresholds,
    config: ModelConfig,
    options: language_model.LanguageModelTrainConfig,
    tokenizer_file: Path,
    vqgan_params: Any,
    out: Path,
    *,
    save_every: int = 100,
    deadline: float | None = None,
    allow_change: bool | None = None,
) -> bool:
    """Train the transformer in `out`, from where it was left; True when all steps are done."""
    vocabulary = load_vocabulary(tokenizer_file, config.codes_per_grid, config.vqgan.codebook_size)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    codebook = np.asarray(l2_normalize(vqgan_params["quantizer"]["codebook"]))
    side = config.tile_size // config.vqgan.stride
    prompt_length = len(prompt_ids(tokenizer, vocabulary, np.zeros((side, side), np.int32)))
    model = {name: value for name, value in to_dict(config).items() if name != "sampling"}
    own = {"model": model, "train": asdict(options), "thresholds": asdict(thresholds)}
    with run_folder(out, own, may_change=STEPS, allow_change=allow_change):
        with replacing(out / "thresholds.json") as beside:
            beside.write_text(json.dumps(asdict(thresholds)) + "\n")
        state = train(
            language_model.init_state(config, options, vocabulary, codebook),
            language_model.make_step(config, options, vocabulary, prompt_length),
            lambda step: language_model.batch_at(
                source, config, options, tokenizer, vocabulary, thresholds, codebook, step
            ),
            steps=options.steps,
            directory=out,
            save_every=save_every,
            deadline=deadline,
        )
    return int(state.step) >= options.steps


def train_decoder(
    photos: list[Photo],
    tiles: Callable[[], decoder.RestoredTiles],
    config: ModelConfig,
    options: decoder.DecoderTrainConfig,
    vqgan_params: Any,
    out: Path,
    *,
    save_every: int = 200,
    deadline: float | None = None,
) -> bool:
    """Train the image tokenizer's decoder in `out`, from where it was left; True when all steps are done."""
    require_discriminated(config.tile_size, options.discriminator_layers, options.discriminator_width)
    restored = tiles()
    perceptual = load_params() if options.perceptual_weight else None

    def crops_at(step: int) -> np.ndarray:
        rng = np.random.default_rng([options.seed, step, 3])
        return np.stack([random_crop(photos, config.tile_size, rng)[0] for _ in range(options.batch)])

    own = {"model": to_dict(config.vqgan), "tile_size": config.tile_size, "train": asdict(options)}
    with run_folder(out, own, may_change=STEPS):
        state = train(
            decoder.init_state(vqgan_params, options, config.tile_size),
            decoder.make_step(config.vqgan, vqgan_params, options, perceptual),
            lambda step: decoder.batch_at(restored, crops_at, options, step),
            steps=options.steps,
            directory=out,
            save_every=save_every,
            deadline=deadline,
        )
    return int(state.step) >= options.steps


def trained_vqgan(run: Path) -> Any:
    """The averaged parameters of the newest checkpoint of a tokenizer's run."""
    return newest_tree(run)["ema"]
