"""The accelerators' attention kernels compute what XLA's own does; which of them is taken where."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax import attention
from pure_jax.attention import attend, cudnn, splash
from pure_jax.errors import PureError
from pure_jax.sharding import make_mesh
from pure_jax.transformer import causal_attention


def some(length: int, kv_heads: int, dim: int = 8) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, length, n, dim)), jnp.float32) for n in (4, kv_heads, kv_heads)]


@jax.jit
def wanted(q, k, v):
    mask = np.broadcast_to(np.tril(np.ones((q.shape[1],) * 2, bool)), (len(q), q.shape[1], q.shape[1]))
    return causal_attention(q, k, v, mask)


@pytest.mark.parametrize(("length", "kv_heads", "mesh"), [(300, 2, None), (128, 4, (1, 1, 1))])
def test_splash_is_causal_attention_and_so_are_its_gradients(monkeypatch, length, kv_heads, mesh):
    """Several blocks, the last of them part padding."""
    monkeypatch.setattr(attention, "SPLASH_BLOCK", 128)
    args = some(length, kv_heads, dim=128)
    mesh = None if mesh is None else make_mesh(*mesh, devices=jax.devices()[:1])
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(2, length, 512)), jnp.float32)

    def loss(way, args):
        return (way(*args) * weight).sum()

    def ours(q, k, v):
        return splash(q, k, v, mesh, interpret=True)

    np.testing.assert_allclose(jax.jit(ours)(*args), wanted(*args), rtol=0, atol=1e-5)
    gradients = [jax.jit(jax.grad(lambda args, way=way: loss(way, args)))(args) for way in (ours, wanted)]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_what_cudnn_is_asked_for_is_causal_attention(monkeypatch):
    """XLA in cuDNN's place: there is no GPU here."""
    plain = jax.nn.dot_product_attention

    def stand_in(*args, implementation, **kwargs):
        assert implementation == "cudnn"
        return plain(*args, **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    np.testing.assert_allclose(jax.jit(cudnn)(*some(20, 2)), wanted(*some(20, 2)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "platform", "dtype", "kernel"),
    [
        ("auto", "cpu", jnp.bfloat16, None),
        ("auto", "gpu", jnp.float32, None),
        ("auto", "gpu", jnp.bfloat16, cudnn),
        ("auto", "tpu", jnp.float32, splash),
        ("xla", "tpu", jnp.bfloat16, None),
        ("splash", "cpu", jnp.bfloat16, splash),
    ],
)
def test_auto_takes_the_best_that_the_devices_have(name, platform, dtype, kernel):
    found = attend(name, platform, dtype)
    assert getattr(found, "func", found) is kernel


def test_another_kernel_is_refused():
    with pytest.raises(PureError, match="attention is 'flash'"):
        attend("flash", "tpu", jnp.bfloat16)


def test_a_block_divides_the_papers_sequence():
    assert 8704 % attention.SPLASH_BLOCK == 0 and attention.SPLASH_BLOCK % attention.SPLASH_LANES == 0
