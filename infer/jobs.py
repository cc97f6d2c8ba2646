"""One job at a time on the device: a queue with an end, and jobs that can be cancelled or take too long."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from pure_jax.infer.contract import Progress, silent

Result = TypeVar("Result")


class Full(Exception):
    """No place is free."""


class Closed(Exception):
    """The desk takes no jobs any more."""


class Cancelled(Exception):
    """Nobody waits for the result."""


class TooLate(Exception):
    """The job was not done in time."""


class Job(Generic[Result]):
    """A place in the queue, and later what was done there.

    It is left at the next word of its progress when it is cancelled or its time is over. Work that never speaks runs to
    its end.
    """

    def __init__(self, release: Callable[[Job], None], seconds: float) -> None:
        self._release = release
        self._ends = time.monotonic() + seconds
        self._cancelled = threading.Event()
        self._progress: Progress = silent
        self.future: Future[Result] = Future()
        """What the work returned or raised: `Cancelled` and `TooLate` among others."""
        self.future.set_running_or_notify_cancel()  # only this job's own `cancel` ends it
        self.stage = ("wait", 0, 0)
        """What its progress said last."""

    def cancel(self) -> None:
        """Free the place: at once where the work has not begun."""
        self._cancelled.set()
        self._release(self)

    def check(self) -> None:
        """Raises Cancelled or TooLate if there is no use in going on."""
        if self._cancelled.is_set():
            raise Cancelled
        if time.monotonic() > self._ends:
            raise TooLate

    def progress(self, stage: str, done: int = 0, total: int = 0) -> None:
        """What the work is to call, as a `pure_jax.infer.contract.Progress`."""
        self.check()
        self.stage = (stage, done, total)


class Desk:
    """Gives out places and does the work, in one thread of its own, in the order in which it comes.

    places: jobs that may be there at the same time, the one that is worked on included.
    seconds: from its place on until a job must be done.
    """

    def __init__(self, places: int, seconds: float) -> None:
        self.places = places
        self.seconds = seconds
        self._held: list[Job[Any]] = []
        self._waiting: deque[tuple[Job[Any], Callable[[Job[Any]], Any]]] = deque()
        self._working: Job[Any] | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def reserve(self) -> Job[Any]:
        """A place, before there is any work to do, so that nothing need be read for somebody who has none.

        Raises:
            Full, Closed
        """
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._held) >= self.places:
                raise Full
            job: Job[Any] = Job(self._leave, self.seconds)
            self._held.append(job)
            return job

    def submit(self, job: Job[Result], work: Callable[[Job[Result]], Result]) -> Future[Result]:
        """Let the work be done in its turn. A job that is cancelled already is not begun."""
        with self._changed:
            if job in self._held:
                self._waiting.append((job, work))
                self._changed.notify_all()
            elif not job.future.done():
                job.future.set_exception(Cancelled())
        return job.future

    @property
    def held(self) -> int:
        """Places that are taken."""
        return len(self._held)

    @property
    def working(self) -> bool:
        return self._working is not None

    def ahead(self, job: Job[Any]) -> int:
        """Jobs that come before this one."""
        with self._changed:
            return self._held.index(job) if job in self._held else 0

    def close(self, seconds: float = 0.0) -> None:
        """Take no more jobs; those that are there have so many seconds left, then they are cancelled."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._held, timeout=seconds)
            left = list(self._held)
        for job in left:
            job.cancel()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=seconds + 1.0)

    def _leave(self, job: Job[Any]) -> None:
        """Free a cancelled job's place, unless it is being worked on: then its thread does so as soon as it hears."""
        with self._changed:
            if job is self._working or job not in self._held:
                return
            self._held.remove(job)
            self._waiting = deque(pair for pair in self._waiting if pair[0] is not job)
            if not job.future.done():
                job.future.set_exception(Cancelled())
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or (self._closed and not self._held))
                if not self._waiting:
                    return
                job, work = self._waiting.popleft()
                self._working = job
            result: Any = None
            failure: BaseException | None = None
            try:
                job.check()
                result = work(job)
            except BaseException as error:  # whoever waits is to hear of it, whatever it is
                failure = error
            with self._changed:
                self._working = None
                self._held.remove(job)
                self._changed.notify_all()
            # Last, so that whoever hears of the result finds the place free.
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(failure)
            del work, result, failure
