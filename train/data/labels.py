"""How blurred and how noisy a degraded image is: two scores, and three levels for each.

Scores come from the draws alone ("params"), from running the pipeline again without noise ("twin"), or from whoever
else can tell ("file").
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pure_jax.errors import PureError
from pure_jax.files import replacing
from pure_jax.sequence import LEVELS
from pure_jax.train.data.degradation import Degradation, Noise, apply
from pure_jax.train.data.jpeg import quality_factor
from pure_jax.train.data.kernels import CUBIC_A, Kernel, cubic, resize

_BAND = 16  # samples of each frequency axis up to the Nyquist frequency of the low-quality image


KINDS = ("params", "twin", "file")
"""Where scores come from."""


@dataclass(frozen=True)
class Thresholds:
    """Tercile borders (t1, t2) of both scores: small < t1 <= medium < t2 <= large. kind: one of KINDS."""

    kind: str
    blur: tuple[float, float]
    noise: tuple[float, float]
    samples: int = field(default=0, compare=False)
    """How many scores they are terciles of; 0 where nobody has said it."""
    source: str = field(default="", compare=False)
    """SHA-256 of what decided the records that were scored (their manifests), or "" for scores of another origin."""

    def borders(self) -> dict[str, Any]:
        """What decides an answer's words."""
        return {"kind": self.kind, "blur": self.blur, "noise": self.noise}


# Terciles of `blur_score` and `noise_score` (mean intensity 0.45) over 20,000 draws of the preset REAL_ESRGAN.
PARAMS_THRESHOLDS = Thresholds("params", blur=(0.825, 0.905), noise=(7.44, 12.14))
# Tabulated terciles: 8,000 parameter draws (their blur borders leave 22 / 33 / 45 % of our draws in the three levels),
# and 300 runs on photos of 512x512 pixels.
SPEC_PARAMS_THRESHOLDS = Thresholds("params", blur=(0.779, 0.882), noise=(7.57, 12.29))
SPEC_TWIN_THRESHOLDS = Thresholds("twin", blur=(0.57, 0.74), noise=(7.2, 10.5))


def terciles(kind: str, scores: np.ndarray) -> Thresholds:
    """The borders that make small, medium and large equally frequent; scores: float [n, 2], of blur and of noise.

    Raises PureError when there are none, or one is not finite.
    """
    if not len(scores) or not np.isfinite(scores).all():
        raise PureError(f'there are no finite scores of the kind "{kind}"; choose another kind, or make them first')
    low, high = np.quantile(scores, [1 / 3, 2 / 3], axis=0).tolist()
    return Thresholds(kind, blur=(low[0], high[0]), noise=(low[1], high[1]), samples=len(scores))


def save_thresholds(path: Path, thresholds: Thresholds) -> None:
    """Write a JSON object of all fields, beside, and rename."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(asdict(thresholds)) + "\n", encoding="utf-8")


def load_thresholds(path: Path) -> Thresholds:
    """Read what `save_thresholds` wrote. Raises PureError if that is not it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        told: dict[str, Any] = {
            "samples": int(values.get("samples", 0)),
            "source": str(values.get("source", "")),
        }  # not by older ones
        return Thresholds(values["kind"], tuple(values["blur"]), tuple(values["noise"]), **told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PureError(f"{path} cannot be read as level borders ({error}); remove it, or give another run") from error


def levels(blur: float, noise: float, thresholds: Thresholds) -> tuple[str, str]:
    """The levels of (blur, noise), each "small", "medium" or "large". Raises PureError when a score is not finite."""
    return _level("blur", blur, thresholds.blur), _level("noise", noise, thresholds.noise)


def _level(name: str, score: float, borders: tuple[float, float]) -> str:
    if not math.isfinite(score):
        raise PureError(f"the {name} score is {score}; only finite scores have a level, so check its image")
    return LEVELS[sum(score >= border for border in borders)]


def blur_score(degradation: Degradation, scale: int = 4) -> float:
    """Share of gradient energy that the drawn filters remove inside the band of the low-quality image, in [0, 1].

    A white gradient spectrum is sent through every kernel and every resize (its interpolation response and its
    Nyquist limit); frequencies are in cycles per pixel of the photo. Larger is more blurred.
    """
    positive = (np.arange(_BAND) + 0.5) / (2 * scale * _BAND)
    fx, fy = positive, np.concatenate([-positive[::-1], positive])
    stages = degradation.stages
    # pixel pitches in pixels of the photo: before, after each stage, and of the low-quality image
    pitches = [1.0, *((1 if i == 0 else scale) / stage.scale for i, stage in enumerate(stages)), float(scale)]
    kernels = [stage.kernel for stage in stages] + [degradation.kernel]
    modes = [stage.mode for stage in stages] + [degradation.mode]

    energy = np.ones((fy.size, fx.size))
    for index, mode in enumerate(modes):
        a, c = pitches[index], pitches[index + 1]
        energy *= np.outer(_resize_response(fy, a, c, mode), _resize_response(fx, a, c, mode)) ** 2
    # a stage filters before its resize, the last kernel comes after the last one
    for kernel, pitch in zip(kernels, [*pitches[: len(stages)], pitches[-1]], strict=True):
        energy *= _kernel_response(kernel, pitch * fy, pitch * fx)
    limit = min(0.5 / pitch for pitch in pitches)
    energy *= np.maximum(np.abs(fy)[:, None], fx[None, :]) <= limit
    return 1 - min(1.0, float(energy.mean()))


def _kernel_response(kernel: Kernel, fy: np.ndarray, fx: np.ndarray) -> np.ndarray:
    """|DFT|^2 of the taps at fy x fx, cycles per tap: float64 [len(fy), len(fx)]."""
    taps = kernel.taps()
    offsets = np.arange(taps.shape[0]) - taps.shape[0] // 2
    waves = [np.exp(-2j * math.pi * np.outer(f, offsets)) for f in (fy, fx)]
    return np.abs(waves[0] @ taps @ waves[1].T) ** 2


def _resize_response(f: np.ndarray, a: float, c: float, mode: str) -> np.ndarray:
    """Amplitude response along one axis of a resize from pixel pitch a to c, at f cycles per pixel of the photo."""
    if a == c:
        return np.ones_like(f)
    if mode == "area":
        return np.sinc(max(a, c) * f)
    if mode == "bilinear":
        return np.sinc(a * f) ** 2
    return cubic_response(a * f)


def cubic_response(f: np.ndarray) -> np.ndarray:
    """Fourier transform of the cubic convolution kernel, f in cycles per pixel and not 0 (Keys 1981, a = -0.75)."""
    one, two, four = np.sinc(f), np.sinc(2 * f), np.sinc(4 * f)
    return (3 * (one**2 - two) + CUBIC_A * 2 * (3 * two**2 - 2 * two - four)) / (math.pi * f) ** 2


def noise_score(degradation: Degradation, mean_intensity: float, scale: int = 4) -> float:
    """Standard deviation of noise and compression error that the draws leave in the low-quality image, in 8-bit units.

    mean_intensity: mean of the photo in [0, 1], for the strength of Poisson noise. Every later filter and resize damps
    what is there already; JPEG at quality factor F counts as an error of 5 sqrt(F). Larger is noisier.
    """
    variance, size = 0.0, float(scale)  # size: side of the image, in sides of the low-quality image
    for index, stage in enumerate(degradation.stages):
        after = stage.scale * (scale if index == 0 else 1)
        variance *= _damping(stage.kernel, stage.mode, after / size)
        variance += _sigma(stage.noise, mean_intensity) ** 2
        if stage.jpeg_quality is not None:
            variance += 25 * quality_factor(stage.jpeg_quality)
        size = after
    damping = _damping(degradation.kernel, degradation.mode, 1 / size)
    jpeg = 25 * quality_factor(degradation.jpeg_quality)
    return math.sqrt(variance * damping + jpeg * (1 if degradation.jpeg_last else damping))


def _sigma(noise: Noise, mean_intensity: float) -> float:
    return noise.strength if noise.kind == "gaussian" else 255 * noise.strength * math.sqrt(mean_intensity / 256)


def _damping(kernel: Kernel, mode: str, ratio: float) -> float:
    """Factor by which a kernel and then a resize by `ratio` (output / input) shrink the variance of white noise.

    It is the sum of squared taps of both together, averaged over the phases of the resize: the autocorrelation of the
    kernel weighted with that of the resize along each axis.
    """
    from scipy.signal import correlate

    taps = kernel.taps()
    of_kernel = correlate(taps, taps)
    of_resize = _resize_autocorrelation(mode, ratio)
    reach = min(taps.shape[0] - 1, of_resize.size // 2)
    centre, middle = taps.shape[0] - 1, of_resize.size // 2
    of_kernel = of_kernel[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1]
    of_resize = of_resize[middle - reach : middle + reach + 1]
    return float(of_resize @ of_kernel @ of_resize)


def _resize_autocorrelation(mode: str, ratio: float) -> np.ndarray:
    """Autocorrelation, averaged over four phases, of the taps that one output pixel takes along one axis."""
    if ratio == 1:
        return np.ones(1)
    if mode == "area":
        width = max(1, round(1 / ratio))
        taps = [np.full(width, 1 / width)]
    else:
        phases = (np.arange(4) + 0.5) / 4
        taps = [cubic(p - np.arange(-1, 3)) if mode == "bicubic" else np.array([1 - p, p]) for p in phases]
    return np.mean([np.correlate(t, t, mode="full") for t in taps], axis=0)


def twin_scores(gt: np.ndarray, lq: np.ndarray, degradation: Degradation) -> tuple[float, float]:
    """`measured_scores` of what `apply` made; its draws are applied again without noise and JPEG, giving the twin."""
    scale = gt.shape[0] // lq.shape[0]
    return measured_scores(energy_to_keep(gt, scale), lq, apply(degradation, gt, scale, noise=False))


def energy_to_keep(gt: np.ndarray, scale: int) -> float:
    """Gradient energy of a photo float32 [H, W, 3] in [0, 1] averaged over areas of scale x scale, in 8-bit units."""
    small = (gt.shape[0] // scale, gt.shape[1] // scale)
    return _gradient_energy(resize(gt.transpose(2, 0, 1), small, "area").transpose(1, 2, 0) * 255)


def measured_scores(reference: float, lq: np.ndarray, twin: np.ndarray) -> tuple[float, float]:
    """(blur, noise) measured on the images.

    reference: `energy_to_keep` of the photo; lq, twin: uint8 [H / scale, W / scale, 3], degraded with and without noise
    and JPEG. blur: share of the gradient energy that the twin has lost (0 for a photo without gradients; negative if
    aliasing or ringing added some). noise: standard deviation of lq - twin in 8-bit units.
    """
    clean = twin.astype(np.float32)
    blur = 1 - _gradient_energy(clean) / reference if reference > 0 else 0.0
    return blur, float(np.std(lq - clean))


def _gradient_energy(image: np.ndarray) -> float:
    """Mean squared horizontal plus mean squared vertical difference of [H, W, 3]; 0 along a side of one pixel."""
    return sum(float(np.square(d).mean()) if d.size else 0.0 for d in (np.diff(image, axis=0), np.diff(image, axis=1)))
