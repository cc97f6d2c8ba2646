"""What several commands of this room have in common: names of ways, and which options were given."""

from __future__ import annotations

from typing import Any, Literal

Way = Literal["plain", "jacobi", "coupled", "relaxed", "staggered", "sjd_compat"]
Draft = Literal["random", "lq", "above", "left", "like"]


def said(command: Any, *names: str) -> dict[str, Any]:
    """Of these options those that the user has given a value: a family need not know the others'. 0 is a value."""
    values = {name: getattr(command, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and value is not False and value != ""}
