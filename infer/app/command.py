"""`pure app`: a page in the browser, on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pure_jax.infer.serve.command import address, listen, require_extra


@dataclass(frozen=True)
class App:
    """Restore photos on a page in the browser: drop one, watch its rows appear, compare."""

    model: Path | None = None
    """Model directory, hub id, or demo-nsarm, which ships with this package like the default, demo."""
    host: str = "127.0.0.1"
    """Address to listen at; by default only this machine is served. There is no password: whoever reaches it may use
    it."""
    port: int = 7860
    """0 takes any that is free, and says which."""
    places: int = 4
    """Photos that may be there at once, the one that is worked on included."""
    max_photos: int = 100
    """That may come together; they take one place."""
    timeout: float = 3600.0
    """Seconds after which a photo, or what came together, is given up; what is done by then is kept."""
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
    open: bool = False
    """Open the page in this machine's browser."""

    def run(self) -> None:
        import tempfile
        import threading

        from pure_jax.infer.uploads import Limits

        require_extra("app", "gradio")
        limits = Limits(
            self.places,
            self.timeout,
            bytes=int(self.max_megabytes * 1e6),
            pixels=int(self.max_megapixels * 1e6),
            photos=self.max_photos,
        )
        with listen(self.host, self.port) as listening:  # Gradio takes a number, not a socket
            url, port = address(listening), listening.getsockname()[1]
        import pure_jax
        from pure_jax.infer.restore import Restorer

        model = pure_jax.load(self.model, dtype=self.dtype, weights=self.weights, cache=self.cache)
        with tempfile.TemporaryDirectory(prefix="pure-app-") as folder:
            # Uploads and results go when the app ends. Gradio reads this when it is imported.
            os.environ["GRADIO_TEMP_DIR"] = folder
            os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
            from pure_jax.infer.app.blocks import CSS, blocks
            from pure_jax.infer.app.session import Sessions

            sessions = Sessions(Restorer(model), limits, Path(folder))
            page = blocks(sessions, str(self.model or "demo"))
            page.launch(
                server_name=self.host,
                server_port=port,
                share=False,
                inbrowser=self.open,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size=limits.bytes,
                ssr_mode=False,
                footer_links=[],
                css=CSS,
            )
            print(f"the app is at {url} (Ctrl-C ends it)", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                pass
            finally:
                sessions.desk.close()
                page.close(verbose=False)
