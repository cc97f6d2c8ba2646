"""One process's part of work that several share without talking to each other."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from pure_jax.errors import PureError

CLUSTERS = (("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
"""Where SLURM and Open MPI say which process this is, and of how many."""


class Shard(NamedTuple):
    """The number-th, from 0, of so many parts."""

    number: int
    parts: int

    def __str__(self) -> str:
        return f"{self.number + 1}/{self.parts}"


WHOLE = Shard(0, 1)


def read_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """Of "i/n" with i from 1 to n; or of "cluster", which takes both from SLURM, Open MPI or a TPU slice.

    Raises:
        PureError: it is neither, there are more than 100,000 parts, or the environment is no cluster's.
    """
    if text == "cluster":
        return _in_cluster(environment)
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= part <= count <= 100_000:
        raise PureError(f"the shard is {text!r}, but it must be i/n with i from 1 to n, such as 1/4, or cluster")
    return Shard(part - 1, count)


def _in_cluster(environment: Mapping[str, str]) -> Shard:
    for number, count in CLUSTERS:
        if environment.get(number, "").isdecimal() and environment.get(count, "").isdecimal():
            return Shard(int(environment[number]), int(environment[count]))
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    if hosts and environment.get("TPU_WORKER_ID", "").isdecimal():
        return Shard(int(environment["TPU_WORKER_ID"]), len(hosts.split(",")))
    raise PureError(
        "--shard cluster found neither SLURM's nor Open MPI's nor a TPU slice's numbers in the environment; say which "
        "part it is, such as --shard 1/4"
    )
