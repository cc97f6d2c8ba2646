"""Bits are drawn from the softmax of their logits, but for values that top-p removes; noise is keyed."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pure_jax.errors import PureError
from pure_jax.infer.nsarm.sampling import SeedNoise, bit_entropy, draw_bits, noise_of

RNG = np.random.default_rng(0)


def plain(logits: np.ndarray, exponential: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """Sort, cumulate, remove, and one multinomial draw as PyTorch's: the largest of p / e."""
    logits = torch.tensor(logits) / temperature
    ascending, order = logits.sort(dim=-1)
    remove = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    remove[..., -1] = False
    kept = logits.masked_fill(remove.scatter(-1, order, remove), -torch.inf)
    return (kept.softmax(-1) / torch.tensor(exponential)).argmax(-1).numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("top_p", [0.97, 0.7, 1.0])
def test_a_draw_is_the_original_multinomial(temperature, top_p):
    logits = RNG.normal(size=(5000, 2)).astype(np.float32) * 2
    exponential = RNG.exponential(size=(5000, 2)).astype(np.float32)
    noise = np.log(exponential[:, 1]) - np.log(exponential[:, 0])
    ours = draw_bits(jnp.asarray(logits[:, 1] - logits[:, 0]), jnp.asarray(noise), temperature, top_p)
    np.testing.assert_array_equal(ours, plain(logits, exponential, temperature, top_p) == 1)


def test_greedy_takes_the_likelier_value_and_0_on_ties():
    assert draw_bits(jnp.asarray([-1.0, 0.0, 0.1]), jnp.zeros(3), 0.0, 0.97).tolist() == [False, False, True]


def test_entropy_is_that_of_two_values():
    gaps = jnp.asarray([-200.0, -1.0, 0.0, 3.0, 200.0])
    p = 1 / (1 + np.exp(-np.asarray(gaps[1:4], np.float64)))
    np.testing.assert_allclose(bit_entropy(gaps)[1:4], -p * np.log(p) - (1 - p) * np.log(1 - p), rtol=1e-5)
    assert bit_entropy(gaps)[jnp.asarray([0, 4])].tolist() == [0.0, 0.0]


def test_noise_is_keyed_by_seed_picture_and_scale():
    noise = SeedNoise(jnp.uint32(1))
    values = noise(jnp.asarray([0, 5]), 3, (4, 6))
    np.testing.assert_array_equal(noise(jnp.asarray([5]), 3, (4, 6))[0], values[1])
    others = [
        noise(jnp.asarray([0]), 4, (4, 6))[0],
        SeedNoise(jnp.uint32(2))(jnp.asarray([0]), 3, (4, 6))[0],
        values[1],
    ]
    assert all((values[0] != other).all() for other in others)


def test_noise_of_other_shapes_and_seeds_out_of_range_are_refused():
    with pytest.raises(PureError, match=r"the noise has the shapes \[\(1, 2, 3\)\]; give \[\(1, 4, 3\)\]"):
        noise_of([np.zeros((1, 2, 3))], 0, 7, [(1, 4, 3)])
    with pytest.raises(PureError, match="seed is -1"):
        noise_of(None, -1, 7, [])
