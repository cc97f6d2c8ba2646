"""What a run tells beside its losses, how it is asked to stop, and that kill -9 costs nothing but time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.train.cluster import ClusterConfig
from pure_jax.train.flops import peak_flops
from pure_jax.train.loop import newest_step, newest_tree, train
from pure_jax.train.plot import read_metrics
from pure_jax.train.watching import Watching
from tests.train.test_loop import START, numbers, walk


def test_rates_are_tokens_and_the_share_of_the_devices_peak(monkeypatch):
    watch = Watching(tokens=100, flops=1e12)
    assert watch.rates(0.5) == {"tokens_per_s": 200.0}  # nothing is known of a CPU's peak
    monkeypatch.setattr("pure_jax.train.watching.peak_flops", lambda kind: 8e12)
    assert watch.rates(0.5)["mfu"] == pytest.approx(0.25 / jax.device_count())
    assert Watching().rates(0.5) == {}


def test_a_devices_peak_is_that_of_the_longest_name_that_fits():
    assert peak_flops("NVIDIA H200 NVL") == 989e12
    assert (peak_flops("TPU v5 lite"), peak_flops("TPU v5")) == (197e12, 459e12)
    assert peak_flops("cpu") is None


def test_tensorboard_gets_what_the_lines_have(tmp_path):
    """Read back by the records' own protobuf, of the library that wrote them."""
    from tensorboardX.proto.event_pb2 import Event

    train(START, walk, numbers, steps=4, directory=tmp_path, log_every=2, watch=Watching(tensorboard=True))
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, at, found = file.read_bytes(), 0, {}
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size
        found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert found[int(row["step"]), "loss"] == pytest.approx(row["loss"], rel=1e-6)


def test_a_profile_is_written_of_the_steps_that_are_named(tmp_path):
    train(START, walk, numbers, steps=5, directory=tmp_path, watch=Watching(profile=(2, 3)))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    with pytest.raises(PureError, match="steps 3 to 2"):
        Watching(profile=(3, 2))


def test_every_checkpoint_is_evaluated(tmp_path):
    watch = Watching(evaluate=lambda state: {"val_loss": float(state.x.sum())})
    train(START, walk, numbers, steps=5, directory=tmp_path, save_every=3, log_every=1, watch=watch)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val_loss" in row] == [3, 5]


def test_sigterm_saves_the_step_and_then_does_what_it_did_before(tmp_path):
    came = []
    former = signal.signal(signal.SIGTERM, lambda *_: came.append(newest_step(tmp_path)))
    try:

        def batch_at(step):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.2)  # the loop takes batches ahead of the steps
            return numbers(step)

        state = train(START, walk, batch_at, steps=500, directory=tmp_path, save_every=1000)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert came == [int(state.step)] and 0 < int(state.step) < 500
    whole = train(START, walk, numbers, steps=int(state.step), directory=tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, state, whole)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cluster": True, "process": 1}, "finds out by itself"),
        ({"coordinator": "host:1"}, "are given together"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "write HOST:PORT"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, "process 2 is none of 2"),
    ],
)
def test_processes_that_cannot_join_are_told_why(options, words):
    with pytest.raises(PureError, match=words):
        ClusterConfig(**options).join()


RUN = """
import sys
import time
from pathlib import Path

from pure_jax.train.loop import train
from tests.train.test_loop import START, numbers, walk

print("ready", flush=True)


def slowly(step):
    time.sleep(0.01)
    return numbers(step)


train(START, walk, slowly, steps=150, directory=Path(sys.argv[1]), save_every=3, log_every=2)
"""


@pytest.mark.slow
def test_kill_9_at_any_time_costs_nothing_but_time(tmp_path):
    """PURE_KILLS says how often; CONTRIBUTING.md tells when to say 20."""
    kills, rng = int(os.environ.get("PURE_KILLS", "2")), random.Random(0)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}

    def start(name: str) -> subprocess.Popen:
        command = [sys.executable, "-c", RUN, str(tmp_path / name)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    done = 0
    for _ in range(kills):
        process = start("cut")
        assert process.stdout is not None and process.stdout.readline()  # it has imported everything
        time.sleep(rng.uniform(0.0, 1.5))
        process.send_signal(signal.SIGKILL)
        done += process.wait() == -signal.SIGKILL
    for name in ("cut", "whole"):
        assert start(name).wait() == 0
    assert done, "every run ended before it was killed"
    whole, cut = newest_tree(tmp_path / "whole"), newest_tree(tmp_path / "cut")
    jax.tree.map(np.testing.assert_array_equal, cut, whole)
    curves = [[(row["step"], row["loss"]) for row in read_metrics(tmp_path / name)] for name in ("whole", "cut")]
    assert curves[0] == curves[1] and curves[0][-1][0] == 150
