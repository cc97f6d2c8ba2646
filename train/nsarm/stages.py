"""NSARM's two stages from data to finished checkpoint: what `pure train map`, `scales` and `demo` have in common.

Both go on from where their run was left, and return whether all steps are done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from pure_jax.config import to_dict
from pure_jax.errors import PureError
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.train.data.photos import Photo
from pure_jax.train.nsarm import steps
from pure_jax.train.nsarm.config import MapTrainConfig, ScalesTrainConfig
from pure_jax.train.nsarm.initial import initial_params
from pure_jax.train.nsarm.pairs import Pairs, pairs_at
from pure_jax.train.nsarm.told import Told
from pure_jax.train.runs import Run
from pure_jax.train.sharding import born_from, born_sharded, rows_needed, state_shardings
from pure_jax.train.updating import TrainState

NAMED = ""
"""The parameters' paths begin with a network's name, see `pure_jax.train.sharding.state_shardings`."""


def train_map(
    photos: list[Photo],
    config: NsarmConfig,
    options: MapTrainConfig,
    resting: steps.Resting,
    run: Run,
    start: Any = None,
    about: Mapping[str, Any] | None = None,
) -> bool:
    """Stage 1: the map network.

    resting: parameters of "vae". start: the map network's to begin with; None takes fresh ones. about: what else
    decides the result, for the run's folder.

    Raises:
        PureError: a batch that the mesh does not divide; what `Run.held` and `Run.train` refuse.
    """
    objective = steps.map_objective(config, options)
    return _train(photos, config, options, objective, resting, {"map_network": start}, None, run, about)


def train_scales(
    photos: list[Photo],
    config: NsarmConfig,
    options: ScalesTrainConfig,
    resting: steps.Resting,
    run: Run,
    map_start: Any,
    start: Any = None,
    told: Told | None = None,
    about: Mapping[str, Any] | None = None,
) -> bool:
    """Stage 2: both networks.

    Args:
        resting: parameters of "vae", and of "text_encoder" or, where nothing is told, "prompt".
        map_start: stage 1's map network. start: the transformer to begin with; None takes a fresh one.
        told: of each photo.
        about: as in `train_map`.

    Raises:
        PureError: as `train_map`; heads that the mesh does not divide.
    """
    if run.mesh is not None:
        require_heads(config, run.mesh)
    objective = steps.scales_objective(config, options, run.mesh)
    begun = {"transformer": start, "map_network": map_start}
    return _train(photos, config, options, objective, resting, begun, told, run, about)


def require_heads(config: NsarmConfig, mesh: Mesh) -> None:
    """Raise PureError unless the transformer's heads can be split over the mesh."""
    heads, parts = config.transformer.num_heads, mesh.shape["tensor"]
    if heads % parts:
        raise PureError(f"{heads} heads cannot be split over {parts} devices (tensor); choose a mesh that divides them")


def _train(
    photos: list[Photo],
    config: NsarmConfig,
    options: MapTrainConfig | ScalesTrainConfig,
    objective: steps.Objective,
    resting: steps.Resting,
    begun: Mapping[str, Any],
    told: Told | None,
    run: Run,
    about: Mapping[str, Any] | None,
) -> bool:
    rows = rows_needed(run.mesh, options.batch, options.accumulate)
    if options.reduction % config.magnification or config.tile_size % options.reduction:
        raise PureError(
            f"reduction is {options.reduction}, but it must be a multiple of {config.magnification}, the model's "
            f"magnification, and divide its tiles of {config.tile_size} pixels"
        )
    with run.held({"model": to_dict(config), "train": asdict(options), **(about or {})}):
        state = _state(config, options, begun, run)
        shardings = None if run.mesh is None else state_shardings(run.mesh, state, NAMED)
        step_fn = steps.make_step(options, objective, shardings)
        # Not all of what was loaded over a mesh is this process's to move.
        resting = resting if run.mesh is not None else jax.device_put(resting)
        batch_at: Callable[[int], Any] = partial(pairs_at, photos, config, options, told=told, rows=rows)

        def update(state: TrainState, pairs: Pairs) -> tuple[TrainState, dict[str, jax.Array]]:
            return step_fn(state, pairs, resting)

        return int(run.train(state, update, batch_at, options.steps).step) >= options.steps


def _state(
    config: NsarmConfig, options: MapTrainConfig | ScalesTrainConfig, begun: Mapping[str, Any], run: Run
) -> TrainState:
    """The state before the first step, where it belongs."""
    given = {name: own for name, own in begun.items() if own is not None}
    missing = tuple(name for name in begun if name not in given)

    def make(given: Any) -> TrainState:
        fresh = initial_params(config, missing, options.seed)
        return steps.init_state(jax.tree.map(lambda x: x.astype("float32"), given) | fresh, options)

    if run.mesh is not None and not given:
        return born_sharded(partial(make, {}), run.mesh, NAMED)
    return born_from(make, given, run.mesh, NAMED)
