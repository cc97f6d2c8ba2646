"""Timing compiled programs: compilation by itself, then medians of runs that are waited for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

ENOUGH_S = 1.0
"""Seconds of runs after which a median is taken, if there were 3 of them."""
MOST_RUNS = 15


class Compiled(NamedTuple):
    run: Callable[..., Any]
    """Takes the arguments that are not static."""
    compile_s: float
    """Seconds of tracing and compiling; next to nothing where a persistent cache has the program."""
    temporary: int
    """Bytes that the program needs beside its arguments and results, by the compiler's account; 0 where it has none."""


def compiled(function: Any, *args: Any, **kwargs: Any) -> Compiled:
    """Compile a jitted function for these arguments."""
    start = time.perf_counter()
    program = function.lower(*args, **kwargs).compile()
    seconds = time.perf_counter() - start
    account = program.memory_analysis()
    return Compiled(program, seconds, account.temp_size_in_bytes if account else 0)


def seconds(run: Callable[[], Any]) -> float:
    """Seconds of one call, until its arrays are there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def median(step: Callable[[], float], enough_s: float = ENOUGH_S) -> float:
    """Median of the seconds that a step says it took: of 3 steps at least, then until `enough_s` or MOST_RUNS.

    A first one is not counted: it fills caches.
    """
    step()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < enough_s and len(times) < MOST_RUNS):
        times.append(step())
    return statistics.median(times)
