"""Work in lanes: all results, in their order; one lane that fails ends the others."""

from __future__ import annotations

import threading
import time

import jax
import pytest

from pure_jax.infer.lanes import MOST, in_lanes, lanes_of_cpu


def test_results_stand_in_the_order_of_the_lanes():
    def lane(number):
        def run(step):
            step()
            time.sleep(0.02 * (3 - number))
            return number

        return run

    assert in_lanes([lane(number) for number in range(3)]) == [0, 1, 2]


def test_one_lane_runs_where_it_is_called():
    assert in_lanes([lambda step: threading.current_thread()]) == [threading.current_thread()]


def test_what_all_lanes_need_is_compiled_once():
    traced = []

    @jax.jit
    def program(x):
        traced.append(None)
        time.sleep(0.1)  # while it is traced, the others call it too
        return x + 1

    assert in_lanes([lambda step: int(program(1))] * 3) == [2, 2, 2]
    assert len(traced) == 1


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_ends_all_lanes_and_is_raised(failing):
    stopped = threading.Event()

    def fails(step):
        step()
        raise MemoryError("no room")

    def goes_on(step):
        try:
            while True:
                step()
                time.sleep(0.005)
        finally:
            stopped.set()

    lanes = [fails, goes_on] if failing == 0 else [goes_on, fails]
    with pytest.raises(MemoryError, match="no room"):
        in_lanes(lanes)
    # The second lane may not even have begun when the first one failed.
    assert stopped.is_set() or failing == 0


def test_a_lane_for_each_core_that_has_work(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [lanes_of_cpu(parts) for parts in (0, 1, 3, 100)] == [1, 1, 3, 4]
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert lanes_of_cpu(100) == MOST
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert lanes_of_cpu(100) == 1
