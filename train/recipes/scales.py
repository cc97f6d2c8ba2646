"""Recipes of NSARM's second stage alone, at sizes that have names: what `pure compile` follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pure_jax.nsarm.config import NsarmConfig, TextConfig
from pure_jax.nsarm.presets import bare, transformer_preset
from pure_jax.train.nsarm.config import ScalesTrainConfig
from pure_jax.train.recipes.changes import with_changes


@dataclass(frozen=True)
class ScalesRecipe:
    """mesh: as `--mesh`; None is one device."""

    model: NsarmConfig
    train: ScalesTrainConfig
    mesh: str | None = None


def _published(preset: str) -> ScalesRecipe:
    """A picture of 1024 pixels with a caption of its own for each part of 256 chips; every block computed again."""
    return ScalesRecipe(
        NsarmConfig(transformer=transformer_preset(preset), text_encoder=TextConfig()),
        ScalesTrainConfig(batch=128, compute_dtype="bfloat16", remat=True),
        mesh="fsdp=128,tensor=2",
    )


SCALES_RECIPES: dict[str, Callable[[], ScalesRecipe]] = {
    "nsarm_8b": lambda: _published("8b"),
    "nsarm_2b": lambda: _published("2b"),
    "nsarm_tiny": lambda: ScalesRecipe(bare("tiny"), ScalesTrainConfig(batch=8)),
}


def scales_recipe(name: str, changes: Sequence[str] = ()) -> ScalesRecipe:
    """One of SCALES_RECIPES, with some of its values changed; raises what `with_changes` raises."""
    return with_changes(SCALES_RECIPES[name](), changes, f"the recipe {name}")
