"""`pure train speed`: how fast the training step runs on the devices that are here, on random tokens."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pure_jax.errors import PureError
from pure_jax.infer.benchmark.subject import bare_vocabulary
from pure_jax.sequence import IGNORE
from pure_jax.train.ahead.programs import lower_train_step, question_length, sequence_length
from pure_jax.train.flops import peak_flops, step_flops
from pure_jax.train.language_model import adapted_state, init_state, make_step
from pure_jax.train.recipes.language_model import LanguageModelRecipe
from pure_jax.train.sharding import born_from, born_sharded, read_mesh, spread, state_shardings
from pure_jax.transformer import count_parameters


def measure(recipe: LanguageModelRecipe, mesh_text: str | None, steps: int) -> dict[str, Any]:
    """Time `steps` updates behind the first one, which compiles; a JSON object.

    Raises:
        PureError: a mesh or batch that does not fit the devices; too little memory.
    """
    config, train, sequence = recipe.model, recipe.train, sequence_length(recipe.model, recipe.train)
    # One device is a mesh too: so the state is given from step to step, instead of being there twice.
    mesh_text = mesh_text or ("data=1" if jax.device_count() == 1 else None)
    mesh = None if mesh_text is None else read_mesh(mesh_text)
    vocabulary, prompt = bare_vocabulary(config), question_length(config)
    rng = np.random.default_rng(0)
    codebook = rng.normal(size=(config.vqgan.codebook_size, config.vqgan.codebook_dim)).astype(np.float32)
    tokens = rng.integers(vocabulary.size, size=(train.batch, sequence), dtype=np.int32)
    labels = np.where(np.arange(sequence) < prompt, IGNORE, tokens)
    batch: Any = (tokens, labels) if mesh is None else spread(mesh, (tokens, labels))
    try:
        state, base = _state(recipe, vocabulary, codebook, mesh)
        shardings = None if mesh is None else state_shardings(mesh, state)
        step: Any = make_step(config, train, vocabulary, prompt, shardings)
        step = step if base is None else partial(step, base=base)
        start = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        first, times = time.perf_counter() - start, []
        for _ in range(steps):
            start = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise PureError(
            "the device has too little memory for this step; try --set train.remat=full train.logit_rows=512, or a "
            "smaller train.batch"
        ) from error
    device, seconds = jax.devices()[0], median(times)
    flops = step_flops(config.transformer, train.batch, sequence, prompt, adapted=train.lora.rank > 0).total
    peak = peak_flops(device.device_kind)
    stats = device.memory_stats() or {}
    return {
        "device": device.device_kind,
        "devices": 1 if mesh is None else mesh.size,
        "batch": train.batch,
        "sequence": sequence,
        "compile_s": round(first - seconds, 2),
        "seconds_per_step": seconds,
        "slowest_s": max(times),
        "tokens_per_s": train.batch * (sequence - 1) / seconds,
        "flops": flops,
        "tflops": flops / seconds / 1e12,
        "mfu": None if peak is None else flops / seconds / (peak * (1 if mesh is None else mesh.size)),
        "peak_gib": stats["peak_bytes_in_use"] / 2**30 if "peak_bytes_in_use" in stats else None,
        "loss": float(metrics["loss"]),
    }


def _state(recipe: LanguageModelRecipe, vocabulary: Any, codebook: np.ndarray, mesh: Any) -> tuple[Any, Any]:
    """The first state of random weights, and with LoRA the frozen base."""
    train = recipe.train
    whole = dataclasses.replace(train, ema_decay=0.0, lora=dataclasses.replace(train.lora, rank=0))
    make = partial(init_state, recipe.model, whole if train.lora.rank else train, vocabulary, codebook)
    if not train.lora.rank:
        return (make() if mesh is None else born_sharded(make, mesh)), None
    dtype = jnp.dtype(train.compute_dtype)

    def base_only() -> Any:
        return jax.tree.map(lambda x: x.astype(dtype), make().params)

    base = jax.jit(base_only)() if mesh is None else born_sharded(base_only, mesh)
    return born_from(partial(adapted_state, train, vocabulary), base, mesh), base


def largest(recipe: LanguageModelRecipe) -> dict[str, Any]:
    """The most layers with which the recipe's step fits the first device, by what the compiler says of its memory.

    Raises:
        PureError: the device does not tell its memory, or one layer does not fit.
    """
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        raise PureError(f"{device.device_kind} does not tell its memory; --largest needs a GPU or TPU")
    mesh = read_mesh("data=1") if jax.device_count() == 1 else None
    if mesh is None:
        raise PureError(f"--largest looks at one device, but there are {jax.device_count()}")

    def of(layers: int) -> LanguageModelRecipe:
        sizes = dataclasses.replace(recipe.model.transformer, num_layers=layers, scan_layers=True)
        return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, transformer=sizes))

    def needs(layers: int) -> float:
        own = of(layers)
        memory = (
            lower_train_step(own.model, own.train, mesh, sequence_length(own.model, own.train))
            .compile()
            .memory_analysis()
        )
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes

    low, high = 0, 1
    while needs(high) <= limit and high < 512:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needs(middle) <= limit else (low, middle)
    if low == 0:
        raise PureError("not even one layer fits; try --set train.remat=full train.logit_rows=512 or a smaller batch")
    parameters = count_parameters(of(low).model.transformer)
    return {"layers": low, "parameters": parameters, "needs_gib": needs(low) / 2**30, "memory_gib": limit / 2**30}


def text_of(found: dict[str, Any]) -> str:
    """The figures for people."""
    share = "" if found["mfu"] is None else f", {found['mfu']:.1%} of the peak (MFU)"
    memory = "" if found["peak_gib"] is None else f"; peak {found['peak_gib']:.1f} GiB"
    lines = [
        f"{found['devices']} x {found['device']}: batch {found['batch']} x {found['sequence']} tokens",
        f"  {found['seconds_per_step']:.3f} s a step (slowest {found['slowest_s']:.3f}), "
        f"{found['tokens_per_s']:,.0f} tokens/s, {found['tflops']:.3g} TFLOP/s{share}{memory}",
        f"  the first call took {found['compile_s']:.1f} s longer",
    ]
    if "largest" in found:
        own = found["largest"]
        lines.append(
            f"  the largest of this width that fits {own['memory_gib']:.0f} GiB: {own['layers']} layers, "
            f"{own['parameters'] / 1e9:.2f} B parameters ({own['needs_gib']:.1f} GiB)"
        )
    return "\n".join(lines)
