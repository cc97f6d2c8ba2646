"""What the page (`pure app`) and the service are told alike."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pure_jax.errors import PureError

if TYPE_CHECKING:
    from pure_jax.families import Model
    from pure_jax.infer.uploads import Limits

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerOptions:
    """Options of a command that answers over HTTP."""

    model: Path | None = None
    """Model directory, hub id, or demo-nsarm, which ships with this package like the default, demo."""
    host: str = "127.0.0.1"
    """Address to listen at; by default only this machine is served. There is no password: whoever reaches it may use
    it."""
    port: int = 0
    """0 takes any that is free, and says which."""
    places: int = 8
    """That may be there at once, what is worked on included; others are told to come later."""
    timeout: float = 600.0
    """Seconds until the answer must be there."""
    upload_timeout: float = 30.0
    """Seconds until a request's header must have arrived."""
    max_megabytes: float = 32.0
    """Of an upload, in million bytes."""
    max_megapixels: float = 16.0
    """Of a result, in million pixels."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """As in `pure restore`."""
    weights: Literal["float", "int8"] | None = None
    """As in `pure restore`."""
    cache: Literal["float", "int8"] | None = None
    """As in `pure restore`."""

    def limits(self, **more: Any) -> Limits:
        """Raises PureError for one that is not above 0."""
        from pure_jax.infer.uploads import Limits

        size = {"bytes": int(self.max_megabytes * 1e6), "pixels": int(self.max_megapixels * 1e6)}
        return Limits(self.places, self.timeout, self.upload_timeout, **size, **more)

    def load(self) -> Model:
        """The model, as it is asked for."""
        import pure_jax

        return pure_jax.load(self.model, dtype=self.dtype, weights=self.weights, cache=self.cache)

    @property
    def name(self) -> str:
        """The model's."""
        return str(self.model or "demo")

    @property
    def hosts(self) -> list[str]:
        """Names by which it may be addressed, so that no page of another site reaches it under a name of its own."""
        return [*_LOOPBACK, "[::1]"] if self.host in _LOOPBACK else ["*"]


def require_extra(extra: str, *modules: str) -> None:
    """Raises PureError where a module of an extra is not installed."""
    for module in modules:
        if find_spec(module) is None:
            raise PureError(f'this needs {module}, which is not installed; pip install "pure-jax[{extra}]"')
