"""Picture files of tests."""

from __future__ import annotations

import io

from pure_jax.infer.pictures.reading import Frames
from pure_jax.infer.pictures.writing import encode


def encoded(suffix: str, frames: Frames, quality: int | None = None) -> bytes:
    file = io.BytesIO()
    encode(file, suffix, frames, quality)
    return file.getvalue()
