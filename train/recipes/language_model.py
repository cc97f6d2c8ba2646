"""Recipes of the language model alone: a model's sizes, its training, and the devices it is meant for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pure_jax.checkpoint import read_json
from pure_jax.config import ModelConfig, from_dict, pure_7b, tiny
from pure_jax.errors import PureError
from pure_jax.train.config import LanguageModelTrainConfig, LoraConfig, OptimiserConfig
from pure_jax.train.recipes.changes import with_changes


@dataclass(frozen=True)
class LanguageModelRecipe:
    """What `pure train lm` and `pure compile` follow. mesh: as `--mesh`; None is one device."""

    model: ModelConfig = field(default_factory=ModelConfig)
    train: LanguageModelTrainConfig = field(default_factory=LanguageModelTrainConfig)
    mesh: str | None = None


def pure_7b_recipe() -> LanguageModelRecipe:
    """The paper's (section 4.1 and the released training script): AdamW at 4e-4, two epochs of 742 batches of 128, half
    an epoch of warm-up, a cosine to 0, clipping at 4, weight decay 0.1, float32 parameters and bfloat16 products, every
    layer recomputed in the backward pass. The original spread it over 32 GPUs; the mesh is that of 128 chips.
    """
    return LanguageModelRecipe(
        pure_7b(),
        LanguageModelTrainConfig(
            batch=128,
            steps=1484,
            # 17 blocks of 512: two pictures' 8,328 tokens, question and caption, and the token that is only predicted.
            sequence=8705,
            logit_rows=512,
            compute_dtype="bfloat16",
            remat="full",
            optimiser=OptimiserConfig(),
        ),
        mesh="fsdp=128",
    )


def pure_7b_lora_recipe() -> LanguageModelRecipe:
    """A model that is there, adapted: rank 8 at the queries and values (what the released flags name); batch, steps and
    rate are ours, of no publication. For eight chips."""
    full = pure_7b_recipe()
    return dataclasses.replace(
        full,
        train=dataclasses.replace(
            full.train,
            batch=16,
            steps=1000,
            lora=LoraConfig(rank=8),
            optimiser=OptimiserConfig(2e-4, 0.0, warmup_steps=50, weight_decay=0.0, clip_norm=1.0),
        ),
        mesh="fsdp=8",
    )


def pure_1b_recipe() -> LanguageModelRecipe:
    """PURE's shape with 1.1 B parameters, for `pure train speed` on one device: 8,448 tokens, bfloat16."""
    full = pure_7b_recipe()
    sizes = dataclasses.replace(
        full.model.transformer, hidden_size=2048, intermediate_size=5632, num_layers=16, num_heads=16, num_kv_heads=16
    )
    return LanguageModelRecipe(
        dataclasses.replace(full.model, transformer=sizes),
        dataclasses.replace(full.train, batch=4, sequence=8449, remat="dots"),
    )


def demo_lm_recipe() -> LanguageModelRecipe:
    """The embedded model's language model, as `pure train demo` trains it."""
    from pure_jax.train.recipes import demo_recipe

    recipe = demo_recipe()
    return LanguageModelRecipe(recipe.model, recipe.lm)


def tiny_lm_recipe() -> LanguageModelRecipe:
    """Seconds, to try the commands."""
    return LanguageModelRecipe(
        tiny(), LanguageModelTrainConfig(batch=8, steps=20, optimiser=OptimiserConfig(1e-3, warmup_steps=2))
    )


LM_RECIPES: dict[str, Callable[[], LanguageModelRecipe]] = {
    "pure_7b": pure_7b_recipe,
    "pure_7b_lora": pure_7b_lora_recipe,
    "pure_1b": pure_1b_recipe,
    "demo": demo_lm_recipe,
    "tiny": tiny_lm_recipe,
}


def language_model_recipe(name: str, changes: Sequence[str] = ()) -> LanguageModelRecipe:
    """A recipe by its name, or from a JSON file as a run stores it, with some of its values changed.

    changes: see `with_changes`.

    Raises:
        PureError: there is no such recipe; what `with_changes` refuses.
    """
    if name in LM_RECIPES:
        recipe, where = LM_RECIPES[name](), f"the recipe {name}"
    elif name.endswith(".json"):
        recipe, where = from_dict(LanguageModelRecipe, read_json(Path(name)), name), name
    else:
        raise PureError(f"there is no recipe {name!r}; choose one of {', '.join(LM_RECIPES)}, or a .json file")
    return with_changes(recipe, changes, where)
