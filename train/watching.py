"""What a run tells while it goes: metrics as lines and for TensorBoard, rates, a profile; and when it is to stop."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax

from pure_jax.errors import PureError
from pure_jax.files import not_writable
from pure_jax.train.flops import peak_flops

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
PROFILE = "profile"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Watching:
    """Nothing here changes what is computed.

    tokens, flops: of one step, for tokens per second and MFU, see `pure_jax.train.flops`; 0 tells neither.
    tensorboard: write event files too. profile: (first, last) step of a trace for TensorBoard or Perfetto. evaluate:
    (state) -> metrics, asked at every checkpoint.
    """

    tokens: int = 0
    flops: float = 0.0
    tensorboard: bool = False
    profile: tuple[int, int] | None = None
    evaluate: Callable[[Any], dict[str, float]] | None = None

    def __post_init__(self) -> None:
        if self.profile is not None and not 1 <= self.profile[0] <= self.profile[1]:
            raise PureError(f"the profile is of the steps {self.profile[0]} to {self.profile[1]}; write FIRST LAST")

    def rates(self, seconds: float) -> dict[str, float]:
        """Tokens per second, and the share of what all devices could multiply, where that is known."""
        found = {}
        if self.tokens and seconds > 0:
            found["tokens_per_s"] = self.tokens / seconds
        peak = peak_flops(jax.devices()[0].device_kind)
        if self.flops and seconds > 0 and peak is not None:
            found["mfu"] = self.flops / seconds / (peak * jax.device_count())
        return found


class MetricsLog:
    """Lines of metrics.jsonl, and TensorBoard's events beside it; of several processes the first one writes."""

    def __init__(self, directory: Path, tensorboard: bool) -> None:
        """Raises PureError where TensorBoard's events are wanted and cannot be written."""
        self.path, self.writer = directory / METRICS, None
        if tensorboard and jax.process_index() == 0:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise PureError('TensorBoard events need: pip install "pure-jax[train]"') from error
            self.writer = SummaryWriter(str(directory / TENSORBOARD))

    def write(self, row: dict[str, float]) -> None:
        """row: has a step."""
        if jax.process_index() != 0:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise not_writable(self.path, error) from error
        if self.writer is not None:
            for name, value in row.items():
                if name != "step":
                    self.writer.add_scalar(name, value, int(row["step"]))
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Waits:
    """Seconds that a loop waited for its items."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, items: Iterator[Item]) -> Iterator[Item]:
        while True:
            start = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            self.seconds += time.perf_counter() - start
            yield item

    def taken(self) -> float:
        """Seconds since this was asked last."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


@dataclass
class Profile:
    """A trace of some steps, once a run."""

    directory: Path
    steps: tuple[int, int] | None
    running: bool = field(default=False, init=False)

    def before(self, step: int) -> None:
        if self.steps is not None and step == self.steps[0]:
            jax.profiler.start_trace(str(self.directory / PROFILE))
            self.running = True

    def after(self, step: int, metrics: Any) -> None:
        if self.running and self.steps is not None and step >= self.steps[1]:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        if self.running:
            jax.profiler.stop_trace()
            self.running = False


class Stop:
    """asked: SIGTERM came."""

    asked = False


@contextmanager
def stopping() -> Iterator[Stop]:
    """SIGTERM asks the block to come to an end, instead of ending it; its former handler is called behind it.

    With several processes jax has its own handler, which makes them agree on a step. Other threads than the main one
    have none.
    """
    stop = Stop()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        stop.asked = True

    former = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, former)
    if stop.asked:
        signal.raise_signal(signal.SIGTERM)
