"""Which part of shared work a process takes, by its own words or its cluster's."""

from __future__ import annotations

import pytest

from pure_jax.errors import PureError
from pure_jax.shards import Shard, read_shard


def test_parts_count_from_1_in_words():
    assert read_shard("1/1") == Shard(0, 1) and read_shard("4/4") == Shard(3, 4)
    assert str(read_shard("2/3")) == "2/3"


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "a/b", "1", "-1/2", "1/2/3", "1/999999", ""])
def test_parts_that_are_none_are_refused(text):
    with pytest.raises(PureError, match="must be i/n"):
        read_shard(text)


@pytest.mark.parametrize(("number", "count"), [("5", "4"), ("4", "4"), ("0", "0"), ("0", "200000")])
def test_numbers_of_a_cluster_that_contradict_each_other_are_refused(number, count):
    with pytest.raises(PureError, match=f"part {int(number) + 1} of {count}"):
        read_shard("cluster", {"SLURM_PROCID": number, "SLURM_NTASKS": count})


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "1/4"),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, "3/3"),
        ({"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"}, "2/2"),
    ],
)
def test_a_cluster_says_which_part_it_is(environment, shard):
    assert read_shard("cluster", environment) == read_shard(shard)


@pytest.mark.parametrize("environment", [{}, {"SLURM_PROCID": "0"}, {"TPU_WORKER_ID": "0"}])
def test_without_a_cluster_there_is_no_part_of_it(environment):
    with pytest.raises(PureError, match="such as --shard 1/4"):
        read_shard("cluster", environment)
