"""Measure a restorer on pairs of low-quality and ground-truth pictures, beside bicubic and the tokenizer's round trip.

The bicubic row says what one gets for nothing; the round trip says what the tokenizer lets through at best.
"""

import csv
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from PIL import Image

from pure_jax.errors import PureError
from pure_jax.families import Model
from pure_jax.files import replacing
from pure_jax.infer.metrics.distortion import Pixels, psnr_y, ssim_y
from pure_jax.infer.metrics.niqe import NiqeParams, niqe
from pure_jax.infer.metrics.perceptual import NAME as PERCEPTUAL_NAME
from pure_jax.infer.metrics.perceptual import perceptual_distance
from pure_jax.infer.pictures.sizing import MAX_SCALE
from pure_jax.infer.pictures.tiles import blend, cut, plan_tiles

METHODS = ("bicubic", "tokenizer round trip", "ours")
_COLUMNS = {  # field of Row: title (the arrow points to better), digits
    "psnr_y": ("PSNR-Y [dB] ↑", 2),
    "ssim_y": ("SSIM-Y ↑", 4),
    "perceptual": (f"{PERCEPTUAL_NAME} ↓", 4),
    "niqe": ("NIQE ↓", 3),
}
METRICS = tuple(_COLUMNS)
_compiled_distance = jax.jit(perceptual_distance)
_PADDING_UNIT = 32  # a multiple of every tokenizer's stride (4, 8 or 16)
# Pixels a side of what goes through a network at once. Memory grows with the area, the tokenizer's attention takes time
# that grows with its square.
_WINDOW = 512
_BROKEN_FILE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises on bad files


class Restorer(Protocol):
    """What is measured."""

    @property
    def model(self) -> Model:
        """The model, for the round trip through its tokenizer."""

    def restore(self, image: Image.Image, /, *, scale: int, seed: int) -> Any:
        """RGB image -> a result whose `.image` is an RGB image `scale` times as large."""


@dataclass(frozen=True)
class Row:
    """One method on one image. None where a value does not exist: no ground truth, no weights, image too small."""

    image: str
    method: str
    psnr_y: float | None
    ssim_y: float | None
    perceptual: float | None
    niqe: float | None


@dataclass(frozen=True)
class Evaluation:
    """Rows in the order of the images' names, then of METHODS; a sentence per skipped pair and incomplete column."""

    rows: tuple[Row, ...]
    skipped: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def images(self) -> int:
        """Number of images measured."""
        return len({row.image for row in self.rows})

    def mean(self, method: str, column: str) -> float | None:
        """Mean of one column ("psnr_y", "ssim_y", "perceptual" or "niqe") over the images that have it, or None."""
        values = [getattr(row, column) for row in self.rows if row.method == method]
        present = [value for value in values if value is not None]
        return float(np.mean(present)) if present else None


def evaluate(
    pairs: Path,
    restorer: Restorer,
    *,
    scale: int = 4,
    seed: int = 0,
    perceptual_params: Any | None = None,
    niqe_params: NiqeParams | None = None,
    save_images: Path | None = None,
    on_image: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Restore every low-quality picture of a folder and measure the result.

    Pictures over 512 pixels a side make the tokenizer's round trip in windows of that size, which share an eighth and
    are blended; their perceptual distance is the mean over such windows.

    Args:
        pairs: folder with `lq/NAME.png` and, where known, `gt/NAME.png`, exactly `scale` times as large.
        restorer: what is measured; also its tokenizer's round trip of the ground truth is.
        scale: enlargement.
        seed: passed to every restoration.
        perceptual_params: of `pure_jax.infer.metrics.perceptual.load_params`, or that function itself: what it lacks is
            a remark then. Without it that column is empty.
        niqe_params: of `pure_jax.infer.metrics.niqe.load_niqe_params`; without it that column is empty.
        save_images: folder for NAME.png with [bicubic | ours | ground truth] side by side.
        on_image: called before each image with the number of images done, their total and the name.

    Returns:
        The rows. A pair that cannot be read, does not fit or cannot be restored is named in `skipped`; the rest go on.

    Raises:
        PureError: no such folder, a scale outside 1 ... 16, nothing could be evaluated, or `save_images` cannot be
            written to.
    """
    if not 1 <= scale <= MAX_SCALE:
        raise PureError(f"the scale is {scale}, but it must lie in 1 ... {MAX_SCALE:g}")
    names, skipped = _list_pairs(pairs)
    if save_images is not None:
        _make_folder(save_images)
    remarks: list[str] = []
    if callable(perceptual_params):
        try:
            perceptual_params = perceptual_params()
        except PureError as error:
            perceptual_params = None
            remarks.append(f"{PERCEPTUAL_NAME}: n/a, {error}")
    rows: list[Row] = []
    missing: dict[str, list[str]] = {}
    for index, name in enumerate(names):
        if on_image is not None:
            on_image(index, len(names), name)
        try:
            lq, gt = _read_pair(pairs, name, scale)
            pictures = _pictures(lq, gt, restorer, scale, seed)
        except PureError as error:
            skipped.append(f"{name}: {error}")
            continue
        for method, picture in pictures.items():
            row, reasons = _measure(name, method, picture, gt, perceptual_params, niqe_params)
            rows.append(row)
            for metric, reason in reasons.items():
                missing.setdefault(metric, []).append(f"{reason} ({name}, {method})")
        if save_images is not None:
            shown = [pictures["bicubic"], pictures["ours"]] + ([gt] if gt is not None else [])
            with replacing(save_images / f"{name}.png") as temporary:
                Image.fromarray(np.concatenate(shown, axis=1)).save(temporary, format="PNG")
    if not rows:
        raise PureError(f"no pair in {pairs} could be evaluated: {skipped[-1]}")
    for metric, cases in missing.items():
        remarks.append(f"{metric}: n/a for {len(cases)} of {len(rows)} pictures; the first: {cases[0]}")
    return Evaluation(tuple(rows), tuple(skipped), tuple(remarks))


def format_table(result: Evaluation) -> str:
    """Markdown table, aligned to be read as plain text: means per method, number of images, what was skipped."""
    header = ["method", *(title for title, _ in _COLUMNS.values())]
    body = [
        [method, *(_number(result.mean(method, column), digits) for column, (_, digits) in _COLUMNS.items())]
        for method in METHODS
    ]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = f"|{'-' * (widths[0] + 2)}|" + "".join(f"{'-' * (w + 1)}:|" for w in widths[1:])
    paired = len({row.image for row in result.rows if row.psnr_y is not None})
    images = "1 image" if result.images == 1 else f"{result.images} images"
    notes = [f"Means over {images}, {paired} with ground truth (only NIQE of bicubic and ours can do without)."]
    notes += [f"Skipped {sentence}" for sentence in result.skipped]
    return "\n".join([line(header), rule, *(line(cells) for cells in body), "", *notes, *result.remarks])


def write_csv(result: Evaluation, path: Path) -> None:
    """Write the rows as image,method,psnr_y,ssim_y,perceptual,niqe; empty where a value is missing. All or nothing.

    Raises:
        PureError: the file cannot be written.
    """
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "method", *_COLUMNS])
        for row in result.rows:
            writer.writerow([row.image, row.method, *(getattr(row, column) for column in _COLUMNS)])


def _list_pairs(pairs: Path) -> tuple[list[str], list[str]]:
    """Names under lq/, and a sentence for each ground truth without one."""
    folder = pairs / "lq"
    if not folder.is_dir():
        raise PureError(f"{pairs} has no folder lq: put pairs as lq/NAME.png and gt/NAME.png there")
    names = sorted(path.stem for path in folder.glob("*.png"))
    if not names:
        raise PureError(f"{folder} has no .png pictures: nothing to evaluate")
    alone = sorted({path.stem for path in (pairs / "gt").glob("*.png")} - set(names))
    return names, [f"{name}: gt/{name}.png has no lq/{name}.png beside it" for name in alone]


def _read_pair(pairs: Path, name: str, scale: int) -> tuple[Image.Image, Pixels | None]:
    lq = _read(pairs / "lq" / f"{name}.png")
    gt_path = pairs / "gt" / f"{name}.png"
    if not gt_path.exists():
        return lq, None
    gt = _read(gt_path)
    wanted = (lq.width * scale, lq.height * scale)
    if gt.size != wanted:
        raise PureError(
            f"the ground truth is {gt.width}x{gt.height}, but {scale} times the low-quality picture is "
            f"{wanted[0]}x{wanted[1]}"
        )
    return lq, np.asarray(gt)


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except _BROKEN_FILE as error:
        raise PureError(f"{path} cannot be read as a picture ({error})") from error


def _pictures(lq: Image.Image, gt: Pixels | None, restorer: Restorer, scale: int, seed: int) -> dict[str, Pixels]:
    """The picture of each method, uint8 [scale * h, scale * w, 3]; no round trip without a ground truth."""
    size = (lq.width * scale, lq.height * scale)
    bicubic = np.asarray(lq.resize(size, Image.Resampling.BICUBIC))
    restored = restorer.restore(lq, scale=scale, seed=seed).image.convert("RGB")
    if restored.size != size:
        raise PureError(f"the restored picture is {restored.width}x{restored.height} instead of {size[0]}x{size[1]}")
    round_trip = {} if gt is None else {"tokenizer round trip": _round_trip(gt, restorer.model)}
    return {"bicubic": bicubic, **round_trip, "ours": np.asarray(restored)}


def _round_trip(image: Pixels, model: Model) -> Pixels:
    """Encode and decode; at once, on a canvas mirrored below and to the right to a size that fits, or in windows."""
    height, width = image.shape[:2]
    if max(height, width) > _WINDOW:
        plan = plan_tiles(height, width, _WINDOW, _WINDOW // 8)
        return blend([model.decode(model.encode(window)) for window in cut(image, plan)], plan).round().astype(np.uint8)
    canvas = np.pad(image, ((0, -height % _PADDING_UNIT), (0, -width % _PADDING_UNIT), (0, 0)), mode="reflect")
    return np.asarray(model.decode(model.encode(canvas)))[:height, :width]


def _measure(
    name: str, method: str, picture: Pixels, gt: Pixels | None, perceptual_params: Any | None, niqe_params: Any | None
) -> tuple[Row, dict[str, str]]:
    """The row, and for each metric that this picture cannot have why that is so."""
    reasons: dict[str, str] = {}

    def optional(metric: str, value: Callable[[], float]) -> float | None:
        try:
            return value()
        except PureError as error:
            reasons[metric] = str(error)
            return None

    row = Row(
        image=name,
        method=method,
        psnr_y=None if gt is None else psnr_y(picture, gt),
        ssim_y=None if gt is None else optional("SSIM", lambda: ssim_y(picture, gt)),
        perceptual=None if gt is None or perceptual_params is None else _perceptual(perceptual_params, picture, gt),
        niqe=None if niqe_params is None else optional("NIQE", lambda: niqe(picture, niqe_params)),
    )
    return row, reasons


def _perceptual(params: Any, a: Pixels, b: Pixels) -> float:
    windows = [(a, b)]
    if max(a.shape[:2]) > _WINDOW:
        plan = plan_tiles(a.shape[0], a.shape[1], _WINDOW, overlap=0)
        windows = list(zip(cut(a, plan), cut(b, plan), strict=True))
    pairs = ([image[None].astype(np.float32) / 255 for image in pair] for pair in windows)
    return float(np.mean([_compiled_distance(params, *pair)[0] for pair in pairs]))


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _make_folder(folder: Path) -> None:
    """Make a folder and try to write into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PureError(f"the folder {folder} cannot be made or written to ({error.strerror})") from error
