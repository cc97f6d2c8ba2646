"""Each network's training from data to finished checkpoint: what `pure train vqgan`, `lm` and `demo` have in common.

Every function here goes on from where its run was left, and returns whether all steps are done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from pure_jax.config import ModelConfig, to_dict
from pure_jax.errors import PureError
from pure_jax.infer.metrics.perceptual import load_params
from pure_jax.sequence import answer_ids, prompt_ids
from pure_jax.train import decoder, language_model, vqgan
from pure_jax.train.answers import Answers
from pure_jax.train.config import require_discriminated
from pure_jax.train.data.labels import Thresholds, save_thresholds
from pure_jax.train.data.photos import Photo, random_crop
from pure_jax.train.data.rounds import RecordRounds, Records
from pure_jax.train.examples import RecordBatches
from pure_jax.train.flops import step_flops
from pure_jax.train.loop import Stream, resumed
from pure_jax.train.runs import Run
from pure_jax.train.sharding import on_every_device, rows_needed, state_shardings
from pure_jax.train.start import Start, describe_start, starting_state
from pure_jax.train.validation import Validation
from pure_jax.vocabulary import load_vocabulary
from pure_jax.vqgan import l2_normalize

CODEBOOK_SAMPLE = 256
"""Crops whose latents fill the codebook."""

THRESHOLDS = "thresholds.json"
"""In a language model's run: which scores its words small, medium and large stand for."""


def train_vqgan(photos: list[Photo], config: ModelConfig, options: vqgan.VQGANTrainConfig, run: Run) -> bool:
    """Train the image tokenizer: an autoencoder first, if so configured, whose latents fill the codebook.

    Over a mesh every device holds the whole state and takes its share of the crops.

    Raises:
        PureError: the crop is no multiple of the tokenizer's stride; what `Run.held` and `Run.train` refuse.
    """
    if options.crop % config.vqgan.stride:
        raise PureError(f"the crop of {options.crop} pixels is no multiple of the tokenizer's {config.vqgan.stride}")
    with run.held({"model": to_dict(config.vqgan), "train": asdict(options)}):
        perceptual = load_params() if options.perceptual_weight else None
        make_step = partial(vqgan.make_step, config.vqgan, options, perceptual)
        crops_at = partial(vqgan.crops_at, photos, options)
        state = on_every_device(run.mesh, vqgan.init_state(config.vqgan, options))
        state, first = resumed(run.out, state), options.autoencoder_steps
        if first and int(state.step) <= first:
            state = run.train(state, make_step(quantise=False), crops_at, first)
            if int(state.step) < first:
                return False
            sample = _held_crops(crops_at, options, -(-CODEBOOK_SAMPLE // options.batch))
            filled = vqgan.fill_codebook(config.vqgan, _here(state), sample, options.seed)
            state = on_every_device(run.mesh, filled)
        state = run.train(state, make_step(), crops_at, options.steps)
        if int(state.step) < options.steps:
            return False
        if jax.process_index() == 0:
            held, params = _held_crops(crops_at, options, 8), _here(state.ema)
            vqgan.write_samples(run.out / "samples.png", config.vqgan, params, held[:8])
            print(f"codebook usage on {len(held)} crops: {vqgan.codebook_usage(config.vqgan, params, held):.1%}")
    return True


def _here(tree: Any) -> Any:
    """What every device has whole, as arrays of this process alone."""
    return jax.tree.map(np.asarray, tree)


def _held_crops(crops_at: Callable[[int], np.ndarray], options: vqgan.VQGANTrainConfig, batches: int) -> np.ndarray:
    """The crops of the steps behind the last one."""
    return np.concatenate([crops_at(options.steps + i) for i in range(batches)])


def train_language_model(
    source: Records | RecordRounds | RecordBatches,
    thresholds: Thresholds,
    config: ModelConfig,
    options: language_model.LanguageModelTrainConfig,
    tokenizer_file: Path,
    codebook: np.ndarray,
    run: Run,
    start: Start | None = None,
    validation: Validation | None = None,
) -> bool:
    """Train the transformer on pairs of tiles: fresh ones in rounds, or records.

    codebook: the image tokenizer's, float32 [codes, dim]. start: a model whose weights come first, instead of fresh
    ones; LoRA adapts it and needs one. validation: what is looked at, at every checkpoint.

    Raises:
        PureError: the tokenizer's file does not fit the model; LoRA without a start; what `start_params`, `Run.held`
            and `Run.train` refuse.
    """
    if options.lora.rank and start is None:
        raise PureError("LoRA adapts a model that is there; give one with --start")
    vocabulary = load_vocabulary(tokenizer_file, config.codes_per_grid, config.vqgan.codebook_size)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    codebook = np.asarray(l2_normalize(jnp.asarray(codebook)))
    side = config.tile_size // config.vqgan.stride
    prompt_length = len(prompt_ids(tokenizer, vocabulary, np.zeros((side, side), np.int32)))
    model = {name: value for name, value in to_dict(config).items() if name != "sampling"}
    about = {
        "model": model,
        "train": asdict(options),
        "thresholds": thresholds.borders(),
        "start": describe_start(start),
    }
    batch_at: Callable[[int], Any] | Stream
    if isinstance(source, RecordBatches):
        rows = rows_needed(run.mesh, options.batch, options.accumulate)
        batch_at = source.stream(config, options, tokenizer, vocabulary, codebook, rows)
        about["records"] = source.about()
    else:
        batch_at = partial(
            language_model.batch_at, source, config, options, tokenizer, vocabulary, thresholds, codebook
        )
    with run.held(about):
        save_thresholds(run.out / THRESHOLDS, thresholds)
        state, base = starting_state(config, options, vocabulary, codebook, run.mesh, start)
        shardings = None if run.mesh is None else state_shardings(run.mesh, state)
        # Pictures that are shown alone begin where others have their question.
        first = 1 if options.uncond_prob else prompt_length
        step_fn = language_model.make_step(config, options, vocabulary, first, shardings)
        if base is not None:
            step_fn = partial(step_fn, base=base)
        if validation is not None:
            answers = Answers(config, options, vocabulary, first, run.mesh)
            evaluate = validation.evaluate(answers, tokenizer, codebook, run.out, base)
            run = replace(run, watch=replace(run.watch, evaluate=evaluate))
        if options.sequence or config.text_length:  # else its length differs from batch to batch
            sequence = options.sequence or prompt_length + len(
                answer_ids(tokenizer, vocabulary, "", np.zeros((side, side), np.int32), config.text_length)
            )
            flops = step_flops(config.transformer, options.batch, sequence, first, adapted=options.lora.rank > 0).total
            run = replace(run, watch=replace(run.watch, tokens=options.batch * (sequence - 1), flops=flops))
        return int(run.train(state, step_fn, batch_at, options.steps).step) >= options.steps


def train_decoder(
    photos: list[Photo],
    restored: decoder.RestoredTiles,
    config: ModelConfig,
    options: decoder.DecoderTrainConfig,
    vqgan_params: Any,
    run: Run,
) -> bool:
    """Train the image tokenizer's decoder alone, on fresh crops and on what the language model restored.

    Raises:
        PureError: tiles too small for the discriminator; what `Run.held` and `Run.train` refuse.
    """
    require_discriminated(config.tile_size, options.discriminator_layers, options.discriminator_width)
    perceptual = load_params() if options.perceptual_weight else None

    def crops_at(step: int) -> np.ndarray:
        rng = np.random.default_rng([options.seed, step, 3])
        return np.stack([random_crop(photos, config.tile_size, rng)[0] for _ in range(options.batch)])

    batch_at = partial(decoder.batch_at, restored, crops_at, options)
    with run.held({"model": to_dict(config.vqgan), "tile_size": config.tile_size, "train": asdict(options)}):
        state = decoder.init_state(vqgan_params, options, config.tile_size)
        step_fn = decoder.make_step(config.vqgan, vqgan_params, options, perceptual)
        return int(run.train(state, step_fn, batch_at, options.steps).step) >= options.steps
