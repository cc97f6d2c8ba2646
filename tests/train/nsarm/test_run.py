"""`pure train demo` makes a whole model of NSARM's family from photos, and goes on where it stopped."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.errors import PureError
from pure_jax.train.nsarm.recipes import tiny_recipe
from pure_jax.train.nsarm.run import NsarmRun
from pure_jax.train.recipes import with_steps
from pure_jax.train.staged import TimeIsUp
from tests.nsarm_models import FEW_SCALES

pytestmark = pytest.mark.slow

TINY = tiny_recipe()
RECIPE = replace(TINY, model=replace(TINY.model, **FEW_SCALES), temperatures=(0.0,))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
        coarse = np.random.default_rng(ord(name)).integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 72), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
        rows.append({"file": f"{name}.png", "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A finished run, interrupted once by its time in stage 2."""
    out = tmp_path_factory.mktemp("runs") / "nsarm"
    begun = NsarmRun(photos, out, RECIPE)
    with begun.held():
        assert begun.vae() and begun.map_network()
    with pytest.raises(TimeIsUp, match="scales"):
        replace(begun, deadline=time.monotonic()).run("pure train demo --recipe nsarm-tiny --hours 0.001")
    begun.run("pure train demo --recipe nsarm-tiny")
    return out


def test_the_model_loads_restores_and_says_what_made_it(run, photos):
    model = pure_jax.load(run / "model")
    assert (model.config.family, model.config.sampling.temperature) == ("nsarm", (0.0,))
    restored = pure_jax.Restorer(model).restore(Image.open(photos / "c.png").resize((16, 16)))
    assert restored.image.size == (64, 64)
    card = (run / "model" / "README.md").read_text()
    assert "--hours 0.001" in card and "both (stage 2) 3" in card and "PSNR-Y" in card
    assert "c.png" not in (run / "model" / "PHOTOS.md").read_text()


def test_every_stage_took_its_steps(run):
    for name, steps in (("vae", [2]), ("map_network", [2]), ("scales", [1, 3])):
        lines = (run / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == steps, name


def test_a_run_of_another_recipe_is_refused_but_not_one_of_more_steps(photos, run):
    other = replace(RECIPE, scales=replace(RECIPE.scales, largest_flip=0.3))
    with pytest.raises(PureError, match="scales.largest_flip"):
        NsarmRun(photos, run, other).run("pure train demo")
    with NsarmRun(photos, run, with_steps(RECIPE, ["scales=9"], NsarmRun.networks)).held():
        pass
