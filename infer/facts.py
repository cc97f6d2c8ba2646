"""What is told about a restored photo beside its pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pure_jax.infer.restore import Restoration


def facts_of(
    result: Restoration, *, scale: float, seed: int, seconds: Mapping[str, float], lost: Sequence[str] = ()
) -> dict[str, Any]:
    """For JSON: width, height, scale, seed, degradation ({"blur", "noise"} or null) and description as the model says,
    mean_entropy (nats per code; null where it is no number), seconds (by stage, rounded to milliseconds) and remarks (a
    list).

    lost: remarks about what the result's file does not keep.
    """
    entropy = float(result.entropy.mean())
    height, width = result.picture.rgb.shape[:2]
    return {
        "width": width,
        "height": height,
        "scale": scale,
        "seed": seed,
        "degradation": result.degradation,
        "description": result.description,
        "mean_entropy": round(entropy, 4) if math.isfinite(entropy) else None,
        "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
        "remarks": [*result.remarks, *lost],
    }


def reading_of(degradation: Mapping[str, str] | None) -> str:
    """ "large blur, small noise" """
    return ", ".join(f"{level} {name}" for name, level in (degradation or {}).items())
