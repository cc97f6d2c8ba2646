"""`pure benchmark` for NSARM: every part is there, costs are those of the definitions; no duration counts."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax.__main__ import main
from pure_jax.infer.benchmark import machine
from pure_jax.infer.benchmark.machine import Sizes
from pure_jax.infer.nsarm.benchmark import pass_cost
from pure_jax.nsarm.presets import bare


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(machine, "CPU", Sizes(2**20, 64, 64))


def test_every_part_is_timed(quick, tmp_path, capsys):
    main(["benchmark", "--config", "nsarm_tiny", "--budget", "1", "--out", str(tmp_path / "out"), "--quiet"])
    [found] = json.loads((tmp_path / "out" / "benchmark.json").read_text())["measured"]
    names = [part["name"] for part in found["parts"]]
    assert names == ["text", "encoder and T", "prefill", "scale 4", "scale 5", "decoder"]
    assert [part["tokens"] for part in found["parts"]] == [0, 0, 14, 25, 64, 0]
    assert found["side"] == 32 and found["runs"] >= 1
    assert found["seconds_per_picture"] == pytest.approx(sum(part["seconds"] for part in found["parts"]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "nsarm_tiny", "--precisions", "int8"], "cannot be quantised; leave int8 out"),
        (["--config", "nsarm_tiny", "--grid", "8x8"], "--grid has no meaning"),
    ],
)
def test_what_has_no_meaning_is_refused(options, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["benchmark", *options])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_the_cost_of_the_8b_passes_is_that_of_the_paper_s_roofline():
    """Spec of the checkpoint: 7.19 G weights a token; 151.4 T operations in linear layers, 39.3 T in self-attention."""
    config = bare("8b")
    bounds = (0, *config.ends)
    flops = [pass_cost(config, jnp.bfloat16, 1, b - a, b)[1] for a, b in zip(bounds, bounds[1:], strict=False)]
    assert sum(flops) == pytest.approx(151.4e12 + 39.3e12, rel=0.01)
    read, _ = pass_cost(config, jnp.bfloat16, 1, 0, config.ends[-1])
    weights = read - 6.03e9  # the whole cache in bfloat16
    assert weights == pytest.approx(2 * 7.19e9, rel=0.01)
    assert np.isclose(
        pass_cost(config, jnp.bfloat16, 2, 0, 100)[0] - pass_cost(config, jnp.bfloat16, 1, 0, 100)[0],
        100 * 2 * 40 * 3584 * 2,
    )
