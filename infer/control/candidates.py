"""Several restorations of one photo, and the one of them that agrees best with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from pure_jax.errors import PureError
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.restore import Restoration

MOST = 64


def check_candidates(count: int, seed: int) -> None:
    """Raises PureError unless count lies in 1 ... MOST, and all seeds below 2**32."""
    if not 1 <= count <= MOST:
        raise PureError(f"the number of candidates is {count}, but it must lie in 1 ... {MOST}")
    if seed + count > 2**32:
        raise PureError(f"{count} candidates from seed {seed} on need seeds above {2**32 - 1}; choose a lower seed")


def agreement(restored: Picture, photo: Picture) -> float:
    """How well a result, made as small as its photo again, agrees with it: PSNR in dB of 8-bit RGB, higher is better.

    Each pixel of the smaller copy is the mean over its area (Pillow's BOX filter). Equal pictures have infinity.
    """
    height, width = photo.rgb.shape[:2]
    small = Image.fromarray(restored.rgb).resize((width, height), Image.Resampling.BOX)
    error = np.square(np.asarray(small, np.float64) - photo.rgb).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def best_of(restore: Callable[..., Restoration], photo: Picture, seed: int, count: int) -> Restoration:
    """Restore with the seeds seed ... seed + count - 1; the result that agrees best, the first of equal ones.

    restore: is given a seed by name. The result's remarks say which seed it is, and how each of them agreed.

    Raises:
        PureError: what `check_candidates` refuses.
    """
    check_candidates(count, seed)
    best, values = restore(seed=seed), []
    if count == 1:
        return best
    values.append(agreement(best.picture, photo))
    for other in range(seed + 1, seed + count):
        candidate = restore(seed=other)
        value = agreement(candidate.picture, photo)
        if value > max(values):
            best = candidate
        values.append(value)
    listed = ", ".join(f"{seed + i}: {value:.2f}" for i, value in enumerate(values))
    remark = f"of {count} candidates, seed {best.seed} agrees best with the photo (dB by seed: {listed})"
    return replace(best, remarks=[*best.remarks, remark])
