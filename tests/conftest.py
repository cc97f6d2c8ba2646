"""Shared fixtures: where the photographs lie, and jax on the CPU with quick compilations."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Most of the tests' time is compilation of programs that then run for milliseconds, so XLA is to optimise them little:
# the same operations in the same precision, in less code. It reads this when the first device is touched; commands
# that tests start inherit it. What the caller has set comes later and wins.
QUICK = (
    "--xla_backend_optimization_level=1",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
FLAGS = os.environ.get("XLA_FLAGS", "").split()
if FLAGS[: len(QUICK)] != [*QUICK]:  # workers of pytest-xdist have them from the first process
    os.environ["XLA_FLAGS"] = " ".join([*QUICK, *FLAGS])
# Level 0 takes half the time of level 1, which is for the tests that are marked `optimised`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

from pure_jax.__main__ import keep_compiled_programs  # noqa: E402

os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
keep_compiled_programs()  # as `pure` does: the next run compiles what has changed

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")  # before any test touches a device: ids and tolerances are the CPU's

# Tracing makes and drops objects by the million: with Python's threshold of 700, a tenth of the time is collection.
gc.set_threshold(10_000, 10, 10)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, or the last worker would run one of them while the others have nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with photographs, real low-quality inputs and metric data; it lies beside a checkout, not inside it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the data folder {SHARED_DATA.name} beside the checkout (../shared/data), which is absent")
    return SHARED_DATA


@pytest.fixture(scope="module", autouse=True)
def _optimised(request: pytest.FixtureRequest) -> Iterator[None]:
    """Programs of a file of tests that is marked `optimised` are compiled at level 1, and shared with no other file."""
    before = jax.config.read("jax_disable_most_optimizations")
    if not before or request.node.get_closest_marker("optimised") is None:
        yield
        return
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()
