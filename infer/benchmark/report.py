"""What a benchmark found, as plain data: a table to read, an object for JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax

from pure_jax import __version__
from pure_jax.infer.benchmark.machine import Machine
from pure_jax.infer.benchmark.passes import Timed
from pure_jax.infer.benchmark.torch_baseline import TorchTimes
from pure_jax.infer.decoding.cost import Lengths, Network

CITED_S = {"PURE, one token a step": 256.87, "PURE, speculative": 188.43}
"""Seconds for 512x512 pixels (64x64 codes), from the paper, measured there on a machine it does not name."""
CITED_GRID = (64, 64)


@dataclass(frozen=True)
class Bounds:
    """A precision: the network in it, and what the machine can do with such numbers."""

    precision: str
    machine: Machine
    network: Network
    random: bool


@dataclass(frozen=True)
class Opened:
    """What comes before the first code, for a whole batch."""

    precision: str
    batch: int
    lengths: Lengths
    text_tokens: int
    timed: Timed


@dataclass(frozen=True)
class Measured:
    """Passes of one kind, over the mean fill of the caches."""

    precision: str
    batch: int
    window: int
    timed: Timed
    read: float
    """Bytes, by formula."""
    bound_s: float
    """Seconds on the roofline."""
    peak: int | None
    """Bytes of memory that were in use at most until then, in the whole run."""
    places_s: tuple[float, ...] = ()
    """The plain loop's seconds per pass at the picture's first, middle and last row."""
    passes: float | None = None
    """Per picture; None where only real weights could tell."""

    @property
    def share(self) -> float:
        """Of the roofline's speed."""
        return self.bound_s / self.timed.seconds


Item = Bounds | Opened | Measured | TorchTimes | str
"""What is added to a report; a string is a remark."""


@dataclass(frozen=True)
class Report:
    """name: of the model; grid: latent height and width of the pictures; device: what computed."""

    name: str
    grid: tuple[int, int]
    device: str
    bounds: tuple[Bounds, ...] = ()
    openings: tuple[Opened, ...] = ()
    measured: tuple[Measured, ...] = ()
    torch: tuple[TorchTimes, ...] = ()
    remarks: tuple[str, ...] = ()

    def adding(self, item: Item) -> Report:
        """The same with one thing more."""
        fields = {Bounds: "bounds", Opened: "openings", Measured: "measured", TorchTimes: "torch", str: "remarks"}
        name = fields[type(item)]
        grown: dict[str, Any] = {name: (*getattr(self, name), item)}
        return dataclasses.replace(self, **grown)

    def picture_s(self, measured: Measured) -> float | None:
        """Seconds per picture of a batch, opening included; None where the number of passes is unknown."""
        if measured.passes is None:
            return None
        own = (measured.precision, measured.batch)
        opening = next(o.timed.seconds for o in self.openings if (o.precision, o.batch) == own)
        return (opening + measured.passes * measured.timed.seconds) / measured.batch

    @property
    def times_faster(self) -> float | None:
        """torch's seconds per picture over those of the first thing measured, the plain loop."""
        if not self.torch or not self.measured:
            return None
        ours = self.picture_s(self.measured[0])
        return self.torch[0].picture_s / ours if ours else None


def facts(report: Report) -> dict[str, Any]:
    """The report for JSON: seconds, bytes, operations; everything that was measured, and what follows from it."""
    codes = report.grid[0] * report.grid[1]

    def row(m: Measured) -> dict[str, Any]:
        picture_s = report.picture_s(m)
        return {
            "precision": m.precision,
            "batch": m.batch,
            "window": m.window,
            "ms_per_pass": 1e3 * m.timed.seconds,
            "ms_per_pass_at_first_middle_last_row": [1e3 * s for s in m.places_s],
            "bytes_per_pass": m.read,
            "roofline_ms_per_pass": 1e3 * m.bound_s,
            "share_of_roofline": m.share,
            "passes_per_picture": m.passes,
            "seconds_per_picture": picture_s,
            "tokens_per_second": codes / picture_s if picture_s else None,
            "compile_seconds": m.timed.compile_s,
            "temporary_bytes": m.timed.temporary,
            "peak_bytes": m.peak,
        }

    torch = [
        dataclasses.asdict(t) | {"picture_s": t.picture_s, "times_faster": report.times_faster} for t in report.torch
    ]
    return {
        "pure_jax": __version__,
        "jax": jax.__version__,
        "model": report.name,
        "random_weights": all(b.random for b in report.bounds),
        "device": report.device,
        "grid": list(report.grid),
        "machine": {b.precision: dataclasses.asdict(b.machine) for b in report.bounds},
        "weight_bytes_per_pass": {b.precision: b.network.weights(b.network.codes) for b in report.bounds},
        "openings": [
            {
                "precision": o.precision,
                "batch": o.batch,
                "question_tokens": o.lengths.opening - o.text_tokens,
                "text_tokens": o.text_tokens,
                "seconds": o.timed.seconds,
                "compile_seconds": o.timed.compile_s,
                "temporary_bytes": o.timed.temporary,
            }
            for o in report.openings
        ],
        "measured": [row(m) for m in report.measured],
        "torch": torch[0] if torch else None,
        "cited_seconds_per_picture": CITED_S if report.grid == CITED_GRID else {},
        "remarks": list(report.remarks),
    }


def format_report(report: Report) -> str:
    """The report to be read: lines, and a table in Markdown."""
    height, width = report.grid
    weights = "random weights" if all(b.random for b in report.bounds) else "its own weights"
    lines = [f"{report.name}, {weights}, pictures of {height}x{width} codes, on {report.device}"]
    lines += [_bounds_line(b) for b in report.bounds]
    lines += [_opening_line(o) for o in report.openings]
    lines += ["", *_table(report), ""]
    lines.append(
        "ms/pass: of the plain loop at the first, middle and last row, of windows at mean fill; s/picture from it"
    )
    lines += [_torch_line(report, torch) for torch in report.torch]
    if report.grid == CITED_GRID:
        cited = "; ".join(f"{who}: {s} s per picture" for who, s in CITED_S.items())
        lines.append(f"cited from the paper, not measured here: {cited}")
    lines += [f"note: {remark}" for remark in report.remarks]
    return "\n".join(lines)


def _bounds_line(b: Bounds) -> str:
    m = b.machine
    rates = f"{m.read / 1e9:.1f} GB/s read, {m.multiply_vectors / 1e9:.1f} GB/s in products by a vector"
    return f"this machine in {b.precision}: {rates}, {m.multiply / 1e12:.3g} TFLOP/s"


def _opening_line(o: Opened) -> str:
    tokens = f"{o.lengths.opening - o.text_tokens:,} tokens read, {o.text_tokens} written"
    what = f"before the first code, {o.precision}, batch {o.batch}"
    return f"{what}: {o.timed.seconds:.2f} s ({tokens}), compiled in {o.timed.compile_s:.1f} s"


def _torch_line(report: Report, torch: TorchTimes) -> str:
    steps = ", ".join(f"{1e3 * s:.1f}" for s in torch.step_s)
    timed = f"median of {torch.timed_steps} steps at the same rows: {steps} ms"
    said = (
        f"torch the original's way, {torch.threads} threads: {timed}, {torch.opening_s:.2f} s to read the question; "
        f"{torch.picture_s:,.1f} s per picture, extrapolated to {torch.guided_steps:,} steps"
    )
    times = report.times_faster
    return said if times is None else f"{said}; the first row of the table is {times:.2f} times as fast"


def _table(report: Report) -> list[str]:
    head = (
        "precision",
        "batch",
        "window",
        "ms/pass",
        "GB/pass",
        "roofline ms",
        "of it",
        "passes",
        "tokens/s",
        "s/picture",
    )
    rows = [
        (
            row["precision"],
            str(row["batch"]),
            str(row["window"]),
            f"{row['ms_per_pass']:.2f}",
            f"{row['bytes_per_pass'] / 1e9:.3g}",
            f"{row['roofline_ms_per_pass']:.2f}",
            f"{row['share_of_roofline']:.0%}",
            _or_dash(row["passes_per_picture"], ",.0f"),
            _or_dash(row["tokens_per_second"], ",.1f"),
            _or_dash(row["seconds_per_picture"], ",.2f"),
            f"{row['compile_seconds']:.1f}",
            _or_dash(m.peak and m.peak / 1e9, ".2f"),
        )
        for row, m in zip(facts(report)["measured"], report.measured, strict=True)
    ]
    cells = [(*head, "compile s", "peak GB"), *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True)) + " |" for row in cells]
    return [lines[0], "|" + "|".join("-" * (n + 1) + ":" for n in widths) + "|", *lines[1:]]


def _or_dash(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
