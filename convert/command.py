"""`pure convert`, `pure quantize`, `pure compare`: PyTorch models to Flax and back, int8, and the proof of equality."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pure_jax.errors import PureError


@dataclass(frozen=True)
class Convert:
    """Turn a PyTorch model into a model directory of this library, or back."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Directory in Hugging Face's layout (config.json, safetensors, tokenizer.json), hub id, or model directory."""
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """New directory; it appears when all is done, or not at all."""
    vqgan: Path | None = None
    """LlamaGen's image tokenizer, .pt or .safetensors; by default the one .pt file in the source directory."""
    vqgan_weights: Literal["model", "ema"] | None = None
    """Which weights of a .pt that has both; by default "model", as PURE takes them."""
    tokenizer: Path | None = None
    """Tokenizer file; by default tokenizer.json in the source directory."""
    map_network: Literal["fresh"] | None = None
    """NSARM only: fresh gives a transformer that has no map network, Infinity's, one with random weights, to be trained
    by `pure train map`."""
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
        from pure_jax.convert.conversion import convert

        convert(
            self.source,
            self.destination,
            vqgan=self.vqgan,
            vqgan_weights=self.vqgan_weights,
            tokenizer=self.tokenizer,
            map_network=self.map_network,
            to=self.to,
            dtype=self.dtype,
            format=self.format,
            norm_rows=self.norm_rows,
            verify=self.verify,
            revision=self.revision,
        )


@dataclass(frozen=True)
class Quantize:
    """Write a model with int8 weights: a quarter of float32's size. docs/quantisation.md says what that costs.

    `pure evaluate DIR --model DST --against SRC` measures it on pictures of yours.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Model directory, PyTorch model in Hugging Face's layout, or hub id."""
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """New directory; it appears when all is done, or not at all."""
    weights: Literal["float", "int8"] = "int8"
    """int8: the transformer's kernels, with a scale for each output channel; embedding and norms stay as they are."""
    cache: Literal["float", "int8"] | None = None
    """Whether the model is to keep keys and values as int8, with a scale for each head and token; by default as SRC."""
    format: Literal["safetensors", "orbax"] = "safetensors"
    """Of the model directory's parameters."""
    verify: bool = False
    """Read source and result once more and compare them bit by bit."""
    revision: str | None = None
    """Hub only: commit, tag or branch; a commit is the same for ever."""

    def run(self) -> None:
        from pure_jax.convert.conversion import convert

        convert(
            self.source,
            self.destination,
            weights=self.weights,
            cache=self.cache,
            format=self.format,
            verify=self.verify,
            revision=self.revision,
        )


@dataclass(frozen=True)
class Compare:
    """Measure how equal two models compute, layer by layer; a PyTorch one is computed by PyTorch.

    Exit status 0 if they are the same within the limits shown, 1 if not.
    """

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """Model directory of this library, PyTorch model in Hugging Face's layout, or hub id."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """The model to compare it with, of any of these kinds."""
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
    overwrite: bool = False
    """Replace that file if it exists already."""

    def run(self) -> None:
        from pure_jax.checkpoint import demo_directory
        from pure_jax.convert.compare import compare, format_report, open_side, read_square, require_same_sizes, to_json
        from pure_jax.files import check_output_file
        from pure_jax.progress import Reporter

        if self.json is not None:
            check_output_file(self.json, self.overwrite)
        parts: dict[str, Any] = {"vqgan": self.vqgan, "vqgan_weights": self.vqgan_weights, "tokenizer": self.tokenizer}
        a, b = (open_side(source, self.revision, **parts) for source in (self.a, self.b))
        if a.native and b.native:
            for option, value in parts.items():
                if value is not None:
                    raise PureError(f"neither {self.a} nor {self.b} is a PyTorch model; leave {option} out")
        families = [side.checkpoint.config.family for side in (a, b)]
        if families[0] != families[1]:
            raise PureError(f"{self.a} is of the family {families[0]}, {self.b} of {families[1]}; compare two of one")
        if families[0] == "nsarm":
            self._compare_scales(a, b)
            return
        require_same_sizes(a, b)
        unit = a.checkpoint.vocabulary.codes_per_grid * a.checkpoint.config.vqgan.stride
        pixels = read_square(self.image or demo_directory() / "sample.png", self.size, unit)
        with Reporter(counted="steps", told=False) as progress:
            add = progress.adding("compute", 2 * (a.checkpoint.config.transformer.num_layers + 3))
            report = compare(a, b, pixels, self.dtype, lambda: add(1))
        self._conclude(to_json(report), format_report(report), bool(report.failed))

    def _compare_scales(self, a: Any, b: Any) -> None:
        """Two models of NSARM's family, on a picture of their own sizes."""
        from pure_jax.checkpoint import demo_directory
        from pure_jax.convert.compare import read_square
        from pure_jax.convert.nsarm.compare import Inputs, compare, format_report, to_json
        from pure_jax.progress import Reporter

        if self.dtype != "float32":
            raise PureError(f"models of the family nsarm are compared in float32; leave --dtype {self.dtype} out")
        config, image = a.checkpoint.config, self.image or demo_directory() / "sample.png"
        low, high = (read_square(image, side, 1) for side in (config.low_quality_size, config.tile_size))
        first, second = ((side.name, side.checkpoint, side.runner) for side in (a, b))
        with Reporter(told=False) as progress:
            progress("compute")
            report = compare(first, second, Inputs(low, high))
        self._conclude(to_json(report), format_report(report), bool(report.failed))

    def _conclude(self, facts: dict[str, Any], text: str, failed: bool) -> None:
        import json

        from pure_jax.files import replacing

        if self.json is not None:
            with replacing(self.json) as temporary:
                temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        print(text)
        if failed:
            raise SystemExit(1)
