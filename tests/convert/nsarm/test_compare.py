"""`pure compare` finds NSARM's files and their conversion the same, and says where a changed one departs."""

from __future__ import annotations

import json

import numpy as np
import pytest

import pure_jax
from pure_jax.__main__ import main
from pure_jax.checkpoint import save
from tests.convert.nsarm.test_conversion import states, write


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The published files, and their conversion."""
    folder = tmp_path_factory.mktemp("models")
    transformer, vae = states()
    write(folder / "published", transformer, {"vae": vae})
    main(["convert", str(folder / "published"), str(folder / "flax")])
    return folder


def test_the_conversion_computes_what_pytorch_computes(models, tmp_path, capsys):
    main(["compare", str(models / "flax"), str(models / "published"), "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    names = [point["name"] for point in report["points"]]
    assert names == ["encoder", *(f"T, scale {i}" for i in (1, 2, 3)), "text", "block 0", "block 1", "logits"]
    assert report["verdict"] == "same" and report["max_level"] <= 1
    # Another framework's rounding is there, and no more: measured 2.5e-6 of the largest value.
    assert 0 < max(point["max_relative"] for point in report["points"]) < 1e-5
    assert "same: within the limits" in capsys.readouterr().out


def test_a_changed_parameter_is_found_where_it_acts(models, tmp_path, capsys):
    model = pure_jax.load(models / "flax", scan_layers=False)
    bias = model.params["transformer"]["layers_1"]["fc2"]["bias"]
    model.params["transformer"]["layers_1"]["fc2"]["bias"] = bias + np.float32(0.5)
    save(tmp_path / "changed", model.config, model.params, model.tokenizer.to_str(), "")
    with pytest.raises(SystemExit) as end:
        main(["compare", str(tmp_path / "changed"), str(models / "flax")])
    assert end.value.code == 1
    assert "different: block 1 differs by" in capsys.readouterr().out
