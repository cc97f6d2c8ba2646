"""What the ways of decoding share: the state in which a picture is opened, the step, and how a way is called.

A way starts from the state that `prefill.open_images` leaves and writes the pictures. Nothing travels to the host in
between; it may ask for rows in portions to show progress.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from pure_jax.config import SamplingConfig
from pure_jax.sampling import guide
from pure_jax.transformer import KVCache, Transformer
from pure_jax.vocabulary import Vocabulary

Params = dict[str, Any]


class DecodeState(struct.PyTreeNode):
    """A batch of answers between the text and the last code. Rows of the conditional cache come first."""

    caches: tuple[KVCache, ...]
    """(conditional,) or (conditional, unconditional); the latter holds the picture only."""
    position: Array
    """int32 [batch]: absolute position of the next token to feed, in the conditional sequence."""
    seed: Array
    """uint32 []"""
    images: Array
    """int32 [batch]: index of each row's picture; with seed and position it names the noise."""
    text: Array
    """int32 [batch, max_text]: ids of the answer's text, pad behind its end."""
    opened: Array
    """bool [batch]: the model opened the picture itself."""
    pending: Array
    """int32 [batch, 2]: the tokens that stand before the next row's first code."""
    hidden: Array
    """[all rows, hidden]: hidden states after the start token, from which a loop that draws the size starts."""
    row: Array
    """int32 []: rows of codes decoded so far."""
    codes: Array
    """int32 [batch, h, w]"""
    entropy: Array
    """float32 [batch, h, w]: entropy in nats of each code's distribution, before top-k and temperature."""


def feed(
    net: Transformer, params: Params, tokens: Array, positions: Array, caches: tuple[KVCache, ...], valid: Array | None
) -> tuple[Array, tuple[KVCache, ...]]:
    """Append tokens [batch, n] at conditional positions [batch] on; returns the last hidden states of all rows.

    The unconditional rows see the same tokens. They know the picture only: start, size and codes count from position 0,
    which is the number of slots they have written.
    """
    steps = jnp.arange(tokens.shape[1])
    groups = [positions[:, None] + steps]
    groups += [jnp.broadcast_to(c.length + steps, tokens.shape) for c in caches[1:]]
    tokens = jnp.concatenate([tokens] * len(caches))
    out: Any = net.apply({"params": params}, tokens, jnp.concatenate(groups), caches, valid, hidden_only=True)
    hidden, caches = out
    return hidden[:, -1], caches


def logits_of(hidden: Array, head: Array) -> Array:
    return jnp.einsum("bd,dv->bv", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)


def code_logits(hidden: Array, head: Array, sampling: SamplingConfig, batch: int) -> Array:
    """Guided logits float32 [batch, codes] from the hidden states of all rows."""
    logits = logits_of(hidden, head)
    return guide(logits[:batch], logits[batch:], sampling.guidance_scale) if len(logits) > batch else logits


class Write(Protocol):
    """Writes a batch of opened pictures.

    image_slots: as given to `open_images`. on_row: called with the number of rows of codes written so far.
    Returns each picture's codes, int32 [h, w], and their entropies, float32 [h, w].
    """

    def __call__(
        self,
        net: Transformer,
        vocabulary: Vocabulary,
        sampling: SamplingConfig,
        image_slots: int,
        params: Params,
        state: DecodeState,
        on_row: Callable[[int], None],
    ) -> tuple[list[np.ndarray], list[np.ndarray]]: ...


class Decoding(NamedTuple):
    """A way of decoding."""

    free: bool
    """The model may write any token as text and choose the picture's size."""
    image_slots: Callable[[int, int], int]
    """Tokens to reserve for a picture of a latent height and width."""
    write: Write
