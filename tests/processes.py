"""Several processes of simulated devices, which join over loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence


def free_address() -> str:
    """HOST:PORT where a coordinator can listen."""
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return f"localhost:{opened.getsockname()[1]}"


def started(arguments: Sequence[object], devices: int) -> subprocess.Popen[str]:
    """A Python process of so many devices that runs in the repository; its standard error is kept."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def ended(processes: Sequence[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit statuses and standard errors of processes, when all have ended."""
    errors = [process.communicate()[1] for process in processes]
    return [process.returncode for process in processes], errors
