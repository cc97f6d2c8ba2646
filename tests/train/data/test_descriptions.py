"""What is said about a tile is what its pixels show."""

from __future__ import annotations

import numpy as np
import pytest

from pure_jax.train.data.descriptions import ASPECTS, COLOURS, all_descriptions, aspects, describe


def flat(*rgb: int) -> np.ndarray:
    return np.full((64, 64, 3), rgb, np.uint8)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((10, 10, 10), "black"),
        ((128, 128, 128), "grey"),
        ((250, 250, 250), "white"),
        ((220, 20, 20), "red"),
        ((240, 140, 20), "orange"),
        ((110, 65, 25), "brown"),
        ((230, 220, 30), "yellow"),
        ((30, 160, 40), "green"),
        ((30, 200, 190), "turquoise"),
        ((40, 70, 220), "blue"),
        ((130, 40, 210), "purple"),
        ((240, 60, 190), "pink"),
    ],
)
def test_plain_colours_have_their_names(rgb, name):
    said = aspects(describe(flat(*rgb)))
    assert said["colour"] == name
    assert said["second colour"] == "none"
    assert (said["texture"], said["edges"]) == ("smooth", "no edges")


def test_every_colour_is_tested():
    rows = test_plain_colours_have_their_names.pytestmark[0].args[1]
    assert {name for _, name in rows} == set(COLOURS)


def test_light_follows_the_mean():
    lights = [aspects(describe(flat(v, v, v)))["light"] for v in (20, 120, 230)]
    assert lights == ["Dark", "Medium light", "Bright"]


def test_a_second_colour_is_named_from_a_quarter_on():
    tile = flat(40, 70, 220)
    tile[:20] = (220, 20, 20)
    assert aspects(describe(tile))["second colour"] == "red"
    tile = flat(40, 70, 220)
    tile[:8] = (220, 20, 20)
    assert aspects(describe(tile))["second colour"] == "none"


def test_an_edge_is_no_texture_and_noise_is():
    edge = flat(30, 30, 30)
    edge[:, 32:] = 230
    said = aspects(describe(edge))
    assert (said["texture"], said["edges"]) == ("smooth", "clear edges")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 1)).repeat(3, axis=2).astype(np.uint8)
    assert aspects(describe(noise))["texture"] == "strong texture"


def test_every_description_is_among_those_the_tokenizer_learns():
    known = set(all_descriptions())
    rng = np.random.default_rng(0)
    for _ in range(50):
        tile = rng.integers(0, 256, (4, 4, 3)).repeat(16, axis=0).repeat(16, axis=1).astype(np.uint8)
        assert describe(tile) in known


def test_aspects_of_other_texts_are_none():
    assert aspects("A photo of a gosling.") is None
    assert set(aspects(all_descriptions()[0])) == set(ASPECTS)
