"""Training of the language model: answer-only next-token cross-entropy on pre-tokenised pairs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jax import Array

from pure_jax.attention import attend
from pure_jax.config import ModelConfig
from pure_jax.errors import PureError
from pure_jax.sequence import IGNORE, degradation_sentence, training_example
from pure_jax.train.config import LanguageModelTrainConfig
from pure_jax.train.data.labels import Thresholds, levels, terciles
from pure_jax.train.data.rounds import RecordRounds, Records
from pure_jax.train.lora import adapted_variables
from pure_jax.train.optimiser import adamw, averaged, learning_rate
from pure_jax.transformer import Transformer
from pure_jax.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@flax.struct.dataclass
class LanguageModelState:
    """Everything a resumed run needs; dropout's key follows from the seed and the step."""

    step: Array
    params: Any
    """What is trained: the network's parameters, or the adapters of `pure_jax.train.lora`."""
    ema: Any
    """Running average of the parameters; None where `ema_decay` is 0, as large models have no room for one."""
    opt_state: Any


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
    return first_state(train, params)


def first_state(train: LanguageModelTrainConfig, params: Any) -> LanguageModelState:
    """The state in which these parameters have seen nothing yet."""
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


class Sums(NamedTuple):
    """Of a batch's answer tokens; float32 []. Negative log-likelihoods by kind, z-loss, right codes."""

    code_nll: Array
    text_nll: Array
    frame_nll: Array
    z: Array
    hits: Array


def make_step(
    config: ModelConfig,
    train: LanguageModelTrainConfig,
    vocabulary: Vocabulary,
    prompt_length: int,
    shardings: Any = None,
):
    """The jitted update (state, (tokens, labels)) -> (state, metrics); with LoRA the third argument is the frozen base,
    parameters in the dtype in which they are to be read.

    The first `prompt_length` tokens of every row are the question; the head is applied behind them only. The loss is
    the mean over all answer tokens of the batch, on however many devices and in however many parts it is computed.
    Code, text and frame tokens are also logged apart: frame tokens soon cost nothing and would flatter the mean. A step
    whose loss or gradient is not finite leaves all but the step's number as it was, and is counted (`skipped`).

    shardings: of the state, see `pure_jax.train.sharding`; with them the state that goes in is given away.

    Raises:
        PureError: the model is quantised.
    """
    _require_floats(config)
    dtype = jnp.dtype(train.compute_dtype)
    mesh = None if shardings is None else jax.tree.leaves(shardings)[0].mesh
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    net = Transformer(config.transformer, dtype, attend(train.attention, platform, dtype, mesh), train.remat)
    tx = adamw(train.optimiser, train.steps)
    is_code, is_text = jnp.asarray(vocabulary.id_to_code >= 0), jnp.asarray(vocabulary.is_text)

    def kinds(targets: Array) -> tuple[Array, Array, Array]:
        valid = targets != IGNORE
        codes, texts = (valid & table[jnp.where(valid, targets, 0)] for table in (is_code, is_text))
        return codes, texts, valid & ~codes & ~texts

    def sums_of(head: Array, hidden: Array, targets: Array) -> Sums:
        logits = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
        nll, valid = cross_entropy(logits, targets)
        masks = kinds(targets)
        z = jnp.where(valid, jnp.square(jax.nn.logsumexp(logits, axis=-1)), 0).sum()
        hits = masks[0] & (jnp.argmax(logits, axis=-1) == targets)
        code, text, frame = (jnp.where(mask, nll, 0).sum() for mask in masks)
        return Sums(code, text, frame, z, hits.sum().astype(jnp.float32))

    def in_rows(head: Array, hidden: Array, targets: Array) -> Sums:
        """The same, with the logits of some positions at a time; they are made once more for the gradient."""
        rows = train.logit_rows
        hidden, targets = (
            jnp.pad(x, ((0, 0), (0, -x.shape[1] % rows), *[(0, 0)] * (x.ndim - 2)), constant_values=fill)
            for x, fill in ((hidden, 0), (targets, IGNORE))
        )
        parts = (rearrange(x, "b (n r) ... -> n b r ...", r=rows) for x in (hidden, targets))
        each = jax.lax.map(jax.checkpoint(lambda part: sums_of(head, *part)), tuple(parts))
        return jax.tree.map(lambda x: x.sum(axis=0), each)

    def variables_of(params: Any, base: Any) -> Any:
        return adapted_variables(base, params, train.lora, vocabulary) if train.lora.rank else {"params": params}

    def loss_fn(params: Any, base: Any, tokens: Array, labels: Array, key: Array, count: Array) -> tuple[Array, Sums]:
        variables = variables_of(params, base)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden, _ = net.apply(
            variables,
            tokens[:, :-1],
            positions[:, :-1],
            deterministic=False,
            hidden_only=True,
            rngs={"dropout": key},
        )
        head = variables["params"]["lm_head"]["kernel"].astype(dtype)
        sums = (in_rows if train.logit_rows else sums_of)(
            head, hidden[:, prompt_length - 1 :], labels[:, prompt_length:]
        )
        return (sums.code_nll + sums.text_nll + sums.frame_nll + train.z_loss * sums.z) / count, sums

    def gradients(params: Any, base: Any, tokens: Array, labels: Array, key: Array, count: Array) -> tuple[Any, Sums]:
        if train.accumulate == 1:
            return jax.grad(loss_fn, has_aux=True)(params, base, tokens, labels, key, count)
        # Parts of every other row, so that each device has its share of every part.
        parts = [rearrange(x, "(b a) n -> a b n", a=train.accumulate) for x in (tokens, labels)]

        def add(total: Any, part: Any) -> tuple[Any, None]:
            own_tokens, own_labels, own_key = part
            new = jax.grad(loss_fn, has_aux=True)(params, base, own_tokens, own_labels, own_key, count)
            return jax.tree.map(jnp.add, total, new), None

        nothing = jax.tree.map(jnp.zeros_like, params), Sums(*[jnp.zeros(())] * len(Sums._fields))
        return jax.lax.scan(add, nothing, (*parts, jax.random.split(key, train.accumulate)))[0]

    def step_fn(
        state: LanguageModelState, batch: tuple[Array, Array], base: Any = None
    ) -> tuple[LanguageModelState, dict[str, Array]]:
        tokens, labels = batch
        key = jax.random.fold_in(jax.random.key(train.seed), state.step)
        codes, texts, frames = (mask.sum() for mask in kinds(labels[:, prompt_length:]))
        count = jnp.maximum(codes + texts + frames, 1)
        grads, sums = gradients(state.params, base, tokens, labels, key, count)
        norm = optax.tree.norm(grads)
        nll = (sums.code_nll + sums.text_nll + sums.frame_nll) / count
        good = jnp.isfinite(norm) & jnp.isfinite(nll)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = averaged(state.ema, params, state.step, train.ema_decay) if train.ema_decay else None

        def kept(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

        new = LanguageModelState(
            state.step + 1,
            kept(params, state.params),
            kept(ema, state.ema) if train.ema_decay else None,
            kept(opt_state, state.opt_state),
        )
        metrics = {
            "loss": nll + train.z_loss * sums.z / count,
            "code_nll": sums.code_nll / jnp.maximum(codes, 1),
            "text_nll": sums.text_nll / jnp.maximum(texts, 1),
            "frame_nll": sums.frame_nll / jnp.maximum(frames, 1),
            "code_accuracy": sums.hits / jnp.maximum(codes, 1),
            "grad_norm": norm,
            "learning_rate": learning_rate(train.optimiser, train.steps)(state.step),
        }
        return new, {name: jnp.where(good, value, 0.0) for name, value in metrics.items()} | {"skipped": 1.0 - good}

    if shardings is None:
        return jax.jit(step_fn)
    return jax.jit(step_fn, donate_argnums=0, out_shardings=(shardings, None))
