"""A job in lanes: parts of its pictures are written at the same time, each as a job of its own.

The codes are those of one lane, as noise is keyed by a picture's number and not by where it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import NamedTuple

import numpy as np

from pure_jax.infer.decoding.contract import Decoding, Job, Written
from pure_jax.infer.lanes import in_lanes


class Shape(NamedTuple):
    """How many lanes, pictures of one (the last may have fewer), and pictures that one writes together."""

    lanes: int
    length: int
    together: int


def lanes_for(pictures: int, lanes: int, batch: int) -> Shape:
    """At most `lanes`, with at most `batch` pictures in all of them at a time; equal shapes, so that they share their
    compiled programs."""
    lanes = min(lanes, batch)
    rounds = -(-pictures // (batch // lanes * lanes))
    together = -(-pictures // (lanes * rounds))
    length = rounds * together
    return Shape(-(-pictures // length), length, together)


def write_abreast(
    way: Decoding, job: Job, lanes: int, batch: int, on_codes: Callable[[int], None]
) -> dict[int, Written]:
    """All pictures of a job by their number; see `lanes_for`. on_codes: is called with the codes that are there."""
    shape = lanes_for(job.count, lanes, batch)
    done, alone = [0] * shape.lanes, Lock()

    def lane(number: int, step: Callable[[], None]) -> dict[int, Written]:
        start = number * shape.length

        def show(pictures: np.ndarray, share: float, fetch: Callable[[], np.ndarray]) -> None:
            with alone:
                job.show(start + pictures, share, fetch)

        def count(codes: int) -> None:
            step()
            with alone:
                done[number] = codes
                on_codes(sum(done))

        part = replace(job.part(start, min(start + shape.length, job.count)), show=show)
        return {start + place: written for place, written in way.write(part, shape.together, count)}

    written: dict[int, Written] = {}
    for own in in_lanes([partial(lane, number) for number in range(shape.lanes)]):
        written |= own
    return written
