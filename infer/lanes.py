"""Work in lanes: independent parts of it at the same time, where one alone leaves processors idle.

XLA spreads each operation over a CPU's cores, and operations of few rows have nothing to spread. Two lanes fill two
cores; on an accelerator one lane is enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

import jax

Result = TypeVar("Result")
Lane = Callable[[Callable[[], None]], Result]
"""Is given a function that it calls after each step."""

MOST = 8


class _LeftOff(Exception):
    """Another lane failed."""


def lanes_of_cpu(parts: int) -> int:
    """How many lanes to take for so many independent parts: one for each core, at most MOST; 1 on accelerators."""
    return max(1, min(MOST, os.cpu_count() or 1, parts)) if jax.default_backend() == "cpu" else 1


def in_lanes(lanes: Sequence[Lane[Result]]) -> list[Result]:
    """The results of all lanes, each in a thread of its own.

    What several of them compile at the same time JAX compiles once. If one fails, the others leave off at their next
    step, and its error is raised.
    """
    if len(lanes) == 1:
        return [lanes[0](lambda: None)]
    failed = Event()

    def step() -> None:
        if failed.is_set():
            raise _LeftOff

    def run(lane: Lane[Result]) -> Result:
        try:
            step()
            return lane(step)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(len(lanes)) as pool:
        running = [pool.submit(run, lane) for lane in lanes]
        try:
            wait(running)
        except BaseException:  # an interruption of whoever waits
            failed.set()
            raise
    errors = [error for one in running if (error := one.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, _LeftOff)):
        raise error
    return [one.result() for one in running]
