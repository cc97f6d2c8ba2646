"""One process's part of work that several share without talking to each other."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from pure_jax.errors import PureError

CLUSTERS = (("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
"""Where SLURM and Open MPI say which process this is, and of how many."""
MOST_PARTS = 100_000


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
        PureError: it is neither, there are more than 100,000 parts, or the environment is no cluster's, or its numbers
            contradict each other.
    """
    number, count = _in_cluster(environment) if text == "cluster" else _in_words(text)
    if not 0 <= number < count <= MOST_PARTS:
        raise PureError(
            f"the shard {text!r} is part {number + 1} of {count}; it must be i/n with i from 1 to n, at most "
            f"{MOST_PARTS:,}, such as 1/4, or cluster"
        )
    return Shard(number, count)


def _in_words(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None:
        raise PureError(f"the shard is {text!r}, but it must be i/n with i from 1 to n, such as 1/4, or cluster")
    return int(match[1]) - 1, int(match[2])


def _in_cluster(environment: Mapping[str, str]) -> tuple[int, int]:
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    slice_hosts = str(len(hosts.split(","))) if hosts else ""
    named = [(environment.get(number, ""), environment.get(count, "")) for number, count in CLUSTERS]
    for number, count in [*named, (environment.get("TPU_WORKER_ID", ""), slice_hosts)]:
        if number.isdecimal() and count.isdecimal():
            return int(number), int(count)
    raise PureError(
        "--shard cluster found neither SLURM's nor Open MPI's nor a TPU slice's numbers in the environment; say which "
        "part it is, such as --shard 1/4"
    )
