"""Training of the language model: answer-only next-token cross-entropy on pre-tokenised pairs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from pure_jax.config import ModelConfig
from pure_jax.errors import PureError
from pure_jax.sequence import IGNORE, degradation_sentence, training_example
from pure_jax.train.config import LanguageModelTrainConfig
from pure_jax.train.data.labels import Thresholds, levels
from pure_jax.train.data.records import RecordRounds, Records
from pure_jax.train.optimiser import adamw, averaged
from pure_jax.transformer import Transformer
from pure_jax.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@flax.struct.dataclass
class LanguageModelState:
    """Everything a resumed run needs; dropout's key follows from the seed and the step."""

    step: Array
    params: Any
    ema: Any
    """Running average of the parameters; None where `ema_decay` is 0, as large models have no room for one."""
    opt_state: Any


def tercile_thresholds(records: Records) -> Thresholds:
    """Level boundaries that make small, medium and large equally frequent in `records`."""

    def terciles(scores: np.ndarray) -> tuple[float, float]:
        low, high = np.quantile(scores, [1 / 3, 2 / 3])
        return float(low), float(high)

    return Thresholds(kind="params", blur=terciles(records.blur), noise=terciles(records.noise))


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

    Shorter sequences are padded on the right with <pad>, labelled IGNORE. The remainder of an epoch that fills no batch
    is left out.

    Raises:
        PureError: fewer records than one batch.
    """
    per_epoch = len(source) // train.batch
    if per_epoch == 0:
        raise PureError(f"{len(source)} records do not fill a batch of {train.batch}; make more or lower --batch")
    epoch, place = divmod(step, per_epoch)
    records = source.epoch(epoch)
    order = np.random.default_rng([train.seed, epoch]).permutation(len(records))
    pairs = [
        training_example(
            tokenizer,
            vocabulary,
            records.lq_codes[i],
            records.hq_codes[i],
            answer_text(records, i, thresholds),
            text_length=config.text_length,
        )
        for i in order[place * train.batch : (place + 1) * train.batch]
    ]
    length = max(len(tokens) for tokens, _ in pairs)
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


@partial(jax.jit, static_argnames=("config", "train", "vocabulary"))
def init_state(
    config: ModelConfig, train: LanguageModelTrainConfig, vocabulary: Vocabulary, codebook: np.ndarray
) -> LanguageModelState:
    """Fresh weights, except that the image codes' rows of embedding and head start from the codebook.

    Each row is one fixed random projection of the code's unit vector plus a little noise: codes that look alike start
    alike, on the way in and on the way out.

    Raises:
        PureError: the vocabulary has more ids than the model, or the model is quantised.
    """
    _require_floats(config)
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
    opt_state = adamw(train.optimiser, train.steps).init(params)
    ema = jax.tree.map(jnp.copy, params) if train.ema_decay else None
    return LanguageModelState(jnp.zeros((), jnp.int32), params, ema, opt_state)


def _require_floats(config: ModelConfig) -> None:
    for name in ("weights", "cache"):
        if getattr(config.transformer, name) != "float":
            raise PureError(
                f"a model whose {name} is {getattr(config.transformer, name)} cannot be trained; take the full model"
            )


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Negative log-likelihood float32 of labels under logits, 0 where IGNORE, and the mask of what counts."""
    valid = labels != IGNORE
    nll = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), jnp.where(valid, labels, 0))
    return jnp.where(valid, nll, 0.0), valid


def make_step(
    config: ModelConfig,
    train: LanguageModelTrainConfig,
    vocabulary: Vocabulary,
    prompt_length: int,
    dtype: Any = jnp.float32,
):
    """The jitted update (state, (tokens, labels)) -> (state, metrics).

    The first `prompt_length` tokens of every row are the question; the head is applied behind them only. The loss is
    the mean over all answer tokens of the batch. Code, text and frame tokens are also logged apart: frame
    tokens soon cost nothing and would flatter the mean.

    Raises:
        PureError: the model is quantised.
    """
    _require_floats(config)
    net = Transformer(config.transformer, dtype)
    tx = adamw(train.optimiser, train.steps)
    is_code, is_text = jnp.asarray(vocabulary.id_to_code >= 0), jnp.asarray(vocabulary.is_text)

    def loss_fn(params: Any, tokens: Array, labels: Array, key: Array):
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden, _ = net.apply(
            {"params": params},
            tokens[:, :-1],
            positions[:, :-1],
            deterministic=False,
            hidden_only=True,
            rngs={"dropout": key},
        )
        head = params["lm_head"]["kernel"].astype(dtype)
        logits = jnp.matmul(hidden[:, prompt_length - 1 :], head, preferred_element_type=jnp.float32)
        targets = labels[:, prompt_length:]
        nll, valid = cross_entropy(logits, targets)
        loss = nll.sum() / jnp.maximum(valid.sum(), 1)
        codes, texts = (valid & table[jnp.where(valid, targets, 0)] for table in (is_code, is_text))
        metrics = {"loss": loss}
        for name, mask in (("code_nll", codes), ("text_nll", texts), ("frame_nll", valid & ~codes & ~texts)):
            metrics[name] = jnp.where(mask, nll, 0).sum() / jnp.maximum(mask.sum(), 1)
        hits = codes & (jnp.argmax(logits, axis=-1) == targets)
        metrics["code_accuracy"] = hits.sum() / jnp.maximum(codes.sum(), 1)
        return loss, metrics

    @jax.jit
    def step_fn(state: LanguageModelState, batch: tuple[Array, Array]) -> tuple[LanguageModelState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(train.seed), state.step)
        grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params, *batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        metrics["grad_norm"] = optax.tree.norm(grads)
        params = optax.apply_updates(state.params, updates)
        ema = averaged(state.ema, params, state.step, train.ema_decay) if train.ema_decay else None
        return LanguageModelState(state.step + 1, params, ema, opt_state), metrics

    return step_fn
