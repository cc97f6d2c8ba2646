"""A folder run that is killed by SIGKILL and started again leaves the folder of a run that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process, which needs os.fork")


def photos(folder: Path, count: int) -> None:
    """Small pictures of several formats, two of one stem, and a broken one."""
    rng = np.random.default_rng(0)
    suffixes = ["png", "jpg", "webp", "bmp", "tif"]
    for i in range(count - 2):
        place = folder / f"album{i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (16, 18 + i % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"p{i}.{suffixes[i % 5]}")
    Image.fromarray(pixels).save(folder / "album0" / "p0.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")


def contents(folder: Path) -> dict[str, Any]:
    """All files by name; of the report, what does not tell the time."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "report.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found["report"] = [
                {name: value for name, value in line.items() if name not in ("seconds", "finished")} for line in lines
            ]
        else:
            found[path.relative_to(folder).as_posix()] = path.read_bytes() if path.is_file() else None
    return found


def run(tmp_path: Path, points: list[int | float] | str) -> list[list[int]]:
    """Ends of the runs killed at the points, and first of one that was not; see `tests.toy_restore`."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    plan = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "model": str(model), "points": points}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    program = [sys.executable, "-m", "tests.toy_restore", str(tmp_path / "plan.json")]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends: list[list[int]] = json.loads(done.stdout)
    return ends


def assert_same(tmp_path: Path, ends: list[list[int]], killed: int) -> None:
    whole = contents(tmp_path / "out0")
    assert [line["status"] for line in whole["report"]].count("failed") == 1
    assert [os.waitstatus_to_exitcode(status) for _, _, status in ends] == [1] * len(ends)  # one picture is broken
    assert sum(status == signal.SIGKILL for _, status, _ in ends) >= killed
    for place in range(1, len(ends)):
        assert contents(tmp_path / f"out{place}") == whole


def test_killed_at_any_step_of_the_book_keeping(tmp_path):
    photos(tmp_path / "in", 4)
    ends = run(tmp_path, "every")
    assert len(ends) > 4 * 4
    assert_same(tmp_path, ends, killed=len(ends) - 1)


@pytest.mark.slow
@pytest.mark.long
def test_killed_at_30_moments_of_a_folder_of_40(tmp_path):
    photos(tmp_path / "in", 40)
    rng = np.random.default_rng(1)
    moments = [float(share) for share in rng.uniform(0.05, 0.95, 15)]  # some come too late where a run is quick
    assert_same(tmp_path, run(tmp_path, [*map(int, rng.integers(1, 200, 15)), *moments]), killed=15)
