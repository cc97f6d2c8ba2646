"""Model families: all that shared code knows of one, and the table of those there are.

A family's own code is one module or folder in each room. Here it says what lies in its model directory; in
`pure_jax.infer.families` how its models restore tiles; in `pure_jax.convert.layouts` how its PyTorch files are read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pure_jax import pure
from pure_jax.config import ModelConfig
from pure_jax.errors import PureError
from pure_jax.model import Model as PureModel
from pure_jax.nsarm import text as nsarm_text
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.nsarm.model import NsarmModel
from pure_jax.nsarm.shapes import network_shapes as nsarm_shapes

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
"""{network: {parameter path, joined by ".": shape}}"""


class Config(Protocol):
    """What every family's configuration has. It is a frozen dataclass; its fields are config.json."""

    @property
    def family(self) -> str:
        """The family's name in FAMILIES."""

    @property
    def transformer(self) -> Any:
        """Sizes of the network of that name; with `scan_layers`, whether its layers' parameters are stacked."""

    @property
    def sampling(self) -> Any:
        """Defaults of how a picture is drawn, a frozen dataclass."""

    @property
    def tile_size(self) -> int:
        """Side in pixels of the square pictures that the model makes, a multiple of the stride."""

    @property
    def tile_overlap(self) -> int | None:
        """Pixels that neighbouring tiles share at least; None is a quarter of a tile."""

    @property
    def colour_fix(self) -> str:
        """Default colour correction, one of `pure_jax.infer.pictures.colour.COLOUR_FIXES`."""

    @property
    def stride(self) -> int:
        """Pixels per token, along each side."""

    @property
    def magnification(self) -> int:
        """A restored tile's side over that of the tile which the model is given. 1 where the photo is enlarged
        beforehand, 4 where the model turns 256 pixels into 1024."""

    @property
    def max_entropy(self) -> float:
        """Entropy in nats of a token whose values are all equally likely."""


class Model(Protocol):
    """What every family's model has."""

    @property
    def config(self) -> Any:
        """The family's `Config`."""

    def encode(self, image: np.ndarray) -> Any:
        """uint8 [H, W, 3], sides multiples of 32 pixels -> the family's codes."""

    def decode(self, codes: Any) -> np.ndarray:
        """The family's codes -> uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Family:
    """A family's model directory."""

    config: type
    """Its `Config`."""
    shapes: Callable[[Any], Shapes]
    """The parameters of all networks that a configuration asks for. One of them is "transformer"; if its layers can be
    stacked, their paths begin with "layers." or "layers_0.", "layers_1.", ..."""
    follow_dtype: Collection[str]
    """Networks that compute in the dtype asked for; the others stay in float32."""
    read_tokenizer: Callable[[Path, Any], tuple[str, Any]]
    """(tokenizer.json's path, configuration) -> (its text or "", what the family makes of it); raises PureError."""
    model: Callable[[Any, dict[str, Any], Any, Any, Any], Any]
    """(configuration, parameters, tokenizers.Tokenizer or None, what `read_tokenizer` made, dtype) -> `Model`."""


FAMILIES: dict[str, Family] = {
    "pure": Family(ModelConfig, pure.network_shapes, {"transformer"}, pure.read_tokenizer, PureModel),
    "nsarm": Family(NsarmConfig, nsarm_shapes, {"transformer", "text_encoder"}, nsarm_text.read_tokenizer, NsarmModel),
}


def check_options(family: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises PureError for an option that a family's function does not take."""
    known = inspect.signature(function).parameters
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise PureError(f"{unknown} has no meaning for a model of the family {family}; leave it out")
