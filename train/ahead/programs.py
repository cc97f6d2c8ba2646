"""The training step and the decode loop for the devices of a mesh, from shapes alone: no array is ever made."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pure_jax.config import ModelConfig
from pure_jax.errors import PureError
from pure_jax.infer.benchmark.subject import INSTRUCTION_TOKENS, bare_vocabulary
from pure_jax.infer.decoding.noise import noise_of
from pure_jax.infer.decoding.prefill import open_images
from pure_jax.infer.decoding.rows import Rows, decode_rows
from pure_jax.pure import parameter_shapes
from pure_jax.sharding import MESH_AXES, parameter_sharding
from pure_jax.train.config import LanguageModelTrainConfig, LoraConfig
from pure_jax.train.language_model import adapted_state, init_state, make_step
from pure_jax.train.sharding import ROWS, mesh_sizes, require_divided, state_shardings
from pure_jax.transformer import Transformer

TEXT_TOKENS = 128
"""Of an answer, where neither model nor training fixes its length."""


def slice_mesh(text: str, devices: list[Any]) -> Mesh:
    """A mesh as `--mesh` writes it, over a slice's devices, laid out for its network.

    Raises:
        PureError: it is no such list, or the slice has other numbers of devices.
    """
    sizes = mesh_sizes(text)
    if np.prod(sizes) != len(devices):
        raise PureError(f"the mesh {text} has {np.prod(sizes)} devices, but the slice has {len(devices)}")
    laid_out = mesh_utils.create_device_mesh(sizes, devices=devices, allow_split_physical_axes=True)
    return Mesh(laid_out, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def question_length(config: ModelConfig) -> int:
    """Tokens of a question about a picture of the model's own size."""
    side = config.tile_size // config.stride
    return 1 + INSTRUCTION_TOKENS + (Rows().image_slots(side, side) + 1) + 1  # begin, picture with its end, separator


def sequence_length(config: ModelConfig, train: LanguageModelTrainConfig) -> int:
    """Tokens of a question with its answer: what the training fixes, or a picture of the model's own size each."""
    instruction = 1 + INSTRUCTION_TOKENS
    return train.sequence or 2 * question_length(config) - instruction + (config.text_length or TEXT_TOKENS)


def placed(mesh: Mesh, shape: tuple[int, ...], dtype: Any, *spec: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))


def lower_train_step(config: ModelConfig, train: LanguageModelTrainConfig, mesh: Mesh, sequence: int) -> Any:
    """The update of `pure train lm`, lowered for the mesh.

    Raises:
        PureError: the batch or a parameter cannot be split over the mesh.
    """
    require_divided(mesh, train.batch, train.accumulate)
    vocabulary = bare_vocabulary(config)
    codebook = jax.ShapeDtypeStruct((config.vqgan.codebook_size, config.vqgan.codebook_dim), jnp.float32)
    whole = dataclasses.replace(train, lora=LoraConfig())
    state = jax.eval_shape(partial(init_state, config, whole, vocabulary), codebook)
    base: tuple[Any, ...] = ()
    if train.lora.rank:
        dtype = jnp.dtype(train.compute_dtype)
        frozen = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), state.params)
        base = (in_place(frozen, state_shardings(mesh, frozen)),)
        state = jax.eval_shape(partial(adapted_state, train, vocabulary), frozen)
    shardings = state_shardings(mesh, state)
    tokens = placed(mesh, (train.batch, sequence), jnp.int32, ROWS)
    step = make_step(config, train, vocabulary, question_length(config), shardings)
    return step.lower(in_place(state, shardings), (tokens, tokens), *base)


def in_place(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda s, own: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=own), shapes, shardings)


def lower_decode_loop(config: ModelConfig, mesh: Mesh, batch: int, dtype: Any = jnp.bfloat16) -> Any:
    """The plain decode loop for pictures of the model's own size, lowered for the mesh; all rows in one call.

    Raises:
        PureError: the batch or a parameter cannot be split over the mesh.
    """
    parts = int(np.prod([mesh.shape[axis] for axis in ROWS]))
    if batch % parts:
        raise PureError(f"{batch} pictures cannot be split over {parts} devices (data x fsdp); choose a multiple")
    heads = config.transformer.num_kv_heads
    if heads % mesh.shape["tensor"]:
        raise PureError(f"{heads} key heads cannot be split over {mesh.shape['tensor']} devices (tensor)")
    vocabulary, net = bare_vocabulary(config), Transformer(config.transformer, dtype)
    grid = (config.tile_size // config.stride,) * 2
    shapes = {
        path: jax.ShapeDtypeStruct(shape, dtype, sharding=parameter_sharding(mesh, f"transformer.{path}", shape))
        for path, shape in parameter_shapes(config.transformer).items()
    }
    params = unflatten_dict(shapes, sep=".")
    i32 = partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    noise = jax.eval_shape(lambda: noise_of(None, 0, vocabulary.codebook_size))
    opened = jax.eval_shape(
        partial(open_images, net, vocabulary, config.sampling, grid, Rows().image_slots(*grid), False),
        params, i32((batch, question_length(config))), i32((0,)), i32((batch,)), noise,
    )  # fmt: skip

    def place(leaf: Any) -> Any:
        # Stacked keys and values are (layer, slot, head, batch, dim); all else but scalars has its rows in front.
        if leaf.ndim == 5:
            return placed(mesh, leaf.shape, leaf.dtype, None, None, "tensor", ROWS, None)
        rows = leaf.ndim and leaf.shape[0] in (batch, 2 * batch)
        return placed(mesh, leaf.shape, leaf.dtype, *((ROWS,) if rows else ()))

    state = jax.tree.map(place, opened)
    rows = placed(mesh, (), jnp.int32)
    return decode_rows.lower(net, vocabulary, config.sampling, params, state, rows)
