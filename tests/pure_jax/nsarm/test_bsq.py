"""Bits, codes and integers are inverses of each other; the scales of a latent equal a plain loop in torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pure_jax.nsarm.bsq import bits_to_codes, bits_to_ints, compose, decompose, ints_to_bits, quantise

RNG = np.random.default_rng(0)
SIDES = [(2, 2), (4, 4), (6, 6), (10, 10), (16, 16)]


def test_codes_are_the_signs_and_have_length_1():
    codes, bits = quantise(jnp.asarray([[0.5, -3.0, 0.0, 1e-30]]))
    assert bits.tolist() == [[True, False, False, True]]  # 0 is not above 0
    assert codes.tolist() == [[0.5, -0.5, -0.5, 0.5]]


def test_bits_codes_and_integers_are_each_others_inverses():
    ints = jnp.arange(2**14).reshape(128, 128)
    bits = ints_to_bits(ints, 14)
    np.testing.assert_array_equal(bits_to_ints(bits), ints)  # 0 too
    codes, again = quantise(bits_to_codes(bits))
    np.testing.assert_array_equal(again, bits)
    np.testing.assert_array_equal(codes, bits_to_codes(bits))
    assert bits_to_ints(jnp.asarray([True, *[False] * 13])) == 8192
    np.testing.assert_allclose(jnp.linalg.norm(codes, axis=-1), 1, atol=1e-6)


def test_the_gradient_is_that_of_the_normalised_vector():
    v, w = RNG.normal(size=(2, 5, 7)).astype(np.float32)
    ours = jax.grad(lambda v: jnp.sum(quantise(v)[0] * w))(jnp.asarray(v))
    t = torch.tensor(v, requires_grad=True)
    (F.normalize(t, dim=-1) * torch.tensor(w)).sum().backward()
    np.testing.assert_allclose(ours, t.grad, rtol=0, atol=1e-6)


def plain(features: np.ndarray, given: list[np.ndarray], mode: str) -> tuple:
    """The same in torch, NCHW, as the checkpoint's code goes about it."""
    f = torch.tensor(features).permute(0, 3, 1, 2)
    total, out = torch.zeros_like(f), []
    inputs = []
    for i, side in enumerate(SIDES):
        if i:
            five = total[:, :, None]
            small = (
                F.interpolate(total, size=side, mode="area")
                if mode == "area"
                else F.interpolate(five, size=(1, *side), mode="trilinear")[:, :, 0]
            )
            inputs.append(small.permute(0, 2, 3, 1).numpy())
        r = (
            torch.tensor(given[i]).permute(0, 3, 1, 2)
            if i < len(given)
            else F.interpolate(f - total, size=side, mode="area")
        )
        q = torch.where(F.normalize(r, dim=1) > 0, 1.0, -1.0) / r.shape[1] ** 0.5
        total = total + F.interpolate(q[:, :, None], size=(1, 16, 16), mode="trilinear")[:, :, 0]
        out.append(r.permute(0, 2, 3, 1).numpy())
    return total.permute(0, 2, 3, 1).numpy(), out, inputs


@pytest.mark.parametrize("mode", ["area", "linear"])
@pytest.mark.parametrize("count", [0, 2])
def test_scales_equal_a_plain_loop(mode, count):
    features = RNG.normal(size=(2, 16, 16, 5)).astype(np.float32)
    given = [RNG.normal(size=(2, *side, 5)).astype(np.float32) for side in SIDES[:count]]
    total, residuals, inputs = plain(features, given, mode)
    ours = jax.jit(lambda f, g: decompose(f, SIDES, g, mode))(features, given)
    np.testing.assert_allclose(ours.total, total, rtol=0, atol=1e-6)  # measured 2e-7
    for own, wanted in zip(ours.inputs, inputs, strict=True):
        np.testing.assert_allclose(own, wanted, rtol=0, atol=1e-6)
    for own, bits, wanted in zip(ours.residuals, ours.bits, residuals, strict=True):
        np.testing.assert_allclose(own, wanted, rtol=0, atol=1e-6)
        sure = np.abs(wanted) > 1e-5
        np.testing.assert_array_equal(np.asarray(bits)[sure], (wanted > 0)[sure])
        assert sure.mean() > 0.999
    np.testing.assert_allclose(compose(ours.bits), ours.total, rtol=0, atol=1e-6)  # one is compiled, one is not


def test_a_given_residual_receives_the_gradient_of_the_inputs_and_the_features_none():
    features = jnp.asarray(RNG.normal(size=(1, 16, 16, 5)), jnp.float32)
    given = [jnp.asarray(RNG.normal(size=(1, *side, 5)), jnp.float32) for side in SIDES[:2]]

    def score(features, given):
        return sum(jnp.sum(x**2) for x in decompose(features, SIDES[:3], given).inputs)

    def score_all(features, given):
        return sum(jnp.sum(x**2) for x in decompose(features, SIDES, given).inputs)

    to_features, to_given = jax.jit(jax.grad(score, argnums=(0, 1)))(features[:, :6, :6], given)
    assert not to_features.any() and all(g.any() for g in to_given)
    assert all(g.any() for g in jax.jit(jax.grad(score_all, argnums=1))(features, given))
