"""A training run: its folder, which belongs to one process at a time and to one configuration, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pure_jax.checkpoint import read_json
from pure_jax.errors import PureError
from pure_jax.files import locked, not_writable, replacing
from pure_jax.train.loop import Batch, Metrics, State, Stream, newest_step, newest_tree, train
from pure_jax.train.sharding import spread
from pure_jax.train.watching import Watching

CONFIG = "config.json"
STEPS = ("train.steps",)
"""What may change when a network's run goes on: it can be made longer."""


@dataclass(frozen=True)
class Run:
    """A network's training: where it is kept, and how far it goes now. Nothing here changes what is computed.

    out: folder for checkpoints, metrics.jsonl and the configuration. save_every: steps from one checkpoint to the next.
    deadline: by the clock of `time.monotonic`. allow_change: see `run_folder`.
    """

    out: Path
    save_every: int = 200
    deadline: float | None = None
    allow_change: bool | None = None
    mesh: Mesh | None = None
    """Devices to spread the state and each batch over; None is one device."""
    watch: Watching = Watching()

    def held(self, config: Mapping[str, Any]) -> AbstractContextManager[None]:
        """The folder, ours for the block, and of this configuration; `train.steps` may differ."""
        return run_folder(self.out, config, may_change=STEPS, allow_change=self.allow_change)

    def train(
        self,
        state: State,
        step_fn: Callable[[State, Batch], tuple[State, Metrics]],
        batch_at: Callable[[int], Batch] | Stream,
        steps: int,
    ) -> State:
        """The state at `steps`, or where the time was up; see `pure_jax.train.loop.train`."""
        return train(
            state,
            step_fn,
            batch_at,
            steps=steps,
            directory=self.out,
            save_every=self.save_every,
            deadline=self.deadline,
            place=(lambda batch: batch) if self.mesh is None else partial(spread, self.mesh),
            watch=self.watch,
        )

    def reached(self, steps: int) -> bool:
        """Whether a checkpoint of that step, or a later one, is there."""
        return newest_step(self.out) >= steps

    def params(self) -> Any:
        """The parameters of the newest checkpoint: their running average, where the run keeps one.

        Raises:
            PureError: there is no checkpoint yet, or none that can be read.
        """
        tree = newest_tree(self.out)
        averaged = tree.get("ema")
        return jax.tree.map(jnp.asarray, tree["params"] if averaged is None else averaged)


@contextmanager
def run_folder(
    out: Path,
    config: Mapping[str, Any],
    *,
    may_change: Collection[str] = (),
    allow_change: bool | None = None,
    file: str = CONFIG,
) -> Iterator[None]:
    """Hold a run's folder, which is made if it is not there, for the block.

    Args:
        config: all that decides the result, as values that go into JSON. It is stored, and a run that goes on must have
            the one that is stored.
        may_change: dotted names of values that may differ all the same.
        allow_change: go on with the new values whatever differs; None if the user has no such option.
        file: name of what is stored.

    Raises:
        PureError: another process holds the folder, it belongs to another configuration, or it cannot be written.
    """
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            busy = f"another run is writing {out}; wait until it ends, or give another --out"
            if jax.process_index() == 0:  # for all processes of the run
                stack.enter_context(locked(out / ".lock", busy))
        except OSError as error:
            raise not_writable(out, error) from error
        own = json.loads(json.dumps(config))
        _compare(out, file, own, may_change, allow_change)
        with replacing(out / file) as beside:
            beside.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
        yield


def _compare(out: Path, file: str, own: Any, may_change: Collection[str], allow_change: bool | None) -> None:
    if allow_change or not (out / file).is_file():
        return
    changed = differences(read_json(out / file), own)
    for name, (stored, given) in sorted(changed.items()):
        if name not in may_change:
            way = "" if allow_change is None else ", or go on all the same with --allow-change"
            raise PureError(
                f"{out} was begun with {name} {json.dumps(stored)}, not {json.dumps(given)}; give the same options or "
                f"a new --out{way}"
            )


def differences(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The values in which two JSON objects differ, by dotted name; None where one lacks it."""
    if isinstance(a, dict) and isinstance(b, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in a.keys() | b.keys():
            found |= differences(a.get(name), b.get(name), f"{prefix}.{name}" if prefix else name)
        return found
    return {} if a == b else {prefix: (a, b)}
