"""Several processes as one: jax's own runtime, started by what a cluster's environment says, or by flags."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pure_jax.errors import PureError


@dataclass(frozen=True)
class ClusterConfig:
    """The same command runs on every host; --out must be a place that all of them see."""

    cluster: bool = False
    """Join the other processes as SLURM, Open MPI, GKE or a TPU slice says who they are."""
    coordinator: str | None = None
    """Elsewhere: HOST:PORT of process 0, a port that is free there,"""
    processes: int | None = None
    """how many processes there are,"""
    process: int | None = None
    """and which one this is, from 0."""

    def join(self) -> None:
        """Join, if so wanted; before a device is touched.

        Raises:
            PureError: flags that do not go together, or the other processes cannot be reached.
        """
        given = (self.coordinator, self.processes, self.process)
        if self.cluster and given != (None, None, None):
            raise PureError("--cluster finds out by itself what --coordinator, --processes and --process say")
        if not self.cluster and given == (None, None, None):
            return
        if not self.cluster:
            if self.coordinator is None or self.processes is None or self.process is None:
                raise PureError("--coordinator, --processes and --process are given together")
            if re.fullmatch(r".+:[0-9]{1,5}", self.coordinator) is None:
                raise PureError(f"the coordinator is {self.coordinator!r}; write HOST:PORT")
            if not 0 <= self.process < self.processes:
                raise PureError(f"process {self.process} is none of {self.processes}, which count from 0")
        import jax

        try:
            jax.distributed.initialize(self.coordinator, self.processes, self.process)
        except (ValueError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise PureError(
                f"the processes cannot join ({reason}); start one on every host, with --coordinator, --processes and "
                "--process where the environment does not say who they are"
            ) from error
