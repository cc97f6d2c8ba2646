"""Timing compiled programs: compilation by itself, then medians of runs that are waited for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

ENOUGH_S, TOO_LONG_S, MOST_RUNS = 1.0, 10.0, 15


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


def median(step: Callable[[], float]) -> float:
    """Median of the seconds that a step says it took, see `repeated`."""
    return statistics.median(repeated(step))


def repeated(step: Callable[[], float]) -> list[float]:
    """The seconds that a step says it took, again and again.

    There are 3 of them or more until they took ENOUGH_S together, at most MOST_RUNS; and no more after TOO_LONG_S. A
    short first one is not counted: it fills caches.
    """
    first = step()
    times = [first if first > ENOUGH_S else step()]
    while sum(times) < (ENOUGH_S if len(times) >= 3 else TOO_LONG_S) and len(times) < MOST_RUNS:
        times.append(step())
    return times
