"""Batches of records without end, by Grain: several folders with weights, shuffled, resumable at any step.

The global order follows from the seed and the folders alone: on any number of processes a step reads the same batch, of
which each process makes only the rows that its devices need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pure_jax.errors import PureError
from pure_jax.train.data.records import Record, RecordSet, installed

if TYPE_CHECKING:
    import grain

Row = tuple[np.ndarray, np.ndarray]
"""tokens and labels, int32 [length], of the same length for every record."""


class Place(NamedTuple):
    """Where a row of a batch is taken from: a folder, a record of it, and how often that one has been read before."""

    folder: int
    record: int
    epoch: int


def places(sizes: Sequence[int], weights: Sequence[float], seed: int) -> grain.MapDataset[Place]:
    """The endless order of records: each folder in a new permutation every epoch, mixed by weight.

    Raises:
        PureError: there is not one positive weight for each folder.
    """
    if len(weights) != len(sizes) or not all(0 < weight < 1e9 for weight in weights):
        raise PureError(f"{list(weights)} are no weights of {len(sizes)} folders of records; give each one above 0")

    with installed():
        import grain

    def order(folder: int, size: int) -> grain.MapDataset[Place]:
        # Grain adds the epoch's number to its seed: neighbouring seeds would read each other's epochs.
        own = int(np.random.SeedSequence([seed, folder]).generate_state(1)[0])
        shuffled = grain.MapDataset.range(size).shuffle(seed=own).repeat()
        return shuffled.map_with_index(lambda index, record: Place(folder, int(record), int(index) // size))

    orders = [order(folder, size) for folder, size in enumerate(sizes)]
    return orders[0] if len(orders) == 1 else grain.MapDataset.mix(orders, list(weights))


def batches(
    sets: Sequence[RecordSet],
    weights: Sequence[float],
    seed: int,
    batch: int,
    row: Callable[[Record, int, np.random.Generator], Row],
    rows: Sequence[int] | None = None,
) -> grain.MapDataset[Row]:
    """The batch of every step: tokens and labels, int32 [batch, length].

    row: makes a row of a record, one of its variants (another one every epoch) and a generator that follows from the
        seed and the row's place in the whole order.
    rows: those that are wanted here, by default all; the others are zero.

    Raises:
        PureError: fewer records than one batch; what `places` refuses.
    """
    total = sum(map(len, sets))
    if total < batch:
        raise PureError(f"{total} records do not fill a batch of {batch}; make more or lower --batch")
    wanted = range(batch) if rows is None else rows

    def make(step: int, chosen: list[Place]) -> Row:
        made = []
        for number in wanted:
            place = chosen[number]
            record = sets[place.folder][place.record]
            variant = (place.record + place.epoch) % len(record.lq_codes)
            made.append(row(record, variant, np.random.default_rng([seed, step * batch + number])))
        tokens, labels = np.zeros((2, batch, len(made[0][0])), np.int32)
        tokens[list(wanted)], labels[list(wanted)] = (np.stack(column) for column in zip(*made, strict=True))
        return tokens, labels

    order = places([len(found) for found in sets], weights, seed)
    return order.batch(batch, batch_fn=list).map_with_index(make)


def stream(dataset: grain.MapDataset[Any], threads: int | None = None) -> grain.DatasetIterator[Any]:
    """The batches one after the other, made ahead by threads; `get_state` and `set_state` say and set where it is."""
    with installed():
        import grain
    threads = threads or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))
