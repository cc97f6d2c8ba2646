"""`pure plot` draws every quantity of a run's metrics.jsonl, and says what is wrong with one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pure_jax.__main__ import main
from pure_jax.train.plot import read_metrics


@pytest.fixture
def run(tmp_path):
    rows = [{"step": s, "loss": 3 / s, "code_accuracy": s / 40, "seconds_per_step": 1.0} for s in (10, 20, 30)]
    rows += [{"step": 20, "loss": 9.0, "code_accuracy": float("nan"), "seconds_per_step": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_later_row_of_a_step_counts(run):
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [10, 20, 30] and rows[1]["loss"] == 9.0


def test_a_plot_has_a_panel_for_each_quantity(run, capsys):
    main(["plot", str(run)])
    assert capsys.readouterr().out.endswith("metrics.png: loss, code_accuracy\n")
    main(["plot", str(run)])  # the run's own plot is drawn anew
    with Image.open(run / "metrics.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    coloured = pixels.max(axis=-1).astype(int) - pixels.min(axis=-1) > 60
    assert coloured[:, : pixels.shape[1] // 2].any() and coloured[:, pixels.shape[1] // 2 :].any()


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot be read"), ("", "has no rows yet"), ("{}\n", "line 1 is no row"), ("[]\n", "line 1 is no row")],
)
def test_what_is_no_run_is_one_sentence(tmp_path, capsys, text, words):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["plot", str(tmp_path)])
    error = capsys.readouterr().err
    assert end.value.code == 2 and words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "metrics.png").exists()


def test_another_file_is_not_replaced_unasked(run, capsys):
    out = run / "mine.png"
    main(["plot", str(run), str(out)])
    with pytest.raises(SystemExit):
        main(["plot", str(run), str(out)])
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plot", str(run), str(run / "mine.jpg")])
    assert "must be a .png file" in capsys.readouterr().err
