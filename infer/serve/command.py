"""`pure serve`: load the model, take the port, and answer until somebody says stop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pure_jax.errors import PureError

if TYPE_CHECKING:
    import socket

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Serve:
    """Restore photos over HTTP: POST one to /restore; /docs describes it all."""

    model: Path | None = None
    """Model directory, hub id, or demo-nsarm, which ships with this package like the default, demo."""
    host: str = "127.0.0.1"
    """Address to listen at; by default only this machine is served. There is no password: whoever reaches it may use
    it."""
    port: int = 8000
    """0 takes any that is free, and says which."""
    places: int = 8
    """Requests that may be there at once, the one that is worked on included; others are told to come later."""
    timeout: float = 600.0
    """Seconds until a request must be answered."""
    upload_timeout: float = 30.0
    """Seconds until a request's header must have arrived, and then until its photo must."""
    max_megabytes: float = 32.0
    """Of an upload, in million bytes."""
    max_megapixels: float = 16.0
    """Of a result, in million pixels."""
    grace: float = 30.0
    """Seconds that requests have to end when the service is stopped (SIGTERM, Ctrl-C)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """As in `pure restore`."""
    weights: Literal["float", "int8"] | None = None
    """As in `pure restore`."""
    cache: Literal["float", "int8"] | None = None
    """As in `pure restore`."""
    quiet: bool = False
    """Print nothing but errors and the address."""

    def run(self) -> None:
        require_extra("serve", "fastapi", "uvicorn")
        import uvicorn

        import pure_jax
        from pure_jax.infer.restore import Restorer
        from pure_jax.infer.serve.patience import impatient
        from pure_jax.infer.serve.service import service
        from pure_jax.infer.uploads import Limits

        limits = Limits(
            self.places,
            self.timeout,
            self.upload_timeout,
            int(self.max_megabytes * 1e6),
            int(self.max_megapixels * 1e6),
        )
        with listen(self.host, self.port) as listening:
            model = pure_jax.load(self.model, dtype=self.dtype, weights=self.weights, cache=self.cache)
            hosts = [*LOOPBACK, "[::1]"] if self.host in LOOPBACK else ["*"]
            app = service(Restorer(model), str(self.model or "demo"), limits, hosts)
            config = uvicorn.Config(
                app,
                http=impatient(self.upload_timeout),
                log_level="warning" if self.quiet else "info",
                timeout_graceful_shutdown=max(1, round(self.grace)),
            )
            print(f"serving on {address(listening)} (what it does: {address(listening)}/docs)", flush=True)
            try:
                uvicorn.Server(config).run(sockets=[listening])
            except KeyboardInterrupt:  # it stopped in good order, and then passes the signal on
                pass


def require_extra(extra: str, *modules: str) -> None:
    """Raises PureError where a module of an extra is not installed."""
    from importlib.util import find_spec

    for module in modules:
        if find_spec(module) is None:
            raise PureError(f'this needs {module}, which is not installed; pip install "pure-jax[{extra}]"')


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections.

    Raises:
        PureError: no such address here, no such port, or one that is taken or forbidden.
    """
    import socket

    if not 0 <= port < 2**16:
        raise PureError(f"the port is {port}, but it must lie in 0 ... {2**16 - 1}")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PureError(f"cannot listen at {host}, port {port} ({reason}); choose another --port or --host") from error


def address(listening: socket.socket) -> str:
    """Its URL."""
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
