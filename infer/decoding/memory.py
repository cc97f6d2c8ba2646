"""The memory that decoding takes, by arithmetic from shapes, and the memory that there is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from pure_jax.errors import PureError
from pure_jax.infer.decoding.cost import Lengths, Network
from pure_jax.transformer import CAUSAL_BLOCKS

LEAST_WORKSPACE = 2**24


@dataclass(frozen=True)
class Memory:
    """Bytes of device memory: the parameters, the caches, and what the largest compiled program needs for itself."""

    weights: int
    caches: int
    workspace: int

    @property
    def total(self) -> int:
        return self.weights + self.caches + self.workspace


def decode_memory(network: Network, lengths: Lengths, batch: int, window: int = 1) -> Memory:
    """Device memory, in bytes, that it takes to decode `batch` pictures together.

    The workspace is an estimate: the larger of what the question takes, which is read at once, and of what a pass
    takes, whose scores and logits are float32. In float32 on CPU it lay above the compiler's account of the prefill by
    up to half of it; in bfloat16 a CPU needs more, for it computes in float32. A copy of the caches is not in it: where
    a compiler makes one for a loop, that much more is needed.

    Args:
        lengths: `opening` must count the text at its longest.
        window: new tokens of a row in one pass.
    """
    cfg, item = network.config, jnp.dtype(network.dtype).itemsize
    slots = lengths.opening + lengths.image_slots
    caches = batch * (slots + lengths.image_slots * lengths.guided) * network.cache_token

    heads = cfg.num_heads * cfg.head_dim
    token = (5 * cfg.hidden_size + 6 * heads + 3 * cfg.intermediate_size) * item + 3 * 4 * heads
    scores = 4 * 4 * cfg.num_heads  # of one query and one key: themselves, masked, their softmax, in another order
    block = -(-lengths.opening // CAUSAL_BLOCKS)
    opening = batch * lengths.opening * (token + scores * block)

    rows = batch * (2 if lengths.guided else 1) * window
    logits = 6 * 4 * max(network.codes, cfg.vocab_size if window == 1 else 0)
    head = 3 * cfg.hidden_size * network.codes * item  # its columns, taken out once; XLA lays them out anew
    step = rows * (token + scores * slots + logits) + head
    return Memory(network.all_weights, caches, max(opening, step) + LEAST_WORKSPACE)


def fitting_batch(network: Network, lengths: Lengths, memory: int, most: int, window: int = 1) -> int:
    """The largest batch, up to `most`, whose `decode_memory` fits into `memory` bytes.

    Raises:
        PureError: not even one picture fits.
    """

    def total(batch: int) -> int:
        return decode_memory(network, lengths, batch, window).total

    if total(1) > memory:
        needed, weights, given = (f"{size / 1e9:.2g} GB" for size in (total(1), network.all_weights, memory))
        raise PureError(
            f"one picture takes {needed} ({weights} of them weights), more than the {given} that it may; give more "
            "--memory, or --weights int8 --cache int8"
        )
    return max(batch for batch in range(1, most + 1) if total(batch) <= memory)


def read_bytes(text: str) -> int:
    """ "8GB", "512 MiB" -> bytes, a whole number.

    Raises:
        PureError: it is no amount of memory.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    number = float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " ") if match else 0.0
    if number < 1:
        raise PureError(f"{text!r} is no amount of memory; write it as 8GB or 512MiB")
    return int(number)


def available_memory() -> int | None:
    """Bytes that the first device has left: of its own memory, or of the machine's. None where it does not say."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
