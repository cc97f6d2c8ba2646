"""The calls that made a model, for its card: command, commit, hardware and time of each, in a file of JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import jax

import pure_jax
from pure_jax.files import replacing


class Journal:
    """One call's line behind those of the earlier calls; it is brought up to date as the call goes on."""

    def __init__(self, path: Path, command: str):
        self.path = path
        self.earlier = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        self.call = {"command": command, "commit": commit(), "hardware": hardware()}
        self.began = time.monotonic()

    def update(self) -> list[dict[str, Any]]:
        """Write this call's time until now; returns all calls."""
        calls = [*self.earlier, self.call | {"seconds": round(time.monotonic() - self.began, 1)}]
        with replacing(self.path) as beside:
            beside.write_text("".join(json.dumps(call) + "\n" for call in calls), encoding="utf-8")
        return calls


def commit() -> str:
    """The commit of the source tree, "-dirty" behind it where the tree differs; the version where there is no tree."""
    git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found = ""
    return found or f"of version {pure_jax.__version__}"


def hardware() -> str:
    """What jax computes on, in words."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return f"{os.cpu_count()} CPU cores"
    return f"{len(devices)} x {devices[0].device_kind}"
