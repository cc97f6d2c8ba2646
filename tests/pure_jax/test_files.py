"""A file takes its place whole, or what was there stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pure_jax.errors import PureError
from pure_jax.files import locked, new_directory, replacing, require_writable


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


def test_a_lock_goes_with_its_process(tmp_path):
    program = "import sys, time; from pathlib import Path; from pure_jax.files import locked\n"
    program += "with locked(Path(sys.argv[1]), 'busy'):\n    print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(PureError, match="^busy$"), locked(tmp_path / "lock", "busy"):
            raise AssertionError("two hold one lock")
        holder.kill()
    with locked(tmp_path / "lock", "busy"):
        pass


def test_without_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with locked(tmp_path / "lock", "busy"), locked(tmp_path / "lock", "busy"):
        pass


def test_a_place_for_a_file_is_made_and_tried(tmp_path):
    require_writable(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "inside", tmp_path):
        with pytest.raises(PureError, match="cannot be written"):
            require_writable(path)
