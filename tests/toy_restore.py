"""`pure restore` with the toy family's model in place of a loaded one: no compilation, results in milliseconds.

As a program it runs the command in forks of one process, which may be killed: `python -m tests.toy_restore PLAN`, with
a JSON file of {"input", "output", "model", "points"}. The command is run to its end into the folder output0; then for
each point, into output1 and so on, killed by SIGKILL, and run again to its end. A point is a number of steps of
book-keeping, or a share of the time that a whole run takes, from 0 to 1; "every" stands for every step. It prints a
JSON list: for each folder, the steps of the run to its end, and how the killed one and that one ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pure_jax
from pure_jax.infer.command import Restore
from pure_jax.infer.folders import books
from tests import toy


@contextmanager
def toy_command() -> Iterator[list[Path]]:
    """The command restores with the toy; gives the list of models that were loaded."""
    loaded: list[Any] = []

    def load(source: Path, **_: Any) -> toy.ToyModel:
        loaded.append(source)
        return toy.ToyModel(toy.ToyConfig(), toy.params(), None, "", None)

    with toy.registered(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pure_jax, "load", load)
        yield loaded


def _run(command: Restore) -> int:
    """Exit status of the command, its output thrown away."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    with toy_command():
        try:
            command.run()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def _count_steps(last: int | None) -> list[int]:
    """Count the steps of book-keeping, and die at the last: before it, or in the middle of a line."""
    taken = [0]

    def counted(function: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            taken[0] += 1
            if taken[0] == last:
                if function is append:
                    with arguments[0].open("ab") as book:
                        book.write(json.dumps(arguments[1]).encode()[:20])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return step

    append = books._append
    books._append = counted(append)
    os.replace = counted(os.replace)
    os.fsync = counted(lambda descriptor: None)  # slow, and it matters to a power cut only
    return taken


def _forked(command: Restore, last: int | None = None, after: float | None = None) -> tuple[int, int]:
    """(wait status, steps) of the command in a process of its own, killed at a step or after so many seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        taken = _count_steps(last)
        status = _run(command)
        os.write(writing, b"%d" % taken[0])
        os._exit(status)
    os.close(writing)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        return status, int(pipe.read() or 0)


def _main(plan: dict[str, Any]) -> list[list[int]]:
    for module in ("infer.folders.run", "infer.nsarm.captions", "progress"):  # once, and not in every fork
        import_module(f"pure_jax.{module}")
    Image.init()

    def command(number: int) -> Restore:
        return Restore(paths=(plan["input"], f"{plan['output']}{number}"), model=Path(plan["model"]), scale=2.0)

    began = time.monotonic()
    status, steps = _forked(command(0))
    whole, ended = time.monotonic() - began, [[steps, 0, status]]
    for number, point in enumerate(range(1, steps + 1) if plan["points"] == "every" else plan["points"], 1):
        if isinstance(point, float):
            killed, _ = _forked(command(number), after=point * whole)
        else:
            killed, _ = _forked(command(number), last=point)
        status, steps = _forked(command(number))
        ended.append([steps, killed, status])
    return ended


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(Path(sys.argv[1]).read_text()))))
