"""A report's files."""

from __future__ import annotations

import json
from pathlib import Path

from pure_jax.files import replacing
from pure_jax.infer.benchmark.plot import plotted
from pure_jax.infer.benchmark.report import Report, facts


def outputs(folder: Path) -> tuple[Path, Path]:
    """The files that `write` makes in a folder: the object for JSON, and the plot."""
    return folder / "benchmark.json", folder / "benchmark.png"


def write(report: Report, folder: Path) -> None:
    """Write both files, in the place of those that are there.

    Raises:
        PureError: they cannot be written.
    """
    facts_file, plot_file = outputs(folder)
    with replacing(facts_file) as path:
        path.write_text(json.dumps(facts(report), indent=2) + "\n", encoding="utf-8")
    with replacing(plot_file) as path:
        plotted(report).save(path, "PNG")
