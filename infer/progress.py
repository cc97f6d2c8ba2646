"""The progress bar of the commands that decode."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class TokensPerSecond(ProgressColumn):
    """Codes written per second, over the last while."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} tokens/s" if task.speed else "")


def decoding_bar() -> Progress:
    """Gone when the work ends and silent in a log file, so that an error stands alone."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TokensPerSecond(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
