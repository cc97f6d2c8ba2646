"""`pure app`: a page in the browser, on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pure_jax.infer.serve.listening import address, answer, listen
from pure_jax.infer.serve.options import ServerOptions, require_extra

_GRACE_S = 5.0
"""For open pages, when the app is stopped; they stay connected while they wait."""


@dataclass(frozen=True)
class App(ServerOptions):
    """Restore photos on a page in the browser: drop one, watch its rows appear, compare."""

    port: int = 7860
    """0 takes any that is free, and says which."""
    places: int = 4
    """Photos that may be there at once, the one that is worked on included."""
    max_photos: int = 100
    """That may come together; they take one place."""
    timeout: float = 3600.0
    """Seconds after which a photo, or what came together, is given up; what is done by then is kept."""
    open: bool = False
    """Open the page in this machine's browser."""

    def run(self) -> None:
        import tempfile
        import webbrowser

        require_extra("app", "gradio")
        limits = self.limits(photos=self.max_photos)
        with listen(self.host, self.port) as listening, tempfile.TemporaryDirectory(prefix="pure-app-") as folder:
            from pure_jax.infer.restore import Restorer

            restorer = Restorer(self.load())
            # Uploads and results go when the app ends. Gradio reads this when it is imported.
            os.environ["GRADIO_TEMP_DIR"] = folder
            os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
            from pure_jax.infer.app.blocks import application
            from pure_jax.infer.app.session import Sessions

            sessions = Sessions(restorer, limits, Path(folder))
            app = application(sessions, self.name, self.hosts)
            print(f"the app is at {address(listening)} (Ctrl-C ends it)", flush=True)
            if self.open:
                webbrowser.open(address(listening))
            try:
                answer(app, listening, self.upload_timeout, _GRACE_S, "warning")
            finally:
                sessions.desk.close()
