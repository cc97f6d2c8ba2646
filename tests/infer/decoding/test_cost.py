"""The arithmetic of decoding against counts by hand, PURE's published sizes, and the compiler's account of memory."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax.config import pure_7b, tiny
from pure_jax.infer.benchmark.machine import peak_memory
from pure_jax.infer.benchmark.subject import bare, bare_precision
from pure_jax.infer.decoding.cost import Fill, Lengths, Network, pass_bytes, pass_flops, picture_bytes
from pure_jax.infer.decoding.memory import available_memory, decode_memory
from pure_jax.transformer import init_cache

CODES = 16_384
PURE = Network(pure_7b().transformer, jnp.bfloat16, CODES)
WHOLE_HEAD = dataclasses.replace(PURE, codes=73_728)
QUESTION, TEXT = 4188, 101


def test_weights_of_a_pass_are_those_of_the_matrices():
    layer = 4 * 4096**2 + 3 * 4096 * 11_008
    by_hand = 32 * layer + 4096 * 73_728  # = 6,777,995,264; norms are not in it
    assert WHOLE_HEAD.parameters(73_728) == pytest.approx(by_hand, rel=1e-4)
    assert WHOLE_HEAD.weights(73_728) == pytest.approx(13.56e9, rel=1e-3)
    assert PURE.all_weights == 14_160_535_552


def test_a_token_in_the_cache_is_as_long_as_its_arrays():
    config = tiny().transformer
    cache = init_cache(config, 1, 1, jnp.float32)
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves((cache.keys, cache.values)))
    assert Network(config, "float32", 64).cache_token == arrays
    assert PURE.cache_token == 524_288


def bytes_of_an_answer(network: Network) -> float:
    """As the original counts its steps: text with the conditional row alone, then every token of the picture."""
    text = sum(WHOLE_HEAD.weights(73_728) + (QUESTION + i) * PURE.cache_token for i in range(TEXT))
    return text + sum(pass_bytes(network, 1, Fill(QUESTION + TEXT + i, i)) for i in range(4164))


def test_bytes_of_a_picture_are_those_of_the_published_sizes():
    assert bytes_of_an_answer(WHOLE_HEAD) == pytest.approx(76.5e12, rel=0.01)
    assert bytes_of_an_answer(PURE) / 4.8e12 == pytest.approx(15.5, rel=0.01)


def test_a_picture_is_the_sum_of_its_passes():
    lengths = Lengths(30, 4, 6, guided=True)
    # A row's first pass feeds what stands before its first code too; the others one code more each.
    fills = [3 + row * 7 + column for row in range(4) for column in range(6)]
    by_hand = sum(pass_bytes(PURE, 2, Fill(30 + fill, fill)) for fill in fills)
    assert picture_bytes(PURE, lengths, 2) == pytest.approx(by_hand, rel=1e-3)
    assert lengths.image_slots == 3 + 4 * 7
    assert dataclasses.replace(lengths, guided=False).mean.unconditional == 0


def test_operations_of_a_pass():
    per_token = 2 * PURE.parameters(CODES) + 524_288 * 8000  # sizes of the published model
    assert pass_flops(PURE, 1, Fill(8000)) == pytest.approx(per_token)
    assert pass_flops(PURE, 3, Fill(8000), window=16) == pytest.approx(48 * per_token)
    assert pass_flops(PURE, 1, Fill(8000, 100)) > 2 * PURE.parameters(CODES) * 2


def test_planned_memory_is_that_of_the_arrays():
    subject, lengths = bare(tiny(), "float32"), Lengths(50, 8, 8, guided=True)
    planned = decode_memory(subject.network, lengths, 2)
    slots = (50 + lengths.image_slots, lengths.image_slots)
    caches = [init_cache(subject.config.transformer, 2, n, subject.dtype) for n in slots]
    leaves = jax.tree.leaves([(cache.keys, cache.values) for cache in caches])
    assert planned.caches == sum(leaf.nbytes for leaf in leaves)
    assert planned.weights == sum(leaf.nbytes for leaf in jax.tree.leaves(subject.params))
    assert planned.total == planned.weights + planned.caches + planned.workspace


def test_more_pictures_and_larger_windows_take_more_memory():
    lengths = Lengths(QUESTION + TEXT, 64, 64, guided=True)
    one, batch, wide = (decode_memory(PURE, lengths, *of) for of in ((1,), (16,), (16, 64)))
    assert batch.caches == 16 * one.caches and batch.weights == one.weights
    assert one.workspace < batch.workspace <= wide.workspace
    assert one.caches == pytest.approx((4.43 + 2.18) * 1e9, rel=0.01)


def test_the_device_says_what_it_has():
    assert available_memory() is None or available_memory() > 0
    assert peak_memory() is None or np.ones(2**20).nbytes < peak_memory()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_the_bytes_of_a_subject_are_those_of_its_arrays(precision):
    subject = bare_precision(tiny(), precision)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(subject.params))
    assert subject.network.all_weights == held
    cache = init_cache(subject.config.transformer, 1, 1, subject.dtype)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((cache.keys, cache.values)))
    assert subject.network.cache_token == held
    assert subject.network.parameters(9) == bare_precision(tiny(), "float32").network.parameters(9)
