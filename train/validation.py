"""What a language model in training does with pictures it does not learn from: its loss, and restorations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from PIL import Image
from tokenizers import Tokenizer

from pure_jax.config import ModelConfig
from pure_jax.files import replacing
from pure_jax.infer.decoding.generate import generate
from pure_jax.model import Model
from pure_jax.train.answers import Answers, Sums, shares
from pure_jax.train.examples import RecordBatches
from pure_jax.train.lora import merged
from pure_jax.train.sharding import rows_needed, spread
from pure_jax.vocabulary import Vocabulary

SAMPLES = 4
"""Tiles that are restored at every checkpoint."""


def make_validation(answers: Answers, batches: Sequence[Any], base: Any = None) -> Callable[[Any], dict[str, float]]:
    """(training state) -> val_loss, val_code_nll, ... over the batches; of the averaged parameters where there are any.

    batches: (tokens, labels), int32 [batch, length], where the step wants them. base: what LoRA keeps frozen.
    """

    @jax.jit
    def of(params: Any, tokens: Any, labels: Any, base: Any) -> tuple[Any, Any]:
        return answers.sums(params, base, tokens, labels), answers.counts(labels)

    def validate(state: Any) -> dict[str, float]:
        params = state.params if state.ema is None else state.ema
        sums, counts = Sums.nothing(), None
        for tokens, labels in batches:
            own, number = of(params, tokens, labels, base)
            sums = sums.plus(own)
            counts = number if counts is None else jax.tree.map(jnp.add, counts, number)
        assert counts is not None
        found = {"loss": sums.nll / counts.all, **shares(sums, counts)}
        return {f"val_{name}": float(value) for name, value in found.items() if name != "max_logit"}

    return validate


def make_samples(
    answers: Answers,
    tokenizer: Tokenizer,
    vqgan_params: Any,
    lq_codes: np.ndarray,
    hq_codes: np.ndarray,
    directory: Path,
    base: Any = None,
) -> Callable[[Any], None]:
    """(training state) -> writes `samples/STEP.png`: a column for each tile, the low-quality one as the image tokenizer
    shows it, its restoration, and the photo's.

    lq_codes, hq_codes: int [n, h, w]. For one process: the picture is made of what its devices hold.
    """
    config: ModelConfig = answers.config
    vocabulary: Vocabulary = answers.vocabulary
    frozen = jax.device_put(vqgan_params)

    def write(state: Any) -> None:
        params = state.params if state.ema is None else state.ema
        if base is not None:
            params = merged(base, params, answers.train.lora, vocabulary)
        params = jax.tree.map(lambda x: x.astype(answers.net.dtype), params)
        model = Model(config, {"transformer": params, "vqgan": frozen}, tokenizer, vocabulary, answers.net.dtype)
        sampling = dataclasses.replace(config.sampling, guidance_scale=1.0)
        written = np.stack([answer.codes for answer in generate(model, lq_codes, sampling=sampling)])
        rows = [model.decode(np.asarray(codes, np.int32)) for codes in (lq_codes, written, hq_codes)]
        path = directory / "samples" / f"{int(state.step):08d}.png"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as beside:
            Image.fromarray(rearrange(np.stack(rows), "r n h w c -> (r h) (n w) c")).save(beside, format="PNG")

    return write


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """Records that are not trained on. batches: how many of them are read at every checkpoint.

    image_tokenizer: parameters, for the samples; None writes none.
    """

    source: RecordBatches
    batches: int = 4
    image_tokenizer: Any = None

    def evaluate(
        self, answers: Answers, tokenizer: Tokenizer, codebook: np.ndarray, directory: Path, base: Any
    ) -> Callable[[Any], dict[str, float]]:
        """(training state) -> metrics; writes the samples. codebook: float32 [codes, dim], unit rows.

        Raises:
            PureError: fewer records than a batch.
        """
        clean = dataclasses.replace(answers.train, drift=0.0, uncond_prob=0.0)
        rows = rows_needed(answers.mesh, clean.batch)
        stream = self.source.stream(answers.config, clean, tokenizer, answers.vocabulary, codebook, rows)
        place = (lambda batch: batch) if answers.mesh is None else partial(spread, answers.mesh)
        validate = make_validation(answers, [place(next(stream)) for _ in range(self.batches)], base)
        if self.image_tokenizer is None or jax.process_count() > 1:
            return validate
        found = self.source.sets[0]
        shown = [found[i * (max(1, len(found) // SAMPLES))] for i in range(min(SAMPLES, len(found)))]
        lq, hq = np.stack([r.lq_codes[0] for r in shown]), np.stack([r.hq_codes for r in shown])
        write = make_samples(answers, tokenizer, self.image_tokenizer, lq, hq, directory, base)

        def both(state: Any) -> dict[str, float]:
            write(state)
            return validate(state)

        return both
