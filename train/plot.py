"""Curves of a training run: what its metrics.jsonl says, as one picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pure_jax.errors import PureError
from pure_jax.files import replacing

APART = ("step", "seconds_per_step")
COLUMNS = 2


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl, by step; where a step was made again after a resume, the later one.

    Raises:
        PureError: there is no such file, it has no rows, or one that is no metrics.
    """
    path = run / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PureError(f"{path} cannot be read ({error.strerror}); give the --out of a network's training") from error
    rows: dict[float, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows[float(row["step"])] = {name: float(value) for name, value in row.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PureError(f"{path} line {number} is no row of metrics; remove the line") from error
    if not rows:
        raise PureError(f"{path} has no rows yet; let the run reach its first line")
    return [rows[step] for step in sorted(rows)]


def plot_run(run: Path, out: Path) -> list[str]:
    """Write a PNG with a panel for each quantity over the steps; returns what is shown.

    Raises:
        PureError: what `read_metrics` refuses; matplotlib is not installed.
    """
    rows = read_metrics(run)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PureError('plots need matplotlib; install it with `pip install "pure-jax[train]"`') from error
    names = sorted({name for row in rows for name in row} - set(APART), key=lambda name: (name != "loss", name))
    panels = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(5 * COLUMNS, 2.6 * panels), layout="constrained")
    for i, name in enumerate(names):
        points = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
        axes: Any = figure.add_subplot(panels, COLUMNS, i + 1)
        axes.plot(*zip(*points, strict=True) if points else ([], []), linewidth=1)
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.grid(alpha=0.3)
        axes.set_xlabel("step", fontsize=8)
    figure.suptitle(str(run))
    with replacing(out) as beside:
        figure.savefig(beside, format="png", dpi=110)
    return names
