"""What the training commands ask about a run as such: its checkpoints, its devices, what else is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pure_jax.train.runs import Run


@dataclass(frozen=True)
class RunOptions:
    """Nothing here changes what is computed."""

    save_every: int = 200
    """Steps from one checkpoint to the next."""
    allow_change: bool = False
    """Go on with these options although the run was begun with others; --steps may be raised without it."""
    mesh: str | None = None
    """Devices to spread over, such as data=2,fsdp=4,tensor=1, all that there are; by default the recipe's, where it has
    one, or the first device alone. A run may go on with another mesh."""
    tensorboard: bool = False
    """Write events for TensorBoard too, into the folder tensorboard in --out."""
    profile: tuple[int, int] | None = None
    """Steps FIRST LAST of which a trace is written, into the folder profile in --out, for TensorBoard or Perfetto."""

    def opened(self, out: Path, mesh: str | None = None) -> Run:
        """The run kept in `out`. mesh: the recipe's.

        Raises:
            PureError: the mesh cannot be made of the devices that are here.
        """
        import jax

        from pure_jax.train.runs import Run
        from pure_jax.train.sharding import read_mesh
        from pure_jax.train.watching import Watching

        text = self.mesh or mesh
        if text is None and jax.default_backend() != "cpu" and jax.device_count() == 1:
            text = "data=1"  # so the state is given from step to step, instead of being there twice
        return Run(
            out,
            save_every=self.save_every,
            allow_change=self.allow_change,
            mesh=None if text is None else read_mesh(text),
            watch=Watching(tensorboard=self.tensorboard, profile=self.profile),
        )
