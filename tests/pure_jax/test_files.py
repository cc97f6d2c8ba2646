"""A file takes its place whole, or what was there stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from pure_jax.errors import PureError
from pure_jax.files import new_directory, replacing


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "out.txt"
    path.write_text("old")
    return path


def test_the_new_file_takes_the_place_of_the_old_one_and_nothing_else_stays(target: Path) -> None:
    with replacing(target) as beside:
        beside.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error, seen", [(OSError(28, "No space left"), PureError), (KeyError("x"), KeyError)])
def test_after_a_failure_the_old_file_stays_and_nothing_else_does(target: Path, error: Exception, seen: type) -> None:
    with pytest.raises(seen, match="No space left" if seen is PureError else "x"), replacing(target) as beside:
        beside.write_text("half")
        raise error
    assert target.read_text() == "old" and list(target.parent.iterdir()) == [target]


def test_a_directory_that_another_run_is_writing_is_left_alone(tmp_path):
    with new_directory(tmp_path / "model") as first:
        (first / "part").touch()
        with pytest.raises(PureError, match="model is being written by another run"), new_directory(tmp_path / "model"):
            raise AssertionError("two runs write one directory")
        assert (first / "part").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_only_looks_like_a_leftover_is_left_alone(tmp_path):
    (tmp_path / "model.partial").mkdir()
    with new_directory(tmp_path / "model"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.partial"]
