"""Facts about the entropy heat map; scikit-image's CIE L* is the judge of lightness."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from pure_jax.infer.pictures.heatmap import entropy_heatmap


def test_each_token_becomes_a_rectangle_of_one_colour() -> None:
    entropy = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    heatmap = entropy_heatmap(entropy, 5.0, (30, 16))
    assert heatmap.size == (30, 16) and heatmap.mode == "RGB"
    blocks = np.asarray(heatmap).reshape(2, 8, 3, 10, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert len({tuple(colour) for colour in blocks[:, 0, :, 0].reshape(-1, 3)}) == 6


def test_lightness_rises_steadily_with_entropy() -> None:
    ramp = np.linspace(0.0, 7.0, 101)[None]
    lightness = rgb2lab(np.asarray(entropy_heatmap(ramp, 7.0, (101, 1))))[0, :, 0]
    steps = np.diff(lightness)
    assert steps.min() > 0.18 and steps.max() < 2.8  # measured 0.37 to 1.41 around a mean of 0.91
    assert lightness[0] < 5 and lightness[-1] > 90


def test_values_beyond_the_scale_are_clipped() -> None:
    pixels = np.asarray(entropy_heatmap(np.array([[-1.0, 0.0, 2.0, 9.0]]), 2.0, (4, 1)))[0]
    assert (pixels[0] == pixels[1]).all() and (pixels[2] == pixels[3]).all()
    assert (pixels[1] != pixels[2]).any()


def test_what_is_no_number_is_brightest() -> None:
    pixels = np.asarray(entropy_heatmap(np.array([[np.nan, np.inf, 2.0, -np.inf, 0.0]]), 2.0, (5, 1)))[0]
    assert (pixels[:2] == pixels[2]).all() and (pixels[3] == pixels[4]).all()


@pytest.mark.parametrize("max_nats", [0.0, np.nan])
def test_a_scale_without_length_is_refused(max_nats: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        entropy_heatmap(np.array([[0.5]]), max_nats, (8, 8))
