"""The model card of a run of `pure train demo`: what it is, what made it, what it measures; nothing by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pure_jax.train.loop import newest_step
from pure_jax.train.recipes import Recipe
from pure_jax.transformer import count_parameters

NETWORKS = {"vqgan": "image tokenizer", "lm": "language model", "decoder": "decoder"}
"""The folders of a run of PURE's, and what they are called."""


HOW = "## How it was made"


def how_it_began(name: str, directory: Path) -> str:
    """Paragraphs on the model that a run starts from: its name, and what its own card says of its making."""
    path = directory / "README.md"
    told = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    _, _, behind = told.partition(HOW)
    calls = [line for line in behind.partition("\n## ")[0].splitlines() if line.startswith("- `pure train")]
    made = "\n".join([":", "", *calls]) if calls else "."
    return f"Training went on from the weights of {name}{made}\n\nand then with\n\n"


def model_card(
    out: Path, recipe: Recipe, calls: list[dict[str, Any]], tables: Mapping[str, str], photos: Path, begun: str = ""
) -> str:
    """README.md of the model directory.

    begun: what comes before the calls, see `how_it_began`.
    calls: what is known of every call of the command (command, commit, hardware, seconds, stages' steps afterwards).
    tables: title -> Markdown.
    """
    config, sampling = recipe.model, json.loads((out / "sampling.json").read_text(encoding="utf-8"))
    transformer, vqgan = config.transformer, config.vqgan
    chosen = sampling["chosen"]
    tried = "\n".join(
        f"| {t['guidance_scale']:g} | {t['temperature']:g} | {t['k_max']:.0f} | {t['psnr_y']:.2f} "
        f"| {t['perceptual']:.3f} | {figure(t['niqe'])} |"
        for t in sampling["tried"]
    )
    return f"""# pure-jax demo model

A tiny model of the PURE family (arXiv 2503.11073): it reads a low-quality picture, says how degraded it is, describes
it, and writes the tokens of a better one. It exists so that everything in pure-jax runs at once on any machine. It is
not a substitute for a large model.

## What it is

- Transformer: {transformer.num_layers} layers, width {transformer.hidden_size}, {transformer.num_heads} heads of \
{transformer.head_dim} with {transformer.num_kv_heads} key/value head(s), SwiGLU {transformer.intermediate_size}; \
{count_parameters(transformer):,} parameters.
- Image tokenizer: VQGAN, stride {vqgan.stride}, {vqgan.codebook_size:,} codes of dimension {
        vqgan.codebook_dim
    }, group \
norm of {vqgan.num_groups} groups.
- Tiles of {config.tile_size}x{config.tile_size} pixels, x4. Answers' texts are padded to {config.text_length} tokens, \
so that the restored codes stand at a fixed distance from the codes they restore. Weights are stored in bfloat16.
- Its description of a tile (light, colours, texture, edges) was measured on the pixels of training tiles, so that a \
reader can check it.

{HOW}

{begun}{how_it_was_made(out, NETWORKS, calls, photos)}

Sampling: guidance scale {chosen["guidance_scale"]:g}, temperature {chosen["temperature"]:g}, k up to \
{chosen["k_max"]:.0f}, chosen on {recipe.tuning_photos} photos of the train split that no stage trained on:

| guidance scale | temperature | k up to | PSNR-Y [dB] | perceptual distance | NIQE |
|---:|---:|---:|---:|---:|---:|
{tried}

## Measured

{measurements(recipe.evaluation_crop, tables)}
"""


def how_it_was_made(out: Path, networks: Mapping[str, str], calls: list[dict[str, Any]], photos: Path) -> str:
    """Paragraphs: the calls, the steps of networks (folder of the run: what they are called), the photographs."""
    listed = "\n".join(
        f"- `{call['command']}` (commit {call['commit']}, {call['hardware']}, {call['seconds'] / 3600:.2f} h)"
        for call in calls
    )
    hours = sum(call["seconds"] for call in calls) / 3600
    steps = ", ".join(f"{name} {newest_step(out / folder):,}" for folder, name in networks.items())
    return f"""{listed}

{hours:.1f} hours in all. Steps: {steps}. The recipe is `recipe.json` of the run: `train/recipes`.

Data: {_licences(photos)}. Degraded by pure-jax's own second-order Real-ESRGAN pipeline (x4plus settings, no
sharpening), a new draw and a new crop for every sequence. Photo by photo: [PHOTOS.md](PHOTOS.md)."""


def measurements(crop: int, tables: Mapping[str, str]) -> str:
    """Paragraphs: the tables by title, and what stands behind them."""
    measured = "\n\n".join(f"### {title}\n\n{text}" for title, text in tables.items())
    return f"""Centre {crop}x{crop} pixels of each photo, x4. The perceptual distance is computed by the network that is
also in the decoder's loss, which flatters that column.

{measured}

Licence of the weights: MIT, like the code; the photographs keep their licences."""


def photo_credits(photos: Path) -> str:
    """PHOTOS.md: name, author, licence and source of every photo of the train split."""
    columns = ("file", "author", "license", "pkg")
    lines = [f"| {' | '.join(_cell(entry.get(name)) for name in columns)} |" for entry in _train_entries(photos)]
    return "\n".join(
        [
            "# Photographs the demo model was trained on",
            "",
            "None of them is in this package.",
            "",
            "| file | author | licence | from |",
            "|---|---|---|---|",
            *lines,
            "",
        ]
    )


def _cell(value: str | None) -> str:
    return " ".join((value or "unknown").replace("|", "/").split())


def _train_entries(photos: Path) -> list[dict[str, Any]]:
    path = photos / "captions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return sorted((row for row in rows if row.get("split") == "train"), key=lambda row: row["file"])


def _licences(photos: Path) -> str:
    entries = _train_entries(photos)
    counts = Counter(_cell(entry.get("license")) for entry in entries)
    listed = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    return f"{len(entries)} photographs of the train split ({listed or 'licences unknown'})"


def figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
