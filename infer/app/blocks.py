"""What the app looks like, in Gradio's parts."""

from __future__ import annotations

import html
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pure_jax.errors import PureError
from pure_jax.infer.app.session import Seen, Sessions, Wishes
from pure_jax.infer.contract import check_seed, check_strength
from pure_jax.infer.control.candidates import check_candidates
from pure_jax.infer.control.guidance import KINDS
from pure_jax.infer.families import RESTORE_TILES
from pure_jax.infer.pictures.colour import COLOUR_FIXES
from pure_jax.sequence import GUIDANCE, LEVELS

DEFAULT = "the model's own"
NUMBERS = ("temperature", "k_max", "guidance_scale")
CSS = "#preview img { width: 100%; height: 100%; object-fit: contain; }"  # small photos as large as the place allows


def application(sessions: Sessions, name: str, hosts: list[str]) -> FastAPI:
    """The page as an ASGI application. name: of the model. hosts: names by which it may be addressed; ["*"] is all."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    page = blocks(sessions, name)
    return gr.mount_gradio_app(
        app,
        page,
        "/",
        allowed_paths=[str(sessions.folder)],
        max_file_size=sessions.limits.bytes,
        ssr_mode=False,
        footer_links=[],
        css=CSS,
    )


def blocks(sessions: Sessions, name: str) -> gr.Blocks:
    """The page. name: of the model."""
    sampling = sessions.restorer.model.config.sampling
    # A scale's own number stands for all scales of a family that has one for each.
    numbers = {name: value[0] if isinstance(value, tuple) else value for name, value in vars(sampling).items()}
    own = {"fidelity": 0.5} | {name: numbers[name] for name in NUMBERS if name in numbers}

    def number(field: str, label: str) -> gr.Number:
        return gr.Number(own.get(field), label=label, visible=field in own, elem_id=field)

    known = inspect.signature(RESTORE_TILES[sessions.restorer.model.config.family]).parameters

    def words(field: str, label: str, **more: Any) -> gr.Textbox:
        return gr.Textbox(label=label, visible=field in known, elem_id=field, **more)

    def choice(field: str, label: str, values: Sequence[str]) -> gr.Dropdown:
        needed = "reading" if field in KINDS else field
        return gr.Dropdown([DEFAULT, *values], value=DEFAULT, label=label, visible=needed in known, elem_id=field)

    def check(field: str, label: str) -> gr.Checkbox:
        return gr.Checkbox(False, label=label, visible=field in known, elem_id=field)

    with gr.Blocks(title="pure-jax", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(f"# pure-jax\nRestores low-quality photographs. Model: {name}. Nothing leaves this machine.")
        with gr.Row():
            with gr.Column(scale=1):
                upload = gr.File(
                    label="Photo, or several", file_count="multiple", type="filepath", elem_id="photo", height=140
                )
                controls: dict[str, Any] = {
                    "scale": gr.Slider(1, 8, 4, step=0.5, label="Scale", elem_id="scale"),
                    "seed": gr.Number(0, label="Seed", precision=0, elem_id="seed"),
                }
                with gr.Accordion("What the model is told", open=False, visible="text" in known):
                    controls |= {
                        "guidance": choice("guidance", "It writes before the picture", GUIDANCE),
                        "blur": choice("blur", "Blur", LEVELS),
                        "noise": choice("noise", "Noise", LEVELS),
                        "description": words("description", "What the photo shows"),
                        "one_description": check("one_description", "One description for the whole photo"),
                        "text": words("text", "Or words that its answer must begin with"),
                    }
                with gr.Accordion("More", open=False):
                    controls |= {
                        "colour_fix": gr.Dropdown(
                            [DEFAULT, *COLOUR_FIXES],
                            value=DEFAULT,
                            label="Colours from the input",
                            elem_id="colour_fix",
                        ),
                        "strength": gr.Slider(0, 1, 1, step=0.05, label="Strength", elem_id="strength"),
                        "candidates": gr.Slider(1, 8, 1, step=1, label="Candidates", elem_id="candidates"),
                        "fidelity": gr.Slider(
                            0,
                            1,
                            own["fidelity"],
                            step=0.05,
                            label="Detail (0) to fidelity (1)",
                            visible="k_max" in own,
                            elem_id="fidelity",
                        ),
                        "temperature": number("temperature", "Temperature"),
                        "k_max": number("k_max", "Upper end of top-k"),
                        "guidance_scale": number("guidance_scale", "Guidance scale"),
                        "fast": check("fast", "Fast (lossy)"),
                    }
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

        def restore(files: list[str] | None, request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
            try:
                wishes = _wishes(dict(zip(controls, values, strict=True)), own)
            except PureError as error:
                yield {said: f"not possible: {error}"}
                return
            yield {report: "", download: gr.update(visible=False), said: "waiting"}
            for seen in sessions.restore(str(request.session_hash), [*map(Path, files or [])], wishes):
                yield updates(seen)

        def updates(seen: Seen) -> dict[Any, Any]:
            changed: dict[Any, Any] = {said: seen.said}
            if seen.preview is not None:
                changed[preview] = gr.update(value=seen.preview, visible=True)
            if seen.over:
                changed[preview] = gr.update(value=None, visible=False)
            if seen.page is not None:
                changed[report] = _frame(seen.page)
            if seen.rows:
                changed[report] = _table(seen.rows)
            if seen.file is not None:
                changed[download] = gr.update(value=str(seen.file), visible=True)
            return changed

        def cancel(request: gr.Request) -> None:
            sessions.cancel(str(request.session_hash))

        inputs = [upload, *controls.values()]
        outputs = [said, preview, report, download]
        places = sessions.limits.places + 1  # so that one more can be told that there is no room
        go.click(restore, inputs, outputs, concurrency_limit=places, show_progress="hidden", api_name="restore")
        stop.click(cancel, queue=False, show_progress="hidden")
        page.unload(cancel)
    page.queue(max_size=2 * places)
    return page


def _wishes(values: dict[str, Any], own: dict[str, float]) -> Wishes:
    """Of what the controls hold. own: numbers that are the model's, and no wish where they were left.

    Raises:
        PureError: a seed, strength or number of candidates out of range.
    """
    chosen: dict[str, Any] = {
        name: None if value == DEFAULT or value == own.get(name) else value for name, value in values.items()
    }
    chosen |= {name: chosen[name] or "" for name in ("text", "description")}
    chosen |= {"seed": int(chosen["seed"] or 0), "candidates": int(chosen["candidates"])}
    check_seed(chosen["seed"])
    check_strength(chosen["strength"])
    check_candidates(chosen["candidates"], chosen["seed"])
    return Wishes(**chosen)


def _frame(page: str) -> str:
    """The report in a frame of its own, whose scripts and styles touch nothing around it."""
    return (
        '<iframe title="report" sandbox="allow-scripts" style="width: 100%; height: 85vh; border: 0" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(said)}</td></tr>" for name, said in rows)
    return f"<table>{''.join(cells)}</table>"
