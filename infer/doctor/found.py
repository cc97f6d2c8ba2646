"""Which models are on this machine: the embedded ones, the hub's cache, and folders that somebody names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pure_jax.checkpoint import EMBEDDED, demo_directory
from pure_jax.errors import PureError
from pure_jax.families import FAMILIES

HOW_TO_GET_ONE = (
    "get a model from the hub by its name (`pure restore photo.jpg --model OWNER/NAME`), convert PyTorch files "
    "(`pure convert SRC DST`), or train one (`pure train demo`)"
)


@dataclass(frozen=True)
class FoundModel:
    """name: what --model takes. where: "embedded", "hub cache" or
    "folder". parameters: of all its networks. size: bytes of its files. tile: side in pixels."""

    name: str
    where: str
    directory: Path
    family: str
    parameters: int
    size: int
    tile: int


def find_models(load_config: Callable[[Any], Any], folders: Sequence[Path] = ()) -> list[FoundModel]:
    """The models that can be used. load_config: `pure_jax.load_config`, which says what lies in a directory.

    folders: each may be a model itself, or hold some.

    Raises:
        PureError: a folder that is none.
    """
    for folder in folders:
        if not folder.is_dir():
            raise PureError(f"{str(folder)!r} is no folder; name one that holds models")
    places = [*((name, "embedded", demo_directory(name)) for name in EMBEDDED), *_in_hub_cache()]
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob("*/config.json"))
        places += [(str(path), "folder", path) for path in ([folder] if _may_be(folder) else inside)]
    found = (_look_at(load_config, *place) for place in places)
    return [model for model in found if model is not None]


def parameters_of(config: Any) -> int:
    """Numbers in all networks of a model with this configuration."""
    return sum(math.prod(s) for shapes in FAMILIES[config.family].shapes(config).values() for s in shapes.values())


def _look_at(load_config: Callable[[Any], Any], name: str, where: str, directory: Path) -> FoundModel | None:
    try:
        config = load_config(directory)
    except PureError:
        return None  # somebody else's: a cache holds what other programs have fetched, too
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return FoundModel(name, where, directory, config.family, parameters_of(config), size, config.tile_size)


def _in_hub_cache() -> Iterator[tuple[str, str, Path]]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError):
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        for revision in repo.revisions:
            if _may_be(revision.snapshot_path):
                yield repo.repo_id, "hub cache", Path(revision.snapshot_path)


def _may_be(folder: Path) -> bool:
    return (folder / "config.json").is_file()
