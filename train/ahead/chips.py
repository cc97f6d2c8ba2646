"""TPU slices by name, and what their chips can do."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from pure_jax.errors import PureError
from pure_jax.train.flops import PEAK_TFLOPS


@dataclass(frozen=True)
class Chip:
    """hbm: GiB of memory of one device. tflops: bfloat16, per device. Both from the makers' data sheets; a v7x chip is
    two devices."""

    name: str
    hbm: float
    tflops: float


_SIZES = {
    "TPU v4": ("v4", 32),
    "TPU v5 lite": ("v5e", 16),
    "TPU v5": ("v5p", 95),
    "TPU v6 lite": ("v6e", 32),
    "TPU7x": ("tpu7x", 96),
}
CHIPS = {kind: Chip(name, hbm, PEAK_TFLOPS[kind]) for kind, (name, hbm) in _SIZES.items()}
"""By the compiler's name of the device."""

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # else jax looks for a TPU as soon as its compiler is there
    "TPU_SKIP_MDS_QUERY": "1",  # and the compiler for a cloud machine's metadata
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # a program for devices that are not here cannot be read back
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two compilations at a time
    "TPU_WORKER_HOSTNAMES": "localhost",  # else it warns that it finds neither a host's name
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # nor its kind; the slice is the one that the program names
}


def prepare() -> None:
    """Make the process ready to compile for TPUs; before jax is imported.

    Raises:
        PureError: the compiler is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise PureError("the TPU compiler is not installed; run: pip install 'pure-jax[aot]' (Linux on x86-64)")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def slice_devices(topology: str) -> tuple[list[Any], Chip]:
    """The devices of a slice, such as v5p:4x4x8, which exist for the compiler only, and their kind.

    Raises:
        PureError: there is no such slice.
    """
    from jax.experimental import topologies

    # A slice of one chip has a host of one.
    sizes = topology.partition(":")[2]
    host: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if set(sizes) <= {"1", "x"} and sizes else {}
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **host).devices
        kind = getattr(devices[0], "device_kind")  # noqa: B009  jax's stubs do not know the compiler's devices
    except Exception as error:  # of many classes, none of its own
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise PureError(
            f"there is no TPU slice {topology!r} ({reason}); write KIND:SIZE, such as v5e:16x16, v5p:4x4x8, v6e:2x2 or "
            "tpu7x:4x4x4"
        ) from error
    if kind not in CHIPS:
        raise PureError(f"nothing is known of the chips of {topology} ({kind})")
    return list(devices), CHIPS[kind]
