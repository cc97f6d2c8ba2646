"""Restored tiles become a picture: blended, in the photo's colours, strip by strip, as in floats it would be large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from pure_jax.infer.pictures.colour import COLOUR_FIXES, Measured, joined, mix
from pure_jax.infer.pictures.large import let_go, strips
from pure_jax.infer.pictures.tiles import TilePlan, blend

Rows = Callable[[int, int], np.ndarray]
"""(first row, that behind the last one) -> these rows of a picture, uint8 [rows, W, 3] or float32 in 0 ... 1."""


def finished(
    tiles: Sequence[np.ndarray],
    plan: TilePlan,
    source: Rows,
    colour_fix: str,
    strength: float = 1.0,
    *,
    levels: np.ndarray,
    fine: np.ndarray | None = None,
) -> None:
    """Write the picture into levels, uint8 [H, W, 3], and, if it is given, into fine, uint16 [H, W, 3], too.

    It is what it would be in one piece: bit for bit, but for the mean and the deviation of those fixes that need them,
    which are summed strip by strip.

    Args:
        tiles: uint8 [tile, tile, 3] each, in the order of the plan.
        source: the enlarged photo, whose colours count.
        colour_fix: one of `pure_jax.config.COLOUR_FIXES`. strength: 0 ... 1, see `pure_jax.infer.pictures.colour.mix`.
    """
    fix = COLOUR_FIXES[colour_fix]
    parts = strips(plan.height, plan.width)

    def both(first: int, behind: int) -> tuple[np.ndarray, np.ndarray]:
        return blend(tiles, plan, (first, behind)) / 255.0, source(first, behind)

    measured: Measured | None = None
    if fix.measured_in is not None:
        measured = reduce(joined, (fix.measure(*both(*part)) for part in parts))
    for first, behind in parts:
        above = max(0, first - fix.reach)
        image, photo = both(above, min(plan.height, behind + fix.reach))
        strip = mix(fix(image, photo, measured), photo, strength)[first - above : behind - above]
        levels[first:behind] = (strip * 255).round()
        if fine is not None:
            fine[first:behind] = (strip * 65_535).round()
            let_go(fine)
        let_go(levels)
