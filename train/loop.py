"""The training loop both models share: batches by step number, metrics as JSON lines, checkpoints, resume.

A state is any pytree with a scalar `step`; the batch of a step depends on the step alone. So a run that was killed and
started again continues with the batches, the learning rate and the weights it would have had.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pure_jax.errors import PureError

Batch = Any
State = Any
Metrics = dict[str, jax.Array]


def batches(batch_at: Callable[[int], Batch], start: int, stop: int, ahead: int = 2) -> Iterator[Batch]:
    """batch_at(start), ..., batch_at(stop - 1), made by one thread that stays `ahead` batches in front."""
    queue: Queue = Queue(maxsize=ahead)
    done = threading.Event()

    def work() -> None:
        try:
            for step in range(start, stop):
                queue.put(batch_at(step))
                if done.is_set():
                    return
        except BaseException as error:  # handed over: the loop must see what went wrong
            queue.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        for _ in range(start, stop):
            item = queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        done.set()
        while not queue.empty():
            queue.get_nowait()


def checkpoint_manager(directory: Path, keep: int = 2) -> ocp.CheckpointManager:
    """Numbered, atomically finished checkpoints below `directory`; the newest `keep` stay."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    return ocp.CheckpointManager(directory.resolve() / "checkpoints", options=options)


def restore_newest(manager: ocp.CheckpointManager, state: State) -> State:
    """The newest checkpoint in the shape of `state`; `state` itself where there is none."""
    step = manager.latest_step()
    if step is None:
        return state
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    try:
        return manager.restore(step, args=ocp.args.StandardRestore(shapes))
    except ValueError as error:
        raise PureError(
            f"{manager.directory} holds a checkpoint of another configuration; use the same options or a new --out"
        ) from error


def newest_step(directory: Path) -> int:
    """The step of a run's newest checkpoint; 0 where there is none."""
    if not (directory / "checkpoints").is_dir():
        return 0
    with checkpoint_manager(directory) as manager:
        return manager.latest_step() or 0


def newest_tree(directory: Path) -> Any:
    """The newest checkpoint of a run as nested dicts of arrays.

    Raises:
        PureError: the directory holds no finished checkpoint.
    """
    if not (directory / "checkpoints").is_dir():
        raise PureError(f"{directory} holds no checkpoints; give the --out of a training run")
    with checkpoint_manager(directory) as manager:
        step = manager.latest_step()
        if step is None:
            raise PureError(f"{directory} holds no finished checkpoint yet; let the run reach its first one")
        return manager.restore(step, args=ocp.args.StandardRestore())


def train(
    state: State,
    step_fn: Callable[[State, Batch], tuple[State, Metrics]],
    batch_at: Callable[[int], Batch],
    *,
    steps: int,
    directory: Path,
    save_every: int = 200,
    log_every: int = 10,
    deadline: float | None = None,
) -> State:
    """Run `step_fn` from the newest checkpoint in `directory` up to `steps`; returns the last state.

    deadline: by the clock of `time.monotonic`; the first step that ends behind it is saved and is the last one.

    `metrics.jsonl` gets one line every `log_every` steps and before every checkpoint: the means since the last line,
    and seconds per step. Values are fetched once per line, so the host never waits for the device between lines.

    Raises:
        PureError: the loss is not finite (checked before saving, the last checkpoint stays), or the checkpoint belongs
            to another configuration.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with checkpoint_manager(directory) as manager:
        # A state that has begun already (a second phase of the same run) goes on as it is.
        state = restore_newest(manager, state) if int(state.step) == 0 else state
        start = int(state.step)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with (
            open(directory / "metrics.jsonl", "a", encoding="utf-8") as log,
            Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=False) as progress,
        ):
            task = progress.add_task("training", total=steps, completed=start)
            pending: list[Metrics] = []
            clock = time.perf_counter()
            for step, batch in enumerate(batches(batch_at, start, steps), start + 1):
                state, metrics = step_fn(state, batch)
                pending.append(metrics)
                # Waiting for the step would make the device wait for the host, so time may run out a step late.
                late = deadline is not None and time.monotonic() >= deadline
                save_now = late or step % save_every == 0 or step == steps
                if step % log_every == 0 or save_now:
                    means = {k: float(np.mean([np.asarray(m[k]) for m in pending])) for k in metrics}
                    seconds = (time.perf_counter() - clock) / len(pending)
                    log.write(json.dumps({"step": step, "seconds_per_step": round(seconds, 4), **means}) + "\n")
                    log.flush()
                    if not np.isfinite(means["loss"]):
                        raise PureError(f"the loss is {means['loss']} at step {step}; lower the learning rate")
                    progress.update(task, completed=step, description=f"loss {means['loss']:.4f}")
                    pending, clock = [], time.perf_counter()
                if save_now:
                    manager.save(step, args=ocp.args.StandardSave(state))
                    clock = time.perf_counter()
                if late:
                    break
        return state
