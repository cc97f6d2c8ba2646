"""The desk: one job at a time, in order, as many as there are places, and none that nobody wants any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pure_jax.infer.jobs import Cancelled, Closed, Desk, Full, TooLate

SOON = 20.0
"""Seconds after which a test has failed; nothing waits so long if all is well."""


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk(places=3, seconds=SOON)
    yield desk
    desk.close()


class Work:
    """Begins, says so, and goes on until it may end, telling its progress all the while."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, job: Any) -> str:
        self.begun.set()
        while not self.may_end.wait(0.01):
            job.progress("restore", 1, 2)
        return "done"


def test_jobs_are_done_one_at_a_time_and_in_order(desk):
    order: list[int] = []
    busy = threading.Lock()

    def work(number: int) -> int:
        with busy:
            order.append(number)
            return number

    futures = [desk.submit(desk.reserve(), lambda job, n=n: work(n)) for n in range(3)]
    assert [future.result(SOON) for future in futures] == [0, 1, 2] == order
    assert desk.held == 0


def test_beyond_its_places_none_is_given_and_what_ends_frees_one(desk):
    work = Work()
    first = desk.reserve()
    future = desk.submit(first, work)
    others = [desk.reserve(), desk.reserve()]
    with pytest.raises(Full):
        desk.reserve()
    assert [desk.ahead(job) for job in (first, *others)] == [0, 1, 2]
    assert work.begun.wait(SOON) and desk.working
    work.may_end.set()
    assert future.result(SOON) == "done"
    assert desk.held == 2
    assert desk.reserve()


def test_a_cancelled_job_is_left_and_those_that_wait_are_not_begun(desk):
    work, never = Work(), Work()
    running, waiting, uploading = desk.reserve(), desk.reserve(), desk.reserve()
    future, unbegun = desk.submit(running, work), desk.submit(waiting, never)
    assert work.begun.wait(SOON)
    waiting.cancel()
    uploading.cancel()
    assert desk.held == 1  # at once
    running.cancel()
    for cancelled in (future, unbegun, desk.submit(uploading, never)):
        with pytest.raises(Cancelled):
            cancelled.result(SOON)
    assert desk.held == 0 and not never.begun.is_set()
    assert desk.submit(desk.reserve(), lambda job: "next").result(SOON) == "next"


def test_a_job_whose_time_is_over_is_left():
    desk = Desk(places=1, seconds=0.05)
    with pytest.raises(TooLate):
        desk.submit(desk.reserve(), Work()).result(SOON)
    assert desk.held == 0
    desk.close()


def test_what_goes_wrong_is_heard_and_the_next_job_is_done(desk):
    def fail(job: Any) -> None:
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        desk.submit(desk.reserve(), fail).result(SOON)
    assert desk.submit(desk.reserve(), lambda job: 5).result(SOON) == 5


def test_a_future_that_somebody_else_gives_up_does_no_harm(desk):
    work = Work()
    future = desk.submit(desk.reserve(), work)
    assert not future.cancel()
    work.may_end.set()
    assert future.result(SOON) == "done"


def test_a_closed_desk_takes_no_jobs_and_cancels_those_that_are_left(desk):
    work = Work()
    future = desk.submit(desk.reserve(), work)
    assert work.begun.wait(SOON)
    desk.close()
    with pytest.raises(Cancelled):
        future.result(SOON)
    with pytest.raises(Closed):
        desk.reserve()


def test_closing_waits_for_what_ends_in_time(desk):
    work = Work()
    future = desk.submit(desk.reserve(), work)
    threading.Timer(0.05, work.may_end.set).start()
    desk.close(SOON)
    assert future.result(0) == "done"


def test_the_progress_of_a_job_can_be_seen(desk):
    work, job = Work(), desk.reserve()
    assert job.stage == ("wait", 0, 0)
    future = desk.submit(job, work)
    while job.stage[0] == "wait":
        pass
    assert job.stage == ("restore", 1, 2)
    work.may_end.set()
    future.result(SOON)
