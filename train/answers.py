"""How well a language model writes the answers of a batch: the forward pass, and what is counted of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax import Array
from jax.sharding import Mesh

from pure_jax.attention import attend
from pure_jax.config import ModelConfig
from pure_jax.errors import PureError
from pure_jax.sequence import IGNORE
from pure_jax.train.config import LanguageModelTrainConfig
from pure_jax.train.lora import adapted_variables
from pure_jax.transformer import Transformer
from pure_jax.vocabulary import Vocabulary


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Negative log-likelihood float32 of labels under logits, 0 where IGNORE, and the mask of what counts."""
    valid = labels != IGNORE
    nll = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), jnp.where(valid, labels, 0))
    return jnp.where(valid, nll, 0.0), valid


class Sums(NamedTuple):
    """Of a batch's answer tokens; float32 []. Negative log-likelihoods by kind, z-loss, right codes and text tokens,
    and the largest |logit|, which is no sum."""

    code_nll: Array
    text_nll: Array
    frame_nll: Array
    z: Array
    code_hits: Array
    text_hits: Array
    max_logit: Array

    def plus(self, other: Sums) -> Sums:
        """Of both batches."""
        added = [a + b for a, b in zip(self[:-1], other[:-1], strict=True)]
        return Sums._make([*added, jnp.maximum(self.max_logit, other.max_logit)])

    @property
    def nll(self) -> Array:
        return self.code_nll + self.text_nll + self.frame_nll

    @staticmethod
    def nothing() -> Sums:
        return Sums(*[jnp.zeros(())] * len(Sums._fields))


class Counts(NamedTuple):
    """Answer tokens by kind, int32 []."""

    codes: Array
    texts: Array
    frames: Array

    @property
    def all(self) -> Array:
        return jnp.maximum(self.codes + self.texts + self.frames, 1)


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of batches whose questions have `prompt_length` tokens; the head is applied behind those only.

    mesh: devices that the batch lies on; None is one device.

    Raises:
        PureError: the model is quantised.
    """

    config: ModelConfig
    train: LanguageModelTrainConfig
    vocabulary: Vocabulary
    prompt_length: int
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        require_floats(self.config)

    @cached_property
    def net(self) -> Any:
        dtype = jnp.dtype(self.train.compute_dtype)
        platform = jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform
        kernel = attend(self.train.attention, platform, dtype, self.mesh)
        return Transformer(self.config.transformer, dtype, kernel, self.train.remat)

    def masks(self, targets: Array) -> tuple[Array, Array, Array]:
        """Which targets are codes, text and frame, bool like them."""
        tables = jnp.asarray(self.vocabulary.id_to_code >= 0), jnp.asarray(self.vocabulary.is_text)
        valid = targets != IGNORE
        codes, texts = (valid & table[jnp.where(valid, targets, 0)] for table in tables)
        return codes, texts, valid & ~codes & ~texts

    def counts(self, labels: Array) -> Counts:
        """labels: int32 [batch, length]"""
        return Counts(*(mask.sum() for mask in self.masks(labels[:, self.prompt_length :])))

    def sums(self, params: Any, base: Any, tokens: Array, labels: Array, key: Array | None = None) -> Sums:
        """tokens, labels: int32 [batch, length]. params: what is trained; base: what LoRA keeps frozen. key: dropout's;
        None drops nothing."""
        lora = self.train.lora
        variables = adapted_variables(base, params, lora, self.vocabulary) if lora.rank else {"params": params}
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden, _ = self.net.apply(
            variables,
            tokens[:, :-1],
            positions[:, :-1],
            deterministic=key is None,
            hidden_only=True,
            rngs={} if key is None else {"dropout": key},
        )
        head = variables["params"]["lm_head"]["kernel"].astype(self.net.dtype)
        own = self._in_rows if self.train.logit_rows else self._of_logits
        return own(head, hidden[:, self.prompt_length - 1 :], labels[:, self.prompt_length :])

    def _of_logits(self, head: Array, hidden: Array, targets: Array) -> Sums:
        hidden, targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)  # one axis, as in transformer.Dense
        logits = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
        nll, valid = cross_entropy(logits, targets)
        masks = self.masks(targets)
        z = jnp.where(valid, jnp.square(jax.nn.logsumexp(logits, axis=-1)), 0).sum()
        right = jnp.argmax(logits, axis=-1) == targets
        code, text, frame = (jnp.where(mask, nll, 0).sum() for mask in masks)
        code_hits, text_hits = ((mask & right).sum().astype(jnp.float32) for mask in masks[:2])
        largest = jnp.where(valid[..., None], jnp.abs(jax.lax.stop_gradient(logits)), 0).max()
        return Sums(code, text, frame, z, code_hits, text_hits, largest)

    def _in_rows(self, head: Array, hidden: Array, targets: Array) -> Sums:
        """The same, with the logits of some positions at a time; they are made once more for the gradient."""
        rows = self.train.logit_rows
        hidden, targets = (
            jnp.pad(x, ((0, 0), (0, -x.shape[1] % rows), *[(0, 0)] * (x.ndim - 2)), constant_values=fill)
            for x, fill in ((hidden, 0), (targets, IGNORE))
        )
        parts = (rearrange(x, "b (n r) ... -> n b r ...", r=rows) for x in (hidden, targets))
        each = jax.lax.map(jax.checkpoint(lambda part: self._of_logits(head, *part)), tuple(parts))
        return Sums._make([*(x.sum(axis=0) for x in each[:-1]), each.max_logit.max(axis=0)])


def require_floats(config: ModelConfig) -> None:
    """Raises PureError for a quantised model."""
    for name in ("weights", "cache"):
        if getattr(config.transformer, name) != "float":
            raise PureError(
                f"a model whose {name} is {getattr(config.transformer, name)} cannot be trained; take the full model"
            )


def shares(sums: Sums, counts: Counts) -> dict[str, Array]:
    """Means by kind of token. Frame tokens soon cost nothing and would flatter the mean of all."""
    codes, texts, frames = (jnp.maximum(n, 1) for n in counts)
    return {
        "code_nll": sums.code_nll / codes,
        "text_nll": sums.text_nll / texts,
        "frame_nll": sums.frame_nll / frames,
        "code_accuracy": sums.code_hits / codes,
        "text_accuracy": sums.text_hits / texts,
        "max_logit": sums.max_logit,
    }
