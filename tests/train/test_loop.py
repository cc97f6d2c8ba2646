"""A run that was killed and started again is the run that was never killed; what goes wrong stops it in words."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from functools import partial
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from pure_jax.errors import PureError
from pure_jax.progress import Reporter
from pure_jax.train.loop import batches, checkpoint_manager, newest_step, newest_tree, resumed, train
from tests.disk import files_limited_to


@flax.struct.dataclass
class Walk:
    step: Array
    x: Array


START = Walk(jnp.zeros((), jnp.int32), jnp.ones(3))


@jax.jit
def walk(state: Walk, batch: Array) -> tuple[Walk, dict[str, Array]]:
    x = jnp.sin(3 * state.x + batch) / (1 + 0.01 * state.step)
    return Walk(state.step + 1, x), {"loss": x.sum(), "first": x[0]}


def numbers(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=3).astype(np.float32)


def killed_at(step: int, batch_at):
    def until(wanted: int):
        if wanted == step:
            raise KeyboardInterrupt
        return batch_at(wanted)

    return until


def assert_equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.map(lambda leaf: leaf.dtype, a) == jax.tree.map(lambda leaf: leaf.dtype, b)


@pytest.fixture(params=["at once", "in background"])
def saving(request, monkeypatch):
    """Checkpoints as on CPU, and as on accelerators, where they are written while the run goes on."""
    if request.param == "in background":
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    return request.param


@pytest.mark.parametrize("killed", [0, 2, 6, 7])
def test_kill_and_resume_equals_never_killed(tmp_path, killed, saving):
    whole = train(START, walk, numbers, steps=10, directory=tmp_path / "whole", save_every=3)
    with pytest.raises(KeyboardInterrupt):
        train(START, walk, killed_at(killed, numbers), steps=10, directory=tmp_path / "cut", save_every=3)
    cut = train(START, walk, numbers, steps=10, directory=tmp_path / "cut", save_every=3)
    assert int(cut.step) == 10
    assert_equal(cut, whole)
    assert_equal(newest_tree(tmp_path / "cut"), {"step": whole.step, "x": whole.x})


def test_a_run_that_goes_on_is_the_same_program(tmp_path):
    """For jax, which would compile another one for arrays that are not committed to their device."""
    fresh = resumed(tmp_path, START)
    assert_equal(resumed(tmp_path, jax.tree.map(np.asarray, START)), START)  # a state of numpy's arrays is one, too
    train(START, walk, numbers, steps=1, directory=tmp_path)
    restored = resumed(tmp_path, START)
    batch = numbers(0)
    assert walk.lower(fresh, batch).as_text() == walk.lower(restored, batch).as_text()
    assert walk.lower(START, batch).as_text() != walk.lower(restored, batch).as_text()  # else nothing would be shown


def test_a_resumed_run_asks_for_the_batches_after_its_checkpoint_only(tmp_path):
    train(START, walk, numbers, steps=4, directory=tmp_path)
    asked = []
    train(START, walk, lambda step: asked.append(step) or numbers(step), steps=7, directory=tmp_path)
    assert asked == [4, 5, 6]
    assert int(train(START, walk, asked.append, steps=7, directory=tmp_path).step) == 7  # finished: nothing to do
    assert asked == [4, 5, 6]


class Counted:
    """Batches of `numbers`, one after the other."""

    def __init__(self):
        self.step = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.step += 1
        return numbers(self.step - 1)

    def get_state(self):
        return {"step": self.step}

    def set_state(self, state):
        self.step = state["step"]


def test_a_stream_is_read_no_further_than_it_is_needed_and_goes_on_where_it_was(tmp_path):
    whole = train(START, walk, numbers, steps=7, directory=tmp_path / "whole")
    stream = Counted()
    train(START, walk, stream, steps=4, directory=tmp_path / "cut", save_every=3)
    assert stream.step == 4
    assert_equal(train(START, walk, Counted(), steps=7, directory=tmp_path / "cut"), whole)
    with pytest.raises(PureError, match="the checkpoint of step 7 in .* does not say where its data were"):
        train(START, walk, Counted(), steps=8, directory=tmp_path / "whole")


def test_metrics_are_means_since_the_last_line(tmp_path):
    train(START, walk, numbers, steps=7, directory=tmp_path, log_every=3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 7]
    state, losses = START, []
    for step in range(7):
        state, metrics = walk(state, numbers(step))
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose([line["loss"] for line in lines], [np.mean(losses[:3]), np.mean(losses[3:6]), losses[6]])
    assert all(set(line) == {"step", "seconds_per_step", "input_wait", "loss", "first"} for line in lines)
    assert all(line["seconds_per_step"] >= 0 and 0 <= line["input_wait"] <= 1 for line in lines)


def test_without_a_terminal_a_run_says_how_far_it_is_and_its_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pure_jax.train.loop.Reporter", partial(Reporter, interval=0.02))

    def slow(step: int) -> np.ndarray:
        time.sleep(0.05)
        return numbers(step)

    train(START, walk, slow, steps=20, directory=tmp_path, log_every=1)
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if re.fullmatch(r"pure: train \d+ % of 20 after .* left, loss -?\d+\.\d{4}", line)]
    assert told and len(lines) < 200


def test_only_the_newest_two_checkpoints_stay(tmp_path):
    train(START, walk, numbers, steps=8, directory=tmp_path, save_every=2)
    with checkpoint_manager(tmp_path) as manager:
        assert manager.all_steps() == [6, 8]


@pytest.mark.parametrize("save_every", [3, 2])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(tmp_path, save_every):
    def poisoned(step: int) -> np.ndarray:
        return numbers(step) if step < 7 else np.full(3, np.nan, np.float32)

    with pytest.raises(PureError, match="the loss is nan at step .*lower the learning rate"):
        train(START, walk, poisoned, steps=20, directory=tmp_path, save_every=save_every, log_every=10)
    kept = newest_tree(tmp_path)
    assert int(kept["step"]) == 6
    assert np.isfinite(kept["x"]).all()


def test_a_batch_that_cannot_be_made_surfaces(tmp_path):
    def broken(step: int) -> np.ndarray:
        if step == 2:
            raise PureError("photo 2 is broken")
        return numbers(step)

    with pytest.raises(PureError, match="photo 2 is broken"):
        train(START, walk, broken, steps=5, directory=tmp_path, save_every=1)
    assert int(newest_tree(tmp_path)["step"]) == 2  # the steps before it are not lost


def test_batches_come_in_order_and_the_thread_ends_with_its_reader():
    before = threading.active_count()
    assert list(batches(lambda step: step * step, 3, 8)) == [9, 16, 25, 36, 49]
    made = []
    stream = batches(lambda step: made.append(step), 0, 1000, ahead=2)
    next(stream)
    stream.close()
    for thread in threading.enumerate():
        if thread.daemon and thread.name.endswith("(work)"):
            thread.join(timeout=5)
    assert threading.active_count() <= before
    assert len(made) <= 6


@flax.struct.dataclass
class Longer:
    step: Array
    x: Array
    y: Array


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax drops its other reads
@pytest.mark.parametrize(
    "other",
    [Walk(START.step, jnp.ones(4)), Walk(START.step, jnp.ones((3, 1))), Longer(START.step, START.x, START.x)],
    ids=["longer", "other rank", "more leaves"],
)
def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, other):
    train(START, walk, numbers, steps=2, directory=tmp_path)
    with pytest.raises(PureError, match="checkpoint of another configuration"):
        train(other, walk, numbers, steps=3, directory=tmp_path)


def test_a_directory_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(PureError, match="holds no checkpoints"):
        newest_tree(tmp_path)
    with checkpoint_manager(tmp_path):
        pass
    with pytest.raises(PureError, match="no finished checkpoint yet"):
        newest_tree(tmp_path)


def test_a_deadline_ends_the_run_with_a_checkpoint_and_the_rest_follows(tmp_path):
    whole = train(START, walk, numbers, steps=6, directory=tmp_path / "whole")
    cut = train(START, walk, numbers, steps=6, directory=tmp_path / "cut", deadline=time.monotonic() - 1)
    assert int(cut.step) == newest_step(tmp_path / "cut") == 1
    assert_equal(train(START, walk, numbers, steps=6, directory=tmp_path / "cut"), whole)


def test_the_newest_step_of_no_run_is_0(tmp_path):
    assert newest_step(tmp_path) == 0


# ---- what disks do -------------------------------------------------------------------------------------------------


def cut_short(folder: Path) -> None:
    file = folder / "default" / "manifest.ocdbt"
    file.write_bytes(file.read_bytes()[:20])


def flip_numbers(folder: Path) -> None:
    file = max((folder / "default" / "ocdbt.process_0" / "d").iterdir(), key=lambda file: file.stat().st_size)
    file.write_bytes(bytes(byte ^ 0x55 for byte in file.read_bytes()))


def lose_the_names(folder: Path) -> None:
    (folder / "default" / "_METADATA").unlink()


def lose_everything(folder: Path) -> None:
    shutil.rmtree(folder / "default")


DAMAGES = [cut_short, flip_numbers, lose_the_names, lose_everything]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax drops its other reads
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path, caplog, damage):
    start = Walk(START.step, jnp.asarray(np.random.default_rng(0).normal(size=(1000, 3))))  # a file of its own on disk
    whole = train(start, walk, numbers, steps=6, directory=tmp_path / "whole", save_every=2)
    train(start, walk, numbers, steps=4, directory=tmp_path / "hurt", save_every=2)
    damage(tmp_path / "hurt" / "checkpoints" / "4")
    assert int(newest_tree(tmp_path / "hurt")["step"]) == 2
    assert "4 cannot be read" in caplog.text and "whole is that of step 2" in caplog.text
    again = train(start, walk, numbers, steps=6, directory=tmp_path / "hurt", save_every=2)
    assert_equal(again, whole)
    with checkpoint_manager(tmp_path / "hurt") as manager:
        assert manager.all_steps() == [4, 6]
    assert (tmp_path / "hurt" / "damaged-4").is_dir()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_without_a_whole_checkpoint_is_refused_and_kept(tmp_path):
    train(START, walk, numbers, steps=4, directory=tmp_path, save_every=2)
    for step in ("2", "4"):
        lose_the_names(tmp_path / "checkpoints" / step)
    for attempt in (lambda: newest_tree(tmp_path), lambda: train(START, walk, numbers, steps=6, directory=tmp_path)):
        with pytest.raises(PureError, match="no checkpoint in .* can be read"):
            attempt()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_stops_the_run_in_words_and_costs_no_checkpoint(tmp_path, saving):
    start = Walk(START.step, jnp.asarray(np.random.default_rng(0).normal(size=(20_000, 3))))
    whole = train(start, walk, numbers, steps=4, directory=tmp_path / "whole", save_every=2)
    train(start, walk, numbers, steps=2, directory=tmp_path / "full", save_every=2)
    for steps in (4, 8):  # in the background, a checkpoint's failure is told by the next one
        with files_limited_to(50_000), pytest.raises(PureError, match="checkpoint of step [46] cannot .* make room"):
            train(start, walk, numbers, steps=steps, directory=tmp_path / "full", save_every=2)
    assert int(newest_tree(tmp_path / "full")["step"]) == 2
    assert_equal(train(start, walk, numbers, steps=4, directory=tmp_path / "full", save_every=2), whole)


def test_metrics_that_cannot_be_written_stop_the_run_in_words(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(PureError, match="metrics.jsonl' cannot be written .* make room"):
        train(START, walk, numbers, steps=2, directory=tmp_path)


# ---- options -------------------------------------------------------------------------------------------------------


def test_fewer_steps_than_the_run_has_are_refused(tmp_path):
    train(START, walk, numbers, steps=4, directory=tmp_path)
    with pytest.raises(PureError, match="is at step 4 already; give --steps 4 or more, or a new --out"):
        train(START, walk, numbers, steps=2, directory=tmp_path)


def test_a_checkpoint_every_no_steps_is_refused(tmp_path):
    with pytest.raises(PureError, match="save_every is 0"):
        train(START, walk, numbers, steps=2, directory=tmp_path / "run", save_every=0)
    assert not (tmp_path / "run").exists()
