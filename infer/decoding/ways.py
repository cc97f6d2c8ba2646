"""The ways of decoding by name, and which one is taken when nobody says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pure_jax.config import TransformerConfig
from pure_jax.errors import PureError
from pure_jax.infer.decoding.contract import Decoding
from pure_jax.infer.decoding.drafts import DRAFTS
from pure_jax.infer.decoding.rows import Rows
from pure_jax.infer.decoding.rules import RULES
from pure_jax.infer.decoding.sequential import Sequential
from pure_jax.infer.decoding.sjd_compat import SjdCompat
from pure_jax.infer.decoding.staggered import Staggered
from pure_jax.infer.decoding.windows import Windows
from pure_jax.infer.lanes import lanes_of_cpu
from pure_jax.transformer import count_parameters

WAYS = ("plain", *RULES, "staggered", "sjd_compat")
FAST = "staggered"
"""The lossy way that is taken when somebody just wants it fast."""
MAX_WINDOW = 256
DEFAULT_WINDOW = 16
DEFAULT_DRAFT = "above"
SMALL_ON_CPU = 2**26
"""Bytes of weights under which a pass on CPU is not a matter of reading them."""
LEAST_IN_LANE = 8
"""Pictures."""
FEW_ON_CPU = 4
"""Pictures; with more of them a CPU is busy computing."""


def usual_way(config: TransformerConfig, dtype: Any, batch: int) -> Decoding:
    """The fastest way that writes the codes of the plain loop.

    A window of 16 needs a quarter of the passes (on 60 tiles of val photos, with the demo). A pass of it takes as long
    as one of one token where reading the weights takes the time: always on accelerators, as far as arithmetic goes. On
    two CPU cores it took 2.4 times as long with a large model and one picture (22 layers of 1024), which pays; with the
    demo, windows took 0.9 to 1.1 times as long as the plain loop with 1 to 24 pictures, and longer with 57.
    """
    if jax.default_backend() == "cpu" and (_is_small(config, dtype) or batch > FEW_ON_CPU):
        return Rows()
    return Windows("jacobi", DEFAULT_WINDOW, DEFAULT_DRAFT)


def usual_lanes(config: TransformerConfig, dtype: Any, pictures: int) -> int:
    """In how many lanes pictures are written at the same time (see `pure_jax.infer.lanes`).

    One, where a pass is long for reading the weights, which each lane would read. With the demo, two lanes on two CPU
    cores take 0.65 of the time of one.
    """
    return lanes_of_cpu(pictures // LEAST_IN_LANE) if _is_small(config, dtype) else 1


def _is_small(config: TransformerConfig, dtype: Any) -> bool:
    return count_parameters(config) * jnp.dtype(dtype).itemsize < SMALL_ON_CPU


def way_of_decoding(
    decode: str | None = None, window: int | None = None, draft: str | None = None, faithful: bool = False
) -> Decoding | None:
    """The way of decoding with a name; None where nothing was said.

    Args:
        decode: one of WAYS; with a window or a draft None takes "jacobi", which writes the same codes as "plain" in
            fewer passes.
        window: tokens of a pass, 2 ... 256; None takes 16. For "staggered": how many codes a row is ahead of the one
            below, 1 ... 256; None takes a quarter of a row.
        draft: one of `pure_jax.infer.decoding.drafts`; None takes "above".
        faithful: as the original: text unmasked, the picture's size drawn by the model, one token a step.

    Raises:
        PureError: an unknown name, a window out of range, or values that have no meaning together.
    """
    given = {"--window": window is not None, "--draft": draft is not None}
    if faithful:
        given["--decode"] = decode is not None
    if faithful or decode == "plain":
        for name, is_given in given.items():
            if is_given:
                raise PureError(f"{name} has no meaning with {'--faithful' if faithful else '--decode plain'}")
        return Sequential() if faithful else Rows()
    if decode is window is draft is None:
        return None
    decode = "jacobi" if decode is None else decode
    if decode not in WAYS:
        raise PureError(f"there is no way of decoding {decode!r}; choose one of {', '.join(WAYS)}")
    if draft is not None and decode not in RULES:
        raise PureError(f"--draft has no meaning with --decode {decode}")
    draft = DEFAULT_DRAFT if draft is None else draft
    if draft not in DRAFTS:
        raise PureError(f"there is no draft {draft!r}; choose one of {', '.join(DRAFTS)}")
    least = 1 if decode == "staggered" else 2
    if window is not None and not least <= window <= MAX_WINDOW:
        raise PureError(f"the window is {window}, but it must lie in {least} ... {MAX_WINDOW}")
    if decode == "staggered":
        return Staggered(window)
    window = DEFAULT_WINDOW if window is None else window
    return SjdCompat(window) if decode == "sjd_compat" else Windows(decode, window, draft)
