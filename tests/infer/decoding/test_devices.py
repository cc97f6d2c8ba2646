"""A model spread over eight simulated devices writes the codes of the model on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.upstream import write_model

PROGRAM = """
import sys
import numpy as np
import pure_jax
from pure_jax.infer.decoding.generate import generate
from pure_jax.infer.decoding.rows import Rows
from pure_jax.infer.decoding.windows import Windows
from pure_jax.sharding import make_mesh

codes = np.random.default_rng(0).integers(0, 64, (3, 8, 4))
whole = pure_jax.load(sys.argv[1])
spread = pure_jax.load(sys.argv[1], mesh=make_mesh(data=2, fsdp=2, tensor=2))
kernel = spread.params["transformer"]["lm_head"]["kernel"]
assert len({shard.device for shard in kernel.addressable_shards}) == 8
expected = generate(whole, codes, seed=1, decoding=Rows())
for decoding in (Rows(), Windows("jacobi", 6)):
    for one, other in zip(generate(spread, codes, seed=1, decoding=decoding), expected, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_allclose(one.entropy, other.entropy, atol=2e-5)
print("same")
"""


@pytest.mark.slow
def test_eight_devices_write_the_same_codes(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(directory)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (0, "same\n"), run.stderr[-3000:]
