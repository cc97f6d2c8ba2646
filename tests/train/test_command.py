"""The training commands fit together: from three photos to a model directory that loads, in miniature."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess

import numpy as np
import pytest
import tyro
from flax.traverse_util import flatten_dict
from PIL import Image

import pure_jax
from pure_jax.__main__ import COMMANDS, main
from pure_jax.config import PRESETS, tiny
from pure_jax.errors import PureError
from pure_jax.train.command import Export, TrainLanguageModel, TrainTokenizer, TrainVQGAN
from pure_jax.train.config import (
    LanguageModelTrainConfig,
    LoraConfig,
    OptimiserConfig,
    TokenizeConfig,
    VQGANTrainConfig,
)
from pure_jax.train.data.command import Tokenize
from pure_jax.train.data.records import open_records
from pure_jax.train.loop import newest_tree
from pure_jax.train.plot import read_metrics
from tests.processes import ended, free_address, started

pytestmark = pytest.mark.slow


def mini():
    """The preset "tiny" with fewer operations to compile."""
    config = tiny()
    vqgan = dataclasses.replace(config.vqgan, channels=8, channel_multipliers=(1, 1), latent_channels=8, num_groups=2)
    return dataclasses.replace(config, vqgan=vqgan, tile_size=16)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with photos/ and everything the five commands make of them."""
    PRESETS["mini"] = mini
    home = tmp_path_factory.mktemp("home")
    photos = home / "photos"
    photos.mkdir()
    rows = []
    for name, split in (("a.png", "train"), ("b.png", "train"), ("c.png", "val")):
        coarse = np.random.default_rng(ord(name[0])).integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 72), Image.Resampling.BICUBIC).save(photos / name)
        rows.append({"file": name, "split": split, "caption": "Some spots of colour."})
    (photos / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    files = {"tokenizer": home / "tokenizer.json", "vqgan": home / "vqgan", "records": (home / "records",)}
    TrainTokenizer(photos, files["tokenizer"], preset="mini", text_vocab=300).run()
    TrainVQGAN(
        photos,
        files["vqgan"],
        preset="mini",
        train=VQGANTrainConfig(
            batch=2, crop=16, steps=2, autoencoder_steps=0, perceptual_weight=0.0,
            discriminator_width=16, discriminator_layers=1,
        ),
    ).run()  # fmt: skip
    options = TokenizeConfig(tile=16, tiles_per_side=4, variants=2)
    Tokenize(photos, home / "records", str(files["vqgan"]), options=options).run()
    TrainLanguageModel(
        out=home / "lm",
        preset="mini",
        train=LanguageModelTrainConfig(batch=2, steps=2, optimiser=OptimiserConfig(warmup_steps=1)),
        **files,
    ).run()
    (home / "sampling.json").write_text('{"temperature": 0.5}')
    parts = {name: files[name] for name in ("tokenizer", "vqgan")}
    Export(home / "model", lm=home / "lm", preset="mini", sampling=home / "sampling.json", **parts).run()
    yield home
    del PRESETS["mini"]


def test_the_exported_model_is_what_was_trained(home):
    model = pure_jax.load(home / "model", scan_layers=True)
    assert model.config.sampling.temperature == 0.5
    assert model.config.sampling.max_text_tokens == 16  # the preset's
    trained = {"vqgan": newest_tree(home / "vqgan")["ema"], "transformer": newest_tree(home / "lm")["params"]}
    for name, wanted in trained.items():
        for path in (("quantizer", "codebook"), ("decoder", "conv_in", "kernel")) if name == "vqgan" else (
            ("lm_head", "kernel"), ("norm", "weight"),
        ):  # fmt: skip
            own, leaf = model.params[name], wanted
            for key in path:
                own, leaf = own[key], leaf[key]
            # bfloat16 keeps 8 bits: half a unit in the last place is 2^-9.
            np.testing.assert_allclose(own, leaf, rtol=2**-8, atol=1e-8)


def test_the_exported_model_encodes_and_decodes(home):
    model = pure_jax.load(home / "model")
    image = np.asarray(Image.open(home / "photos" / "c.png"))[:16, :16]
    codes = model.encode(image)
    assert codes.shape == (8, 8)
    assert 0 <= codes.min() and codes.max() < 64
    assert model.decode(codes).shape == (16, 16, 3)


def test_every_step_left_its_files(home):
    steps = [[json.loads(line)["step"] for line in open(home / run / "metrics.jsonl")] for run in ("vqgan", "lm")]
    assert steps == [[2], [2]]
    with Image.open(home / "vqgan" / "samples.png") as samples:
        assert samples.size == (8 * 16, 2 * 16)
    records = open_records(home / "records")
    assert len(records) == 2 * 16  # the third photo is of another split
    assert {records[i].caption for i in range(32)} == {"Some spots of colour."}
    thresholds = json.loads((home / "lm" / "thresholds.json").read_text())
    assert thresholds["kind"] == "params" and len(thresholds["blur"]) == len(thresholds["noise"]) == 2


def test_finished_runs_stay_as_they_are(home):
    before = (home / "lm" / "metrics.jsonl").read_text()
    options = LanguageModelTrainConfig(batch=2, steps=2, optimiser=OptimiserConfig(warmup_steps=1))
    files = {"records": (home / "records",), "tokenizer": home / "tokenizer.json", "vqgan": home / "vqgan"}
    TrainLanguageModel(out=home / "lm", preset="mini", train=options, **files).run()
    assert (home / "lm" / "metrics.jsonl").read_text() == before
    with pytest.raises(PureError, match="exists already"):
        Export(home / "model", home / "tokenizer.json", home / "vqgan", home / "lm", preset="mini").run()


def test_a_run_goes_on_over_a_mesh_and_looks_at_other_records(home, files):
    """Which are the same ones here, so that the loss of what was learned last is known."""
    out = shutil.copytree(home / "lm", home / "meshed")
    held = ["--val-records", home / "records", "--val-batches", 2]
    main(["train", "lm", *map(str, [*files, "--out", out, *FEW, "--steps", 3, "--mesh", "data=1", *held])])
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 3
    assert last["val_loss"] == pytest.approx(last["loss"], rel=0.1) and 0 <= last["val_code_accuracy"] <= 1
    with Image.open(out / "samples" / "00000003.png") as samples:
        assert samples.size == (4 * 16, 3 * 16)
        hq = np.asarray(samples)[32:]
    record = open_records(home / "records")[0]
    vqgan, params = pure_jax.load_vqgan(home / "model")
    wanted = pure_jax.decode_codes(vqgan, params, np.asarray(record.hq_codes, np.int32)[None])[0]
    assert np.abs(hq[:, :16].astype(int) - wanted).max() <= 4  # the exported weights are bfloat16


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"card": "absent.md"}, "cannot read .*absent.md"),
        ({"tokenizer": "absent.json"}, "cannot read .*absent.json"),
        ({"sampling": "absent.json"}, "cannot read .*absent.json"),
        ({"sampling": "photos/a.png"}, "cannot read .*a.png"),
        ({"sampling": "metrics"}, "metrics is not JSON"),
        ({"sampling": "unknown"}, "unknown field 'warmth'"),
        ({"sampling": "list"}, "must hold a JSON object"),
        ({"dtype": "float23"}, "dtype is 'float23'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_export_names_what_it_cannot_use(home, options, match):
    for name, text in (("metrics", "{"), ("unknown", '{"warmth": 1}'), ("list", "[1]")):
        (home / name).write_text(text)
    files = {"tokenizer": "tokenizer.json", "vqgan": "vqgan", "lm": "lm"} | options
    paths = {name: value if name == "dtype" else home / value for name, value in files.items()}
    with pytest.raises(PureError, match=match):
        Export(home / "other", preset="mini", **paths).run()
    assert not (home / "other").exists()


def tell(capsys, *arguments: object) -> str:
    """What `pure train` says in one sentence when it ends with status 2."""
    with pytest.raises(SystemExit) as exit_:
        main(["train", *map(str, arguments)])
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("pure: error: ")
    return lines[0]


@pytest.fixture
def files(home):
    return ["--records", home / "records", "--tokenizer", home / "tokenizer.json", "--vqgan", home / "vqgan"]


FEW = ["--preset", "mini", "--batch", 2, "--optimiser.warmup-steps", 1]

PROGRAM = """
import sys

from pure_jax.__main__ import main
from pure_jax.config import PRESETS
from tests.train.test_command import mini

PRESETS["mini"] = mini
main(sys.argv[1:])
"""

CONSTANT = ["--optimiser.warmup-steps", 1, "--optimiser.min-learning-rate", 4e-4]
"""So that a run that ends earlier is the beginning of the longer one."""


def start(files, out, devices: int, steps: int, *words: object) -> subprocess.Popen[str]:
    command = ["train", "lm", *files, "--preset", "mini", "--batch", 4, *CONSTANT]
    command += ["--out", out, "--mesh", "data=2", "--steps", steps, "--save-every", 2, *words]
    return started(["-c", PROGRAM, *command], devices)


def run_two(files, out, steps: int, *words: object) -> tuple[list[int], list[str]]:
    """Exit statuses and standard errors of two processes that train as one."""
    cluster = ["--coordinator", free_address(), "--processes", 2, "--process"]
    return ended([start(files, out, 1, steps, *words, *cluster, number) for number in (0, 1)])


@pytest.mark.long
def test_two_processes_read_a_folder_of_records_as_one_does(files, tmp_path):
    """Each its part of every batch, in the same order; and on from the checkpoint that one of them has left."""
    for steps in (4, 10):  # 32 records: the second part of the run reaches the next epoch
        statuses, ends = run_two(files, tmp_path / "two", steps)
        assert statuses == [0, 0], ends[0][-2000:] + ends[1][-2000:]
    (status,), errors = ended([start(files, tmp_path / "one", 2, 10)])
    assert status == 0, errors[0][-2000:]
    two, whole = (read_metrics(tmp_path / name) for name in ("two", "one"))
    assert [row["step"] for row in two] == [row["step"] for row in whole] == [2, 4, 6, 8, 10]
    for name in ("loss", "grad_norm", "code_accuracy"):
        # Measured 0; sums over processes may come in another order.
        np.testing.assert_allclose([r[name] for r in two], [r[name] for r in whole], rtol=1e-5, err_msg=name)


@pytest.mark.long
def test_a_mistake_ends_every_process_with_its_sentence(files, tmp_path):
    """And at once: else jax keeps the one waiting for the other until its patience of five minutes ends."""
    statuses, ends = run_two(files, tmp_path / "run", 2, "--start", tmp_path / "absent")
    assert statuses == [2, 2]
    assert all("pure: error: " in end and "absent" in end for end in ends), ends


def test_a_run_of_other_options_is_refused_unless_they_may_change(home, files, capsys):
    out = ["--out", shutil.copytree(home / "lm", home / "other")]
    for option, words in (
        (["--optimiser.learning-rate", 1e-3], "train.optimiser.learning_rate 0.0004, not 0.001;"),
        (["--seed", 1], "train.seed 0, not 1;"),
        (["--preset", "tiny"], "model."),
    ):
        assert words in tell(capsys, "lm", *files, *out, *FEW, "--steps", 2, *option)
    main(["train", "lm", *map(str, [*files, *out, *FEW, "--steps", 2, "--seed", 1, "--allow-change"])])
    capsys.readouterr()
    assert "is at step 2 already" in tell(capsys, "lm", *files, *out, *FEW, "--steps", 1, "--seed", 1)


def test_options_that_only_the_files_can_tell_wrong(home, files, capsys):
    photos = ["--photos", home / "photos", "--preset", "mini"]
    small = ["--discriminator-width", 16, "--discriminator-layers", 1]
    for words, arguments in (
        ("save_every is 0", ["lm", *files, *FEW, "--steps", 2, "--save-every", 0]),
        ("crop of 15 pixels is no multiple", ["vqgan", *photos, *small, "--crop", 15]),
    ):
        out = home / f"never-{arguments[0]}"
        assert words in tell(capsys, *arguments, "--out", out)
        assert not out.is_file() and not list(out.glob("checkpoints/*"))


def test_an_out_where_nothing_can_be_made_is_one_sentence(home, files, capsys):
    photos = ["--photos", home / "photos", "--preset", "mini"]
    (home / "file").touch()
    for arguments in (
        ["tokenizer", *photos],
        ["vqgan", *photos, "--crop", 16, "--discriminator-width", 16, "--discriminator-layers", 1],
        ["lm", *files, *FEW],
    ):
        assert "inside' cannot be written (" in tell(capsys, *arguments, "--out", home / "file" / "inside")


@pytest.mark.parametrize("command", ["tokenizer", "vqgan"])
def test_an_unknown_preset_is_one_sentence_and_status_2(home, command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pure", "train", command, "--photos", str(home / "photos"), "--preset", "huge"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()
    assert error == ["pure: error: there is no preset 'huge'; choose one of pure_7b, 300m, demo, tiny, mini"]


def test_an_interrupted_run_says_how_to_continue(monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainLanguageModel, "run", interrupted)
    monkeypatch.setattr("sys.argv", ["pure", "train", "lm"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 130
    assert "the same command continues" in capsys.readouterr().err


def test_training_options_are_flags_without_a_prefix():
    args = ["train", "vqgan", "--photos", "x", "--batch", "4", "--optimiser.learning-rate", "1e-3"]
    command = tyro.extras.subcommand_cli_from_dict(COMMANDS, args=args)
    assert command.step.train.batch == 4
    assert command.step.train.optimiser.learning_rate == 1e-3
    assert command.step.train.optimiser.clip_norm == 1.0  # the run's default, not the class's


def test_a_model_is_trained_on_and_adapted(home, tmp_path):
    """From the exported model: --start goes on with its weights; LoRA leaves them, and export merges."""
    model = shutil.copytree(home / "model", tmp_path / "base")
    files = {"tokenizer": home / "tokenizer.json", "vqgan": home / "vqgan"}
    common = dict(records=(home / "records",), preset="mini", start=str(model), **files)
    optimiser = OptimiserConfig(warmup_steps=1)
    whole = LanguageModelTrainConfig(batch=2, steps=1, optimiser=optimiser)
    TrainLanguageModel(out=tmp_path / "whole", train=whole, **common).run()
    base = pure_jax.load(model, scan_layers=True).params["transformer"]
    # The first step's rate is 0.
    np.testing.assert_array_equal(newest_tree(tmp_path / "whole")["params"]["norm"]["weight"], base["norm"]["weight"])

    lora = dataclasses.replace(whole, steps=2, lora=LoraConfig(rank=2))
    TrainLanguageModel(out=tmp_path / "lora", train=lora, **common).run()
    assert set(newest_tree(tmp_path / "lora")["params"]) == {"lora", "codes"}
    Export(tmp_path / "merged", lm=tmp_path / "lora", preset="mini", dtype="float32", **files).run()
    merged = pure_jax.load(tmp_path / "merged", scan_layers=True).params["transformer"]
    changed = {path[-2] for path, x in flatten_dict(merged).items() if np.abs(x - flatten_dict(base)[path]).max() > 0}
    assert changed == {"q_proj", "v_proj", "embed", "lm_head"}
    Export(tmp_path / "adapters", lm=tmp_path / "lora", adapters=True).run()
    assert (tmp_path / "adapters" / "adapter_model.safetensors").is_file()

    with pytest.raises(PureError, match="trained the whole network, and has no adapters"):
        Export(tmp_path / "none", lm=tmp_path / "whole", adapters=True).run()
    with pytest.raises(PureError, match="absent is no training run"):
        Export(tmp_path / "none", lm=tmp_path / "absent", adapters=True).run()
    with pytest.raises(PureError, match="give one with --start"):
        TrainLanguageModel(out=tmp_path / "no", train=lora, **common | {"start": None}).run()
    with pytest.raises(PureError, match="has num_layers 2, but the recipe says 3"):
        deeper = ("model.transformer.num_layers=3",)
        TrainLanguageModel(out=tmp_path / "no", recipe="tiny", set=deeper, **common).run()
    with pytest.raises(PureError, match="--set changes a recipe's values"):
        TrainLanguageModel(out=tmp_path / "no", set=("train.batch=2",), **common).run()
    with pytest.raises(PureError, match="are written --set train.NAME=VALUE"):
        TrainLanguageModel(out=tmp_path / "no", train=whole, recipe="tiny", **common).run()
