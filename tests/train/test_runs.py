"""A run's folder is held by one process and goes on with the configuration it was begun with."""

from __future__ import annotations

import json

import pytest

from pure_jax.errors import PureError
from pure_jax.train.runs import differences, run_folder

CONFIG = {"train": {"steps": 10, "seed": 0, "optimiser": {"learning_rate": 1e-3}}, "sizes": (1, 2)}


def changed(**values):
    return CONFIG | {"train": CONFIG["train"] | values}


def hold(out, config, **options):
    with run_folder(out, config, may_change=("train.steps",), **options):
        pass


def test_the_configuration_is_stored_and_the_same_one_goes_on(tmp_path):
    for _ in range(2):
        hold(tmp_path / "new" / "run", CONFIG)
    stored = json.loads((tmp_path / "new" / "run" / "config.json").read_text())
    assert stored == CONFIG | {"sizes": [1, 2]}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (changed(seed=1), "train.seed 0, not 1;"),
        (changed(optimiser={"learning_rate": 2e-3}), "train.optimiser.learning_rate 0.001, not 0.002;"),
        (changed(drift=0.5), "train.drift null, not 0.5;"),
        (CONFIG | {"sizes": (1, 3)}, r"sizes \[1, 2\], not \[1, 3\];"),
    ],
)
def test_another_configuration_is_refused_by_the_name_of_what_differs(tmp_path, other, words):
    hold(tmp_path, CONFIG)
    with pytest.raises(PureError, match=f"was begun with {words} give the same options or a new --out$"):
        hold(tmp_path, other)
    with pytest.raises(PureError, match="--allow-change$"):
        hold(tmp_path, other, allow_change=False)
    assert json.loads((tmp_path / "config.json").read_text())["train"] == CONFIG["train"]
    hold(tmp_path, other, allow_change=True)
    hold(tmp_path, other)  # from now on it is the run's own


def test_what_may_change_may_change(tmp_path):
    hold(tmp_path, CONFIG)
    hold(tmp_path, changed(steps=20))
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 20


def test_a_second_run_is_kept_out(tmp_path):
    with run_folder(tmp_path, CONFIG):
        with pytest.raises(PureError, match="another run is writing .*; wait until it ends, or give another --out"):
            hold(tmp_path, changed(seed=1))
    hold(tmp_path, CONFIG)


def test_a_place_where_nothing_can_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(PureError, match="cannot be written"):
            hold(out, CONFIG)


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PureError, match="config.json cannot be read as JSON"):
        hold(tmp_path, CONFIG)


def test_differences_have_dotted_names():
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == {
        "a.c": (2, 4),
        "d": (3, None),
        "e": (None, 5),
    }
