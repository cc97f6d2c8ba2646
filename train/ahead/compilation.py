"""`pure compile`: a recipe's programs for a slice, as a table or JSON."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from pure_jax.errors import PureError
from pure_jax.train.ahead.chips import Chip, slice_devices
from pure_jax.train.ahead.nsarm import lower_last_scale, lower_prefill, lower_scales_step
from pure_jax.train.ahead.programs import (
    lower_decode_loop,
    lower_train_step,
    question_length,
    sequence_length,
    slice_mesh,
)
from pure_jax.train.ahead.report import advice, compile_program, token_rate
from pure_jax.train.flops import step_flops
from pure_jax.train.recipes.language_model import LanguageModelRecipe
from pure_jax.train.recipes.scales import ScalesRecipe
from pure_jax.train.sharding import ROWS


def compile_for(
    recipe: LanguageModelRecipe | ScalesRecipe,
    topology: str,
    mesh_text: str | None,
    programs: tuple[str, ...],
    batch: int,
    mfu: float,
) -> dict[str, Any]:
    """Compile for a slice, and say what follows; a JSON object.

    programs: train (of NSARM's: stage 2), decode. batch: pictures that are written together. mfu: share of the chips'
    rate for which the token rate is told; not of NSARM's.

    Raises:
        PureError: no such slice; a mesh or batch that does not fit it; what the compiler refuses other than for memory.
    """
    devices, chip = slice_devices(topology)
    mesh_text = mesh_text or recipe.mesh
    if mesh_text is None:
        raise PureError(f"the recipe names no mesh; give --mesh, such as fsdp={len(devices)}")
    mesh = slice_mesh(mesh_text, devices)
    found: dict[str, Any] = {
        "topology": topology,
        "devices": len(devices),
        "chip": asdict(chip),
        "mesh": mesh_text,
        "versions": {"jax": jax.__version__, "libtpu": _libtpu_version()},
    }
    if isinstance(recipe, ScalesRecipe):
        return found | {"programs": _scales_programs(recipe, mesh, programs, batch)}
    return found | {"programs": _language_programs(recipe, mesh, programs, batch, chip, mfu)}


def _language_programs(
    recipe: LanguageModelRecipe, mesh: Mesh, programs: tuple[str, ...], batch: int, chip: Chip, mfu: float
) -> list[dict[str, Any]]:
    config, train, found = recipe.model, recipe.train, list[dict[str, Any]]()
    prompt = question_length(config)
    sequence = sequence_length(config, train)
    if "train" in programs:
        flops = step_flops(config.transformer, train.batch, sequence, prompt, adapted=train.lora.rank > 0)
        rows = train.batch // train.accumulate / (mesh.shape[ROWS[0]] * mesh.shape[ROWS[1]])
        own = compile_program("train step", lambda: lower_train_step(config, train, mesh, sequence))
        tokens = train.batch * (sequence - 1)
        rate, seconds = token_rate(flops.total, tokens, mesh.size, chip, mfu)
        found.append(
            own.as_dict()
            | {"batch": train.batch, "sequence": sequence, "flops": flops.total, "mfu": mfu}
            | {"tokens_per_s": rate, "seconds_per_step": seconds}
            | ({} if own.fits else {"advice": advice(train.remat, train.logit_rows, rows)})
        )
    if "decode" in programs:
        own = compile_program("decode loop", lambda: lower_decode_loop(config, mesh, batch))
        fewer = "fewer pictures (--pictures), or more tensor in the mesh"
        found.append(own.as_dict() | {"batch": batch} | ({} if own.fits else {"advice": fewer}))
    return found


def _scales_programs(recipe: ScalesRecipe, mesh: Mesh, programs: tuple[str, ...], batch: int) -> list[dict[str, Any]]:
    config, train, found = recipe.model, recipe.train, list[dict[str, Any]]()
    more = "a mesh with more tensor, or a larger slice"
    if "train" in programs:
        own = compile_program("stage 2's step", lambda: lower_scales_step(config, train, mesh))
        ways = more if train.remat else f"--set train.remat=true; {more}"
        found.append(own.as_dict() | {"batch": train.batch} | ({} if own.fits else {"advice": ways}))
    if "decode" in programs:
        passes = {"prefill": lower_prefill, f"scale {len(config.sides)}": lower_last_scale}
        for name, lower in passes.items():
            own = compile_program(name, partial(lower, config, mesh, batch))
            fewer = f"fewer pictures (--pictures), or {more}"
            found.append(own.as_dict() | {"batch": batch} | ({} if own.fits else {"advice": fewer}))
    return found


def _libtpu_version() -> str:
    from importlib.metadata import version

    return version("libtpu")


def text_of(found: dict[str, Any]) -> str:
    """The same for people."""
    chip, versions = found["chip"], found["versions"]
    lines = [
        f"{found['topology']}: {found['devices']} devices {chip['name']} of {chip['hbm']:g} GiB, "
        f"{chip['tflops']:g} TFLOP/s in bfloat16; mesh {found['mesh']} "
        f"(jax {versions['jax']}, libtpu {versions['libtpu']})"
    ]
    for own in found["programs"]:
        lines.append(_of_program(own, chip))
    return "\n".join(lines)


def _of_program(own: dict[str, Any], chip: dict[str, Any]) -> str:
    took = f"lowered in {own['lower_s']} s, compiled in {own['compile_s']} s"
    name = f"{own['program']}, batch {own['batch']}"
    if "sequence" in own:
        name += f" x {own['sequence']} tokens"
    if not own["fits"]:
        lines = [f"{name}: DOES NOT FIT: {own['needs']} ({took})", f"  change: {own['advice']}"]
    else:
        counts = ", ".join(f"{count} {kind}" for kind, count in own["collectives"].items()) or "none"
        lines = [
            f"{name}: fits ({took})",
            f"  a device: arguments {own['arguments']:.2f} GiB ({own['given_away']:.2f} given away), temporaries "
            f"{own['temporaries']:.2f}, peak {own['peak']:.2f} of {chip['hbm']:g}; code {own['code_mib']:.0f} MiB",
            f"  collectives in the program's text: {counts}",
        ]
    if "flops" in own:
        lines.append(
            f"  {own['flops']:.3g} model FLOPs a step; at {own['mfu']:.0%} MFU {own['tokens_per_s']:,.0f} tokens/s, "
            f"{own['seconds_per_step']:.2f} s a step"
        )
    return "\n".join(lines)
