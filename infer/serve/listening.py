"""Taking a port and answering there, until somebody says stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pure_jax.errors import PureError

if TYPE_CHECKING:
    import socket


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


def answer(app: Any, listening: socket.socket, upload_timeout: float, grace: float, log_level: str) -> None:
    """Let an ASGI application answer until SIGTERM or Ctrl-C, and requests end within `grace` seconds then."""
    import uvicorn

    from pure_jax.infer.serve.patience import impatient

    config = uvicorn.Config(
        app,
        http=impatient(upload_timeout),
        log_level=log_level,
        timeout_graceful_shutdown=max(1, round(grace)),
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # it stopped in good order, and then passes the signal on
        pass
