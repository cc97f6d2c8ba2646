"""Conversion: open everything first, write beside, check, and only then put the result in place."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pure_jax.checkpoint import (
    Checkpoint,
    Format,
    Tensors,
    cast_network,
    unstack,
    with_layers,
    with_precision,
    write_checkpoint,
)
from pure_jax.convert.layouts import LAYOUTS, layout_of
from pure_jax.convert.opening import find, open_model
from pure_jax.convert.upstream import Upstream
from pure_jax.errors import PureError
from pure_jax.families import FAMILIES, check_options
from pure_jax.files import new_directory
from pure_jax.progress import Reporter
from pure_jax.tensors import total_bytes

SPARE_BYTES = 64 << 20
"""Room on the disk for everything beside the tensors."""


def convert(
    source: str,
    destination: Path,
    *,
    vqgan: Path | None = None,
    vqgan_weights: Literal["model", "ema"] | None = None,
    tokenizer: Path | None = None,
    map_network: Literal["fresh"] | None = None,
    to: Literal["flax", "torch"] = "flax",
    dtype: str = "auto",
    format: Format = "safetensors",
    norm_rows: Literal["heads", "ranks"] = "heads",
    verify: bool = False,
    revision: str | None = None,
    weights: str | None = None,
    cache: str | None = None,
) -> None:
    """Convert `source` into the new directory `destination`.

    The arguments are those of `pure convert`; weights and cache, to flax only, those of `pure quantize`.

    Raises:
        PureError: whatever is wrong, before anything is written where that can be known; there is no destination then.
    """
    if destination.exists():
        raise PureError(f"{destination} exists already; name a new directory or remove it first")
    for value, given, where in (
        (format, format != "safetensors" and to == "torch", "--to flax"),
        (norm_rows, norm_rows != "heads" and to == "flax", "--to torch"),
    ):
        if given:
            raise PureError(f"{value!r} has a meaning with {where} only; leave it out")
    parts = {"vqgan": vqgan, "vqgan_weights": vqgan_weights, "tokenizer": tokenizer, "map_network": map_network}
    model, remarks = _open(find(source, revision), dtype, **parts)
    before = sum(map(total_bytes, model.tensors.values()))
    if weights or cache:
        model = with_precision(model, weights, cache)
        own = model.config.transformer
        note = f"\nRounded by `pure quantize`: weights {own.weights}, cache {own.cache}; see docs/quantisation.md.\n"
        model = dataclasses.replace(model, card=(model.card or _card(model)) + note)
    options = {} if norm_rows == "heads" else {"rows_per_head": False}
    write = _torch_writer(model.config.family, options) if to == "torch" else partial(_write_native, format=format)
    size = sum(map(total_bytes, model.tensors.values()))
    _require_space(destination, size)
    with Reporter(counted="bytes", told=False) as report, new_directory(destination) as beside:
        write(beside, model, progress=report.adding("write", size))
        if verify:
            count = compare_bits(beside, model, report.adding("verify", size))
            remarks.append(f"verified: {count} parameters were read again from source and result, and are equal")
    for remark in remarks:
        print(f"note: {remark}")
    instead = f" instead of {_size(before)}" if size < before else ""
    print(f"{destination}: {_size(size)} of parameters{instead}")


def _open(path: Path, dtype: str, **options: Any) -> Upstream:
    """The source, in either layout, with the dtype asked for. options: of its PyTorch layout."""
    model, remarks = open_model(path, **options)
    follow = FAMILIES[model.config.family].follow_dtype
    config, tensors = model.config, dict(model.tensors)
    for name in tensors.keys() & follow:
        tensors[name] = _cast(tensors[name], dtype)
    if layout_of(path) is not None:
        # Stacked, which is the layout that training and TPUs want; loading can unroll.
        config, tensors = with_layers(config, tensors, scan=True)
        if dtype == "auto" and len({tensor.dtype for tensor in model.tensors["transformer"].values()}) > 1:
            remarks.append("layers of different dtypes are stacked as float32, which holds both")
    return Upstream(dataclasses.replace(model, config=config, tensors=tensors), remarks)


def _cast(tensors: Tensors, dtype: str) -> Tensors:
    return tensors if dtype == "auto" else cast_network(tensors, dtype)


def _torch_writer(family: str, options: dict[str, Any]) -> Callable[..., None]:
    if family not in LAYOUTS:
        raise PureError(f"a model of the family {family} cannot be written for PyTorch; leave --to out")
    write = LAYOUTS[family].write
    check_options(family, write, options)
    return partial(write, **options)


def _write_native(directory: Path, model: Checkpoint, *, format: Format, progress: Callable[[int], None]) -> None:
    write_checkpoint(
        directory,
        model.config,
        model.tensors,
        model.tokenizer_json,
        model.card or _card(model),
        format,
        model.upstream,
        progress,
    )


def compare_bits(directory: Path, model: Checkpoint, progress: Callable[[int], None]) -> int:
    """Read the written model and its source once more and compare them bit by bit; the number of parameters compared.

    Both are compared as this library's parameters, so what was written for PyTorch goes through the tables again.

    Raises:
        PureError: they differ.
    """
    written = open_model(directory).checkpoint
    count = 0
    for name in model.tensors:
        ours, theirs = unstack(model.tensors[name]), unstack(written.tensors[name])
        for path, tensor in ours.items():
            for index in tensor.indices():
                a, b = tensor.read(index), theirs[path].read(index)
                if a.dtype != b.dtype or not np.array_equal(_bits(a), _bits(b)):
                    raise PureError(f"{name}.{path} is not what was to be written; the disk or the source is at fault")
                progress(a.nbytes)
        count += len(ours)
    return count


def _bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


def _require_space(destination: Path, size: int) -> None:
    place = next(parent for parent in destination.resolve().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < size + SPARE_BYTES:
        raise PureError(
            f"{destination} needs {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free there; "
            "make room or choose another place"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _card(model: Checkpoint) -> str:
    origin = model.upstream or {}
    commit = f" at commit {origin['commit']}" if origin.get("commit") else ""
    return (
        f"# {origin.get('model', 'Converted model')}, for pure-jax\n\n"
        f"Converted by `pure convert` from the PyTorch files of {origin.get('model', 'another directory')}{commit} and "
        f"{origin.get('vqgan', 'its image tokenizer')}. The weights are those files' own: their licence and their "
        "model card apply. `upstream.json` holds the original configuration.\n\n"
        "Check this copy with `sha256sum --check SHA256SUMS`; turn it back with `pure convert THIS DST --to torch`.\n"
    )
