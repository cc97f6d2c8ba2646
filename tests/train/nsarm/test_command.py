"""NSARM's stages by their own commands: on a model's networks, with captions, over devices; and the model they make."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from PIL import Image

import pure_jax
from pure_jax.__main__ import main
from pure_jax.errors import PureError
from pure_jax.infer.nsarm.captions import text_features
from pure_jax.sharding import MESH_AXES
from pure_jax.train.data.photos import Photo
from pure_jax.train.nsarm.config import MapTrainConfig, ScalesTrainConfig
from pure_jax.train.nsarm.pairs import Pairs, pairs_at
from pure_jax.train.nsarm.stages import train_map
from pure_jax.train.nsarm.steps import scales_objective
from pure_jax.train.nsarm.told import Told, captions_of
from pure_jax.train.plot import read_metrics
from pure_jax.train.runs import Run
from tests.nsarm_models import FEW_SCALES, reading_model, tiny_config, tiny_pair
from tests.processes import ended, free_address, started

SMALL = ["--batch", "2", "--steps", "2", "--save-every", "1"]


@pytest.fixture(scope="module")
def model():
    return reading_model(FEW_SCALES)


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "reads"
    pure_jax.save(folder, model.config, model.params, model.tokenizer.to_str(), "# Reads captions\n")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for name, caption in (("a", "a cat"), ("b", "")):
        coarse = np.random.default_rng(ord(name)).integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
        rows.append({"file": f"{name}.png", "split": "train", "caption": caption})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def photo(name, caption):
    pixels = np.random.default_rng(ord(name)).integers(256, size=(70, 64, 3), dtype=np.uint8)
    return Photo(f"{name}.png", pixels, caption)


def test_captions_stand_beside_their_photos_and_the_prompt_where_there_is_none(model):
    told = captions_of([photo("a", "a cat"), photo("b", "")], model.tokenizer, model.config)
    assert [row[valid].tolist() for row, valid in zip(*told, strict=True)] == [[3, 4, 1], [3, 5, 6, 1]]
    options = ScalesTrainConfig(batch=6, seed=1)
    pairs = pairs_at([photo("a", "a cat"), photo("b", "")], model.config, options, 0, told)
    shown = {int(ids[1]) for ids in pairs.told.ids}
    assert shown == {4, 5} and pairs.told.ids.shape == (6, told.ids.shape[1])
    plain = pairs_at([photo("a", ""), photo("b", "")], model.config, options, 0)
    np.testing.assert_array_equal(plain.high, pairs.high)
    assert plain.told is None
    with pytest.raises(PureError, match=r"^a\.png: the caption has 18 tokens"):
        captions_of([photo("a", "a cat " * 8 + "a")], model.tokenizer, model.config)


def test_a_photo_is_reduced_further_than_the_model_magnifies(model):
    """Its degraded copy is enlarged to the size of the model's low-quality tiles, as photos are that it restores."""
    half = dataclasses.replace(model.config, map_network=dataclasses.replace(model.config.map_network, latent_side=4))
    assert half.magnification == 2
    photos, options = [photo("a", "")], MapTrainConfig(batch=2, region=1, sharpen=False)
    whole, larger = (pairs_at(photos, config, options, 0) for config in (model.config, half))
    np.testing.assert_array_equal(whole.high, larger.high)
    for small, wide in zip(whole.low, larger.low, strict=True):
        np.testing.assert_array_equal(Image.fromarray(small).resize((8, 8), Image.Resampling.BICUBIC), wide)
    with pytest.raises(PureError, match="reduction is 3, but it must be a multiple of 4"):
        train_map(photos, model.config, MapTrainConfig(batch=1, reduction=3), {}, Run(Path("nowhere")))


def test_only_the_wanted_rows_are_made(model):
    options = ScalesTrainConfig(batch=8, region=2)
    all_rows, some = (pairs_at([photo("a", "")], model.config, options, 3, rows=rows) for rows in (None, [5]))
    np.testing.assert_array_equal(all_rows.low[4:], some.low[4:])
    np.testing.assert_array_equal(all_rows.high[4:], some.high[4:])
    assert not some.low[:4].any() and all_rows.low[:4].any()


def test_a_caption_is_what_the_text_encoder_reads_of_it(model):
    """Told to all pictures, it is a prompt of its features."""
    config = model.config
    rng = np.random.default_rng(0)
    sides = (config.low_quality_size, config.tile_size)
    low, high = (jnp.asarray(rng.integers(256, size=(2, side, side, 3), dtype=np.uint8)) for side in sides)
    told = captions_of([photo("a", "a cat")] * 2, model.tokenizer, config)
    features, valid = text_features(model, "a cat")
    resting = {"vae": model.params["vae"], "text_encoder": model.params["text_encoder"]}
    resting["prompt"] = {"features": features[0, : int(valid.sum())]}
    params = {name: model.params[name] for name in ("transformer", "map_network")}
    objective = jax.jit(scales_objective(config, ScalesTrainConfig(batch=2, hidden_share=0.0)))
    losses = [
        float(objective(params, resting, Pairs(low, high, said), jax.random.key(0))[0])
        for said in (None, Told(*map(jnp.asarray, told)), Told(jnp.asarray(told.ids) + told.valid, told.valid))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)  # measured 1.2e-7
    assert abs(losses[2] - losses[1]) > 1e-4


@pytest.mark.slow
def test_both_stages_train_a_models_networks_and_the_result_restores(directory, photos, tmp_path, capsys):
    runs = [str(tmp_path / name) for name in ("map", "scales")]
    common = [str(directory), "--photos", str(photos), *SMALL]
    main(["train", "map", *common, "--out", runs[0]])
    main(["train", "scales", *common, "--out", runs[1], "--map", runs[0], "--captions"])
    made = tmp_path / "made"
    main(["train", "export-nsarm", str(directory), "--runs", *runs, "--out", str(made), "--dtype", "float32"])
    old, new = (pure_jax.load(one, "float32", scan_layers=False) for one in (directory, made))
    for network, moved in {"vae": False, "text_encoder": False, "map_network": True, "transformer": True}.items():
        same = jax.tree.map(np.array_equal, old.params[network], new.params[network])
        assert all(jax.tree.leaves(same)) != moved, network
    restored = pure_jax.Restorer(new, unchecked=True).restore(Image.open(photos / "a.png").resize((16, 16)))
    assert restored.image.size == (64, 64)
    stored = json.loads((tmp_path / "scales" / "config.json").read_text())
    assert stored["captions"] and stored["map"] == runs[0] and stored["start"]["model"] == str(directory)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["train", "scales", *common, "--out", runs[1], "--map", runs[0]])
    assert "was begun with captions true, not false" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit, match="2"):
        main(["train", "scales", *common, "--map", runs[1] + "x"])
    assert "holds no checkpoints" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_trained_is_one_sentence(photos, tmp_path, capsys):
    fixed = tiny_pair().model
    folder = tmp_path / "fixed"
    pure_jax.save(folder, fixed.config, fixed.params, "", "# Fixed\n")
    from pure_jax.checkpoint import demo_directory

    for arguments, words in (
        (["scales", str(folder), "--captions"], "has no text encoder to read captions with"),
        (["map", str(demo_directory())], "of the family pure, which `pure train lm` trains"),
        (["map", str(folder), "--region", "3"], "no photo of the split 'train' of at least 96 pixels"),
        (["scales", str(folder), "--compute-dtype", "float16"], "must be one of float32, bfloat16"),
        (["map", str(folder), "--batch", "8", "--accumulate", "3"], "cannot be cut into 3 equal parts"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["train", *arguments, "--photos", str(photos), "--out", str(tmp_path / "run")])
        assert words in " ".join(capsys.readouterr().err.split())


def test_a_batch_that_the_mesh_does_not_divide_is_one_sentence_and_leaves_nothing(tmp_path, model):
    mesh = AbstractMesh((4, 2, 1), MESH_AXES)
    run = Run(tmp_path / "run", mesh=mesh)
    with pytest.raises(PureError, match="a batch of 6 cannot be split over 8 devices"):
        train_map([photo("a", "")], model.config, MapTrainConfig(batch=6), {"vae": model.params["vae"]}, run)
    with pytest.raises(PureError, match="a batch of 16 in 4 parts cannot be split over 8 devices"):
        options = MapTrainConfig(batch=16, accumulate=4)
        train_map([photo("a", "")], model.config, options, {"vae": model.params["vae"]}, run)
    assert not run.out.exists()


@pytest.mark.slow
def test_two_processes_train_as_one_does(directory, photos, tmp_path):
    """Through the command, which must join before a device is touched."""

    def command(name: str, *words: object) -> list[str]:
        common = ["train", "map", directory, "--photos", photos, "--out", tmp_path / name, "--batch", 4, "--steps", 2]
        return [str(word) for word in (*common, "--save-every", 1, *words)]

    cluster = ["--mesh", "data=2", "--coordinator", free_address(), "--processes", 2, "--process"]
    processes = [started(["-m", "pure_jax", *command("two", *cluster, process)], 1) for process in (0, 1)]
    main(command("one"))
    statuses, errors = ended(processes)
    assert statuses == [0, 0], errors[0][-2000:] + errors[1][-2000:]
    two, whole = (read_metrics(tmp_path / name) for name in ("two", "one"))
    for name in ("loss", "grad_norm"):
        # Measured 1.3e-7.
        np.testing.assert_allclose([r[name] for r in two], [r[name] for r in whole], rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_map_network_of_other_sizes_is_refused(directory, photos, tmp_path, capsys):
    other = tiny_config(**FEW_SCALES)
    other = dataclasses.replace(other, map_network=dataclasses.replace(other.map_network, widths=(8, 16)))
    options = MapTrainConfig(batch=1, steps=1)
    run = Run(tmp_path / "map")
    assert train_map([photo("a", "")], other, options, {"vae": tiny_pair().model.params["vae"]}, run)
    arguments = ["train", "scales", directory, "--photos", photos, "--map", run.out, "--out", tmp_path / "x", *SMALL]
    with pytest.raises(SystemExit, match="2"):
        main([str(word) for word in arguments])
    assert "map network of other sizes" in " ".join(capsys.readouterr().err.split())


PROGRAM = """
import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from pure_jax.train.config import OptimiserConfig
from pure_jax.train.nsarm.config import ScalesTrainConfig
from pure_jax.train.nsarm.stages import train_scales
from pure_jax.train.nsarm.told import captions_of
from pure_jax.train.runs import Run
from pure_jax.train.sharding import read_mesh
from tests.nsarm_models import FEW_SCALES, reading_model
from tests.train.nsarm.test_command import photo

model = reading_model(FEW_SCALES)
photos = [photo("a", "a cat"), photo("b", "")]
told = captions_of(photos, model.tokenizer, model.config)
# Adam divides a gradient by its own size; where that is nearly 0, eps keeps rounding from becoming a whole update.
options = ScalesTrainConfig(batch=8, steps=2, optimiser=OptimiserConfig(1e-3, 1e-3, warmup_steps=0, eps=1e-2))
found = []
for text in (None, "data=2,fsdp=2,tensor=2"):
    run = Run(Path(sys.argv[1]) / str(text), save_every=2, mesh=None if text is None else read_mesh(text))
    begun = model.params["map_network"], model.params["transformer"]
    assert train_scales(photos, model.config, options, model.params, run, *begun, told)
    losses = [json.loads(line)["loss"] for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    found.append((run.params(), losses))
worst = max(
    float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(*map(jax.tree.leaves, found), strict=True)
)
(Path(sys.argv[1]) / "worst").write_text(str(worst))
"""


@pytest.mark.long
def test_eight_devices_train_as_one_does(tmp_path):
    (status,), errors = ended([started(["-c", PROGRAM, tmp_path], 8)])
    assert status == 0, errors[0][-3000:]
    assert float((tmp_path / "worst").read_text()) < 1e-6  # measured 3.6e-7
