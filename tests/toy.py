"""A second family, as small as can be, to show that shared code knows families through the protocol only.

Its model doubles every pixel and adds a learned shade. It has layers that can be stacked, neither words nor a tokenizer
file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.families import FAMILIES, Family
from pure_jax.infer.contract import Progress, RestoredTile, RestoredTiles
from pure_jax.infer.families import RESTORE_TILES

STRIDE = 4


@dataclass(frozen=True)
class ToyTransformer:
    num_layers: int = 2
    scan_layers: bool = True


@dataclass(frozen=True)
class ToySampling:
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise PureError(f"strength is {self.strength}, but it must be 0 or more")


@dataclass(frozen=True)
class ToyConfig:
    family: str = "toy"
    transformer: ToyTransformer = field(default_factory=ToyTransformer)
    sampling: ToySampling = field(default_factory=ToySampling)
    tile_size: int = 16
    tile_overlap: int | None = None
    colour_fix: str = "none"
    stride: int = STRIDE
    magnification: int = 2
    max_entropy: float = 2.0


@dataclass(frozen=True)
class ToyModel:
    config: ToyConfig
    params: dict[str, Any]
    tokenizer: None
    names: str
    dtype: Any

    def encode(self, image: np.ndarray) -> np.ndarray:
        return 255 - image

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return 255 - codes

    @property
    def shade(self) -> float:
        layers = self.params["transformer"]
        if self.config.transformer.scan_layers:
            return float(layers["layers"]["gain"].sum())
        return float(sum(layers[f"layers_{i}"]["gain"].sum() for i in range(self.config.transformer.num_layers)))


def shapes(config: ToyConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    layers, stacked = config.transformer.num_layers, config.transformer.scan_layers
    gains = {"layers.gain": (layers, 3)} if stacked else {f"layers_{i}.gain": (3,) for i in range(layers)}
    return {"transformer": gains, "painter": {"bias": (3,)}}


def restore_tiles(
    model: ToyModel,
    tiles: np.ndarray,
    *,
    seed: int,
    batch: int | None,
    progress: Progress,
    first: int = 0,
    sampling: ToySampling | None = None,
    flip: bool = False,
) -> RestoredTiles:
    tiles = tiles.repeat(2, axis=1).repeat(2, axis=2)
    assert tiles.shape[1:] == (16, 16, 3)
    side = 16 // STRIDE
    shade = model.shade * (sampling or model.config.sampling).strength
    progress("restore", len(tiles), len(tiles))
    lighter = np.clip((tiles[:, :, ::-1] if flip else tiles) + shade, 0, 255).astype(np.uint8)
    return RestoredTiles([RestoredTile(t, np.ones((side, side), np.float32)) for t in lighter], [f"seed {seed}"])


def params() -> dict[str, Any]:
    """A shade of 2 * 3 * 0.5 = 3 levels."""
    return {
        "transformer": {"layers": {"gain": np.full((2, 3), 0.5, np.float32)}},
        "painter": {"bias": np.zeros(3, np.float32)},
    }


@contextmanager
def registered() -> Iterator[None]:
    """The two tables have a row for it meanwhile."""

    def read_tokenizer(file: Path, config: ToyConfig) -> tuple[str, str]:
        return "", "no names"

    family = Family(ToyConfig, shapes, {"transformer"}, read_tokenizer, ToyModel)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", family)
        patch.setitem(RESTORE_TILES, "toy", restore_tiles)
        yield
