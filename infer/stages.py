"""How long each stage of a restoration takes, with and without the compiler's part."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, NamedTuple, Self

import jax
import jax.monitoring

from pure_jax.infer.contract import Progress, silent

COMPILED = "/jax/core/compile/backend_compile_duration"
PREPARED = ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")


class _Span(NamedTuple):
    stage: str
    start: float
    end: float
    again: bool
    """The next process does it again, instead of taking the program from the cache."""


class StageClock:
    """A `Progress` that hands on what it is told and notes how long each stage took, as long as it is open.

    seconds: by stage, in the order in which they began; a stage lasts until another one begins.
    """

    def __init__(self, progress: Progress = silent) -> None:
        self._progress = progress
        self._stage = ""
        self._since = time.perf_counter()
        self._spans: list[_Span] = []
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self._prepared)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._prepared)
        self._close()

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        if stage != self._stage:
            self._close()
            self._stage = stage
        self._progress(stage, done, total)

    @property
    def working(self) -> dict[str, float]:
        """`seconds` without those in which jax prepared programs."""
        preparing: dict[str, float] = defaultdict(float)
        for span in self._spans:
            preparing[span.stage] += span.end - span.start
        return {stage: max(seconds - preparing[stage], 0.0) for stage, seconds in self.seconds.items()}

    @property
    def preparing(self) -> float:
        """Seconds in which jax traced and compiled programs."""
        return sum(span.end - span.start for span in self._spans)

    @property
    def preparing_again(self) -> float:
        """Those of them that the next process does not save by the cache of compiled programs."""
        return sum(span.end - span.start for span in self._spans if span.again)

    def _close(self) -> None:
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._since = now

    def _prepared(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event != COMPILED and event not in PREPARED:
            return
        end = time.perf_counter()
        # It is told when it ends, and a function that is traced within another one before that: count no second twice.
        while self._spans and self._spans[-1].start >= end - duration_secs:
            self._spans.pop()
        start = max(end - duration_secs, self._spans[-1].end) if self._spans else end - duration_secs
        self._spans.append(_Span(self._stage, start, end, event != COMPILED or duration_secs < _least_kept()))


def _least_kept() -> float:
    """Seconds of compiling from which a program is kept for the next process."""
    config: Any = jax.config
    if not (config.jax_enable_compilation_cache and config.jax_compilation_cache_dir):
        return float("inf")
    return config.jax_persistent_cache_min_compile_time_secs
