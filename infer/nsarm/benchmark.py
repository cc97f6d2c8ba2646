"""What restoring a tile costs, part by part: text, encoder and T, prefill, each drawn scale, decoder.

The chain that `generate` runs is run again and again, each part waited for. A part's seconds are the median; what its
first run took beyond that is compilation.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array

from pure_jax import __version__
from pure_jax.errors import PureError
from pure_jax.infer.benchmark.machine import Machine, Sizes, measure_machine, peak_memory
from pure_jax.infer.decoding.memory import available_memory
from pure_jax.infer.nsarm.captions import text_features
from pure_jax.infer.nsarm.passes import Networks, first_scales, prefill, write_scale
from pure_jax.infer.nsarm.sampling import SeedNoise
from pure_jax.nsarm.conditioning import Captions, condition
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.nsarm.model import NsarmModel, decode_latents
from pure_jax.nsarm.shapes import network_shapes, transformer_shapes
from pure_jax.nsarm.transformer import row_bytes
from pure_jax.nsarm.vae import fitting

LEAST_RUNS, MOST_RUNS, ENOUGH_S = 3, 15, 3.0
CITED_S = 1.2
"""Seconds for 1024x1024 on one A800, from NSARM's paper; its timer leaves out the text and the first seven scales."""


@dataclass(frozen=True)
class Part:
    """One part of the chain, for a whole batch. bound_s: of a pass of the transformer, seconds on the roofline."""

    name: str
    tokens: int
    seconds: float
    compile_s: float
    read: float | None = None
    """Bytes, by formula: the blocks' weights, and the filled part of the cache."""
    flops: float | None = None
    bound_s: float | None = None


@dataclass(frozen=True)
class ScalesReport:
    """A model in a precision at a batch."""

    name: str
    precision: str
    batch: int
    side: int
    """Of the picture, in pixels."""
    device: str
    machine: Machine
    parts: tuple[Part, ...]
    runs: int
    peak: int | None

    @property
    def seconds_per_picture(self) -> float:
        """All parts; the text's, which is computed once for a caption, for every picture."""
        return sum(part.seconds for part in self.parts) / self.batch


def random_model(config: NsarmConfig, dtype: Any, seed: int = 0) -> NsarmModel:
    """Random weights made on the device: norms 1, biases 0, the rest N(0, 0.02); the transformer's in `dtype`.

    Raises:
        PureError: they do not fit into the device's memory.
    """
    shapes = {
        (name, *path.split(".")): shape for name, own in network_shapes(config).items() for path, shape in own.items()
    }

    def dtype_of(path: tuple[str, ...]) -> Any:
        return jnp.dtype(dtype) if path[0] == "transformer" else jnp.dtype(jnp.float32)

    needed = sum(math.prod(shape) * dtype_of(path).itemsize for path, shape in shapes.items())
    available = available_memory()
    if available is not None and needed > available:
        raise PureError(
            f"the weights take {needed / 1e9:.1f} GB, but {available / 1e9:.1f} GB of memory are free; choose a "
            "smaller configuration or precision"
        )

    key = jax.random.key(seed)

    def made(i: int, path: tuple[str, ...], shape: tuple[int, ...]) -> Array:
        if path[-1] in ("scale", "weight", "factor"):
            return jnp.ones(shape, dtype_of(path))
        if "bias" in path[-1]:
            return jnp.zeros(shape, dtype_of(path))
        return _normal(jax.random.fold_in(key, i), shape, dtype_of(path))

    params = traverse_util.unflatten_dict({p: made(i, p, shape) for i, (p, shape) in enumerate(shapes.items())})
    return NsarmModel(config, params, None, None, jnp.dtype(dtype))


@partial(jax.jit, static_argnums=(1, 2))
def _normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return 0.02 * jax.random.normal(key, shape, dtype)


def pass_cost(config: NsarmConfig, dtype: Any, rows: int, tokens: int, filled: int) -> tuple[float, float]:
    """(bytes read, operations) of the transformer's pass over new tokens; filled: of the cache, these included.

    The caption's keys and values are made once and count as nothing here.
    """
    own = config.transformer
    each = {path: math.prod(shape) for path, shape in transformer_shapes(own).items() if "cross_attn.kv" not in path}
    weights = sum(size for path, size in each.items() if path.startswith(("layers", "word_embed", "head.")))
    looking = 4 * own.hidden_size * own.num_layers
    flops = rows * tokens * (2 * weights + filled * looking)
    return weights * jnp.dtype(dtype).itemsize + rows * row_bytes(own, filled, dtype), flops


def measure(name: str, model: NsarmModel, batch: int, budget_s: float, sizes: Sizes | None = None) -> ScalesReport:
    """Run the chain once to compile it, then until ENOUGH_S or the budget is spent; sizes: see `measure_machine`."""
    config, began = model.config, time.monotonic()
    machine = measure_machine(model.dtype, sizes)
    times: dict[str, list[float]] = {}
    took: list[float] = []
    while len(took) < 2 or (
        len(took) <= MOST_RUNS
        and time.monotonic() - began + took[-1] < budget_s
        and (len(took) <= LEAST_RUNS or sum(took[1:]) < ENOUGH_S)
    ):
        start = time.monotonic()
        _chain(model, batch, times)
        took.append(time.monotonic() - start)
    rows = batch * (2 if config.sampling.guided else 1)
    bounds = (0, *config.ends)
    spans = {"prefill": (0, config.given_scales)} | {
        f"scale {i + 1}": (i, i + 1) for i in range(config.given_scales, len(config.sides))
    }
    parts = []
    for part, seconds in times.items():
        median = statistics.median(seconds[1:])
        compiling = max(0.0, seconds[0] - median)
        if part not in spans:
            parts.append(Part(part, 0, median, compiling))
            continue
        first, last = spans[part]
        tokens = bounds[last] - bounds[first]
        read, flops = pass_cost(config, model.dtype, rows, tokens, bounds[last])
        parts.append(Part(part, tokens, median, compiling, read, flops, machine.roofline_s(read, flops)))
    device = jax.local_devices()[0].device_kind
    return ScalesReport(
        name,
        jnp.dtype(model.dtype).name,
        batch,
        config.tile_size,
        device,
        machine,
        tuple(parts),
        len(took) - 1,
        peak_memory(),
    )


def _chain(model: NsarmModel, batch: int, times: dict[str, list[float]]) -> None:
    """Restore a batch of random pictures; each part's seconds go behind those of earlier runs."""
    config, sampling = model.config, model.config.sampling
    rows = 2 if sampling.guided else 1

    def timed(name: str, run: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        out = jax.block_until_ready(run())
        times.setdefault(name, []).append(time.perf_counter() - start)
        return out

    def told() -> Any:
        features, valid = (jnp.repeat(x, rows, axis=0) for x in text_features(model, ""))
        captions = Captions(features, valid, jnp.arange(rows) == 1)
        return condition(config.transformer, model.params["transformer"], captions, model.dtype)

    side = config.low_quality_size
    pictures = np.random.default_rng(0).integers(256, size=(batch, side, side, 3), dtype=np.uint8)
    nets = Networks(config, model.vae, model.map_network, model.transformer)
    about = timed("text", told).rows(jnp.repeat(jnp.arange(rows), batch))
    total, inputs = timed("encoder and T", lambda: first_scales(nets, model.params, pictures))
    images, noise = jnp.arange(batch), SeedNoise(jnp.uint32(0))
    drawn = range(config.given_scales, len(config.sides))
    if drawn:
        cache = timed("prefill", lambda: prefill(nets, model.params, inputs, about))
    for i in drawn:
        # The cache and the sum are given away, so that each is used once.
        write = partial(write_scale, nets, sampling, i, model.params, about, total, cache, noise, images)
        total, cache, *_ = timed(f"scale {i + 1}", write)
    vae, most = fitting(config.vae, *[config.tile_size] * 2)

    def decoded() -> list[Array]:
        step = min(most, batch)
        return [decode_latents(vae, model.params["vae"], total[at : at + step]) for at in range(0, batch, step)]

    timed("decoder", decoded)


def facts(reports: list[ScalesReport]) -> dict[str, Any]:
    """The object for JSON: seconds, bytes and operations by name."""
    return {
        "version": __version__,
        "jax": jax.__version__,
        "cited_s_1024": CITED_S,
        "measured": [asdict(report) | {"seconds_per_picture": report.seconds_per_picture} for report in reports],
    }


def format_reports(reports: list[ScalesReport]) -> str:
    """Tables to read."""
    return "\n\n".join(map(_format, reports))


def _format(report: ScalesReport) -> str:
    machine = report.machine
    lines = [
        f"{report.name}, {report.precision}, batch {report.batch}, {report.side}x{report.side} pixels, "
        f"{report.device}: {machine.bandwidth / 1e9:.1f} GB/s, {machine.multiply / 1e12:.3g} TFLOP/s measured, "
        f"median of {report.runs} runs",
        "",
        "| part | tokens | ms | GB | TFLOP | roofline ms | of it | compile s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for part in report.parts:
        known = part.bound_s is not None
        cells = [
            part.name,
            str(part.tokens or "-"),
            f"{1e3 * part.seconds:.1f}",
            f"{part.read / 1e9:.3g}" if known and part.read is not None else "-",
            f"{part.flops / 1e12:.3g}" if known and part.flops is not None else "-",
            f"{1e3 * part.bound_s:.1f}" if part.bound_s is not None else "-",
            f"{part.bound_s / part.seconds:.0%}" if part.bound_s is not None else "-",
            f"{part.compile_s:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    peak = "" if report.peak is None else f"; peak {report.peak / 1e9:.2f} GB"
    lines += ["", f"{report.seconds_per_picture:.3f} s per picture, text included{peak}."]
    if report.side == 1024:
        lines.append(f"NSARM's paper: {CITED_S} s on one A800, without text and the first seven scales (cited).")
    return "\n".join(lines)


def to_json(reports: list[ScalesReport]) -> str:
    return json.dumps(facts(reports), indent=2) + "\n"
