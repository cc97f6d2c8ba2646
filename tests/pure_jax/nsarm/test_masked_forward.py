"""One pass for each scale, behind a prefill, computes what the masked forward over all scales does."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax.convert.nsarm.names import TRANSFORMER_ROWS
from pure_jax.nsarm.conditioning import condition
from pure_jax.nsarm.shapes import transformer_shapes
from pure_jax.nsarm.transformer import Transformer, init_cache
from pure_jax.transformer import stack_layers
from tests.nsarm_bridge import params_of
from tests.pure_jax.nsarm.test_transformer import CAPTIONS, CONFIG, ENDS, SCALES, TOKENS, UNROLLED, full, random_network

# The aim of 1e-5 is more than the double of what level 1 rounds; level 0 rounds 6.2e-6.
pytestmark = pytest.mark.optimised


@pytest.fixture(scope="module")
def params() -> dict:
    return params_of(random_network(), TRANSFORMER_ROWS, transformer_shapes(UNROLLED))


def test_a_prefill_and_one_pass_for_each_scale_equal_the_masked_forward(params):
    """Of scanned layers, whose masked forward `test_transformer` compares with that of unrolled ones."""
    config, own = dataclasses.replace(UNROLLED, scan_layers=True), stack_layers(params)
    whole, network = full(config, own), Transformer(config)
    # Once for both captions, and more rows of them than there are.
    about = condition(config, own, CAPTIONS, jnp.float32).rows(jnp.asarray([0, 1]))

    @partial(jax.jit, static_argnums=(2, 3))
    def run(cache, tokens, first, last):
        return network.apply({"params": own}, tokens, about, SCALES, first, last, cache, with_head=first > 0)

    cache = init_cache(config, 2, ENDS[-1])
    given = CONFIG.given_scales
    logits, cache = run(cache, TOKENS[:, : ENDS[given - 1] - 1], 0, given)
    assert logits is None
    for i in range(given, len(SCALES)):
        span = slice(ENDS[i - 1], ENDS[i])
        logits, cache = run(cache, TOKENS[:, span.start - 1 : span.stop - 1], i, i + 1)
        np.testing.assert_allclose(logits, whole[:, span], rtol=0, atol=1e-5)  # measured 3.0e-6
