"""`pure compile`: the programs for a TPU slice, where its compiler is installed; what it says, everywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from pure_jax.__main__ import main
from pure_jax.config import pure_7b
from pure_jax.errors import PureError
from pure_jax.nsarm.transformer import row_bytes
from pure_jax.pure import parameter_shapes
from pure_jax.sharding import MESH_AXES, make_mesh
from pure_jax.train.ahead.chips import Chip, prepare
from pure_jax.train.ahead.nsarm import lower_last_scale, lower_prefill, lower_scales_step
from pure_jax.train.ahead.programs import lower_train_step, sequence_length
from pure_jax.train.ahead.report import advice, collectives, overflow, token_rate
from pure_jax.train.flops import step_flops
from pure_jax.train.recipes.language_model import language_model_recipe
from pure_jax.train.recipes.scales import scales_recipe
from pure_jax.train.speed import largest

compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (the extra aot)")


def pure(*arguments: str) -> subprocess.CompletedProcess:
    """In a process of its own: the compiler wants its environment before jax is there."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "pure_jax", "compile", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@compiler
@pytest.mark.slow
def test_the_step_and_the_loop_compile_for_four_chips():
    """Two layers, with heads wide enough for the attention kernel; as much state goes in as comes out in its place."""
    sizes = {"hidden_size": 256, "num_heads": 2, "num_kv_heads": 2, "head_dim": 128, "vocab_size": 1024}
    changes = [f"model.transformer.{name}={value}" for name, value in sizes.items()]
    changes += ["train.sequence=257", "train.compute_dtype=bfloat16", "train.remat=full"]
    run = pure("--topology", "v5e:2x2", "--mesh", "fsdp=2,tensor=2", "--recipe", "tiny", "--json", "--set", *changes)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert (found["devices"], found["chip"]["name"]) == (4, "v5e")
    step, loop = found["programs"]
    assert step["fits"] and loop["fits"]
    tokens = 2 * 8 * 257 * 4 / 2 / 2**30  # a batch of 8 over two parts of the mesh
    assert step["given_away"] == pytest.approx(step["arguments"] - tokens, abs=1e-5)
    assert step["collectives"]["all-gather"] > 0 and step["temporaries"] < 0.25
    assert loop["given_away"] > 0


def test_the_step_of_lora_is_lowered_with_its_frozen_base_as_an_argument():
    recipe = language_model_recipe("tiny", ["train.lora.rank=2", "train.compute_dtype=bfloat16"])
    mesh = make_mesh(devices=jax.devices()[:1])
    lowered = lower_train_step(recipe.model, recipe.train, mesh, sequence_length(recipe.model, recipe.train))
    state, _, base = lowered.args_info[0]
    assert set(state.params) == {"lora", "codes"}
    assert {leaf.dtype for leaf in jax.tree.leaves(base)} == {jnp.dtype(jnp.bfloat16)}
    assert not any(leaf.donated for leaf in jax.tree.leaves(base))
    assert all(leaf.donated for leaf in jax.tree.leaves(state))


@compiler
@pytest.mark.slow
def test_nsarms_step_and_passes_compile_and_the_cache_is_given_away():
    run = pure("--topology", "v5e:2x2", "--mesh", "fsdp=2,tensor=2", "--recipe", "nsarm_tiny", "--json")
    assert run.returncode == 0, run.stderr[-2000:]
    step, prefill, scale = json.loads(run.stdout)["programs"]
    assert step["fits"] and step["given_away"] > 0 and step["collectives"]["all-reduce"] > 0
    assert prefill["fits"] and scale["program"] == "scale 5"
    config = scales_recipe("nsarm_tiny").model
    cache = row_bytes(config.transformer, config.ends[-1], jnp.bfloat16) / 2 / 2**30  # a row's heads over two devices
    assert scale["given_away"] >= cache


def test_nsarms_programs_take_the_state_and_the_cache_for_their_results():
    recipe, mesh = scales_recipe("nsarm_tiny", ["train.batch=4", "train.accumulate=2"]), make_mesh()
    state, pairs, resting = lower_scales_step(recipe.model, recipe.train, mesh).args_info[0]
    assert all(leaf.donated for leaf in jax.tree.leaves(state))
    assert not any(leaf.donated for leaf in jax.tree.leaves((pairs, resting)))
    assert set(resting) == {"vae", "prompt"} and pairs.high.shape == (4, 32, 32, 3)
    lowered = lower_last_scale(recipe.model, mesh, 2)
    _, about, total, cache, *_ = lowered.args_info[0]
    assert all(leaf.donated for leaf in jax.tree.leaves((total, cache)))
    slots = -(-recipe.model.ends[-1] // 16) * 16
    assert {leaf.shape[-2] for leaf in jax.tree.leaves(cache)} == {slots}  # for a TPU's sake
    assert not any(leaf.donated for leaf in jax.tree.leaves(about))
    assert lower_prefill(recipe.model, mesh, 2).args_info
    with pytest.raises(PureError, match=r"28 heads cannot be split over 3 devices \(tensor\)"):
        lower_prefill(scales_recipe("nsarm_8b").model, AbstractMesh((1, 1, 3), MESH_AXES), 1)
    with pytest.raises(PureError, match="the recipe nsarm_8b has no value 'train.bach'"):
        scales_recipe("nsarm_8b", ["train.bach=4"])


@compiler
def test_what_no_slice_has_is_one_sentence():
    for arguments, words in [
        (["--topology", "v5e:3x7"], "there is no TPU slice 'v5e:3x7'"),
        (["--topology", "v5e:2x2"], "the mesh fsdp=128 has 128 devices, but the slice has 4"),
        (["--topology", "v5e:2x2", "--recipe", "nsarm_9b"], "choose one of pure_7b"),
        (["--topology", "v5e:2x2", "--mesh", "fsdp=4", "--set", "train.batch=6"], "cannot be split over 4 devices"),
    ]:
        run = pure(*arguments)
        assert (run.returncode, run.stdout) == (2, "")
        assert words in run.stderr and "Traceback" not in run.stderr


def test_without_the_compiler_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PureError, match="pip install 'pure-jax.aot.'"):
        prepare()


def test_collectives_are_counted_where_they_begin():
    text = """
  %all-gather.3 = bf16[8,4]{1,0} all-gather(%x), dimensions={0}
  %ag = (f32[2]{0}, f32[4]{0}) all-gather-start(%y), dimensions={0}
  %done = f32[4]{0} all-gather-done(%ag)
  %r = f32[] all-reduce(%all-gather.3), to_apply=%add
"""
    assert collectives(text) == {"all-gather": 2, "all-reduce": 1}


def test_the_compilers_word_on_memory_is_read():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
        "Used 21.52G of 15.75G hbm. Exceeded hbm capacity by 5.77G."
    )
    assert overflow(message) == "21.52G of 15.75G"
    assert "train.remat=dots" in advice("none", 512, 1) and "accumulate" not in advice("none", 512, 1)
    assert "accumulate" in advice("full", 0, 4)


def test_flops_are_six_a_weight_and_token_and_twelve_a_pair_in_the_triangle():
    config = pure_7b().transformer
    shapes = parameter_shapes(config)
    layers = sum(shape[0] * shape[1] * shape[2] for path, shape in shapes.items() if path.endswith("proj.kernel"))
    found = step_flops(config, batch=2, sequence=11, prompt=4)
    assert found.layers == 6 * layers * 2 * 10
    assert found.head == 6 * 4096 * 73_728 * 2 * 7
    pairs = sum(1 for query in range(10) for key in range(10) if key <= query)
    assert found.attention == 12 * 32 * 4096 * pairs * 2
    adapted = step_flops(config, batch=2, sequence=11, prompt=4, adapted=True)
    assert adapted.layers == found.layers * 4 / 6 and adapted.head == found.head
    assert found.total == found.layers + found.head + found.attention


def test_a_token_rate_is_the_share_of_the_chips():
    rate, seconds = token_rate(4e14, tokens=1000, devices=4, chip=Chip("x", 16, 100.0), mfu=0.5)
    assert (rate, seconds) == (pytest.approx(500.0), pytest.approx(2.0))


def test_a_step_is_timed_on_what_is_here(capsys):
    main(
        ["train", "speed", "--recipe", "tiny", "--steps", "2", "--json", "--set", "train.batch=2", "train.lora.rank=2"]
    )
    found = json.loads(capsys.readouterr().out)
    side = 32 // 4
    sequence = 1 + 22 + 2 * (4 + side * (side + 1)) + 2 + 128
    assert (found["devices"], found["batch"], found["sequence"], found["mfu"]) == (1, 2, sequence, None)
    assert found["tokens_per_s"] == pytest.approx(2 * (sequence - 1) / found["seconds_per_step"])
    assert found["loss"] == pytest.approx(np.log(512), rel=0.1)  # of random tokens
    with pytest.raises(PureError, match="does not tell its memory"):
        largest(language_model_recipe("tiny"))
