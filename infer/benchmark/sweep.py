"""The measurements of a benchmark, one after the other, within a budget of time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import jax

from pure_jax.errors import PureError
from pure_jax.infer.benchmark.machine import measure_machine, peak_memory
from pure_jax.infer.benchmark.passes import Timed, in_windows, passes_per_picture, time_opening, time_rows, time_window
from pure_jax.infer.benchmark.plan import Plan
from pure_jax.infer.benchmark.report import Bounds, Item, Measured, Opened, Report
from pure_jax.infer.benchmark.subject import Subject, questions
from pure_jax.infer.benchmark.torch_baseline import random_network, time_original
from pure_jax.infer.contract import Progress, silent
from pure_jax.infer.decoding.cost import Lengths, pass_bytes, pass_flops
from pure_jax.infer.decoding.memory import available_memory, decode_memory
from pure_jax.infer.decoding.windows import Windows


@dataclass
class Budget:
    """Seconds for all measurements. One is begun only if the longest so far would still fit in."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    longest: float = field(init=False, default=0.0)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def fits(self, share: float = 1.0) -> bool:
        """Whether one more would end within this share of the seconds."""
        return self.clock() - self.began + self.longest <= share * self.seconds

    @contextmanager
    def spending(self) -> Iterator[None]:
        """A measurement: how long it takes is remembered."""
        start = self.clock()
        yield
        self.longest = max(self.longest, self.clock() - start)


def sweep(
    name: str, subject_of: Callable[[str], Subject], plan: Plan, budget: Budget, progress: Progress = silent
) -> Iterator[Report]:
    """Measure what is planned, in the order precision, batch, window; yields the report as it grows.

    The plain loop of the first precision and batch is measured whatever the budget. Each pair of them has its share of
    it, so that the last is not left out for the first one's windows. What does not fit in, or not into memory, is named
    in the report's remarks.

    Args:
        subject_of: makes the subject in a precision; only one is kept at a time.

    Raises:
        PureError: the device has not the memory for one picture.
    """
    report = Report(name, plan.grid or (0, 0), jax.local_devices()[0].device_kind)
    groups = len(plan.precisions) * len(plan.batches)
    for i, precision in enumerate(plan.precisions):
        if i and not budget.fits():
            yield (report := report.adding(f"no time was left for {precision}"))
            continue
        progress(f"weights in {precision}", 0, 0)
        with budget.spending():
            subject = subject_of(precision)
        vocabulary, sampling = subject.vocabulary, subject.config.sampling
        grid = plan.grid or subject.tile
        report = dataclasses.replace(report, grid=grid)
        progress("machine", 0, 0)
        with budget.spending():
            machine = measure_machine(subject.dtype, plan.sizes)
        bounds = Bounds(precision, machine, subject.network, subject.model is None)
        yield (report := report.adding(bounds))
        passes: dict[int, float] = {}
        for j, batch in enumerate(plan.batches):
            group = i * len(plan.batches) + j
            refusal = lacking_memory(subject, grid, batch)
            if refusal and not group:
                raise PureError(refusal)
            if not refusal and group and not budget.fits():
                refusal = f"no time was left for {precision} at batch {batch}"
            if refusal:
                yield (report := report.adding(refusal))
                continue
            share = (group + 1) / groups
            for item in _group(bounds, subject, batch, plan, passes, budget, share, progress):
                yield (report := report.adding(item))
        del subject  # before there are other weights
    if plan.against_torch and not budget.fits():
        yield report.adding("no time was left for torch")
    elif plan.against_torch:
        progress("torch", 0, 0)
        model = random_network(report.bounds[0].network.config, plan.precisions[0])
        first = report.openings[0]
        yield report.adding(time_original(model, vocabulary, sampling, first.lengths, first.text_tokens))


def lacking_memory(subject: Subject, grid: tuple[int, int], batch: int) -> str | None:
    """Why so many pictures cannot be decoded together, the weights being there; None if they can, or nobody knows."""
    sampling = subject.config.sampling
    question = questions(subject, grid, 1).shape[1]
    lengths = Lengths(question + sampling.max_text_tokens, *grid, subject.guided)
    needed, available = decode_memory(subject.network, lengths, batch), available_memory()
    more = needed.caches + needed.workspace
    if available is None or more <= available:
        return None
    return (
        f"to decode at batch {batch}, pictures of {grid[0]}x{grid[1]} codes, takes {more / 1e9:.1f} GB of memory "
        f"beside the weights, but {available / 1e9:.1f} GB are free; choose a smaller grid, batch or precision"
    )


def _group(
    bounds: Bounds,
    subject: Subject,
    batch: int,
    plan: Plan,
    passes: dict[int, float],
    budget: Budget,
    share: float,
    progress: Progress,
) -> Iterator[Item]:
    """What is found in one precision at one batch. passes: per picture, by window; what is not there is added."""
    precision, what = bounds.precision, f"{bounds.precision}, batch {batch}"
    grid = plan.grid or subject.tile
    progress(f"opening, {what}", 0, 0)
    with budget.spending():
        opening = time_opening(subject, grid, batch)
    yield Opened(precision, batch, opening.lengths, opening.text_tokens, opening.timed)
    fill = opening.lengths.mean
    read = pass_bytes(subject.network, batch, fill)

    def measured(window: int, timed: Timed, places_s: tuple[float, ...] = ()) -> Measured:
        bound = bounds.machine.roofline_s(read, pass_flops(subject.network, batch, fill, window))
        return Measured(precision, batch, window, timed, read, bound, peak_memory(), places_s, passes.get(window))

    progress(f"plain loop, {what}", 0, 0)
    with budget.spending():
        opened, timed, places_s = time_rows(subject, opening)
    passes[1] = grid[0] * grid[1]
    yield measured(1, timed, places_s)
    state = in_windows(opened)
    for window in plan.windows:
        if window == 1:
            continue
        way = Windows(plan.decode, window, plan.draft)
        if not budget.fits(share):
            yield f"no time was left for windows from {window} on, {what}"
            return
        progress(f"window {window}, {what}", 0, 0)
        with budget.spending():
            state, timed = time_window(subject, grid, state, way)
        if subject.model is not None and window not in passes and budget.fits(share):
            progress(f"passes with window {window}, {what}", 0, 0)
            with budget.spending():
                passes[window] = passes_per_picture(subject.model, grid, way)
        yield measured(window, timed)
