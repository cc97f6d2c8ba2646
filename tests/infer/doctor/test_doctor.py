"""`pure doctor` and `pure models`: what they find, and what they say where something is missing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.__main__ import main
from pure_jax.config import pure_7b
from pure_jax.errors import PureError
from pure_jax.infer.doctor import surroundings
from pure_jax.infer.doctor.found import find_models
from pure_jax.infer.doctor.sample import read_size, sample_of
from pure_jax.infer.doctor.surroundings import Device, memory_plan, troubles, versions
from pure_jax.infer.doctor.words import told
from tests.models import tiny_model


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and with what is none."""
    folder = tmp_path_factory.mktemp("models")
    model = tiny_model(num_layers=1)
    pure_jax.save(folder / "tiny", model.config, model.params, model.tokenizer.to_str(), "A random model.\n")
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text('{"model_type": "bert"}')
    return folder


@pytest.fixture
def pure(monkeypatch, capsys, tmp_path) -> Callable[..., str]:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: SimpleNamespace(repos=[]))

    def run(*words: object) -> str:
        main([str(word) for word in words])
        return capsys.readouterr().out

    return run


def test_models_are_found_in_folders_and_in_the_hubs_cache(album, monkeypatch):
    revision = SimpleNamespace(snapshot_path=album / "tiny")
    cache = [SimpleNamespace(repo_id="someone/tiny", revisions=[revision])]
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: SimpleNamespace(repos=cache))
    demo, second, cached, found = find_models(pure_jax.load_config, [album])
    assert (second.name, second.where, second.family) == ("demo-nsarm", "embedded", "nsarm")
    assert (demo.name, demo.where, cached.name, cached.where) == ("demo", "embedded", "someone/tiny", "hub cache")
    assert (found.name, found.family, found.tile) == (str(album / "tiny"), "pure", 32)
    leaves = (leaf for part in tiny_model(num_layers=1).params.values() for leaf in _leaves(part))
    assert found.parameters == sum(leaf.size for leaf in leaves)
    assert found.size == sum(file.stat().st_size for file in (album / "tiny").iterdir())
    assert [model.name for model in find_models(pure_jax.load_config, [album / "tiny"])][3:] == [str(album / "tiny")]


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


def test_the_list_says_how_to_get_more(pure, album, monkeypatch):
    monkeypatch.chdir(album)
    demo, _, tiny, more = pure("models").splitlines()
    assert demo.startswith("model: demo (embedded, pure, 5.2 M parameters") and tiny.startswith("model: tiny (folder")
    assert "pure convert" in more
    names = [row["name"] for row in json.loads(pure("models", album, "--json"))]
    assert names == ["demo", "demo-nsarm", str(album / "tiny")]


def test_the_object_has_what_its_help_names(pure, album, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)).save(album / "photo.png")
    words = ["--photo", album / "photo.png", "--model", album / "tiny", "--scale", 1, "--models", album]
    found = json.loads(pure("doctor", *words, "--json", "--quiet"))
    assert set(found) == {"versions", "extras", "devices", "model", "memory", "models", "troubles", "time"}
    assert found["versions"]["pure-jax"] == pure_jax.__version__
    assert [row["where"] for row in found["models"]] == ["embedded", "embedded", "folder"]
    time = found["time"]
    assert (time["width"], time["height"], time["tiles"], time["measured"]) == (20, 16, 1, 1.0)
    assert time["seconds"] == pytest.approx(sum(time["stages"].values())) and time["stages"]["start and load"] > 0
    lines = list(told(found))
    assert any(line.startswith("time: about ") and "for 20x16 pixels at scale 1 (1 tiles" in line for line in lines)


def test_without_a_photo_it_loads_no_model(pure, monkeypatch):
    monkeypatch.setattr(pure_jax, "load", None, raising=False)
    said = pure("doctor")
    assert "device: cpu" in said and "memory: demo in float32 takes about" in said and "time: name a photo" in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--size", "640"], "the size is '640', but it must be width and height"),
        (["--size", "9x9"], "photos have at least 16 pixels a side"),
        (["--size", "99999x99999"], "at most 100 million"),
        (["--size", "20x20", "--photo", "a.png"], "give --photo or --size, not both"),
        (["--photo", "nowhere.png"], "does not exist"),
        (["--models", "nowhere"], "'nowhere' is no folder"),
    ],
)
def test_a_mistake_is_one_sentence(pure, capsys, words, complaint):
    with pytest.raises(SystemExit) as end:
        pure("doctor", *words)
    said = capsys.readouterr()
    assert end.value.code == 2 and said.out == "" and said.err.count("\n") == 1 and complaint in said.err


def test_a_size_is_a_photo_of_that_size():
    assert read_size("40x30") == (40, 30)
    assert sample_of(40, 30).rgb.shape == (30, 40, 3) and len(np.unique(sample_of(40, 30).rgb)) > 50


@pytest.mark.parametrize(("gigabytes", "advice"), [(80, ""), (12, "--weights int8")])
def test_the_plan_says_what_does_not_fit(monkeypatch, gigabytes, advice):
    monkeypatch.setattr(surroundings, "available_memory", lambda: gigabytes * 10**9)
    plan = memory_plan(pure_7b(), "bfloat16")
    assert plan.together == 1 and plan.needed is not None and plan.needed.weights == 2 * 7_080_267_776
    assert (plan.advice == "") == (advice == "") and advice in plan.advice
    assert plan.dtype == jnp.bfloat16.dtype.name


def test_a_gpu_that_jax_does_not_see_is_told(monkeypatch):
    monkeypatch.setattr(surroundings.shutil, "which", lambda name: f"/bin/{name}")
    assert 'pip install "pure-jax[cuda]"' in next(troubles())


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.setattr(surroundings.os, "getloadavg", lambda: (100.0, 0.0, 0.0))
    monkeypatch.setattr(surroundings.os, "cpu_count", lambda: 2)
    assert any("load 100.0 on 2 cores" in trouble for trouble in troubles())
    monkeypatch.setattr(surroundings.os, "getloadavg", lambda: (0.5, 0.0, 0.0))
    assert not any("busy" in trouble for trouble in troubles())


def test_the_extras_that_are_named_are_declared(monkeypatch):
    root = Path(__file__).resolve().parents[3]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert surroundings.EXTRAS.keys() <= declared.keys()
    monkeypatch.setattr(surroundings, "find_spec", lambda name: None if name == "gradio" else name)
    assert [extra for extra, there in surroundings.extras().items() if not there] == ["app"]


def test_versions_and_devices_are_the_installed_ones():
    assert versions()["pillow"] == Image.__version__
    [first, *_] = surroundings.devices()
    assert isinstance(first, Device) and first.platform == "cpu"


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(PureError, match="is no folder"):
        find_models(pure_jax.load_config, [tmp_path / "nothing"])
