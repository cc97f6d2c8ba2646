"""Shared fixtures: where the photographs lie, and CPU-only jax."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

jax.config.update("jax_platforms", "cpu")  # before any test touches a device: ids and tolerances are the CPU's

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with photographs, real low-quality inputs and metric data; it lies beside a checkout, not inside it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the data folder {SHARED_DATA.name} beside the checkout (../shared/data), which is absent")
    return SHARED_DATA
