"""`pure benchmark`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pure_jax.errors import PureError
from pure_jax.infer.options import Draft


@dataclass(frozen=True)
class Benchmark:
    """Measure how fast pictures are written here, against what this machine's memory allows."""

    model: Path | None = None
    """Model directory, hub id, or demo-nsarm, which ships with this package like the default, demo."""
    config: Literal["pure_7b", "300m", "demo", "tiny", "nsarm_8b", "nsarm_2b", "nsarm_tiny"] | None = None
    """Instead of a model: its sizes alone, with random weights made on the device. Of NSARM's, each part and scale is
    timed; --precisions, --batches, --budget and --out have a meaning then."""
    grid: str | None = None
    """Height and width of the pictures in codes, such as 64x64; by default the model's tile."""
    windows: str = "1,4,16"
    """Tokens a row in one pass, each 1 to 256; 1 is the plain loop, which is always measured."""
    batches: str = "1"
    """Pictures decoded together, each 1 to 1024."""
    decode: Literal["jacobi", "coupled"] = "jacobi"
    """How windows decide what is kept, as in `pure restore`."""
    draft: Draft = "like"
    """The first guess of a code, as in `pure restore`."""
    precisions: str = "auto"
    """Of float32, bfloat16, float16, int8 (weights and cache) and auto: float32 on CPU, bfloat16 elsewhere."""
    against: Literal["torch"] | None = None
    """Time transformers' torch Chameleon on the same shapes too, the original's way: two forwards for a token."""
    budget: float = 300.0
    """Seconds; what would not end in time is left out, and named."""
    out: Path | None = None
    """Write benchmark.json and benchmark.png into this folder, anew after each measurement."""
    overwrite: bool = False
    """Replace outputs that exist already."""
    quiet: bool = False
    """Print nothing but errors, and the object of --json."""
    json: bool = False
    """Print the object of benchmark.json on stdout instead of a table: seconds, bytes and operations by name."""

    @property
    def interrupted(self) -> str | None:
        return f"{self.out} holds what was measured until then" if self.out else None

    def run(self) -> None:
        import jax

        import pure_jax
        from pure_jax.config import PRESETS
        from pure_jax.files import check_output_file, require_writable
        from pure_jax.infer.benchmark.plan import Plan, read_grid, read_numbers, read_precisions
        from pure_jax.infer.benchmark.report import facts, format_report
        from pure_jax.infer.benchmark.subject import Subject, bare_precision, loaded, precision_options
        from pure_jax.infer.benchmark.sweep import Budget, sweep
        from pure_jax.infer.benchmark.torch_baseline import require_torch
        from pure_jax.infer.benchmark.write import outputs, write
        from pure_jax.progress import Reporter

        if self.model is not None and self.config is not None:
            raise PureError("a model has its own configuration; give --model or --config, not both")
        if not 0 < self.budget < float("inf"):
            raise PureError(f"the budget is {self.budget} seconds, but it must be above 0")
        jax.config.update("jax_enable_compilation_cache", False)  # compile times are to be those of a first call
        if (self.config or "").startswith("nsarm") or (
            self.config is None and pure_jax.load_config(self.model).family == "nsarm"
        ):
            self._run_scales()
            return
        preset = PRESETS[self.config]() if self.config else None

        def subject_of(precision: str) -> Subject:
            if preset is not None:
                return bare_precision(preset, precision)
            return loaded(pure_jax.load(self.model, **precision_options(precision)))

        plan = Plan(
            read_grid(self.grid) if self.grid else None,
            read_precisions(self.precisions),
            read_numbers("batches", self.batches),
            read_numbers("windows", self.windows),
            self.decode,
            self.draft,
            against_torch=self.against == "torch",
        )
        if plan.against_torch:
            require_torch()
        for path in outputs(self.out) if self.out else ():
            require_writable(path)
            check_output_file(path, self.overwrite)
        name = self.config or str(self.model or "the demo model")
        with Reporter(self.quiet) as progress:
            for report in sweep(name, subject_of, plan, Budget(self.budget), progress):
                if self.out:
                    write(report, self.out)
        if self.json:
            print(json.dumps(facts(report)))
        elif not self.quiet:
            print(format_report(report))

    def _run_scales(self) -> None:
        """NSARM's parts and scales."""
        import pure_jax
        from pure_jax.checkpoint import compute_dtype
        from pure_jax.files import check_output_file, replacing, require_writable
        from pure_jax.infer.benchmark.plan import read_numbers, read_precisions
        from pure_jax.infer.nsarm.benchmark import ScalesReport, format_reports, measure, random_model, to_json
        from pure_jax.nsarm.presets import bare
        from pure_jax.progress import Reporter

        precisions, batches = read_precisions(self.precisions), read_numbers("batches", self.batches)
        if "int8" in precisions:
            raise PureError("a model of the family nsarm cannot be quantised; leave int8 out")
        for name in ("grid", "against"):
            if getattr(self, name) is not None:
                raise PureError(f"--{name} has no meaning for a model of the family nsarm; leave it out")
        file = self.out / "benchmark.json" if self.out else None
        if file:
            require_writable(file)
            check_output_file(file, self.overwrite)
        reports: list[ScalesReport] = []
        share = self.budget / (len(precisions) * len(batches))
        with Reporter(self.quiet) as progress:
            for precision in precisions:
                progress("load")
                if self.config:
                    model = random_model(bare(self.config.removeprefix("nsarm_")), compute_dtype(precision))
                else:
                    model = pure_jax.load(self.model, dtype=precision)
                for batch in batches:
                    progress("measure", len(reports), len(precisions) * len(batches))
                    reports.append(measure(self.config or str(self.model), model, batch, share))
                    if file:
                        with replacing(file) as beside:
                            beside.write_text(to_json(reports), encoding="utf-8")
        if self.json:
            print(to_json(reports), end="")
        elif not self.quiet:
            print(format_reports(reports))
