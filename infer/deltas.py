"""What a model loses against another with the same tokenizers: a quantised one against the full one, say.

Restorations are drawn: one code that is drawn otherwise changes those after it. So beside the pictures, both models'
distributions are compared where both are given the same codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from pure_jax.errors import PureError
from pure_jax.families import Model
from pure_jax.infer.decoding.generate import generate
from pure_jax.infer.evaluate import METRICS, Evaluation, evaluate
from pure_jax.infer.metrics.distortion import psnr_rgb
from pure_jax.infer.pictures.enlarge import enlarge
from pure_jax.infer.pictures.tiles import cut, plan_tiles
from pure_jax.infer.restore import Restorer
from pure_jax.model import Model as PureModel
from pure_jax.quantisation import columns, product
from pure_jax.sampling import guide
from pure_jax.sequence import answer_ids, prompt_ids
from pure_jax.transformer import Transformer


@dataclass(frozen=True)
class Deltas:
    """A model beside the full one, on the same pictures with the same seed."""

    codes: int
    """Number of codes whose distributions were compared."""
    kl: float
    """Mean of KL(full || model) in nats, of a code's distribution at temperature 1, after guidance and before top-k."""
    agreement: float
    """Share of codes of which both find the same value likeliest, 0 to 1."""
    psnr: float
    """Mean over the pictures of the PSNR in dB between both restorations; 80 where they are the same."""
    model: Evaluation
    full: Evaluation


def compare(
    pairs: Path,
    model: Any,
    full: Any,
    *,
    scale: int = 4,
    seed: int = 0,
    way: Mapping[str, Any] | None = None,
    on_image: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Deltas:
    """Evaluate two models on a folder of pairs, and compare their distributions over what the full one writes there.

    That is done in tiles side by side, which the full model answers; both models then read question and answer.

    Args:
        pairs, scale, seed, on_image, options: as in `pure_jax.infer.evaluate.evaluate`.
        way: options of `Restorer.restore` with which `model` restores, such as a lossy way of decoding.

    Raises:
        PureError: what `evaluate` refuses; models of another family than PURE, or with different tokenizers.
    """
    for one in (model, full):
        if not isinstance(one, PureModel):
            raise PureError(f"a model of the family {one.config.family} has no next-code distribution to compare")
    if model.config.vqgan != full.config.vqgan or model.tokenizer.get_vocab() != full.tokenizer.get_vocab():
        raise PureError("the two models have different tokenizers, so that their distributions cannot be compared")
    seen = _Keeping(Restorer(full, unchecked=True)), _Keeping(Restorer(model, way or {}, unchecked=True))
    both = []
    for part, restorer in enumerate(seen):

        def report(done: int, total: int, name: str, part: int = part) -> None:
            if on_image is not None:
                on_image(done + part * total, 2 * total, name)

        both.append(evaluate(pairs, restorer, scale=scale, seed=seed, on_image=report, **options))
    psnrs = [psnr_rgb(a, b) for (_, a), (_, b) in zip(*(one.pictures for one in seen), strict=True)]
    divergences, agreements = [], []
    for p, q in _distributions(full, model, [lq for lq, _ in seen[0].pictures], scale, seed):
        divergences.append(np.sum(np.exp(p) * (p - q), axis=-1))
        agreements.append(p.argmax(axis=-1) == q.argmax(axis=-1))
    kl = np.concatenate(divergences)
    return Deltas(
        len(kl), float(kl.mean()), float(np.mean(agreements)), math.fsum(psnrs) / len(psnrs), both[1], both[0]
    )


def to_json(deltas: Deltas) -> dict[str, Any]:
    """The figures by name; the full model's means by metric."""
    facts = {name: getattr(deltas, name) for name in ("codes", "kl", "agreement", "psnr")}
    return facts | {"means": {metric: deltas.full.mean("ours", metric) for metric in METRICS}}


def format_deltas(deltas: Deltas) -> str:
    """Sentences for people."""
    found = {metric: deltas.full.mean("ours", metric) for metric in METRICS}
    means = ", ".join(f"{metric} {mean:.4f}" for metric, mean in found.items() if mean is not None)
    return (
        f"The full model restores with {means}; PSNR between both restorations {deltas.psnr:.2f} dB.\n"
        f"Over {deltas.codes} codes: KL {deltas.kl:.3g} nats, the same code likeliest in {deltas.agreement:.2%}."
    )


@dataclass
class _Keeping:
    """A restorer that keeps what it was given and what it made of it, each uint8 [H, W, 3]."""

    restorer: Restorer
    pictures: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def model(self) -> Model:
        return self.restorer.model

    def restore(self, image: Image.Image, /, *, scale: int, seed: int) -> Any:
        result = self.restorer.restore(image, scale=scale, seed=seed)
        self.pictures.append((np.asarray(image), np.asarray(result.image.convert("RGB"))))
        return result


def _distributions(
    full: PureModel, model: PureModel, pictures: list[np.ndarray], scale: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both models' log-probabilities, float64 [codes, codebook], for each tile of the pictures."""
    config, vocabulary = full.config, full.vocabulary
    tiles = []
    for picture in pictures:
        height, width = (scale * side for side in picture.shape[:2])
        plan = plan_tiles(height, width, config.tile_size, 0, multiple=config.stride)
        tiles.append(cut(enlarge(picture, height, width), plan))
    lq = full.encode(np.concatenate(tiles))
    answers = generate(full, lq, seed=seed)
    rows = []
    for codes, answer in zip(lq, answers, strict=True):
        question = prompt_ids(full.tokenizer, vocabulary, codes)
        said = answer_ids(full.tokenizer, vocabulary, answer.text, answer.codes, config.text_length)
        rows.append((np.concatenate([question, said]), len(question) + int(np.argmax(said == vocabulary.image_start))))
    length = max(len(tokens) for tokens, _ in rows)
    for tokens, start in rows:
        image = tokens[start:]
        places = np.flatnonzero(vocabulary.id_to_code[image] >= 0) - 1  # where the next token is a code
        filled = np.pad(tokens, (0, length - len(tokens)), constant_values=vocabulary.pad)  # one compiled program
        logits = []
        for one in (full, model):
            run = partial(_logits, one.transformer, one.params["transformer"], vocabulary.code_to_id)
            guided = run(filled, start + places)
            if config.sampling.guidance_scale != 1.0:
                guided = guide(guided, run(image, places), config.sampling.guidance_scale)
            logits.append(np.asarray(jax.nn.log_softmax(guided), np.float64))
        yield logits[0], logits[1]


@partial(jax.jit, static_argnames="net")
def _logits(net: Transformer, params: Any, ids: Array, tokens: Array, places: Array) -> Array:
    """Logits, float32 [places, ids], of these ids behind some of tokens [n]."""
    hidden: Any = net.apply({"params": params}, tokens[None], jnp.arange(len(tokens))[None], hidden_only=True)[0]
    return product(hidden[0, places], columns(params["lm_head"], ids))
