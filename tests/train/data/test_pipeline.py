"""Every record once an epoch, mixed by weight, the same on any number of processes and after a stop."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.train.data.pipeline import batches, places, stream
from pure_jax.train.data.records import open_records
from tests.train.data.test_records import write_folder


def row(record, variant, rng):
    """(number of the record, variant, a draw) as tokens."""
    tokens = np.array([record.tile[1], variant, rng.integers(2**31)], np.int32)
    return tokens, -tokens


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Records 0 to 6, and 100 to 104."""
    home = tmp_path_factory.mktemp("sets")
    return [open_records(write_folder(home / "a", [4, 3])), open_records(write_folder(home / "b", [5], first=100))]


def test_an_epoch_reads_every_record_once_in_an_order_of_its_own():
    order = places([7], [1.0], seed=3)
    epochs = [[order[i] for i in range(start, start + 7)] for start in (0, 7, 14)]
    for number, epoch in enumerate(epochs):
        assert sorted(place.record for place in epoch) == list(range(7))
        assert {place.epoch for place in epoch} == {number}
    orders = {tuple(place.record for place in epoch) for epoch in epochs}
    assert len(orders) == 3
    assert tuple(places([7], [1.0], seed=4)[i].record for i in range(7)) not in orders  # nor another seed's epoch


def test_folders_are_mixed_by_weight_and_each_is_read_evenly():
    order = places([7, 5], [3.0, 1.0], seed=0)
    read = [order[i] for i in range(400)]
    assert Counter(place.folder for place in read) == {0: 300, 1: 100}
    for folder, size in enumerate((7, 5)):
        times = Counter(place.record for place in read if place.folder == folder)
        assert len(times) == size and max(times.values()) - min(times.values()) <= 1
    first = [place.folder for place in read[:40]]
    assert 25 <= first.count(0) <= 35  # from the beginning on


def test_a_later_epoch_reads_another_variant(sets):
    data = batches(sets[:1], [1.0], 0, 7, row)
    variants = [dict(zip(*data[epoch][0][:, :2].T, strict=True)) for epoch in range(3)]
    for record in range(7):
        assert variants[0][record] != variants[1][record] and variants[0][record] == variants[2][record]


def test_processes_make_their_own_rows_of_one_batch(sets):
    whole = batches(sets, [7, 5], 0, 4, row)
    parts = [batches(sets, [7, 5], 0, 4, row, rows=rows) for rows in ([0, 1], [2, 3])]
    for step in range(8):
        for made in range(2):  # tokens, labels
            first, second = (part[step][made] for part in parts)
            assert not first[2:].any() and not second[:2].any()
            np.testing.assert_array_equal(first + second, whole[step][made])


def taken(iterator, count):
    return [np.stack(next(iterator)) for _ in range(count)]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_goes_on_from_its_state(sets, threads):
    whole = taken(stream(batches(sets, [1, 2], 5, 4, row), threads=2), 9)
    begun = stream(batches(sets, [1, 2], 5, 4, row), threads=threads)
    np.testing.assert_array_equal(taken(begun, 4), whole[:4])
    state = json.loads(json.dumps(begun.get_state()))  # as a checkpoint keeps it
    again = stream(batches(sets, [1, 2], 5, 4, row), threads=threads)
    again.set_state(state)
    np.testing.assert_array_equal(taken(again, 5), whole[4:])


def test_what_goes_wrong_in_a_thread_is_told_to_the_reader(sets):
    def broken(record, variant, rng):
        raise PureError("no text for it")

    with pytest.raises(PureError, match="no text for it"):
        next(stream(batches(sets, [1, 1], 0, 4, broken)))


def test_batches_that_cannot_be_filled_and_weights_that_are_none(sets):
    with pytest.raises(PureError, match="12 records do not fill a batch of 13"):
        batches(sets, [1, 1], 0, 13, row)
    for weights in ([1], [1, 0], [1, -1], [1, float("nan")]):
        with pytest.raises(PureError, match="are no weights of 2 folders"):
            batches(sets, weights, 0, 4, row)


def test_two_folders_of_one_size_are_not_read_in_step():
    order = places([50, 50], [1, 1], seed=0)
    read = [order[i] for i in range(100)]
    first, second = ([place.record for place in read if place.folder == folder] for folder in (0, 1))
    assert first != second
    assert not set(itertools.pairwise(first)) <= set(itertools.pairwise(second))
