"""A family that this project does not know is saved, loaded, converted, restored with and evaluated all the same."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.__main__ import main
from pure_jax.errors import PureError
from pure_jax.families import FAMILIES
from pure_jax.infer.evaluate import evaluate
from pure_jax.infer.families import RESTORE_TILES
from pure_jax.infer.metrics.command import Evaluate
from tests import toy

SHADE = 3


@pytest.fixture(autouse=True)
def family() -> Iterator[None]:
    with toy.registered():
        yield


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    pure_jax.save(tmp_path / "toy", toy.ToyConfig(), toy.params(), "", "# A toy\n")
    return tmp_path / "toy"


def gradient(size: tuple[int, int] = (20, 24)) -> Image.Image:
    """Black above, white below."""
    return Image.linear_gradient("L").resize(size).convert("RGB")


def test_every_family_has_a_row_in_both_tables():
    assert FAMILIES.keys() == RESTORE_TILES.keys() >= {"pure", "nsarm"}


def test_its_directory_has_its_networks_and_no_tokenizer(directory):
    names = {file.name for file in directory.iterdir()}
    assert names == {"config.json", "README.md", "SHA256SUMS", "transformer.safetensors", "painter.safetensors"}
    assert json.loads((directory / "config.json").read_text())["family"] == "toy"


@pytest.mark.parametrize("scan", [True, False])
def test_it_is_loaded_as_its_own_class_with_layers_as_wanted(directory, scan):
    model = pure_jax.load(directory, dtype="bfloat16", scan_layers=scan)
    assert isinstance(model, toy.ToyModel) and (model.tokenizer, model.names) == (None, "no names")
    assert set(model.params["transformer"]) == ({"layers"} if scan else {"layers_0", "layers_1"})
    assert model.shade == SHADE
    assert model.params["painter"]["bias"].dtype == jnp.float32  # it does not follow the dtype
    assert {leaf.dtype for leaf in model.params["transformer"].get("layers", {}).values()} <= {jnp.dtype("bfloat16")}


def test_a_precision_that_it_does_not_know_is_refused(directory):
    with pytest.raises(PureError, match="a model of the family toy cannot be quantised; leave cache out"):
        pure_jax.load(directory, cache="int8")


def test_it_restores_a_photo_of_any_size_and_takes_its_own_options(directory):
    restorer = pure_jax.Restorer(pure_jax.load(directory))
    result = restorer.restore(gradient(), scale=2, seed=7)
    doubled = np.asarray(gradient()).repeat(2, axis=0).repeat(2, axis=1)  # its tiles are the photo's own pixels
    assert np.abs(np.asarray(result.image) - np.minimum(doubled + float(SHADE), 255)).max() <= 1  # blending rounds
    assert (result.degradation, result.description, result.remarks) == (None, "", ["seed 7"])
    assert result.entropy.shape == (12, 10) and np.allclose(result.entropy, 1)
    strong = restorer.restore(gradient(), scale=2, sampling=toy.ToySampling(10.0), flip=True)
    assert np.abs(np.asarray(strong.image) - np.minimum(doubled + 10.0 * SHADE, 255)).max() <= 1


def test_detail_that_its_smaller_copy_does_not_show_is_not_flat(directory):
    checkers = Image.fromarray((np.indices((16, 16)).sum(axis=0) % 2 * 100).astype(np.uint8))
    result = pure_jax.Restorer(pure_jax.load(directory)).restore(checkers, scale=1)
    assert result.remarks == ["seed 0"]


def test_an_option_of_another_family_is_refused(directory):
    restorer = pure_jax.Restorer(pure_jax.load(directory))
    with pytest.raises(PureError, match="faithful has no meaning for a model of the family toy"):
        restorer.restore(gradient(), faithful=True)


def test_it_is_evaluated(directory, tmp_path):
    for name, size in (("lq", (16, 16)), ("gt", (32, 32))):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        gradient(size).save(tmp_path / "pairs" / name / "a.png")
    result = evaluate(tmp_path / "pairs", pure_jax.Restorer(pure_jax.load(directory)), scale=2)
    values = {row.method: row.psnr_y for row in result.rows}
    assert values["tokenizer round trip"] > values["bicubic"] > values["ours"]


def test_evaluate_measures_what_it_can_without_torch(directory, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if not installed
    for name, size in (("lq", (100, 100)), ("gt", (200, 200))):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "pairs" / name / "a.png")
    Evaluate(tmp_path / "pairs", model=directory, scale=2).run()
    table = capsys.readouterr().out.splitlines()
    for line in table[2:5]:
        psnr, ssim, perceptual, niqe = (cell.strip() for cell in line.split("|")[2:-1])
        assert float(psnr) > 0 and float(ssim) < 2 and float(niqe) > 0 and perceptual == "n/a"
    assert sum("'torch'" in line for line in table) == 1


def test_the_commands_take_it(directory, tmp_path, capsys):
    gradient().save(tmp_path / "photo.png")
    paths = [str(tmp_path / name) for name in ("photo.png", "out.png")]
    main(["restore", *paths, "--model", str(directory), "--entropy-map", str(tmp_path / "map.png")])
    shift = np.asarray(Image.open(tmp_path / "out.png")).mean() - np.asarray(gradient()).mean()
    assert shift == pytest.approx(SHADE, abs=1)
    assert (tmp_path / "map.png").is_file()
    assert "the model reads: no degradation\nthe model says: nothing\n" in capsys.readouterr().out

    main(["convert", str(directory), str(tmp_path / "orbax"), "--format", "orbax", "--dtype", "bfloat16", "--verify"])
    assert pure_jax.load(tmp_path / "orbax").shade == SHADE


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["restore", "photo.png", "out.png", "--model", "toy", "--k-max", "5"], "k_max has no meaning"),
        (["restore", "photo.png", "out.png", "--model", "toy", "--text", "A cat."], "text has no meaning"),
        (["convert", "toy", "out.png", "--to", "torch"], "of the family toy cannot be written for PyTorch"),
        (["benchmark", "--model", "toy", "--quiet"], "a model of the family toy cannot be measured here"),
        (["compare", "toy", "toy"], "toy is a model of the family toy, which cannot be compared"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(directory, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(directory.parent)
    gradient().save("photo.png")
    with pytest.raises(SystemExit) as end:
        main(arguments)
    [error] = [line for line in capsys.readouterr().err.splitlines() if line not in ("pure: load", "pure: encode")]
    assert end.value.code == 2 and complaint in error
    assert not Path("out.png").exists()


@pytest.mark.parametrize("name", ["nsarm-2", 1, None, ["toy"]])
def test_an_unknown_family_is_one_sentence(directory, tmp_path, name):
    other = shutil.copytree(directory, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"family": name}))
    with pytest.raises(PureError, match="must be one of pure, nsarm, toy") as refusal:
        pure_jax.load(other)
    assert str(other / "config.json") in str(refusal.value) and "\n" not in str(refusal.value)
