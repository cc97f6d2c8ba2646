"""`pure compile`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pure_jax.errors import PureError


@dataclass(frozen=True)
class Compile:
    """Compile the training step and the decoding for a TPU slice, on any machine, and tell whether they fit."""

    topology: str
    """The slice, such as v5p:4x4x8, v5e:16x16 or v6e:2x2."""
    mesh: str | None = None
    """Its devices, such as fsdp=128,tensor=2; by default the recipe's."""
    recipe: str = "pure_7b"
    """pure_7b, pure_7b_lora, demo, tiny, or a .json file; nsarm_8b, nsarm_2b or nsarm_tiny, whose step is stage 2's and
    whose writing is one pass over T's scales and one for each other scale, of which the last is compiled."""
    set: tuple[str, ...] = ()
    """Values of the recipe to change, each PART.FIELD=VALUE, such as train.batch=256 train.remat=dots."""
    programs: tuple[Literal["train", "decode"], ...] = ("train", "decode")
    """Which of the two."""
    pictures: int | None = None
    """Pictures that are written together; by default one for each part of data x fsdp."""
    mfu: float = 0.5
    """Share of the chips' bfloat16 rate for which tokens per second are told."""
    json: bool = False
    """Print JSON instead of text."""

    def run(self) -> None:
        from pure_jax.train.ahead.chips import prepare

        if not 0 < self.mfu <= 1:
            raise PureError(f"mfu is {self.mfu}, but it must lie in 0 ... 1")
        if self.pictures is not None and self.pictures < 1:
            raise PureError(f"pictures is {self.pictures}, but it must be 1 or more")
        prepare()
        from pure_jax.train.ahead.compilation import compile_for, text_of
        from pure_jax.train.recipes.language_model import LM_RECIPES, language_model_recipe
        from pure_jax.train.recipes.scales import SCALES_RECIPES, scales_recipe
        from pure_jax.train.sharding import mesh_sizes

        known = (*LM_RECIPES, *SCALES_RECIPES)
        if self.recipe not in known and not self.recipe.endswith(".json"):
            raise PureError(f"there is no recipe {self.recipe!r}; choose one of {', '.join(known)}, or a .json file")
        named = scales_recipe if self.recipe in SCALES_RECIPES else language_model_recipe
        recipe: Any = named(self.recipe, self.set)
        mesh = self.mesh or recipe.mesh
        pictures = self.pictures or (1 if mesh is None else mesh_sizes(mesh)[0] * mesh_sizes(mesh)[1])
        found = compile_for(recipe, self.topology, mesh, self.programs, pictures, self.mfu)
        print(json.dumps(found, indent=1) if self.json else text_of(found))
