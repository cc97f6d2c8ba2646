"""The `pure` command. Sub-commands import what they need when they run, so that `pure --help` stays quick.

The only file of this package that looks outward, to the folders that do the work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pure_jax.errors import PureError


@dataclass(frozen=True)
class Restore:
    """Restore a low-quality photo."""

    input: Annotated[Path, tyro.conf.Positional]
    """PNG, JPEG, WebP, BMP, TIFF, GIF or PPM, from 16x16 pixels up."""
    output: Annotated[Path | None, tyro.conf.Positional] = None
    """PNG, JPEG or WebP; by default INPUT-restored.png beside the input."""
    model: Path | None = None
    """Model directory; by default the embedded demo model."""
    scale: float = 4.0
    """The result's side over the input's, 1 to 16."""
    seed: int = 0
    """The same seed gives the same picture."""
    temperature: float | None = None
    """0 is greedy; by default the model's."""
    guidance_scale: float | None = None
    """1 switches guidance off; by default the model's."""
    k_max: float | None = None
    """Upper end of the entropy-based top-k; by default the model's."""
    text: str = ""
    """Words the model's answer must begin with, such as "Large blur, small noise."."""
    faithful: bool = False
    """Decode as the original does: unmasked text, picture size drawn by the model, one token a step."""
    colour_fix: Literal["none", "wavelet", "adain"] | None = None
    """Take colours from the input; by default the model's choice."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share; by default the model's."""
    batch: int | None = None
    """Tiles decoded together; by default as many as keep the caches within 1 GiB, at most 64."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    entropy_map: Path | None = None
    """Write the entropy of every code as a heat map to this PNG file."""

    def run(self) -> None:
        from infer.command import restore_file

        restore_file(self)


@dataclass(frozen=True)
class Degrade:
    """Make a test set: degrade a folder of photos with the Real-ESRGAN pipeline (training draws from the same)."""

    source: Annotated[Path, tyro.conf.Positional]
    destination: Annotated[Path, tyro.conf.Positional]
    """Gets gt/, lq/ and pairs.jsonl."""
    scale: int = 4
    seed: int = 0
    preset: str = "real-esrgan"
    """real-esrgan, mild or light"""
    crop: int | None = None
    """Side of the square cut out of each photo's centre; by default all of it."""
    split: str | None = None
    """Only the photos that captions.jsonl puts in this split."""
    limit: int | None = None

    def run(self) -> None:
        from train.degrade import degrade_folder

        count = degrade_folder(
            self.source,
            self.destination,
            scale=self.scale,
            seed=self.seed,
            preset=self.preset,
            crop=self.crop,
            split=self.split,
            limit=self.limit,
        )
        print(f"{self.destination}: {count} pairs")


@dataclass(frozen=True)
class Evaluate:
    """Compare bicubic, the tokenizer's round trip and the model on a folder of pairs."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """Folder with lq/NAME.png and, for the full-reference metrics, gt/NAME.png (see `pure degrade`)."""
    model: Path | None = None
    scale: int = 4
    seed: int = 0
    niqe: Path | None = None
    """NIQE's pristine model, an .npz file as BasicSR ships it; without it that column says n/a."""
    csv: Path | None = None
    """Write one row per picture and method."""
    save_images: Path | None = None
    """Write bicubic, ours and ground truth side by side into this folder."""

    def run(self) -> None:
        from infer.command import evaluate_folder

        evaluate_folder(self)


@dataclass(frozen=True)
class Convert:
    """Turn a PyTorch model into a model directory of this library, or back."""

    source: Annotated[str, tyro.conf.Positional]
    """Directory in Hugging Face's layout (config.json, safetensors, tokenizer.json), hub id, or model directory."""
    destination: Annotated[Path, tyro.conf.Positional]
    """New directory; it appears when all is done, or not at all."""
    vqgan: Path | None = None
    """LlamaGen's image tokenizer, .pt or .safetensors; by default the one .pt file in the source directory."""
    vqgan_weights: Literal["model", "ema"] | None = None
    """Which weights of a .pt that has both; by default "model", as PURE takes them."""
    tokenizer: Path | None = None
    """Tokenizer file; by default tokenizer.json in the source directory."""
    to: Literal["flax", "torch"] = "flax"
    """torch writes what transformers' Chameleon class and LlamaGen's code load."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the transformer's parameters; auto keeps the source's. The image tokenizer keeps its own."""
    format: Literal["safetensors", "orbax"] = "safetensors"
    """Of the model directory's parameters."""
    norm_rows: Literal["heads", "ranks"] = "heads"
    """To torch only: QK-norm rows one per head, as transformers has them, or per model-parallel rank, as PURE has."""
    verify: bool = False
    """Read source and result once more and compare them bit by bit."""
    revision: str | None = None
    """Hub only: commit, tag or branch; a commit is the same for ever."""

    def run(self) -> None:
        from convert.command import convert

        convert(self)


@dataclass(frozen=True)
class Compare:
    """Measure how equal two models compute, layer by layer; a PyTorch one is computed by PyTorch.

    Exit status 0 if they are the same within the limits shown, 1 if not.
    """

    a: Annotated[str, tyro.conf.Positional]
    """Model directory of this library, PyTorch model in Hugging Face's layout, or hub id."""
    b: Annotated[str, tyro.conf.Positional]
    vqgan: Path | None = None
    """LlamaGen's image tokenizer for a PyTorch side; by default the one .pt file in its directory."""
    vqgan_weights: Literal["model", "ema"] | None = None
    """Which weights of a .pt that has both; by default "model"."""
    tokenizer: Path | None = None
    """Tokenizer file for a PyTorch side; by default tokenizer.json in its directory."""
    revision: str | None = None
    """Commit, tag or branch of a side that is a hub id."""
    image: Path | None = None
    """Picture in the prompt; by default a sample that ships with this package."""
    size: int = 128
    """Side in pixels that the picture is brought to; more pixels are more tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the transformer's parameters and products, on both sides."""
    json: Path | None = None
    """Write the report to this file too."""

    def run(self) -> None:
        from convert.compare import compare_command

        compare_command(self)


def main() -> None:
    """Parse the command line and run; a user's mistake is one sentence on stderr and exit status 2."""
    commands: dict[str, Callable[..., Any]] = {
        "restore": Restore,
        "convert": Convert,
        "compare": Compare,
        "degrade": Degrade,
        "evaluate": Evaluate,
    }
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog="pure", description="Restore low-quality photographs."
    )
    try:
        command.run()
        sys.stdout.flush()  # a closed pipe shows here, not when the interpreter ends
    except PureError as error:
        print(f"pure: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("pure: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
