"""Training of the language model: answer-only next-token cross-entropy on pre-tokenised pairs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from pure_jax.config import ModelConfig
from pure_jax.errors import PureError
from pure_jax.sequence import IGNORE, degradation_sentence, training_example, unconditional_example
from pure_jax.train.answers import Answers, Sums, require_floats, shares
from pure_jax.train.config import LanguageModelTrainConfig
from pure_jax.train.data.labels import Thresholds, levels, terciles
from pure_jax.train.data.rounds import RecordRounds, Records
from pure_jax.train.lora import init_adapters
from pure_jax.train.optimiser import adamw, learning_rate, muon
from pure_jax.train.updating import TrainState, compiled_step, fresh_state, over_parts, updated
from pure_jax.transformer import Transformer
from pure_jax.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tercile_thresholds(records: Records) -> Thresholds:
    """Level boundaries that make small, medium and large equally frequent in `records`."""
    return terciles("params", np.stack([records.blur, records.noise], axis=1))


def answer_text(records: Records, index: int, thresholds: Thresholds) -> str:
    """Degradation sentence and caption of one pair."""
    reading = degradation_sentence(*levels(float(records.blur[index]), float(records.noise[index]), thresholds))
    return f"{reading} {records.captions[records.caption[index]]}".strip()


def batch_at(
    source: Records | RecordRounds,
    config: ModelConfig,
    train: LanguageModelTrainConfig,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    thresholds: Thresholds,
    codebook: np.ndarray,
    step: int,
) -> tuple[np.ndarray, np.ndarray]:
    """tokens and labels, int32 [batch, length], of one step; every epoch is a new permutation of its records.

    Sequences are padded on the right with <pad>, labelled IGNORE, to `train.sequence` or the longest of them. The
    remainder of an epoch that fills no batch is left out.

    Raises:
        PureError: fewer records than one batch; a pair longer than `train.sequence`.
    """
    per_epoch = len(source) // train.batch
    if per_epoch == 0:
        raise PureError(f"{len(source)} records do not fill a batch of {train.batch}; make more or lower --batch")
    epoch, place = divmod(step, per_epoch)
    records = source.epoch(epoch)
    order = np.random.default_rng([train.seed, epoch]).permutation(len(records))
    alone = np.random.default_rng([train.seed, step, 2]).random(train.batch) < train.uncond_prob
    pairs = [
        unconditional_example(vocabulary, records.hq_codes[i])
        if own
        else training_example(
            tokenizer,
            vocabulary,
            records.lq_codes[i],
            records.hq_codes[i],
            answer_text(records, i, thresholds),
            text_length=config.text_length,
        )
        for i, own in zip(order[place * train.batch : (place + 1) * train.batch], alone, strict=True)
    ]
    longest = max(len(tokens) for tokens, _ in pairs)
    length = train.sequence or longest
    if longest > length:
        raise PureError(f"a pair has {longest} tokens, more than the sequence of {length}; raise --sequence")
    tokens, labels = np.full((2, train.batch, length), vocabulary.pad, np.int32)
    labels[:] = IGNORE
    for row, (own_tokens, own_labels) in enumerate(pairs):
        tokens[row, : len(own_tokens)], labels[row, : len(own_labels)] = own_tokens, own_labels
    if train.drift:
        rng = np.random.default_rng([train.seed, step, 1])
        tokens = drifted(tokens, labels, vocabulary, codebook, train.drift, rng)
    return tokens, labels


def drifted(
    tokens: np.ndarray,
    labels: np.ndarray,
    vocabulary: Vocabulary,
    codebook: np.ndarray,
    most: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """tokens int32 [batch, length] with each row's labelled codes moved in latent space; labels are to stay.

    A row's codes all move by one vector, plus one of their own each, both normal with a standard deviation per channel
    drawn from 0 to `most`; the nearest code takes the place. A picture that is decoded code by code drifts like this:
    a model that has seen it corrects the drift by the LQ picture instead of continuing it.

    codebook: float32 [codes, dim], unit rows.
    """
    moved = tokens.copy()
    for row in range(len(tokens)):
        places = np.flatnonzero((labels[row] != IGNORE) & (vocabulary.id_to_code[tokens[row]] >= 0))
        z = codebook[vocabulary.id_to_code[tokens[row, places]]]
        shared, own = rng.random(2) * most
        z = z + shared * rng.standard_normal(z.shape[1]) + own * rng.standard_normal(z.shape)
        # Rows of the codebook are unit vectors: the nearest has the largest product.
        moved[row, places] = vocabulary.code_to_id[np.argmax(z @ codebook.T, axis=1)]
    return moved


def adapted_state(train: LanguageModelTrainConfig, vocabulary: Vocabulary, base: Any) -> TrainState:
    """The first state of LoRA on `base`, the frozen parameters."""
    return first_state(train, init_adapters(base, train.lora, vocabulary, jax.random.key(train.seed)))


@partial(jax.jit, static_argnames=("config", "train", "vocabulary"))
def init_state(
    config: ModelConfig, train: LanguageModelTrainConfig, vocabulary: Vocabulary, codebook: np.ndarray
) -> TrainState:
    """Fresh weights, except that the image codes' rows of embedding and head start from the codebook.

    Each row is one fixed random projection of the code's unit vector plus a little noise: codes that look alike start
    alike, on the way in and on the way out.

    Raises:
        PureError: the vocabulary has more ids than the model, or the model is quantised.
    """
    require_floats(config)
    if vocabulary.size > config.transformer.vocab_size:
        raise PureError(
            f"the tokenizer has {vocabulary.size} ids, more than the model's vocab_size "
            f"{config.transformer.vocab_size}; train it with a smaller --text-vocab"
        )
    init_key, key = jax.random.split(jax.random.key(train.seed))
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = Transformer(config.transformer).init(init_key, tokens, tokens)["params"]
    projection_key, noise_key = jax.random.split(key)
    projection = jax.random.normal(projection_key, (codebook.shape[1], config.transformer.hidden_size))
    noise = jax.random.normal(noise_key, (len(codebook), config.transformer.hidden_size))
    rows = 0.02 * (codebook @ projection + 0.1 * noise)
    params["embed"]["embedding"] = params["embed"]["embedding"].at[vocabulary.code_to_id].set(rows)
    params["lm_head"]["kernel"] = params["lm_head"]["kernel"].at[:, vocabulary.code_to_id].set(rows.T)
    return first_state(train, params)


def optimiser(train: LanguageModelTrainConfig) -> optax.GradientTransformation:
    """AdamW, or Muon with it."""
    if train.muon:
        return muon(train.optimiser, train.steps, train.muon)
    return adamw(train.optimiser, train.steps)


def first_state(train: LanguageModelTrainConfig, params: Any) -> TrainState:
    """The state in which these parameters have seen nothing yet."""
    return fresh_state(optimiser(train), params, train.ema_decay)


def make_step(
    config: ModelConfig,
    train: LanguageModelTrainConfig,
    vocabulary: Vocabulary,
    prompt_length: int,
    shardings: Any = None,
):
    """The jitted update (state, (tokens, labels)) -> (state, metrics); with LoRA the third argument is the frozen base,
    parameters in the dtype in which they are to be read.

    The first `prompt_length` tokens of every row are the question. The loss is the mean over all answer tokens of the
    batch, on however many devices and in however many parts it is computed. A step whose loss or gradient
    is not finite leaves all but the step's number as it was, and is counted (`skipped`).

    shardings: of the state, see `pure_jax.train.sharding`; with them the state that goes in is given away.

    Raises:
        PureError: the model is quantised.
    """
    mesh = None if shardings is None else jax.tree.leaves(shardings)[0].mesh
    answers = Answers(config, train, vocabulary, prompt_length, mesh)
    tx = optimiser(train)

    def loss_fn(params: Any, base: Any, tokens: Array, labels: Array, key: Array, count: Array) -> tuple[Array, Sums]:
        sums = answers.sums(params, base, tokens, labels, key)
        return (sums.nll + train.z_loss * sums.z) / count, sums

    def step_fn(state: TrainState, batch: tuple[Array, Array], base: Any = None) -> tuple[TrainState, dict[str, Array]]:
        counts = answers.counts(batch[1])
        count = counts.all

        def gradients(part: tuple[Array, Array], key: Array) -> tuple[Any, Sums]:
            return jax.grad(loss_fn, has_aux=True)(state.params, base, *part, key, count)

        def add(total: tuple[Any, Sums], own: tuple[Any, Sums]) -> tuple[Any, Sums]:
            return jax.tree.map(jnp.add, total[0], own[0]), total[1].plus(own[1])

        key = jax.random.fold_in(jax.random.key(train.seed), state.step)
        grads, sums = over_parts(gradients, add, batch, key, train.accumulate)
        metrics = {
            "loss": (sums.nll + train.z_loss * sums.z) / count,
            **shares(sums, counts),
            "learning_rate": learning_rate(train.optimiser, train.steps)(state.step),
        }
        return updated(state, grads, tx, train.ema_decay, metrics)

    return compiled_step(step_fn, shardings)
