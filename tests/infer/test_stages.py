"""The clock of stages: every second belongs to one stage, and the compiler's are told apart."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from pure_jax.infer import stages
from pure_jax.infer.stages import COMPILED, PREPARED, StageClock


@pytest.fixture
def now(monkeypatch) -> SimpleNamespace:
    """The time, which stands still until a test moves it."""
    clock = SimpleNamespace(time=0.0)
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: clock.time))
    return clock


def test_a_stage_lasts_until_another_begins_and_what_is_told_goes_on(now):
    heard = []
    with StageClock(lambda *what: heard.append(what)) as watch:
        for stage, done in (("encode", 0), ("encode", 1), ("restore", 0), ("encode", 2)):
            watch(stage, done, 3)
            now.time += 2.0
    assert watch.seconds == {"encode": 6.0, "restore": 2.0}
    assert heard == [("encode", 0, 3), ("encode", 1, 3), ("restore", 0, 3), ("encode", 2, 3)]


def test_a_program_within_a_program_is_counted_once(now, monkeypatch):
    monkeypatch.setattr(stages, "_least_kept", lambda: 5.0)
    with StageClock() as watch:
        watch("compile")
        now.time = 3.0
        watch._prepared(PREPARED[0], 2.0)  # traced from 1 to 3
        now.time = 4.0
        watch._prepared(PREPARED[0], 4.0)  # and what is around it from 0 to 4
        now.time = 10.0
        watch._prepared(COMPILED, 6.0)
        now.time = 14.0
        watch._prepared(COMPILED, 4.0)  # so short that it is not kept
        watch._prepared("/jax/anything_else", 4.0)
        now.time = 20.0
    assert (watch.preparing, watch.preparing_again) == (14.0, 8.0)
    assert (watch.seconds, watch.working) == ({"compile": 20.0}, {"compile": 6.0})


def test_jax_tells_it_what_it_compiles_while_it_is_open_and_not_afterwards():
    with StageClock() as watch:
        watch("compile")
        jax.jit(lambda x: jnp.sin(x) + 3)(jnp.arange(5.0))
    counted = watch.preparing
    assert 0 < counted <= watch.seconds["compile"]
    jax.jit(lambda x: jnp.cos(x) + 4)(jnp.arange(5.0))
    assert watch.preparing == counted
