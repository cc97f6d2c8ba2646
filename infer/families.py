"""How models of each family restore tiles; `pure_jax.families` says what a family is."""

from __future__ import annotations

from pure_jax.infer import pure
from pure_jax.infer.contract import RestoreTiles
from pure_jax.infer.nsarm import restore as nsarm

RESTORE_TILES: dict[str, RestoreTiles] = {
    "pure": pure.restore_tiles,
    "nsarm": nsarm.restore_tiles,
}
