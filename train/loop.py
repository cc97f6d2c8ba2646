"""The training loop that all networks share: batches by step number, checkpoints, resume.

A state is any pytree with a scalar `step`; the batch of a step depends on the step alone. So a run that was killed and
started again continues with the batches, the learning rate and the weights it would have had. Batches may also come
from a stream, whose place is kept in the checkpoint.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from pure_jax.errors import PureError
from pure_jax.progress import Reporter
from pure_jax.train.watching import MetricsLog, Profile, Waits, Watching, stopping

logger = logging.getLogger(__name__)

Batch = Any
State = Any
Metrics = dict[str, jax.Array]

STREAM = "stream"
"""In a checkpoint's metadata: where the stream of batches is."""


class Stream(Protocol):
    """Batches one after the other that can say where they are, such as an iterator of Grain's."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def get_state(self) -> Any:
        """Of the batch that comes next, as values that go into JSON."""

    def set_state(self, state: Any) -> None: ...


def batches(batch_at: Callable[[int], Batch] | Stream, start: int, stop: int, ahead: int = 2) -> Iterator[Batch]:
    """batch_at(start), ..., batch_at(stop - 1), made by one thread that stays `ahead` batches in front.

    A stream, which is at `start` and has threads of its own, is read when the batch is wanted.
    """
    if not callable(batch_at):
        yield from itertools.islice(batch_at, stop - start)
        return
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


@contextmanager
def checkpoint_manager(directory: Path, keep: int = 2, in_background: bool = False) -> Iterator[ocp.CheckpointManager]:
    """Numbered, atomically finished checkpoints below `directory`; the newest `keep` stay.

    in_background: write while the run goes on. The state is copied to the host before; on CPU it is there already,
    where the next step, which may take its place, would overwrite it.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=in_background)
    # The handler is named, since else the newest checkpoint, damaged or not, decides how all are read.
    handler = ocp.StandardCheckpointHandler()
    manager = ocp.CheckpointManager(directory.resolve() / "checkpoints", options=options, item_handlers=handler)
    try:
        yield manager
    except BaseException:
        with suppress(Exception):  # closing raises once more what went wrong while saving
            manager.close()
        raise
    manager.close()


def resumed(directory: Path, state: State) -> State:
    """The newest whole checkpoint of a run in the shape of `state`; `state` itself where there is none.

    Newer ones that are damaged are moved out of the way, into `directory`, so that their steps can be saved again.

    Raises:
        PureError: the checkpoint is of another configuration, or all are damaged.
    """
    with checkpoint_manager(directory) as manager:
        if not manager.all_steps():
            # Committed to its devices, as a restored state is: for jax the same program, which it need not compile
            # again when the run goes on.
            return jax.tree.map(lambda leaf: jax.device_put(leaf, getattr(leaf, "sharding", None)), state)
        state, damaged = _newest_whole(manager, jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
        if jax.process_index() == 0:
            for step in damaged:
                shutil.move(manager.directory / str(step), directory / f"damaged-{step}")
        if damaged and jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are out of the way")
        return state


def newest_step(directory: Path) -> int:
    """The step of a run's newest checkpoint; 0 where there is none."""
    if not (directory / "checkpoints").is_dir():
        return 0
    with checkpoint_manager(directory) as manager:
        return manager.latest_step() or 0


def newest_tree(directory: Path) -> Any:
    """The newest whole checkpoint of a run as nested dicts of arrays on the host.

    Raises:
        PureError: the directory holds no finished checkpoint, or all are damaged.
    """
    if not (directory / "checkpoints").is_dir():
        raise PureError(f"{directory} holds no checkpoints; give the --out of a training run")
    with checkpoint_manager(directory) as manager:
        if not manager.all_steps():
            raise PureError(f"{directory} holds no finished checkpoint yet; let the run reach its first one")
        return _newest_whole(manager)[0]


def _newest_whole(manager: ocp.CheckpointManager, shapes: Any = None) -> tuple[Any, list[int]]:
    """The newest checkpoint that can be read, and the steps of those after it; see `_restored`."""
    damaged: list[int] = []
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            tree = _restored(manager, step, shapes)
        except Exception as error:  # of no class of its own, where the damage is in the numbers
            if shapes is not None and _is_whole(manager, step):
                raise PureError(
                    f"{manager.directory} holds a checkpoint of another configuration; use the same options or a new "
                    "--out"
                ) from error
            reason = (str(error) or type(error).__name__).splitlines()[0][:150]
            logger.warning("the checkpoint %s cannot be read (%s)", manager.directory / str(step), reason)
            damaged.append(step)
            continue
        if damaged:
            logger.warning("the newest checkpoint that is whole is that of step %d", step)
        return tree, damaged
    raise PureError(f"no checkpoint in {manager.directory} can be read; begin again with a new --out")


def _restored(manager: ocp.CheckpointManager, step: int, shapes: Any = None) -> Any:
    """A checkpoint like `shapes`, or as nested dicts of whole arrays on the host: so each of several processes has
    them, of whatever devices they were saved."""
    if shapes is None:
        shapes = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), manager.item_metadata(step).tree)
    return manager.restore(step, args=ocp.args.StandardRestore(shapes))


def _is_whole(manager: ocp.CheckpointManager, step: int) -> bool:
    try:
        _restored(manager, step)
    except Exception:
        return False
    return True


def _continue_stream(manager: ocp.CheckpointManager, source: Callable[[int], Batch] | Stream, step: int) -> None:
    """Set a stream to where it was when the checkpoint of that step was saved.

    Raises:
        PureError: it was saved by a run whose batches came from elsewhere.
    """
    if callable(source) or step == 0:
        return
    place = (manager.metadata(step).custom_metadata or {}).get(STREAM)
    if place is None:
        raise PureError(f"the checkpoint of step {step} in {manager.directory} does not say where its data were")
    source.set_state(place)


def train(
    state: State,
    step_fn: Callable[[State, Batch], tuple[State, Metrics]],
    batch_at: Callable[[int], Batch] | Stream,
    *,
    steps: int,
    directory: Path,
    save_every: int = 200,
    log_every: int = 10,
    deadline: float | None = None,
    place: Callable[[Batch], Batch] = lambda batch: batch,
    watch: Watching | None = None,
) -> State:
    """Run `step_fn` from the newest checkpoint in `directory` up to `steps`; returns the last state.

    batch_at: the batch of a step, or a stream of all of them that is at its beginning.
    deadline: by the clock of `time.monotonic`; the first step that ends behind it is saved and is the last one.
    place: puts a batch where the step wants it, see `pure_jax.train.sharding.spread`.

    `metrics.jsonl` gets one line every `log_every` steps and before every checkpoint: the means since the last line,
    seconds per step, the share of them in which the loop waited for its batch, and what `watch` adds. Values are
    fetched once per line, so the host never waits for the device between lines. SIGTERM ends the run behind the step
    that is under way, with a checkpoint; several processes agree on that step.

    Raises:
        PureError: the loss is not finite, or no gradient since the last line was (the last checkpoint stays); what
            `resumed` refuses; the run is beyond `steps` already; `save_every` is below 1; the directory cannot be
            written.
    """
    if save_every < 1:
        raise PureError(f"save_every is {save_every}, but a checkpoint is due every 1 or more steps")
    # A state that has begun already (a second phase of the same run) goes on as it is.
    state = resumed(directory, state) if int(state.step) == 0 else state
    start = int(state.step)
    if start > steps:
        raise PureError(f"{directory} is at step {start} already; give --steps {start} or more, or a new --out")
    watch = watch or Watching()
    log, waits, profile = MetricsLog(directory, watch.tensorboard), Waits(), Profile(directory, watch.profile)
    with ExitStack() as stack:
        stop = stack.enter_context(stopping())
        manager = stack.enter_context(checkpoint_manager(directory, in_background=jax.default_backend() != "cpu"))
        stack.callback(log.close)
        stack.callback(profile.close)
        quiet = jax.process_index() != 0
        progress = stack.enter_context(Reporter(quiet, counted="steps", told=False, stays=True))
        progress("train", start, steps)
        pending: list[Metrics] = []
        clock = time.perf_counter()
        _continue_stream(manager, batch_at, start)
        for step, batch in enumerate(waits.over(batches(batch_at, start, steps)), start + 1):
            profile.before(step)
            state, metrics = step_fn(state, place(batch))
            profile.after(step, metrics)
            pending.append(metrics)
            # Waiting for the step would make the device wait for the host, so time may run out a step late.
            late = deadline is not None and time.monotonic() >= deadline
            late = late or stop.asked or (jax.process_count() > 1 and manager.reached_preemption(step))
            save_now = late or step % save_every == 0 or step == steps
            if step % log_every == 0 or save_now:
                means = {k: float(np.mean([np.asarray(m[k]) for m in pending])) for k in metrics}
                seconds = (time.perf_counter() - clock) / len(pending)
                wait = waits.taken() / len(pending) / max(seconds, 1e-9)
                row = {"step": step, "seconds_per_step": round(seconds, 4), "input_wait": round(min(wait, 1.0), 4)}
                row |= {**watch.rates(seconds), **means}
                if save_now and watch.evaluate is not None:
                    row |= watch.evaluate(state)
                log.write(row)
                if means.get("skipped") == 1.0:
                    raise PureError(f"no step up to {step} had a finite gradient; lower the learning rate")
                if not np.isfinite(means["loss"]):
                    raise PureError(f"the loss is {means['loss']} at step {step}; lower the learning rate")
                progress("train", step, steps, f"loss {means['loss']:.4f}")
                pending, clock = [], time.perf_counter()
            if save_now:
                _save(manager, step, state, batch_at, last=late or step == steps)
                clock = time.perf_counter()
            if late:
                break
    if jax.process_count() > 1 and int(state.step) < steps:
        raise KeyboardInterrupt  # as SIGTERM's former handler does where there is one process
    return state


def _save(
    manager: ocp.CheckpointManager,
    step: int,
    state: State,
    source: Callable[[int], Batch] | Stream,
    last: bool,
) -> None:
    """last: wait until it is written; else the next one may have to say what went wrong with this one."""
    place = None if callable(source) else {STREAM: source.get_state()}
    try:
        manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=place)
        if last:
            manager.wait_until_finished()
    except (OSError, ValueError) as error:  # ValueError: how tensorstore reports a full disk
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise PureError(
            f"the checkpoint of step {step} cannot be written into {manager.directory} ({reason}); make room, and the "
            "same command goes on from the one before it"
        ) from error
