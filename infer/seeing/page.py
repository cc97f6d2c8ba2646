"""A page that shows what a restoration did, in one HTML file that asks for nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from PIL import Image

from pure_jax.infer.facts import reading_of
from pure_jax.infer.pictures.heatmap import ANCHORS, entropy_heatmap
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.restore import Restoration
from pure_jax.infer.seeing.side_by_side import before

LOSSLESS_PIXELS = 4_000_000
"""Up to so many a picture is put in as PNG, beyond as JPEG (quality 95), as browsers choke on hundreds of megabytes."""


def page(
    title: str,
    picture: Picture,
    result: Restoration,
    max_entropy: float,
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> str:
    """The page's text.

    title: the photo's name, say. max_entropy: nats, the heat map's brightest value. facts: as of
    `pure_jax.infer.facts.facts_of`. settings: by name; those that are None are left out.
    """
    template = files("pure_jax") / "assets" / "report" / "page.html"
    height, width = result.entropy.shape
    seconds = dict(facts["seconds"])
    said = {
        "degradation": reading_of(facts["degradation"]) or "no degradation",
        "description": facts["description"] or "nothing",
        "mean entropy": f"{_number(facts['mean_entropy'])} nats per code of {height} x {width}",
    }
    times = {stage: f"{spent:.2f} s" for stage, spent in seconds.items()}
    times["together"] = f"{sum(seconds.values()):.2f} s"
    own = {"size": f"{result.image.width} x {result.image.height} pixels"}
    own |= {name: value for name, value in settings.items() if value is not None}
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        width=result.image.width,
        height=result.image.height,
        before=_inline(before(picture, result)),
        after=_inline(result.image),
        entropy=_inline(entropy_heatmap(result.entropy, max_entropy, (width, height))),
        gradient=", ".join(f"rgb({r:g} {g:g} {b:g})" for r, g, b in ANCHORS),
        most=f"{max_entropy:.2f}",
        said=_rows(said),
        remarks="".join(f'<p class="note">{html.escape(remark)}</p>' for remark in facts["remarks"]),
        times=_rows(times),
        settings=_rows(own),
    )


def _inline(image: Image.Image) -> str:
    """As a data URL."""
    kind = "png" if image.has_transparency_data or image.width * image.height <= LOSSLESS_PIXELS else "jpeg"
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {}
    image.save(file, kind, icc_profile=image.info.get("icc_profile"), **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _rows(values: Mapping[str, Any]) -> str:
    return "".join(
        f'<tr><th scope="row">{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>'
        for name, value in values.items()
    )


def _number(value: float | None) -> str:
    return "no number of" if value is None else f"{value:.2f}"
