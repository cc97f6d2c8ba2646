"""Training over eight simulated devices is training on one: losses, parameters, and going on over another mesh."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from functools import partial, reduce
from operator import getitem

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import AbstractMesh, PartitionSpec

from pure_jax.errors import PureError
from pure_jax.sharding import MESH_AXES
from pure_jax.train.config import LanguageModelTrainConfig
from pure_jax.train.language_model import init_state, make_step
from pure_jax.train.sharding import read_mesh, state_shardings
from tests.models import tiny_config
from tests.train.test_language_model import CODEBOOK, CONFIG, OPTIONS, PROMPT_LENGTH, VOCABULARY, batch, start

__all__ = ["start"]

PROGRAM = """
import dataclasses
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pure_jax.train.language_model import init_state, make_step
from pure_jax.train.runs import Run
from pure_jax.train.sharding import born_sharded, read_mesh, spread, state_shardings
from tests.models import tiny_config
from tests.train.test_language_model import CODEBOOK, OPTIONS, PROMPT_LENGTH, VOCABULARY, batch

config = tiny_config(tile_size=16, num_layers=2, scan_layers=True)
options = dataclasses.replace(OPTIONS, batch=8, ema_decay=0.5)
make = partial(init_state, config, options, VOCABULARY, jnp.asarray(CODEBOOK, jnp.float32))
whole = make_step(config, options, VOCABULARY, PROMPT_LENGTH)
batches = [batch(step, config=config, options=options) for step in range(3)]
expected, losses = make(), []
for one in batches:
    expected, metrics = whole(expected, one)
    losses.append(float(metrics["loss"]))


def same(state):
    for ours, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        # Measured 1.5e-7. Adam divides a gradient by its own size: where it is nearly 0, rounding moves a parameter by
        # a part of the learning rate, which is 4e-3 in the first steps.
        np.testing.assert_allclose(np.asarray(ours), np.asarray(wanted), rtol=0, atol=1e-6)


meshes, steps = ["data=8", "data=4,fsdp=2", "fsdp=2,tensor=4"], {}
for text in meshes:
    mesh = read_mesh(text)
    state = born_sharded(make, mesh)
    shardings = state_shardings(mesh, state)
    steps[text] = step_fn = make_step(config, options, VOCABULARY, PROMPT_LENGTH, shardings)
    kernel = state.opt_state[1][0].mu["layers"]["mlp"]["up_proj"]["kernel"]
    parts = {device: shard.data.shape for device, shard in ((s.device, s) for s in kernel.addressable_shards)}
    split = mesh.shape["fsdp"] * mesh.shape["tensor"]
    assert len(parts) == 8 and {np.prod(shape) for shape in parts.values()} == {kernel.size // split}, parts
    for one, loss in zip(batches, losses, strict=True):
        before = state
        state, metrics = step_fn(state, spread(mesh, one))
        np.testing.assert_allclose(float(metrics["loss"]), loss, rtol=1e-6)  # measured 1.6e-7
    assert jax.tree.leaves(before.params)[0].is_deleted()  # given away
    same(state)

# Two steps over one mesh, the third over another.
for stop, text in ((2, "data=4,fsdp=2"), (3, "fsdp=2,tensor=4")):
    run = Run(Path(sys.argv[1]), mesh=read_mesh(text))
    state = born_sharded(make, run.mesh)
    state = run.train(state, steps[text], lambda step: batches[step], stop)
    kernel = state.params["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.sharding.mesh.shape == run.mesh.shape
same(state)
print("same")
"""


@pytest.mark.slow
def test_eight_devices_train_as_one_does_and_go_on_over_another_mesh(tmp_path):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run")],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout.splitlines()[-1:]) == (0, ["same"]), run.stderr[-3000:]


def test_what_muon_and_its_adamw_keep_lies_as_their_parameters_do():
    config = tiny_config(tile_size=16, num_layers=2, scan_layers=True)
    options = dataclasses.replace(OPTIONS, muon=2.0)
    codebook = jnp.asarray(CODEBOOK, jnp.float32)
    state = jax.eval_shape(partial(init_state, config, options, VOCABULARY, codebook))
    lying = state_shardings(AbstractMesh((2, 2, 2), MESH_AXES), state)
    kept = lying.opt_state[1].inner_states
    for name, own in (("muon", ("layers", "mlp", "up_proj", "kernel")), ("adam", ("embed", "embedding"))):
        [moments] = [inner for inner in kept[name].inner_state if hasattr(inner, "mu")]
        placed, parameter = (reduce(getitem, own, tree) for tree in (moments.mu, lying.params))
        assert placed.spec == parameter.spec != PartitionSpec()


@pytest.mark.parametrize("change", [{"accumulate": 3}, {"logit_rows": 5}], ids=lambda change: next(iter(change)))
def test_parts_change_neither_loss_nor_gradient(start, change):
    """A batch of 6 in 3 parts; logits of 5 positions at a time, which do not divide the answer."""
    options = dataclasses.replace(OPTIONS, batch=6, z_loss=1e-3)
    one = batch(0, options=options)
    states = []
    for own in (options, dataclasses.replace(options, **change)):
        states.append(make_step(CONFIG, own, VOCABULARY, PROMPT_LENGTH)(start, one))
    (state, metrics), (other, theirs) = states
    for name in metrics:
        np.testing.assert_allclose(theirs[name], metrics[name], rtol=1e-5, err_msg=name)
    # Of Adam's first moments, which are a tenth of the gradient after one step.
    for a, b in zip(*(jax.tree.leaves(s.opt_state[1][0].mu) for s in (state, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_the_z_loss_is_the_mean_square_of_the_log_sum_exp(start):
    one = batch(0)
    plain, with_z = (
        make_step(CONFIG, dataclasses.replace(OPTIONS, z_loss=z), VOCABULARY, PROMPT_LENGTH)(start, one)[1]["loss"]
        for z in (0.0, 0.5)
    )
    from pure_jax.sequence import IGNORE
    from pure_jax.transformer import Transformer

    tokens, labels = map(jnp.asarray, one)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    network = Transformer(CONFIG.transformer)
    logits = jax.jit(lambda params: network.apply({"params": params}, tokens, positions)[0][:, :-1])(start.params)
    squares = np.square(scipy.special.logsumexp(logits, axis=-1))[np.asarray(labels[:, 1:]) != IGNORE]
    assert float(with_z - plain) == pytest.approx(0.5 * squares.mean(), rel=1e-4)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(start):
    params = jax.tree.map(jnp.copy, start.params)
    params["norm"]["weight"] = params["norm"]["weight"] * jnp.inf
    broken = start.replace(params=params)
    state, metrics = make_step(CONFIG, OPTIONS, VOCABULARY, PROMPT_LENGTH)(broken, batch(0))
    assert int(state.step) == 1 and metrics["skipped"] == 1 and metrics["loss"] == 0
    for a, b in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(start.opt_state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bfloat16_products_are_near_float32s(start):
    one = batch(0)
    losses = [
        make_step(CONFIG, dataclasses.replace(OPTIONS, compute_dtype=d), VOCABULARY, PROMPT_LENGTH)(start, one)[1]
        for d in ("float32", "bfloat16")
    ]
    assert float(losses[0]["loss"]) == pytest.approx(float(losses[1]["loss"]), rel=0.02)
    assert losses[0]["loss"] != losses[1]["loss"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data", "write it as data=2,fsdp=4"),
        ("data=2,data=2", "write it as data=2,fsdp=4"),
        ("rows=2", "with axes of data, fsdp, tensor"),
        ("data=3", "does not fit 1 devices"),
    ],
)
def test_a_mesh_that_cannot_be_is_one_sentence(text, words):
    with pytest.raises(PureError, match=words):
        read_mesh(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 4, "accumulate": 3}, "cannot be cut into 3 equal parts"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"compute_dtype": "float16"}, "must be float32 or bfloat16"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(PureError, match=words):
        LanguageModelTrainConfig(**options)
