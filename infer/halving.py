"""Where the device runs out of memory: begin again with half as many pictures at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import jax

from pure_jax.errors import PureError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def with_halved_batches(run: Callable[[int], Result], batch: int, advice: str) -> Result:
    """run(batch), with half the batch again and again as long as the device has too little memory, with a warning.

    Raises:
        PureError: not even one picture fits; `advice` says what to try.
    """
    while True:
        try:
            return run(batch)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if batch == 1:
                raise PureError(
                    f"the device has too little memory for one picture; {advice} ({str(error).splitlines()[0][:200]})"
                ) from error
            batch //= 2
            logger.warning("the device's memory did not suffice; beginning again with %d pictures at a time", batch)
