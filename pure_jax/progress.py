"""What a command is doing, on stderr: a bar on a terminal; elsewhere a line every 30 seconds, and for each stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Literal, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

INTERVAL = 30.0
"""Seconds between lines where there is no terminal."""


class Reporter:
    """Shows stages as long as it is open; it is called as a `pure_jax.infer.contract.Progress`.

    counted: what the bar says of the numbers: tokens a second while restoring, how many steps of how many, or bytes.
    told: a line for each stage as it begins, where there is no terminal; else what is over soon is silent.
    stays: the last bar is left behind; else it is gone when the work ends, so that a result or an error stands alone.
    """

    def __init__(
        self,
        quiet: bool = False,
        interval: float = INTERVAL,
        counted: Literal["tokens", "steps", "bytes"] = "tokens",
        told: bool = True,
        stays: bool = False,
    ) -> None:
        console = Console(stderr=True)
        columns: dict[str, tuple[ProgressColumn, ...]] = {
            "tokens": (_TokensPerSecond(),),
            "steps": (MofNCompleteColumn(),),
            "bytes": (DownloadColumn(), TransferSpeedColumn()),
        }
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *columns[counted],
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=not stays,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)
        self._stage = _Stage("", 0, 0)
        self._interval = interval
        self._told = told
        self._closed = Event()
        self._resting = False
        # A thread of its own, because compiling takes minutes in which nobody calls.
        self._lines = None if quiet or console.is_terminal else Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Self:
        self._bar.start()
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._lines is not None:
            self._lines.join()
        self._bar.stop()

    def __call__(self, stage: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """note: what is to be said beside the stage, such as the loss."""
        if stage != self._stage.name:
            self._stage = _Stage(stage, done, total)
            self._bar.reset(self._task, completed=done, total=total or None)
            if self._lines is not None and self._told:
                _print(stage)
        self._stage.done, self._stage.note = done, note
        self._bar.update(self._task, completed=done, description=f"{stage}, {note}" if note else stage)

    def adding(self, stage: str, total: int) -> Callable[[int], None]:
        """Begin a stage; returns what is to be told how much more of it is done, again and again."""
        done = 0

        def add(count: int) -> None:
            nonlocal done
            done += count
            self(stage, done, total)

        self(stage, 0, total)
        return add

    def say(self, line: str) -> None:
        """A line that stays, above the bar where there is one."""
        self._bar.console.print(f"pure: {line}", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Neither bar nor lines for the block, in which the terminal is somebody else's."""
        self._bar.stop()
        self._resting = True
        try:
            yield
        finally:
            self._resting = False
            self._bar.start()

    def _repeat(self) -> None:
        while not self._closed.wait(self._interval):
            if not self._resting:
                _print(self._stage.status(time.monotonic()))


@dataclass
class _Stage:
    name: str
    first: int
    """What was done when its time began: the first portion is not timed, it may hold a compilation."""
    total: int
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    note: str = ""

    def status(self, now: float) -> str:
        """ "restore 35 % of 57,600 after 0:45, about 1:24 left" """
        elapsed, new = now - self.began, self.done - self.first
        share = f" {100 * self.done // self.total} % of {self.total:,}" if self.total else ""
        left = f", about {_clock(elapsed * (self.total - self.done) / new)} left" if new > 0 else ""
        return f"{self.name}{share} after {_clock(elapsed)}{left}{f', {self.note}' if self.note else ''}"


class _TokensPerSecond(ProgressColumn):
    """Tokens written per second, over the last while."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} tokens/s" if task.speed and task.description == "restore" else "")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _print(line: str) -> None:
    print(f"pure: {line}", file=sys.stderr, flush=True)
