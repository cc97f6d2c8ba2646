"""What lies in an NSARM model directory: every network's parameters by path, from the configuration alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from pure_jax.nsarm.config import VAEConfig
from pure_jax.nsarm.vae import VAE

Shapes = dict[str, tuple[int, ...]]


def _of(network: nn.Module, *args: Any, **kwargs: Any) -> Shapes:
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), *args, **kwargs))
    flat = traverse_util.flatten_dict(variables["params"], sep=".")
    shapes = {path: leaf.shape for path, leaf in flat.items()}
    return dict(sorted(shapes.items(), key=lambda item: item[0].split(".")))


@cache
def vae_shapes(config: VAEConfig) -> Shapes:
    """The image tokenizer's."""
    return _of(VAE(config), jnp.zeros((1, config.stride, config.stride, 3)))
