"""What `pure compare` measures: how far apart two models are at every point of the computation on one picture.

A model directory of this library is computed by this library, a PyTorch model by transformers; so a model and its
conversion are compared across frameworks. Both carry on from their own hidden states: differences accumulate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from pure_jax.checkpoint import Checkpoint
from pure_jax.convert import jax_runner, torch_runner
from pure_jax.convert.layouts import layout_of
from pure_jax.convert.nsarm import compare as nsarm
from pure_jax.convert.opening import find, open_model
from pure_jax.errors import PureError
from pure_jax.sequence import prompt_ids

LOGITS_ATOL, LOGITS_RTOL = 1e-4, 1e-5
"""float32: most that logits may differ by, absolutely or as a share of the largest, whichever is more."""
MOST_KL = 1e-2
"""bfloat16: mean KL divergence in nats per position. How often the likeliest id changes is shown but not judged there:
it depends on how flat the model's distributions are."""
DEPARTURE = {"float32": 1e-4, "bfloat16": 0.1}
"""Relative difference beyond which two hidden states are no longer taken for rounding of each other."""
NEAR_TIE = 1e-4
"""Codes whose two nearest squared distances differ by no more may come out either way."""
MOST_LEVELS = 1
"""Most levels of 255 that pixels may differ by."""

_TOP = 10
_ROWS = 128  # positions at a time where float64 copies of the logits or distances are made
_SIZES = {
    "transformer": (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_layers",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "swin_norm",
    ),
    "vqgan": (
        "channels",
        "channel_multipliers",
        "num_res_blocks",
        "latent_channels",
        "codebook_dim",
        "codebook_size",
    ),
}


class Runner(Protocol):
    """What `pure_jax.convert.jax_runner` and `pure_jax.convert.torch_runner` have in common; described there."""

    def activations(
        self, checkpoint: Checkpoint, ids: np.ndarray, dtype: str, observe: Callable[[str, np.ndarray], None]
    ) -> None: ...

    def encode(self, checkpoint: Checkpoint, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def decode(self, checkpoint: Checkpoint, codes: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Side:
    """One of the two models: what the report calls it, its files, and who computes it."""

    name: str
    checkpoint: Checkpoint
    runner: Any
    """Of PURE's family a `Runner`; of NSARM's one of `pure_jax.convert.nsarm.compare`."""

    @property
    def native(self) -> bool:
        """This library computes it."""
        return self.runner is RUNNERS[self.checkpoint.config.family][0]


RUNNERS: dict[str, tuple[Any, Any]] = {"pure": (jax_runner, torch_runner), "nsarm": (nsarm.by_jax, nsarm.by_torch)}
"""By family: who computes a model directory of this library, and who PyTorch files."""


@dataclass(frozen=True)
class Difference:
    """At one point of the computation: max |a - b|, and that over max |b|, both over all positions and channels."""

    name: str
    max_abs: float
    max_relative: float


@dataclass(frozen=True)
class LogitsDifference:
    """The next token's distributions over all positions of the prompt; KL(A || B) in nats, shares 0..1."""

    max_abs: float
    max_relative: float
    kl_mean: float
    kl_max: float
    top1: float
    """Positions whose likeliest id is the same."""
    top1_clear: float
    """The same without the near ties: where B's two largest logits differ by no more than twice the limit."""
    top10: float
    """Ids that the ten likeliest have in common, mean over positions."""


@dataclass(frozen=True)
class ImageDifference:
    """The image tokenizers, always float32: one picture's codes by both, and A's codes decoded by both; shares 0..1."""

    codes: int
    equal: float
    equal_clear: float
    """Equal codes among those that B does not see as near ties."""
    near_ties: int
    max_level: int
    """Most levels of 255 between two pixels."""
    pixels_differing: float


@dataclass(frozen=True)
class Report:
    """The result; `failed` has one sentence per limit that is not kept."""

    a: str
    b: str
    dtype: str
    tokens: int
    layers: tuple[Difference, ...]
    logits: LogitsDifference
    image: ImageDifference
    failed: tuple[str, ...]

    @property
    def verdict(self) -> str:
        return "different" if self.failed else "same"


# ---- the two models and the picture ----------------------------------------------------------------------------------


def open_side(
    source: str,
    revision: str | None = None,
    *,
    vqgan: Path | None = None,
    vqgan_weights: str | None = None,
    tokenizer: Path | None = None,
) -> Side:
    """Open a model in either layout. revision: for a hub id; vqgan, vqgan_weights, tokenizer: for a PyTorch model.

    Raises:
        PureError: it cannot be opened.
    """
    path = find(source, None if Path(source).is_dir() else revision)
    name = path.resolve().name if Path(source).is_dir() else source
    native = layout_of(path) is None
    parts = {} if native else {"vqgan": vqgan, "vqgan_weights": vqgan_weights, "tokenizer": tokenizer}
    checkpoint = open_model(path, **parts).checkpoint
    if checkpoint.config.family not in RUNNERS:
        raise PureError(f"{name} is a model of the family {checkpoint.config.family}, which cannot be compared")
    by_jax, by_torch = RUNNERS[checkpoint.config.family]
    return Side(name, checkpoint, by_jax if native else by_torch)


def require_same_sizes(a: Side, b: Side) -> None:
    """Raises PureError, which names the first size that differs."""
    for section, fields in _SIZES.items():
        for field in fields:
            own, other = (getattr(getattr(side.checkpoint.config, section), field) for side in (a, b))
            if own != other:
                raise PureError(f"{a.name} and {b.name} cannot be compared: {section}.{field} is {own} and {other}")


def read_square(file: Path, size: int, unit: int) -> np.ndarray:
    """A picture, resized to uint8 [size, size, 3].

    Raises:
        PureError: size is no multiple of `unit`, or the file cannot be read.
    """
    if size <= 0 or size % unit:
        raise PureError(f"size is {size}, but it must be a multiple of {unit} pixels")
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises
        raise PureError(f"{file} cannot be read as a picture ({error})") from error


# ---- the comparison ------------------------------------------------------------------------------------------------


def compare(
    a: Side, b: Side, pixels: np.ndarray, dtype: str = "float32", progress: Callable[[], None] = lambda: None
) -> Report:
    """Compare two models of the same sizes on the prompt about one picture.

    In memory at a time: the parameters of one layer (or the embedding, or the head), A's hidden states of all layers,
    and the logits of both.

    Args:
        pixels: uint8 [H, W, 3], sides multiples of one grid.
        dtype: "float32" or "bfloat16", of the transformer's parameters and products. The image tokenizer is float32.
        progress: called at every point of either computation, 2 * (layers + 3) times.

    Raises:
        PureError: the vocabularies differ, a side computes a value that is not finite, or cannot be computed here.
    """
    codes, _ = a.runner.encode(a.checkpoint, pixels)
    ids = _common_prompt(a, b, codes)
    image = _compare_images(a, b, pixels, codes)
    states: dict[str, np.ndarray] = {}
    differences: dict[str, Difference] = {}
    logits: list[LogitsDifference] = []

    def keep(name: str, state: np.ndarray) -> None:
        states[name] = _finite(a, name, state)
        progress()

    def against(name: str, state: np.ndarray) -> None:
        own, other = states.pop(name), _finite(b, name, state)
        if name == "logits":
            logits.append(compare_logits(own, other))
        else:
            differences[name] = Difference(name, *_max_difference(own, other))
        progress()

    a.runner.activations(a.checkpoint, ids, dtype, keep)
    b.runner.activations(b.checkpoint, ids, dtype, against)
    layers = tuple(differences.values())
    failed = (*_failed_logits(layers, logits[0], dtype), *_failed_image(image))
    return Report(a.name, b.name, dtype, len(ids), layers, logits[0], image, failed)


def _common_prompt(a: Side, b: Side, codes: np.ndarray) -> np.ndarray:
    """The prompt's ids, int32 [n]."""
    from tokenizers import Tokenizer

    tokenizers = [Tokenizer.from_str(side.checkpoint.tokenizer_json) for side in (a, b)]
    own, other = (tokenizer.get_vocab() for tokenizer in tokenizers)
    if own != other:
        name = min(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
        ids = " and ".join("no id" if names.get(name) is None else f"id {names[name]}" for names in (own, other))
        raise PureError(f"{a.name} and {b.name} cannot be compared: their tokenizers give {name!r} {ids}")
    prompts = [prompt_ids(t, side.checkpoint.vocabulary, codes) for t, side in zip(tokenizers, (a, b), strict=True)]
    if not np.array_equal(prompts[0], prompts[1]):
        raise PureError(f"{a.name} and {b.name} cannot be compared: their tokenizers split the same prompt differently")
    return prompts[0]


def _finite(side: Side, name: str, state: np.ndarray) -> np.ndarray:
    if not np.isfinite(state).all():
        raise PureError(f"{side.name} computes values that are not finite ({name}); its parameters are damaged")
    return state


def _max_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    largest = float(np.abs(a - b).max())
    return largest, largest / max(float(np.abs(b).max()), float(np.finfo(np.float32).tiny))


def compare_logits(a: np.ndarray, b: np.ndarray) -> LogitsDifference:
    """Two float32 [positions, vocab] -> how far apart they and their softmax distributions are."""
    divergences, same, clear, shared = [], [], [], []
    near = 2 * max(LOGITS_ATOL, LOGITS_RTOL * float(np.abs(b).max()))
    for start in range(0, len(a), _ROWS):
        x, y = (side[start : start + _ROWS].astype(np.float64) for side in (a, b))
        log_p, log_q = _log_softmax(x), _log_softmax(y)
        # Not below 0 but for rounding.
        divergences.append(np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0))
        same.append(x.argmax(axis=1) == y.argmax(axis=1))
        second, first = np.partition(y, (-2, -1), axis=1)[:, -2:].T
        clear.append(first - second > near)
        best = [np.argpartition(side, -_TOP, axis=1)[:, -_TOP:] for side in (x, y)]
        shared.append((best[0][:, :, None] == best[1][:, None, :]).sum(axis=(1, 2)) / _TOP)
    kl, top1 = np.concatenate(divergences), np.concatenate(same)
    return LogitsDifference(
        *_max_difference(a, b),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        top1=float(top1.mean()),
        top1_clear=_share(top1[np.concatenate(clear)]),
        top10=float(np.concatenate(shared).mean()),
    )


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def _share(true: np.ndarray) -> float:
    """Of nothing, all."""
    return float(true.mean()) if true.size else 1.0


def _compare_images(a: Side, b: Side, pixels: np.ndarray, codes: np.ndarray) -> ImageDifference:
    """codes: A's, int32 [h, w]."""
    others, latents = b.runner.encode(b.checkpoint, pixels)
    equal = codes == others
    clear = code_margins(latents, np.asarray(b.checkpoint.tensors["vqgan"]["quantizer.codebook"])) > NEAR_TIE
    decoded = [side.runner.decode(side.checkpoint, codes).astype(np.int16) for side in (a, b)]
    levels = np.abs(decoded[0] - decoded[1]).max(axis=-1)
    return ImageDifference(
        codes=codes.size,
        equal=_share(equal),
        equal_clear=_share(equal[clear]),
        near_ties=int((~clear).sum()),
        max_level=int(levels.max()),
        pixels_differing=_share(levels > 0),
    )


def code_margins(latents: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """How clearly one code is the nearest: second smallest minus smallest squared distance, float64 [h, w].

    latents: unit vectors [h, w, dim]; codebook: [codes, dim], rows of any length, which does not count.
    """
    rows = codebook.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    flat = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    margins = []
    for start in range(0, len(flat), _ROWS):
        # Of unit vectors: |z - e|^2 = 2 - 2 z.e
        nearest = np.partition(-2.0 * flat[start : start + _ROWS] @ rows.T, (0, 1), axis=1)
        margins.append(nearest[:, 1] - nearest[:, 0])
    return np.concatenate(margins).reshape(latents.shape[:2])


def _failed_logits(layers: Sequence[Difference], logits: LogitsDifference, dtype: str) -> list[str]:
    """A sentence per limit; where one is not kept, the last says at which point the two part."""
    failed = []
    if dtype == "float32" and logits.max_abs > LOGITS_ATOL and logits.max_relative > LOGITS_RTOL:
        limits = f"{LOGITS_ATOL:.0e} and {LOGITS_RTOL:.0e} of the largest"
        failed.append(f"logits differ by up to {logits.max_abs:.1e}, more than {limits}")
    if dtype == "float32" and logits.top1_clear < 1.0:
        failed.append(f"the likeliest id is the same at {logits.top1_clear:.1%} of the positions that are no near ties")
    if dtype == "bfloat16" and logits.kl_mean > MOST_KL:
        failed.append(f"the mean KL divergence is {logits.kl_mean:.1e} nats, more than {MOST_KL:.0e}")
    if failed:
        parted = next((layer.name for layer in layers if layer.max_relative > DEPARTURE[dtype]), "logits")
        failed.append(f"{parted} is the first point beyond rounding")
    return failed


def _failed_image(image: ImageDifference) -> list[str]:
    failed = []
    if image.equal_clear < 1.0:
        failed.append(f"{image.equal_clear:.2%} of the picture's codes are equal (near ties left out), not all")
    if image.max_level > MOST_LEVELS:
        failed.append(f"decoded pixels differ by up to {image.max_level} levels, more than {MOST_LEVELS}")
    return failed


# ---- the report ----------------------------------------------------------------------------------------------------


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain values, with its verdict."""
    values = dataclasses.asdict(report)
    failed = values.pop("failed")
    return values | {"verdict": report.verdict, "failed": failed}


def format_report(report: Report) -> str:
    """Markdown table, aligned to be read as plain text, of the points of the computation; the rest; the verdict."""
    logits, image = report.logits, report.image
    points = [*report.layers, Difference("logits", logits.max_abs, logits.max_relative)]
    lines = [("point", "max abs", "max relative")]
    lines += [(point.name, f"{point.max_abs:.2e}", f"{point.max_relative:.2e}") for point in points]
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    rows = [f"| {n.ljust(widths[0])} | {x.rjust(widths[1])} | {r.rjust(widths[2])} |" for n, x, r in lines]
    rule = f"|{'-' * (widths[0] + 2)}|{'-' * (widths[1] + 1)}:|{'-' * (widths[2] + 1)}:|"
    closing = (
        f"different: {'; '.join(report.failed)}." if report.failed else f"same: every limit of {report.dtype} is kept."
    )
    return "\n".join(
        [
            f"A = {report.a}, B = {report.b}, {report.dtype}, {report.tokens} tokens",
            "",
            rows[0],
            rule,
            *rows[1:],
            "",
            f"KL(A || B): mean {logits.kl_mean:.2e}, max {logits.kl_max:.2e} nats",
            f"likeliest id equal: {logits.top1:.2%} of positions, {logits.top1_clear:.2%} without near ties; "
            f"shared of the ten likeliest: {logits.top10:.2%}",
            f"codes equal: {image.equal:.2%} of {image.codes}, {image.equal_clear:.2%} without "
            f"{image.near_ties} near ties",
            f"pixels of A's codes: {image.max_level} of 255 levels apart at most, "
            f"{image.pixels_differing:.2%} of them differ",
            "",
            closing,
        ]
    )
