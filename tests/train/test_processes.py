"""Two processes of four simulated devices each train as one process of eight does, over loopback."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from pure_jax.train.plot import read_metrics
from tests.processes import ended, free_address, started

JOIN = """
import dataclasses
import sys
from functools import partial
from pathlib import Path

import jax

from pure_jax.train.cluster import ClusterConfig

out, *where = sys.argv[1:]
if where:
    ClusterConfig(coordinator=where[0], processes=2, process=int(where[1])).join()

import jax.numpy as jnp

from pure_jax.train.runs import Run
from pure_jax.train.sharding import read_mesh, state_shardings
from tests.models import tiny_config

assert jax.device_count() == 8 and jax.process_count() == (2 if where else 1)
"""

LANGUAGE_MODEL = """
from pure_jax.train.language_model import init_state, make_step
from tests.train.test_language_model import CODEBOOK, OPTIONS, PROMPT_LENGTH, VOCABULARY, batch

config = tiny_config(tile_size=16, num_layers=1)
options = dataclasses.replace(OPTIONS, batch=8)
make = partial(init_state, config, options, VOCABULARY, jnp.asarray(CODEBOOK, jnp.float32))
mesh = read_mesh("data=2,fsdp=2,tensor=2")
shardings = state_shardings(mesh, jax.eval_shape(make))
born, step_fn = jax.jit(make, out_shardings=shardings), make_step(config, options, VOCABULARY, PROMPT_LENGTH, shardings)
for steps in (2, 4):  # and on from its checkpoint
    run = Run(Path(out), save_every=2, mesh=mesh)
    with run.held({}):
        state = born()
        state = run.train(state, step_fn, partial(batch, config=config, options=options), steps)
assert int(state.step) == 4
"""

IMAGE_TOKENIZER = """
from pure_jax.train.stages import train_vqgan
from tests.train.test_vqgan_training import MODEL, OPTIONS, PHOTOS

options = dataclasses.replace(OPTIONS, batch=8, steps=3, autoencoder_steps=1)
config = dataclasses.replace(tiny_config(), vqgan=MODEL)
# One device is the other side of the comparison, not eight of one process.
run = Run(Path(out), save_every=1, mesh=read_mesh("data=8") if where else None)
assert train_vqgan(PHOTOS, config, options, run)
"""


def both(program: str, folder: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """The metrics of two processes of four devices each that run a program as one, and of one process of eight."""

    def start(name: str, devices: int, *where: object) -> subprocess.Popen[str]:
        return started(["-c", JOIN + program, folder / name, *where], devices)

    coordinator = free_address()
    statuses, errors = ended([start("two", 4, coordinator, process) for process in (0, 1)])
    assert statuses == [0, 0], errors[0][-2000:] + errors[1][-2000:]
    (status,), errors = ended([start("one", 8)])
    assert status == 0, errors[0][-2000:]
    two, whole = (read_metrics(folder / name) for name in ("two", "one"))
    assert len((folder / "two" / "metrics.jsonl").read_text().splitlines()) == len(two)  # the first one writes alone
    return two, whole


@pytest.mark.long
def test_two_processes_train_a_language_model_as_one_does(tmp_path):
    two, whole = both(LANGUAGE_MODEL, tmp_path)
    assert [row["step"] for row in two] == [2, 4]
    for name in ("loss", "grad_norm", "code_accuracy"):
        # Measured 0 here; sums over processes may come in another order.
        np.testing.assert_allclose([r[name] for r in two], [r[name] for r in whole], rtol=1e-5, err_msg=name)


@pytest.mark.long
def test_two_processes_train_an_image_tokenizer_as_one_device_does(tmp_path):
    """By its stage: an autoencoder, a codebook of its latents, a discriminator."""
    two, whole = both(IMAGE_TOKENIZER, tmp_path)
    assert [row["step"] for row in two] == [1, 2, 3]
    for name in ("loss", "psnr", "codes_in_batch", "discriminator"):
        np.testing.assert_allclose([r[name] for r in two], [r[name] for r in whole], rtol=1e-4, atol=1e-6, err_msg=name)
