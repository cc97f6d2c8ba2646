"""Which kind of device computes."""

from __future__ import annotations

from pure_jax.errors import PureError

_PLATFORMS = {"cpu": "cpu", "gpu": None, "tpu": "tpu,cpu"}
"""What to tell JAX; nothing for "gpu", as JAX would take that for a demand for every maker's at once."""


def use_device(kind: str) -> None:
    """Let JAX compute on devices of one kind only. It has to be called before JAX is used: later it can only check.

    Raises:
        PureError: another name, or JAX finds no such device.
    """
    import jax

    if kind not in _PLATFORMS:
        raise PureError(f"the device is {kind!r}, but it must be one of {', '.join(_PLATFORMS)}")
    before = jax.config.jax_platforms  # type: ignore[attr-defined]
    try:
        if _PLATFORMS[kind] is not None:
            jax.config.update("jax_platforms", _PLATFORMS[kind])
        jax.devices(kind)
        found = jax.default_backend()
    except RuntimeError as error:
        jax.config.update("jax_platforms", before)
        raise PureError(
            f"JAX finds no {kind} here; leave --device {kind} out, or see `pure doctor` for what there is"
        ) from error
    if found != kind:
        raise PureError(f"JAX computes on {found} here and not on {kind}; leave --device {kind} out")
