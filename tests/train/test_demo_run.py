"""`pure train demo` makes a whole model from photos, stops when its time is up, and goes on from there."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro
from PIL import Image

import pure_jax
from pure_jax.errors import PureError
from pure_jax.train.command import TrainDemo
from pure_jax.train.demo import DemoRun
from pure_jax.train.recipes import tiny_recipe
from pure_jax.train.staged import TimeIsUp

pytestmark = pytest.mark.slow

RECIPE = tiny_recipe()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for name, split in (("a", "train"), ("b", "train"), ("c", "train"), ("d", "val"), ("e", "val")):
        coarse = np.random.default_rng(ord(name)).integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 72), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
        rows.append({"file": f"{name}.png", "split": split, "author": "A|B", "license": "CC0-1.0", "pkg": "test"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A finished run, interrupted once by its time in the middle of the language model."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    begun = DemoRun(photos, out, RECIPE)
    with begun.held():
        assert begun.tokenizer() and begun.vqgan()
    for stage in ("language_model", "restored"):
        with pytest.raises(TimeIsUp, match=stage):
            replace(begun, deadline=time.monotonic()).run("pure train demo --hours 0.001")
        begun.language_model()
    begun.run("pure train demo")
    return out


def test_the_model_loads_and_its_card_says_what_made_it(run):
    model = pure_jax.load(run / "model")
    assert model.config.vqgan == RECIPE.model.vqgan
    chosen = json.loads((run / "sampling.json").read_text())["chosen"]
    assert (model.config.sampling.temperature, model.config.sampling.k_max) == (chosen["temperature"], chosen["k_max"])
    card = (run / "model" / "README.md").read_text()
    assert "`pure train demo --hours 0.001`" in card and "`pure train demo`" in card
    assert "language model 5" in card and "PSNR-Y" in card and "CPU cores" in card
    credits = (run / "model" / "PHOTOS.md").read_text()
    assert "| a.png | A/B | CC0-1.0 | test |" in credits and "d.png" not in credits


def test_time_ran_out_after_one_step_and_the_rest_came_later(run):
    steps = [json.loads(line)["step"] for line in (run / "lm" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 5]


def test_the_trained_decoder_ships_and_the_codebook_is_the_tokenizers(run):
    from pure_jax.train.loop import newest_tree

    trained, first = newest_tree(run / "decoder")["ema"], newest_tree(run / "vqgan")["ema"]
    shipped = pure_jax.load(run / "model").params["vqgan"]
    kernel = ("decoder", "conv_out", "kernel")

    def leaf(tree, path):
        return np.asarray(leaf(tree[path[0]], path[1:]) if path else tree)

    assert (leaf(trained, kernel) != leaf(first, kernel)).any()
    for path, source in (
        (kernel, trained),
        (("quantizer", "codebook"), first),
        (("encoder", "conv_in", "kernel"), first),
    ):
        np.testing.assert_allclose(leaf(shipped, path), leaf(source, path), rtol=2**-8)  # shipped in bfloat16


def test_the_photos_for_tuning_are_trained_on_by_no_stage(photos, run):
    demo_run = DemoRun(photos, run, RECIPE)
    assert demo_run.tuning_names == ["b.png"]
    assert [photo.name for photo in demo_run.train_photos] == ["a.png", "c.png"]
    assert {path.stem for path in (run / "tuning" / "gt").iterdir()} == {"b"}


@pytest.fixture(scope="module")
def further(photos, run, tmp_path_factory):
    """A run that goes on from the finished model, on other crops."""
    out = tmp_path_factory.mktemp("runs") / "further"
    DemoRun(photos, out, replace(RECIPE, start=str(run / "model"), seed=1, top_k=(8.0,))).run(
        "pure train demo --start model"
    )
    return out


def test_a_finished_model_is_trained_on(run, further):
    first, then = (pure_jax.load(out / "model") for out in (run, further))
    assert (further / "tokenizer.json").read_bytes() == (run / "model" / "tokenizer.json").read_bytes()
    assert not (further / "vqgan").exists()
    same = jax.tree.map(np.array_equal, first.params, then.params)
    assert all(jax.tree.leaves([same["vqgan"]["encoder"], same["vqgan"]["quantizer"]]))
    assert not same["transformer"]["lm_head"]["kernel"] and not same["vqgan"]["decoder"]["conv_out"]["kernel"]


def test_its_card_tells_how_the_model_before_was_made(run, further):
    told = (further / "model" / "README.md").read_text()
    assert "- `pure train demo --hours 0.001`" in told and "- `pure train demo --start model`" in told
    assert told.index("hours 0.001") < told.index("and then with") < told.index("--start model")


def test_a_start_of_other_sizes_is_refused(photos, run, tmp_path):
    wider = replace(RECIPE.model, transformer=replace(RECIPE.model.transformer, intermediate_size=64))
    with pytest.raises(PureError, match="intermediate_size 48, but the recipe says 64"):
        DemoRun(photos, tmp_path / "run", replace(RECIPE, model=wider, start=str(run / "model"))).run("pure train demo")


def test_a_run_of_another_recipe_is_refused(photos, run):
    other = replace(RECIPE, lm=replace(RECIPE.lm, drift=0.5))
    with pytest.raises(PureError, match="lm.drift"):
        DemoRun(photos, run, other).run("pure train demo")
    for recipe in (other, RECIPE):
        with DemoRun(photos, run, recipe, allow_change=True).held():
            pass


def test_more_steps_are_no_other_recipe(photos, run):
    for steps in (9, RECIPE.lm.steps):
        with DemoRun(photos, run, replace(RECIPE, lm=replace(RECIPE.lm, steps=steps))).held():
            pass


def test_what_is_chosen_from_may_change(photos, run):
    with DemoRun(photos, run, replace(RECIPE, guidance_scales=(1.0, 2.0), temperatures=(0.5,))).held():
        pass
    with DemoRun(photos, run, RECIPE).held():
        pass


def test_two_runs_in_one_folder_are_refused(photos, run):
    with DemoRun(photos, run, RECIPE).held(), pytest.raises(PureError, match="another run is writing"):
        DemoRun(photos, run, RECIPE).run("pure train demo")


def test_the_card_names_the_command_so_that_it_can_be_given_again():
    command = TrainDemo(
        Path("my photos"), hours=0.5, start="demo", set=("seed=1",), steps=("lm=9", "vqgan=8"), allow_change=True
    )
    words = shlex.split(command.words())
    assert words[:3] == ["pure", "train", "demo"]
    assert tyro.cli(TrainDemo, args=words[3:]) == command


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"recipe": "nsarm-tiny", "start": "demo"}, "--start is for recipes of PURE's family, and nsarm-tiny is none"),
        ({"set": ("lm.drfit=0.4",)}, "the recipe demo has no value 'lm.drfit'"),
        ({"set": ("lm.drift=-1",)}, "drift is -1.0, but it must lie in"),
        ({"start": "nowhere", "recipe": "tiny"}, "nowhere is not a model directory"),
    ],
)
def test_a_start_or_a_value_that_is_none_is_refused(photos, tmp_path, options, complaint):
    with pytest.raises(PureError, match=complaint):
        TrainDemo(photos, tmp_path / "run", **options).run()
    assert not (tmp_path / "run").exists()


def test_no_photos_leave_no_run(tmp_path):
    with pytest.raises(PureError, match="is not a folder of photos"):
        DemoRun(tmp_path / "nowhere", tmp_path / "run", RECIPE).run("pure train demo")
    assert not (tmp_path / "run").exists()
