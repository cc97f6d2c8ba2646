"""Values of a recipe, changed from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pure_jax.config import from_dict, to_dict
from pure_jax.errors import PureError

Recipe = TypeVar("Recipe")


def with_changes(recipe: Recipe, changes: Sequence[str], where: str) -> Recipe:
    """A recipe, a frozen dataclass, with some of its values changed.

    changes: each PART.FIELD=VALUE, such as train.batch=64, train.optimiser.learning_rate=1e-4 or
    model.transformer.num_layers=2; a value is JSON, or else text. where: what the recipe is called.

    Raises:
        PureError: there is no such field, or its configuration refuses the value.
    """
    if not changes:
        return recipe
    values = to_dict(recipe)
    for change in changes:
        path, equals, text = change.partition("=")
        *parts, last = path.split(".")
        own: Any = values
        for part in parts:
            own = own.get(part) if isinstance(own, dict) else None
        if not equals or not isinstance(own, dict) or last not in own:
            raise PureError(f"{where} has no value {path!r}; write PART.FIELD=VALUE, such as train.batch=64")
        own[last] = _value(text)
    return from_dict(type(recipe), values, where)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
