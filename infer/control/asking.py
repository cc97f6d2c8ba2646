"""Asking on the terminal what the user knows better than the model."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.prompt import Prompt

from pure_jax.errors import PureError
from pure_jax.sequence import LEVELS

UNSAID = "unsaid"


def ask_on_terminal(reading: Mapping[str, str], description: str | None) -> tuple[dict[str, str], str]:
    """An `Ask`: a question for each part, on stderr; an empty answer leaves it as it is.

    Raises:
        PureError: nobody answers.
    """
    console = Console(stderr=True, highlight=False)
    levels: dict[str, str] = {}
    words = ""
    try:
        for kind, said in reading.items():
            choices = [*LEVELS] if said else [UNSAID, *LEVELS]
            answer = Prompt.ask(kind, console=console, choices=choices, default=said or UNSAID)
            if answer not in (said, UNSAID):
                levels[kind] = answer
        if description is not None:
            words = Prompt.ask("it shows", console=console, default=description or UNSAID).strip()
    except EOFError:
        raise PureError("nobody answered on standard input; leave out --ask") from None
    return levels, "" if words in (description, UNSAID) else words
