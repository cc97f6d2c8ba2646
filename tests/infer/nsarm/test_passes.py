"""The programs of the published sizes fit together, by their shapes alone."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pure_jax.infer.nsarm.passes import Networks, first_scales, prefill, write_scale
from pure_jax.infer.nsarm.sampling import SeedNoise
from pure_jax.nsarm.conditioning import Captions, condition
from pure_jax.nsarm.config import NsarmConfig, SamplingConfig
from pure_jax.nsarm.model import NsarmModel
from pure_jax.nsarm.shapes import network_shapes


def tree(shapes: dict[str, tuple[int, ...]], dtype: str) -> dict:
    out: dict = {}
    for path, shape in shapes.items():
        *folders, name = path.split(".")
        own = out
        for folder in folders:
            own = own.setdefault(folder, {})
        own[name] = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    return out


def test_the_8b_model_with_guidance_in_bfloat16():
    config = NsarmConfig(sampling=SamplingConfig(guidance_scale=3.0))
    params = {
        name: tree(shapes, "bfloat16" if name == "transformer" else "float32")
        for name, shapes in network_shapes(config).items()
    }
    model = NsarmModel(config, params, None, None, jnp.bfloat16)
    nets = Networks(config, model.vae, model.map_network, model.transformer)
    captions = Captions(
        *(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (((2, 100, 2048), "float32"), ((2, 100), "bool"))),
        jax.ShapeDtypeStruct((2,), "bool"),
    )
    about = jax.eval_shape(
        lambda p, c: condition(config.transformer, p, c, jnp.bfloat16), params["transformer"], captions
    )
    assert about.keys_values.shape == (40, 2, 100, 7168) and about.keys_values.dtype == jnp.bfloat16
    pixels = jax.ShapeDtypeStruct((1, 256, 256, 3), "uint8")
    total, tokens = jax.eval_shape(partial(first_scales, nets), params, pixels)
    assert total.shape == (1, 128, 128, 14) and tokens.shape == (1, 520, 56)
    cache = jax.eval_shape(partial(prefill, nets), params, tokens, about)
    assert cache.keys.shape == (40, 2, 28, 10_528, 128) and cache.keys.dtype == jnp.bfloat16
    images, noise = jax.ShapeDtypeStruct((1,), "int32"), SeedNoise(jnp.uint32(0))
    for scale, side in list(enumerate(config.sides))[7:]:
        step = partial(write_scale, nets, config.sampling, scale)
        total, cache, entropy, bits = jax.eval_shape(step, params, about, total, cache, noise, images)
        assert total.shape == (1, 128, 128, 14) and total.dtype == jnp.float32
        assert entropy.shape == (1, side, side) and bits.shape == (1, 2 * side, 2 * side, 14)
    assert np.prod(cache.values.shape) * 2 * 2 / 1e9 < 2 * 6.04  # GB, two rows; 6.03 for one as the roofline has it
