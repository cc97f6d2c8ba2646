"""`pure serve`: load the model, take the port, and answer until somebody says stop."""

from __future__ import annotations

from dataclasses import dataclass

from pure_jax.infer.serve.listening import address, answer, listen
from pure_jax.infer.serve.options import ServerOptions, require_extra


@dataclass(frozen=True)
class Serve(ServerOptions):
    """Restore photos over HTTP: POST one to /restore; /docs describes it all."""

    port: int = 8000
    """0 takes any that is free, and says which."""
    places: int = 8
    """Requests that may be there at once, the one that is worked on included; others are told to come later."""
    timeout: float = 600.0
    """Seconds until a request must be answered."""
    upload_timeout: float = 30.0
    """Seconds until a request's header must have arrived, and then until its photo must."""
    grace: float = 30.0
    """Seconds that requests have to end when the service is stopped (SIGTERM, Ctrl-C)."""
    quiet: bool = False
    """Print nothing but errors and the address."""

    def run(self) -> None:
        require_extra("serve", "fastapi", "uvicorn")
        from pure_jax.infer.restore import Restorer
        from pure_jax.infer.serve.service import service

        limits = self.limits()
        with listen(self.host, self.port) as listening:
            app = service(Restorer(self.load()), self.name, limits, self.hosts)
            print(f"serving on {address(listening)} (what it does: {address(listening)}/docs)", flush=True)
            answer(app, listening, self.upload_timeout, self.grace, "warning" if self.quiet else "info")
