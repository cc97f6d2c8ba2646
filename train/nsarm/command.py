"""NSARM's two stages as `pure train map` and `pure train scales`, and the model that comes of them: `export-nsarm`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from pure_jax.errors import PureError
from pure_jax.train.cluster import ClusterConfig
from pure_jax.train.nsarm.config import MapTrainConfig, ScalesTrainConfig
from pure_jax.train.running import RunOptions

if TYPE_CHECKING:
    from pure_jax.nsarm.model import NsarmModel
    from pure_jax.train.data.photos import Photo
    from pure_jax.train.runs import Run

RESUMES = "the same command continues from the last checkpoint"


@dataclass(frozen=True)
class _Stage:
    """What both stages ask for."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """NSARM model whose sizes and other networks are taken: a directory or hub id, of this library or of PyTorch files.
    Its own weights come first, unless --fresh."""
    photos: Path
    """Folder of photographs (with captions.jsonl: its train split)."""
    fresh: bool = False
    """Begin with fresh weights of the network that the stage adds: map T, scales the transformer."""
    running: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    cluster: Annotated[ClusterConfig, tyro.conf.arg(name="")] = field(default_factory=ClusterConfig)
    interrupted: ClassVar[str] = RESUMES

    def opened(self, out: Path, region: int) -> tuple[NsarmModel, list[Photo], Run]:
        """The model, float32 and spread over the mesh; the photos; the run's folder."""
        from pure_jax.train.data.photos import load_photos

        self.cluster.join()  # before anything else touches a device
        config, run = _config(self.model), self.running.opened(out)
        photos = load_photos(self.photos, minimum=region * config.tile_size)
        return _load(self.model, config, run.mesh), photos, run

    def about(self) -> dict[str, Any]:
        """What decides the result beside sizes and options."""
        return {"start": {"model": _named(self.model), "fresh": self.fresh}}


@dataclass(frozen=True)
class TrainMap(_Stage):
    """NSARM's stage 1: train the map network T alone; resumes where --out left off."""

    out: Path = Path("runs/map")
    """Folder for checkpoints and metrics.jsonl."""
    train: Annotated[MapTrainConfig, tyro.conf.arg(name="")] = field(default_factory=MapTrainConfig)

    def run(self) -> None:
        from pure_jax.train.nsarm.stages import train_map

        model, photos, run = self.opened(self.out, self.train.region)
        start = None if self.fresh else model.params["map_network"]
        resting = {"vae": model.params["vae"]}
        train_map(photos, model.config, self.train, resting, run, start, self.about())


@dataclass(frozen=True)
class TrainScales(_Stage):
    """NSARM's stage 2: train the transformer behind T, and T with it; resumes where --out left off."""

    map: Path | None = None
    """--out of `pure train map`, whose T comes first; by default the model's own."""
    captions: bool = False
    """Tell each photo's caption of captions.jsonl, read by the model's text encoder; photos without one, and all photos
    without this, have the model's prompt."""
    out: Path = Path("runs/scales")
    """Folder for checkpoints and metrics.jsonl."""
    train: Annotated[ScalesTrainConfig, tyro.conf.arg(name="")] = field(default_factory=ScalesTrainConfig)

    def run(self) -> None:
        from pure_jax.train.nsarm.stages import train_scales
        from pure_jax.train.nsarm.told import captions_of

        model, photos, run = self.opened(self.out, self.train.region)
        config, told = model.config, None
        encoded = self.captions or not config.prompt_length
        if encoded:
            if model.tokenizer is None:
                what = (
                    "captions with; leave --captions out" if config.prompt_length else "its prompt with; get it whole"
                )
                raise PureError(f"{self.model} has no text encoder to read {what}")
            shown = photos if self.captions else [replace(photo, caption="") for photo in photos]
            told = captions_of(shown, model.tokenizer, config)
        resting = {name: model.params[name] for name in ("vae", "text_encoder" if encoded else "prompt")}
        map_start = model.params["map_network"]
        if self.map is not None:
            trained = _trained(self.map, "map_network")
            if not _like(trained, map_start):
                raise PureError(f"{self.map} has trained a map network of other sizes than that of {self.model}")
            map_start = trained
        start = None if self.fresh else model.params["transformer"]
        model.params.clear()  # what is not used need not stay
        about = self.about() | {"captions": self.captions, "map": None if self.map is None else _named(str(self.map))}
        train_scales(photos, config, self.train, resting, run, map_start, start, told, about)


@dataclass(frozen=True)
class ExportNsarm:
    """Write an NSARM model directory: a model with the networks that training runs have made."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """The model that was given to the runs."""
    out: Path
    """New model directory; it appears when all is done, or not at all."""
    runs: tuple[Path, ...] = (Path("runs/scales"),)
    """--out of `pure train map` or `scales`; of a network that several have trained, the last one's is taken."""
    card: Path | None = None
    """README.md of the model directory."""
    dtype: str = "bfloat16"
    """Of the parameters that are written: float32, bfloat16 or float16."""

    def run(self) -> None:
        from pure_jax.checkpoint import DTYPES, save
        from pure_jax.train.reading import read_words
        from pure_jax.train.runs import Run

        if self.dtype not in DTYPES[1:]:
            raise PureError(f"dtype is {self.dtype!r}, but it must be one of {', '.join(DTYPES[1:])}")
        card = read_words(self.card) if self.card else "# A model made by pure-jax\n"
        model = _load(self.model, _config(self.model), None)
        params = dict(model.params)
        for run in self.runs:
            trained = Run(run).params()
            if not _like(trained, {name: params.get(name) for name in trained}):
                raise PureError(
                    f"{run} has trained other networks than those of {self.model}; give the run's own model"
                )
            params |= trained
        tokenizer = "" if model.tokenizer is None else model.tokenizer.to_str()
        save(self.out, model.config, params, tokenizer, card, dtype=self.dtype)
        print(f"{self.out}: {sum(f.stat().st_size for f in self.out.iterdir()) / 1e6:.1f} MB")


def _config(model: str) -> Any:
    from pure_jax.convert.opening import load_config

    config = load_config(model)
    if config.family != "nsarm":
        raise PureError(f"{model} is a model of the family {config.family}, which `pure train lm` trains, not NSARM's")
    return config


def _load(model: str, config: Any, mesh: Any) -> NsarmModel:
    from pure_jax.convert.opening import load

    return load(model, "float32", config.transformer.scan_layers, mesh=mesh)


def _like(a: Any, b: Any) -> bool:
    """Whether both have the same arrays' shapes at the same places."""
    import jax

    shapes = (jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (a, b))
    return next(shapes) == next(shapes)


def _trained(run: Path, network: str) -> Any:
    from pure_jax.train.runs import Run

    params = Run(run).params()
    if network not in params:
        raise PureError(f"{run} has trained no {network}; give the --out of `pure train map`")
    return params[network]


def _named(path: str) -> str:
    """A directory by its full path, since a run may go on from elsewhere."""
    return os.path.abspath(path) if os.path.isdir(path) else path
