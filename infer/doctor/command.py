"""`pure doctor` and `pure models`: what there is to work with, and what to do where something is missing."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True)
class Doctor:
    """Say what there is to compute with, which models are here, and how long a photo will take."""

    photo: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """How long will this one take? Its first batch of tiles is restored for the answer, and thrown away."""
    size: str | None = None
    """The same for some photo of this width and height in pixels, such as 640x480."""
    scale: float = 4.0
    """The result's side over the photo's, 1 to 16."""
    model: Path | None = None
    """Model directory, hub id, or demo-nsarm, which ships with this package like the default, demo."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """As in `pure restore`."""
    models: tuple[Path, ...] = ()
    """Folders to look for models in, beside the hub's cache."""
    quiet: bool = False
    """Print nothing but errors, and the object of --json."""
    json: bool = False
    """Print one JSON object on stdout instead: versions and extras (by name), devices (a list), model, memory (bytes),
    models (a list, as of `pure models`), troubles (a list), time (null without a photo or size): seconds, stages,
    compiling_seconds, tiles, flat_tiles, tiles_together, measured (share of one batch)."""

    def run(self) -> None:
        began = time.perf_counter()
        import pure_jax
        from pure_jax.errors import PureError
        from pure_jax.infer.doctor import surroundings
        from pure_jax.infer.doctor.forecast import forecast
        from pure_jax.infer.doctor.found import find_models
        from pure_jax.infer.doctor.sample import read_size, sample_of
        from pure_jax.infer.pictures.reading import read_picture
        from pure_jax.progress import Reporter

        if self.photo is not None and self.size is not None:
            raise PureError("a photo has its own size; give --photo or --size, not both")
        picture = None
        if self.photo is not None:
            picture = read_picture(self.photo)
        elif self.size is not None:
            picture = sample_of(*read_size(self.size))
        facts: dict[str, Any] = {
            "versions": surroundings.versions(),
            "extras": surroundings.extras(),
            "devices": [asdict(device) for device in surroundings.devices()],
            "model": str(self.model or "demo"),
            "memory": asdict(surroundings.memory_plan(pure_jax.load_config(self.model), self.dtype)),
            "models": [_row(model) for model in find_models(pure_jax.load_config, self.models)],
            "troubles": list(surroundings.troubles()),
            "time": None,
        }
        if picture is not None:
            with Reporter(self.quiet) as report:
                report("load")
                model = pure_jax.load(self.model, dtype=self.dtype)
                start = time.perf_counter() - began
                found = forecast(model, picture, self.scale, progress=report)
            stages = {"start and load": start, **found.stages}
            facts["time"] = {
                "width": found.width,
                "height": found.height,
                "scale": self.scale,
                "seconds": sum(stages.values()),
                "compiling_seconds": found.compiling,
                "stages": stages,
                "tiles": found.tiles,
                "flat_tiles": found.flat,
                "tiles_together": found.together,
                "measured": found.measured,
            }
        if self.json:
            print(json.dumps(facts))
        elif not self.quiet:
            from pure_jax.infer.doctor.words import told

            print("\n".join(told(facts)))


@dataclass(frozen=True)
class Models:
    """List the models on this machine."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER ...]")] = ()
    """Folders to look in, beside the hub's cache; by default the current one."""
    json: bool = False
    """Print a JSON list on stdout instead: name, where, directory, family, parameters, bytes and tile (pixels) of
    each."""

    def run(self) -> None:
        import pure_jax
        from pure_jax.infer.doctor.found import HOW_TO_GET_ONE, find_models

        rows = [_row(model) for model in find_models(pure_jax.load_config, self.folders or (Path("."),))]
        if self.json:
            print(json.dumps(rows))
            return
        from pure_jax.infer.doctor.words import model_lines

        print("\n".join([*model_lines(rows), f"more: {HOW_TO_GET_ONE}"]))


def _row(model: Any) -> dict[str, Any]:
    row = asdict(model)
    return row | {"directory": str(model.directory), "bytes": row.pop("size")}
