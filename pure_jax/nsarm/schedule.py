"""Schedules: how many tokens each scale of a picture has, from one token to the finest grid.

A scale is (height, width) in tokens. Sizes of pictures are prefixes of one schedule; positions always refer to the grid
of its last scale. Source: checkpoint fact.
"""

from __future__ import annotations

from collections.abc import Sequence

Scale = tuple[int, int]
Scales = tuple[Scale, ...]

SIDES_1M = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
"""Token sides of the square schedule: 10,521 tokens, 1024 pixels at 16 pixels a token."""

SIZES = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""How many scales pictures of about so many pixels have: 256, 512, 768 and 1024 pixels a side where they are square."""

ASPECTS: dict[str, Scales] = {
    "1": tuple((side, side) for side in SIDES_1M),
    "1.25": (
        *((1, 1), (2, 2), (3, 3), (5, 4), (10, 8), (15, 12), (20, 16), (25, 20), (30, 24), (35, 28), (45, 36)),
        *((55, 44), (70, 56)),
    ),
    "1.333": (
        *((1, 1), (2, 2), (4, 3), (8, 6), (12, 9), (16, 12), (20, 15), (24, 18), (28, 21), (36, 27), (48, 36)),
        *((60, 45), (72, 54)),
    ),
    "1.5": (
        *((1, 1), (2, 2), (3, 2), (6, 4), (9, 6), (15, 10), (21, 14), (27, 18), (33, 22), (39, 26), (48, 32)),
        *((63, 42), (78, 52)),
    ),
    "1.75": (
        *((1, 1), (2, 2), (3, 3), (7, 4), (11, 6), (14, 8), (21, 12), (28, 16), (35, 20), (42, 24), (56, 32)),
        *((70, 40), (84, 48)),
    ),
    "2": (
        *((1, 1), (2, 2), (4, 2), (6, 3), (10, 5), (16, 8), (22, 11), (30, 15), (38, 19), (46, 23), (60, 30)),
        *((74, 37), (90, 45)),
    ),
    "2.5": (
        *((1, 1), (2, 2), (5, 2), (10, 4), (15, 6), (20, 8), (25, 10), (30, 12), (40, 16), (50, 20), (65, 26)),
        *((80, 32), (100, 40)),
    ),
    "3": (
        *((1, 1), (2, 2), (6, 2), (9, 3), (15, 5), (21, 7), (27, 9), (36, 12), (45, 15), (54, 18), (72, 24)),
        *((90, 30), (111, 37)),
    ),
}
"""Schedules by height / width. The transformer takes any; NSARM's own pictures are square, as its map network is tied
to a square latent."""


def transposed(scales: Scales) -> Scales:
    """The schedule of the inverse aspect ratio."""
    return tuple((width, height) for height, width in scales)


def square(sides: Sequence[int]) -> Scales:
    """A schedule of squares."""
    return tuple((side, side) for side in sides)


def ends(scales: Scales) -> tuple[int, ...]:
    """Index of the token behind each scale's last one, in the sequence of all scales."""
    total, out = 0, []
    for height, width in scales:
        total += height * width
        out.append(total)
    return tuple(out)
