"""One slider between detail and fidelity, over the numbers that decide how codes are drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

from pure_jax.config import SamplingConfig
from pure_jax.errors import PureError


def at_fidelity(sampling: Any, fidelity: float) -> Any:
    """A model's sampling with k_max, temperature and entropy_center for a fidelity of 0 ... 1.

    0.5 is the model's own. Towards 1, fewer codes stay in the choice, down to the likeliest at 1: k_max falls to k_min
    by powers, the temperature to half, and k rises only at higher entropies. Towards 0 the other way round: k_max grows
    to four times, the temperature to 1.25 times its own, and k rises a nat earlier. docs/control.md has the curve and
    what was measured along it.

    Raises:
        PureError: a fidelity outside 0 ... 1, or a family whose codes are drawn otherwise.
    """
    if not 0.0 <= fidelity <= 1.0:  # so NaN ends here too
        raise PureError(f"the fidelity is {fidelity}, but it must lie in 0 ... 1")
    if not isinstance(sampling, SamplingConfig):
        raise PureError("fidelity has no meaning for this model; leave it out")
    towards = 2 * fidelity - 1  # -1: detail, 0: the model's own, 1: fidelity
    if towards > 0:
        k_max = sampling.k_max * (sampling.k_min / sampling.k_max) ** towards
        temperature = sampling.temperature * (1 - towards / 2)
        center = sampling.entropy_center + towards
    else:
        k_max = min(sampling.k_max * 4**-towards, 1e6)
        temperature = min(sampling.temperature * (1 - towards / 4), 10.0)
        center = max(sampling.entropy_center + towards, 0.0)
    center = min(center, 100.0)
    return dataclasses.replace(sampling, k_max=k_max, temperature=temperature, entropy_center=center)
