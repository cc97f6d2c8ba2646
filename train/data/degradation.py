"""Synthetic degradation of photographs: the second-order pipeline of Real-ESRGAN, one image at a time, on the host.

`draw` takes every random decision and returns it as data; `apply` carries it out: the same draws give the same image,
now or when they are read back from a record (`recorded`).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pure_jax.config import from_dict
from pure_jax.errors import PureError
from pure_jax.train.data.jpeg import jpeg
from pure_jax.train.data.kernels import DELTA, KERNEL_KINDS, KERNEL_SIZES, RESIZE_MODES, Kernel, correlate, resize

VERSION = 1
"""Another number where the same draws give other images."""
USM = ("none", "input_only", "both")
Range = tuple[float, float]

USM_KERNEL = Kernel("gaussian", size=51, sigma=(8.0, 8.0))  # sigma 0.3 * ((51 - 1) / 2 - 1) + 0.8
_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class StageConfig:
    """Ranges of one blur -> resize -> noise (-> JPEG) stage. Sigmas of noise are in 8-bit units, of blur in pixels."""

    blur_probability: float
    blur_sigma: Range
    resize_probabilities: tuple[float, float, float]  # enlarge, shrink, keep
    resize_range: Range
    gaussian_probability: float  # otherwise Poisson noise
    gaussian_sigma: Range
    poisson_scale: Range
    grey_probability: float  # one noise field shared by the three channels
    jpeg_quality: Range | None


@dataclass(frozen=True)
class DegradationConfig:
    """Everything `draw` may choose from (Real-ESRGAN's options; each is a range or a probability).

    Kernel kinds stand in the order: isotropic, anisotropic Gaussian; the same generalised; the same plateau-shaped.
    usm_gt: "none"; "input_only" to sharpen the photo before degrading it; "both" if the target is to be sharpened too,
    which is up to whoever makes the pair (`usm_sharpen`).
    """

    stages: tuple[StageConfig, ...]
    jpeg_quality: Range  # of the last compression
    kernel_probabilities: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_probability: float = 0.1
    generalised_beta: Range = (0.5, 4.0)
    plateau_beta: Range = (1.0, 2.0)
    final_sinc_probability: float = 0.8
    jpeg_last_probability: float = 0.5
    usm_gt: str = "none"

    def __post_init__(self) -> None:
        if self.usm_gt not in USM:
            raise PureError(f"usm_gt is {self.usm_gt!r}; choose one of {', '.join(USM)}")


REAL_ESRGAN = DegradationConfig(
    stages=(
        StageConfig(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), 0.5, (1, 30), (0.05, 3.0), 0.4, (30, 95)),
        StageConfig(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), 0.5, (1, 25), (0.05, 2.5), 0.4, None),
    ),
    jpeg_quality=(30, 95),
)
MILD = DegradationConfig(
    stages=(
        StageConfig(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.3, 1.5), 0.5, (1, 15), (0.05, 2.0), 0.4, (60, 95)),
        StageConfig(0.5, (0.2, 1.5), (0.3, 0.4, 0.3), (0.6, 1.2), 0.5, (1, 12), (0.05, 1.0), 0.4, None),
    ),
    jpeg_quality=(60, 100),
)
LIGHT = DegradationConfig(
    stages=(StageConfig(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.5, 1.5), 0.3, (1, 20), (0.05, 2.0), 0.2, None),),
    jpeg_quality=(60, 95),
)
PRESETS = {"real-esrgan": REAL_ESRGAN, "mild": MILD, "light": LIGHT}


@dataclass(frozen=True)
class Noise:
    """Drawn noise. kind "gaussian": strength is sigma in 8-bit units; "poisson": strength multiplies the shot noise."""

    may_be_absent = ()

    kind: str
    strength: float
    grey: bool
    seed: int


@dataclass(frozen=True)
class Stage:
    """Draws of one stage. scale: resize factor, of the photo in the first stage and of the LQ size in the second."""

    may_be_absent = ()

    kernel: Kernel
    scale: float
    mode: str
    noise: Noise
    jpeg_quality: float | None


@dataclass(frozen=True)
class Degradation:
    """Every draw made for one image; `dataclasses.asdict` gives a JSON-able record, which `recorded` reads."""

    may_be_absent = ()

    sharpen: bool
    stages: tuple[Stage, ...]
    mode: str  # of the resize to the LQ size
    kernel: Kernel  # after that resize
    jpeg_quality: float
    jpeg_last: bool  # else the last JPEG comes before the resize


def draw(config: DegradationConfig, rng: np.random.Generator) -> Degradation:
    """Draw one degradation; all randomness, noise seeds included, comes from `rng`."""
    return Degradation(
        sharpen=config.usm_gt != "none",
        stages=tuple(_draw_stage(config, stage, rng) for stage in config.stages),
        mode=str(rng.choice(RESIZE_MODES)),
        kernel=_draw_final_kernel(config, rng),
        jpeg_quality=rng.uniform(*config.jpeg_quality),
        jpeg_last=rng.random() < config.jpeg_last_probability,
    )


def _draw_stage(config: DegradationConfig, stage: StageConfig, rng: np.random.Generator) -> Stage:
    blurred = rng.random() < stage.blur_probability
    direction = rng.choice(3, p=stage.resize_probabilities)
    low, high = stage.resize_range
    gaussian = rng.random() < stage.gaussian_probability
    return Stage(
        kernel=_draw_kernel(config, stage.blur_sigma, rng) if blurred else DELTA,
        scale=(rng.uniform(1, high), rng.uniform(low, 1), 1.0)[direction],
        mode=str(rng.choice(RESIZE_MODES)),
        noise=Noise(
            kind="gaussian" if gaussian else "poisson",
            strength=rng.uniform(*(stage.gaussian_sigma if gaussian else stage.poisson_scale)),
            grey=rng.random() < stage.grey_probability,
            seed=int(rng.integers(2**32)),
        ),
        jpeg_quality=None if stage.jpeg_quality is None else rng.uniform(*stage.jpeg_quality),
    )


def _draw_kernel(config: DegradationConfig, sigma: Range, rng: np.random.Generator) -> Kernel:
    size = int(rng.choice(KERNEL_SIZES))
    if rng.random() < config.sinc_probability:
        return Kernel("sinc", size, cutoff=rng.uniform(math.pi / (3 if size < 13 else 5), math.pi))
    family, anisotropic = divmod(int(rng.choice(6, p=config.kernel_probabilities)), 2)
    sigma_x = rng.uniform(*sigma)
    low, high = (1.0, 1.0) if family == 0 else config.generalised_beta if family == 1 else config.plateau_beta
    return Kernel(
        kind="plateau" if family == 2 else "gaussian",
        size=size,
        sigma=(sigma_x, rng.uniform(*sigma) if anisotropic else sigma_x),
        theta=rng.uniform(-math.pi, math.pi) if anisotropic else 0.0,
        beta=rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high),
    )


def _draw_final_kernel(config: DegradationConfig, rng: np.random.Generator) -> Kernel:
    if rng.random() >= config.final_sinc_probability:
        return DELTA
    return Kernel("sinc", int(rng.choice(KERNEL_SIZES)), cutoff=rng.uniform(math.pi / 3, math.pi))


def apply(degradation: Degradation, image: np.ndarray, scale: int = 4, noise: bool = True) -> np.ndarray:
    """Carry out drawn degradations on one image (order of operations as in Real-ESRGAN's training model).

    image: float32 [H, W, 3] in [0, 1], H and W multiples of `scale`. noise: False leaves out noise and JPEG, giving
    the twin that noise is measured against. Returns uint8 [H / scale, W / scale, 3].
    Raises PureError when the image has another dtype or shape.
    """
    small = _small(image, scale)
    return _finished(degradation, _begun(degradation, image), small, noise)


def apply_twice(degradation: Degradation, image: np.ndarray, scale: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """`apply` with and without noise, for little more than one of them: up to the first noise there is no difference.

    Raises what `apply` raises.
    """
    small, begun = _small(image, scale), _begun(degradation, image)
    return _finished(degradation, begun, small, True), _finished(degradation, begun, small, False)


def _small(image: np.ndarray, scale: int) -> tuple[int, int]:
    """Height and width of the low-quality image."""
    if image.dtype != np.float32 or image.ndim != 3 or image.shape[2] != 3:
        raise PureError(f"the image is {image.dtype} {list(image.shape)}; degrading needs float32 [height, width, 3]")
    height, width = image.shape[:2]
    if height < scale or width < scale or height % scale or width % scale:
        raise PureError(f"the image is {width}x{height} pixels; crop both sides to multiples of the scale {scale}")
    return height // scale, width // scale


def _begun(degradation: Degradation, image: np.ndarray) -> np.ndarray:
    """float32 [H, W, 3] -> planar float32 [3, h, w], as it is before the first noise."""
    stage = degradation.stages[0]
    y = np.ascontiguousarray(image.transpose(2, 0, 1))
    y = _blur(_sharpen(y) if degradation.sharpen else y, stage.kernel)
    # the first resize is given by its factor, the later ones by their size: PyTorch samples differently
    return resize(y, _scaled(image.shape[:2], stage.scale), stage.mode, step=1 / stage.scale)


def _finished(degradation: Degradation, y: np.ndarray, small: tuple[int, int], noise: bool) -> np.ndarray:
    """The rest of the way, to uint8 [*small, 3]."""
    for index, stage in enumerate(degradation.stages):
        if index > 0:
            y = resize(_blur(y, stage.kernel), _scaled(small, stage.scale), stage.mode)
        y = np.clip(_add_noise(y, stage.noise) if noise else y, 0, 1)
        if noise and stage.jpeg_quality is not None:
            y = jpeg(y, stage.jpeg_quality)
    if not degradation.jpeg_last and noise:
        y = jpeg(y, degradation.jpeg_quality)
    y = np.clip(_blur(resize(y, small, degradation.mode), degradation.kernel), 0, 1)
    if degradation.jpeg_last and noise:
        y = jpeg(y, degradation.jpeg_quality)
    return np.round(y.transpose(1, 2, 0) * 255).astype(np.uint8)


def _scaled(shape: tuple[int, ...], factor: float) -> tuple[int, int]:
    return max(1, math.floor(shape[0] * factor)), max(1, math.floor(shape[1] * factor))


def recorded(values: Any, where: str) -> Degradation:
    """Draws that were written as JSON, as the object they were. where: the file, for the message.

    Raises PureError when they are no draws of this version.
    """
    found = from_dict(Degradation, values, where)
    kernels = [found.kernel, *(stage.kernel for stage in found.stages)]
    known = (
        bool(found.stages)
        and {found.mode, *(stage.mode for stage in found.stages)} <= set(RESIZE_MODES)
        and all(kernel.kind in KERNEL_KINDS and kernel.size in (1, *KERNEL_SIZES) for kernel in kernels)
        and all(stage.noise.kind in ("gaussian", "poisson") and 0 < stage.scale <= 16 for stage in found.stages)
    )
    if not known:
        raise PureError(f"{where} has draws that this version cannot repeat; make them again")
    return found


def degrade(image: np.ndarray, config: DegradationConfig, seed: int, scale: int = 4) -> tuple[np.ndarray, Degradation]:
    """Draw with `seed` and apply: float32 [H, W, 3] in [0, 1] -> (uint8 [H / scale, W / scale, 3], the draws)."""
    degradation = draw(config, np.random.default_rng(seed))
    return apply(degradation, image, scale), degradation


def usm_sharpen(image: np.ndarray) -> np.ndarray:
    """Unsharp mask of Real-ESRGAN's targets: weight 0.5, Gaussian 51x51, only where the detail exceeds 10 grey levels.

    image: float32 [H, W, 3] in [0, 1]. Returns float32 [H, W, 3] in [0, 1].
    """
    return _sharpen(image.transpose(2, 0, 1)).transpose(1, 2, 0)


def _sharpen(image: np.ndarray) -> np.ndarray:
    taps = USM_KERNEL.taps()
    detail = image - correlate(image, taps)
    soft = correlate((np.abs(detail) * 255 > 10).astype(np.float32), taps)
    return soft * np.clip(image + 0.5 * detail, 0, 1) + (1 - soft) * image


def _blur(image: np.ndarray, kernel: Kernel) -> np.ndarray:
    return image if kernel.kind == "delta" else correlate(image, kernel.taps())


def _add_noise(image: np.ndarray, noise: Noise) -> np.ndarray:
    """Planar float32 [3, H, W] plus the drawn noise; the result may leave [0, 1]."""
    rng = np.random.default_rng(noise.seed)
    if noise.kind == "gaussian":
        shape = (1, *image.shape[1:]) if noise.grey else image.shape
        return image + rng.standard_normal(shape, np.float32) * np.float32(noise.strength / 255)
    signal = np.tensordot(_LUMA, image, 1)[None] if noise.grey else image
    levels = np.round(np.clip(signal, 0, 1) * 255).astype(np.uint8)
    distinct = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    photons = 2 ** math.ceil(math.log2(distinct))  # of a white pixel
    expected = levels * np.float32(photons / 255)
    shot = (rng.poisson(expected) - expected) * (noise.strength / photons)
    return image + shot.astype(np.float32)
