"""What the doctor found, in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pure_jax.infer.doctor.found import HOW_TO_GET_ONE


def told(facts: dict[str, Any]) -> Iterator[str]:
    """Lines for the object that `pure doctor --json` prints."""
    yield "versions: " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    absent = [name for name, there in facts["extras"].items() if not there]
    there = [name for name, there in facts["extras"].items() if there]
    yield f"extras: {', '.join(there) or 'none'} installed" + (
        f'; for {", ".join(absent)}: pip install "pure-jax[{",".join(absent)}]"' if absent else ""
    )
    for device in facts["devices"]:
        yield f"device: {device['platform']} ({device['kind']})" + (
            "" if device["free"] is None else f", {_size(device['free'])} free"
        )
    yield from _memory(facts["model"], facts["memory"])
    yield from model_lines(facts["models"])
    if len(facts["models"]) == 1:
        yield f"more models: {HOW_TO_GET_ONE}"
    yield from (f"trouble: {trouble}" for trouble in facts["troubles"])
    if facts["time"] is None:
        yield "time: name a photo (--photo FILE) or a size (--size 640x480) to learn how long it takes"
    else:
        yield from _time(facts["time"])


def model_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One line for each model of `pure models --json`."""
    for row in rows:
        yield (
            f"model: {row['name']} ({row['where']}, {row['family']}, {row['parameters'] / 1e6:,.1f} M parameters, "
            f"tiles of {row['tile']} px, {_size(row['bytes'])})"
        )


def _memory(name: str, plan: dict[str, Any]) -> Iterator[str]:
    needed, free = plan["needed"], plan["free"]
    if needed is None:
        yield f"memory: unknown for {name}; {plan['together']} tiles at a time in {plan['dtype']}"
        return
    total = sum(needed.values())
    yield (
        f"memory: {name} in {plan['dtype']} takes about {_size(total)} for {plan['together']} tiles at a time "
        f"(weights {_size(needed['weights'])}, caches {_size(needed['caches'])}, programs {_size(needed['workspace'])})"
        + ("" if free is None else f" of {_size(free)}")
    )
    if plan["advice"]:
        yield f"trouble: {plan['advice']}"


def _time(found: dict[str, Any]) -> Iterator[str]:
    """The expectation, and what it consists of."""
    yield (
        f"time: about {_clock(found['seconds'])} for {found['width']}x{found['height']} pixels at scale "
        f"{found['scale']:g} ({found['tiles']} tiles, {found['flat_tiles']} of them flat, {found['tiles_together']} "
        "at a time)"
    )
    if found["compiling_seconds"] >= 1:
        yield f"      and {_clock(found['compiling_seconds'])} more where its programs are yet to be compiled"
    yield "      " + ", ".join(f"{stage} {_clock(seconds)}" for stage, seconds in found["stages"].items())


def _clock(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
