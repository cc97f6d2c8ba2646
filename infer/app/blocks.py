"""What the app looks like, in Gradio's parts."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from pure_jax.errors import PureError
from pure_jax.infer.app.session import Seen, Sessions, Wishes
from pure_jax.infer.contract import check_seed
from pure_jax.infer.pictures.colour import COLOUR_FIXES

DEFAULT = "the model's own"
CSS = "#preview img { width: 100%; height: 100%; object-fit: contain; }"  # small photos as large as the place allows


def blocks(sessions: Sessions, name: str) -> gr.Blocks:
    """The page. name: of the model."""
    sampling = sessions.restorer.model.config.sampling

    def number(field: str, label: str) -> gr.Number:
        own = getattr(sampling, field, None)
        return gr.Number(None, label=f"{label} ({DEFAULT}: {own})", visible=own is not None, elem_id=field)

    with gr.Blocks(title="pure-jax", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(f"# pure-jax\nRestores low-quality photographs. Model: {name}. Nothing leaves this machine.")
        with gr.Row():
            with gr.Column(scale=1):
                upload = gr.File(label="Photo", type="filepath", elem_id="photo", height=140)
                scale = gr.Slider(1, 8, 4, step=0.5, label="Scale", elem_id="scale")
                seed = gr.Number(0, label="Seed", precision=0, elem_id="seed")
                with gr.Accordion("More", open=False):
                    fix = gr.Dropdown([DEFAULT, *COLOUR_FIXES], value=DEFAULT, label="Colours from the input")
                    text = gr.Textbox(label="Words that the model's answer must begin with", elem_id="text")
                    temperature = number("temperature", "Temperature")
                    k_max = number("k_max", "Upper end of top-k")
                    guidance = number("guidance_scale", "Guidance scale")
                    fast = gr.Checkbox(False, label="Fast (lossy)")
                with gr.Row():
                    go = gr.Button("Restore", variant="primary", elem_id="go")
                    stop = gr.Button("Cancel", variant="stop", elem_id="stop")
                said = gr.Textbox(label="State", interactive=False, lines=3, elem_id="said")
                download = gr.DownloadButton("Download the result", visible=False, elem_id="download")
            with gr.Column(scale=2):
                preview = gr.Image(
                    label="So far",
                    interactive=False,
                    visible=False,
                    elem_id="preview",
                    height=520,
                    buttons=["fullscreen"],  # not "share", which would send it to a stranger
                )
                report = gr.HTML(elem_id="report")

        def restore(file: str | None, request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
            try:
                wishes = _wishes(*values)
            except PureError as error:
                yield {said: f"not possible: {error}"}
                return
            yield {report: "", download: gr.update(visible=False), said: "waiting"}
            for seen in sessions.restore(str(request.session_hash), Path(file) if file else None, wishes):
                yield updates(seen)

        def updates(seen: Seen) -> dict[Any, Any]:
            changed: dict[Any, Any] = {said: seen.said}
            if seen.preview is not None:
                changed[preview] = gr.update(value=seen.preview, visible=True)
            if seen.over:
                changed[preview] = gr.update(value=None, visible=False)
            if seen.page is not None:
                changed[report] = _frame(seen.page)
            if seen.file is not None:
                changed[download] = gr.update(value=str(seen.file), visible=True)
            return changed

        def cancel(request: gr.Request) -> None:
            sessions.cancel(str(request.session_hash))

        inputs = [upload, scale, seed, fix, text, temperature, k_max, guidance, fast]
        outputs = [said, preview, report, download]
        places = sessions.limits.places + 1  # so that one more can be told that there is no room
        go.click(restore, inputs, outputs, concurrency_limit=places, show_progress="hidden", api_name="restore")
        stop.click(cancel, queue=False, show_progress="hidden")
        page.unload(cancel)
    page.queue(max_size=2 * places)
    return page


def _wishes(
    scale: float,
    seed: float | None,
    fix: str,
    text: str | None,
    temperature: float | None,
    k_max: float | None,
    guidance: float | None,
    fast: bool,
) -> Wishes:
    """Raises PureError for a seed out of range."""
    seed = 0 if seed is None else int(seed)
    check_seed(seed)
    chosen = None if fix == DEFAULT else fix
    return Wishes(float(scale), seed, chosen, text or "", temperature, k_max, guidance, bool(fast))


def _frame(page: str) -> str:
    """The report in a frame of its own, whose scripts and styles touch nothing around it."""
    return (
        '<iframe title="report" sandbox="allow-scripts" style="width: 100%; height: 85vh; border: 0" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )
