"""Where a language model's training starts from: fresh weights, or a model's, its vocabulary grown if need be."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from pure_jax.checkpoint import read_json
from pure_jax.config import ModelConfig, from_dict, require_one_of, to_dict
from pure_jax.convert.parts import load_transformer
from pure_jax.errors import PureError
from pure_jax.train import language_model
from pure_jax.train.config import LanguageModelTrainConfig, LoraConfig
from pure_jax.train.lora import merged
from pure_jax.train.runs import CONFIG, Run
from pure_jax.train.sharding import born_from, born_sharded
from pure_jax.train.updating import TrainState
from pure_jax.vocabulary import Vocabulary
from pure_jax.vqgan import l2_normalize

NEW_ROWS = ("keep", "codebook", "gaussian", "resample")
RESAMPLED = 1e-9
"""Of the old rows' covariance, in `resample`; what transformers takes."""


@dataclass(frozen=True)
class Start:
    """model: directory or hub id, of this library or in Hugging Face's layout. new_rows: see `grown`."""

    model: str
    new_rows: str = "keep"

    def __post_init__(self) -> None:
        require_one_of("new_rows", self.new_rows, NEW_ROWS)


def start_params(
    start: Start,
    config: ModelConfig,
    vocabulary: Vocabulary,
    codebook: np.ndarray,
    *,
    dtype: str = "float32",
    seed: int = 0,
    mesh: Mesh | None = None,
) -> Any:
    """The parameters of a model, for a configuration that may have more ids than it.

    codebook: float32 [codes, dim]: the image tokenizer's.

    Raises:
        PureError: the model has other sizes, or more ids; what `load_transformer` refuses.
    """
    own = config.transformer
    net, params = load_transformer(start.model, dtype, own.scan_layers, mesh=mesh)
    run = {"vocab_size", "dropout", "scan_layers", "weights", "cache"}
    sizes = {name: value for name, value in to_dict(own).items() if name not in run}
    theirs = {name: getattr(net.config, name) for name in sizes}
    for name, value in sizes.items():
        if theirs[name] != value:
            raise PureError(f"{start.model} has {name} {theirs[name]}, but the recipe says {value}; change one of them")
    if net.config.weights != "float":
        raise PureError(f"{start.model} is quantised and cannot be trained; take the full model")
    if net.config.vocab_size > own.vocab_size:
        raise PureError(
            f"{start.model} has {net.config.vocab_size} ids, more than the recipe's vocab_size {own.vocab_size}; ids "
            "are never taken away"
        )
    if start.new_rows == "keep" and net.config.vocab_size == own.vocab_size:
        return params
    grow = partial(
        grown, size=own.vocab_size, codes=vocabulary.code_to_id, how=start.new_rows, key=jax.random.key(seed)
    )
    return born_from(partial(grow, codebook=jnp.asarray(codebook)), params, mesh)


def grown(params: Any, *, codebook: Array, size: int, codes: np.ndarray, how: str, key: Array) -> Any:
    """The same with `size` ids. The published model grew from 65,536 to 73,728; how its new rows began is unknown.

    how: keep: old rows stay, and new ones begin as `codebook` says. codebook: every image code's row of the embedding
    is the old image rows' mean and deviation around a random projection of the code's vector (with a tenth of noise),
    so that codes that look alike begin alike; its row of the head is 0. gaussian: both N(0, 0.02) for all codes.
    resample: new rows are drawn around the old rows' mean, as transformers' resize does.

    Args:
        codes: int32 [codes]: ids of the image codes.
        codebook: float32 [codes, dim]; of its rows the direction counts.
    """
    codebook = l2_normalize(codebook)
    table, head = params["embed"]["embedding"].astype(jnp.float32), params["lm_head"]["kernel"].astype(jnp.float32).T
    old, width = table.shape
    kept_codes = codes[codes < old]
    pad = partial(jnp.pad, pad_width=((0, size - old), (0, 0)))
    keys = jax.random.split(key, 4)
    new_table, new_head = pad(table), pad(head)
    if how == "resample":
        rows = np.arange(old, size)
        new_table = new_table.at[rows].set(_like(table, len(rows), keys[0]))
        new_head = new_head.at[rows].set(_like(head, len(rows), keys[1]))
    elif how == "gaussian":
        new_table = new_table.at[codes].set(0.02 * jax.random.normal(keys[0], (len(codes), width)))
        new_head = new_head.at[codes].set(0.02 * jax.random.normal(keys[1], (len(codes), width)))
    else:
        image = table[kept_codes] if len(kept_codes) else table
        mean, deviation = image.mean(axis=0), image.std()
        projection = jax.random.normal(keys[0], (codebook.shape[1], width))
        noise = jax.random.normal(keys[1], (len(codes), width))
        rows = mean + deviation * (codebook @ projection + 0.1 * noise)
        chosen = codes >= old if how == "keep" else np.ones(len(codes), bool)
        new_table = new_table.at[codes[chosen]].set(rows[chosen])
        new_head = new_head.at[codes[chosen]].set(0.0)
    dtype = params["embed"]["embedding"].dtype
    return params | {"embed": {"embedding": new_table.astype(dtype)}, "lm_head": {"kernel": new_head.T.astype(dtype)}}


def _like(rows: Array, count: int, key: Array) -> Array:
    """Draws from a normal distribution with the rows' mean and RESAMPLED of their covariance."""
    centred = rows - rows.mean(axis=0)
    weights = jax.random.normal(key, (count, len(rows)))
    return rows.mean(axis=0) + (RESAMPLED / len(rows)) ** 0.5 * weights @ centred


def located(model: str) -> str:
    """A directory by its full path, since a run may go on from elsewhere; a hub id as it is."""
    return os.path.abspath(model) if os.path.isdir(model) else model


def describe_start(start: Start | None) -> dict[str, Any] | None:
    """What a run's folder keeps of it."""
    return None if start is None else dataclasses.asdict(dataclasses.replace(start, model=located(start.model)))


def starting_state(
    config: ModelConfig,
    train: LanguageModelTrainConfig,
    vocabulary: Vocabulary,
    codebook: np.ndarray,
    mesh: Mesh | None,
    start: Start | None,
) -> tuple[TrainState, Any]:
    """The state before the first step, where it belongs on the mesh, and what LoRA keeps frozen, else None.

    Raises:
        PureError: what `init_state` and `start_params` refuse.
    """
    if start is None:
        make = partial(language_model.init_state, config, train, vocabulary, codebook)
        return make() if mesh is None else born_sharded(make, mesh), None
    dtype = train.compute_dtype if train.lora.rank else "float32"
    params = start_params(start, config, vocabulary, codebook, dtype=dtype, seed=train.seed, mesh=mesh)
    if not train.lora.rank:
        return born_from(partial(language_model.first_state, train), params, mesh), None
    return born_from(partial(language_model.adapted_state, train, vocabulary), params, mesh), params


def trained_params(run: Run, config: ModelConfig, vocabulary: Vocabulary, codebook: np.ndarray) -> Any:
    """The whole network of a run, float32: what was trained, or the adapted model with its adapters merged.

    Raises:
        PureError: there is no checkpoint that can be read; the adapted model is not there any more, or of other sizes.
    """
    params = run.params()
    if "lora" not in params:
        return params
    start, lora, seed = adaptation_of(run)
    return merged(start_params(start, config, vocabulary, codebook, seed=seed), params, lora, vocabulary)


def adaptation_of(run: Run) -> tuple[Start, LoraConfig, int]:
    """What a run of LoRA adapts, and how; its seed. Raises PureError for another run."""
    if not (run.out / CONFIG).is_file():
        raise PureError(f"{run.out} is no training run; give the --out of `pure train lm`")
    told = read_json(run.out / CONFIG)
    if not told["train"]["lora"]["rank"]:
        raise PureError(f"{run.out} trained the whole network, and has no adapters")
    lora = from_dict(LoraConfig, told["train"]["lora"], "lora")
    return from_dict(Start, told["start"], "start"), lora, told["train"]["seed"]
