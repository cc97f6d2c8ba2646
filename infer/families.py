"""How models of each family restore tiles; `pure_jax.families` says what a family is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pure_jax.checkpoint import compute_dtype
from pure_jax.infer import pure
from pure_jax.infer.contract import RestoreTiles
from pure_jax.infer.decoding.memory import Memory
from pure_jax.infer.nsarm import restore as nsarm

RESTORE_TILES: dict[str, RestoreTiles] = {
    "pure": pure.restore_tiles,
    "nsarm": nsarm.restore_tiles,
}

FITTING_PRECISION: dict[str, Callable[[Any, Any, int], dict[str, str]]] = {
    "pure": pure.fitting_precision,
}
"""(configuration, compute dtype, bytes of memory) -> options of `pure_jax.load`; of families that have a choice."""


def choose_precision(config: Any, dtype: str, memory: int) -> dict[str, str]:
    """Options of `pure_jax.load` for a model that is to decode within `memory` bytes; {} where nothing has to be."""
    fitting = FITTING_PRECISION.get(config.family)
    return {} if fitting is None else fitting(config, compute_dtype(dtype), memory)


TILES_TOGETHER: dict[str, Callable[[Any, Any], int]] = {
    "pure": pure.tiles_together,
    "nsarm": nsarm.tiles_together,
}
"""(configuration, compute dtype) -> tiles that are written together where nobody says; other families write all."""

MEMORY: dict[str, Callable[[Any, Any, int], Memory]] = {
    "pure": pure.memory_of,
}
"""(configuration, compute dtype, tiles written together) -> device memory; of families that can tell."""
