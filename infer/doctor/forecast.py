"""How long a photo will take: its first batch of tiles is really restored, and the rest follows by their number."""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from pure_jax.infer.contract import Progress, silent
from pure_jax.infer.families import RESTORE_TILES, TILES_TOGETHER
from pure_jax.infer.pictures.enlarge import enlarge, fill_hidden
from pure_jax.infer.pictures.finishing import finished
from pure_jax.infer.pictures.picture import Picture, to_image
from pure_jax.infer.pictures.tiles import cut
from pure_jax.infer.restore import Restorer
from pure_jax.infer.stages import StageClock

ENOUGH_S = 60.0
"""Of writing tiles, after which the first batch is left unfinished."""


@dataclass(frozen=True)
class Forecast:
    """What a photo is expected to take, in seconds.

    stages: by name, all of them together `seconds`; "programs" is what jax prepares anew in each process.
    compiling: comes on top where the programs are not in the cache of compiled programs.
    tiles, flat: how many the photo has, and how many of these pass through; together: tiles in a batch.
    measured: share of one batch that was really written for this.
    """

    width: int
    height: int
    stages: dict[str, float]
    compiling: float
    tiles: int
    flat: int
    together: int
    measured: float

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())


class _Enough(Exception):
    """The measurement has lasted long enough."""


def forecast(
    model: Any,
    picture: Picture,
    scale: float = 4.0,
    *,
    enough_s: float = ENOUGH_S,
    progress: Progress = silent,
) -> Forecast:
    """Measure and extrapolate, for the default options. Loading the model is not in it.

    The tiles of the batch that is restored are spread over the photo, as the text that is written for a tile, and the
    passes it takes in windows, depend on what it shows. Opaque colours only are counted, as `alpha="bicubic"` does it.

    Raises:
        PureError: what `Restorer.plan` refuses.
    """
    config = model.config
    plan = Restorer(model).plan(picture, scale)
    stages: dict[str, float] = {}
    began = time.perf_counter()
    source = picture.rgb if picture.alpha is None else fill_hidden(picture.rgb, picture.alpha)
    large = enlarge(source, plan.height, plan.width)
    shown = tiles = cut(large, plan)
    if config.magnification > 1:
        small = enlarge(source, plan.height, plan.width, config.magnification)
        tiles = cut(small, plan.scaled_down(config.magnification))
    flat = (shown == shown[:, :1, :1]).all(axis=(1, 2, 3))
    stages["cut"] = time.perf_counter() - began

    busy = tiles[~flat]
    most = TILES_TOGETHER[config.family](config, model.dtype) if config.family in TILES_TOGETHER else len(busy)
    parts = math.ceil(len(busy) / most) if len(busy) else 0
    together = math.ceil(len(busy) / parts) if parts else 0
    share, compiling = 0.0, 0.0
    if parts:
        spread = np.linspace(0, len(busy) - 1, together).round().astype(int)
        watch, first, share = _measure(model, busy[spread], enough_s, progress)
        own = watch.working
        each = len(busy) / together
        stages["programs"] = watch.preparing_again
        compiling = watch.preparing - watch.preparing_again
        stages["encode"] = own.get("encode", 0.0) * each
        rest = own.get("restore", 0.0) * (1.0 - first) / (share - first) if share > first else 0.0
        stages["write codes"] = (own.get("compile", 0.0) + rest) * parts
        decoding = own["decode"] if "decode" in own else _decode_one(model, shown[0]) * together
        stages["decode"] = decoding * each

    began = time.perf_counter()
    rgb = np.empty((plan.height, plan.width, 3), np.uint8)
    finished(list(shown), plan, lambda first, behind: large[first:behind], config.colour_fix, levels=rgb)
    stages["blend"] = time.perf_counter() - began
    began = time.perf_counter()
    to_image(Picture(rgb, grey=picture.grey)).save(io.BytesIO(), "PNG")
    stages["write file"] = time.perf_counter() - began
    height, width = picture.rgb.shape[:2]
    return Forecast(width, height, stages, compiling, len(tiles), int(flat.sum()), together, share)


def _measure(model: Any, tiles: np.ndarray, enough_s: float, progress: Progress) -> tuple[StageClock, float, float]:
    """Restore these tiles as one batch; returns the time by stages, and which share of it was written in two of them:
    until "compile" ended, which is when the first codes are there, and in the end."""
    first, share, ends = 0.0, 0.0, math.inf

    def watched(stage: str, done: int, total: int) -> None:
        nonlocal first, share, ends
        progress(stage, done, total)
        if stage == "compile":
            ends = time.perf_counter() + enough_s
        if stage == "restore":
            first, share = first or done / total, done / total
            if time.perf_counter() > ends and first < share < 1.0:
                raise _Enough

    with StageClock(watched) as watch:
        try:
            RESTORE_TILES[model.config.family](model, tiles, seed=0, batch=None, progress=watch)
        except _Enough:
            pass
    return watch, first, share


def _decode_one(model: Any, tile: np.ndarray) -> float:
    """Seconds in which one tile's codes become pixels, the program being compiled."""
    codes = model.encode(tile)
    np.asarray(model.decode(codes))
    began = time.perf_counter()
    np.asarray(model.decode(codes))
    return time.perf_counter() - began
