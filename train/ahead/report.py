"""What the compiler says of a program: memory of a chip, collectives, time; and what follows for a run."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass
from typing import Any

import jax

from pure_jax.errors import PureError
from pure_jax.train.ahead.chips import Chip

GIB = 2**30
COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Compiled:
    """Of one program. Memory in GiB of one device; seconds on this machine. fits: the compiler placed it into the
    device's memory. If it does not, `needs` says what the compiler asked for, and the other figures are None."""

    program: str
    fits: bool
    lower_s: float
    compile_s: float
    needs: str | None = None
    arguments: float | None = None
    given_away: float | None = None
    """Of the arguments, what the results take over."""
    temporaries: float | None = None
    peak: float | None = None
    code_mib: float | None = None
    collectives: dict[str, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compile_program(name: str, lower: Any) -> Compiled:
    """Lower and compile.

    lower: () -> a lowered program.

    Raises:
        PureError: the compiler fails for another reason than memory.
    """
    start = time.perf_counter()
    lowered = lower()
    middle = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        seconds = round(middle - start, 1), round(time.perf_counter() - middle, 1)
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise PureError(f"the compiler refuses {name}: {str(error).splitlines()[0][:300]}") from error
        return Compiled(name, False, *seconds, needs=overflow(str(error)))
    end = time.perf_counter()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return Compiled(
        name,
        True,
        round(middle - start, 1),
        round(end - middle, 1),
        arguments=round(memory.argument_size_in_bytes / GIB, 6),
        given_away=round(memory.alias_size_in_bytes / GIB, 6),
        temporaries=round(memory.temp_size_in_bytes / GIB, 6),
        peak=round(memory.peak_memory_in_bytes / GIB, 6),
        code_mib=round(memory.generated_code_size_in_bytes / 2**20, 1),
        collectives=collectives(text),
    )


def collectives(text: str) -> dict[str, int]:
    """How often each collective stands in a compiled program's text; one in a loop stands there once."""
    found = {name: len(re.findall(rf"= [^\n=]*\s{name}(?:-start)?\(", text)) for name in COLLECTIVES}
    return {name: count for name, count in found.items() if count}


def overflow(message: str) -> str:
    """The compiler's sentence about the memory that it would need."""
    found = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", message)
    return f"{found[1]} of {found[2]}" if found else message.splitlines()[0][:200]


def advice(remat: str, logit_rows: int, per_device: float) -> str:
    """What to change, the cheapest first, when a training step does not fit; per_device: sequences of one."""
    ways = []
    if remat != "full":
        ways.append(f"--set train.remat={'full' if remat == 'dots' else 'dots'}")
    if not logit_rows:
        ways.append("--set train.logit_rows=512")
    if per_device > 1:
        ways.append("--set train.accumulate=2 (or twice what it is)")
    ways.append("a mesh with more fsdp or tensor, or a larger slice")
    return "; ".join(ways)


def token_rate(flops: float, tokens: int, devices: int, chip: Chip, mfu: float) -> tuple[float, float]:
    """(tokens a second, seconds a step) of a whole slice that reaches the share `mfu` of its chips' bfloat16 rate."""
    seconds = flops / (devices * chip.tflops * 1e12 * mfu)
    return tokens / seconds, seconds
