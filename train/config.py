"""Configurations of the training runs, apart from the code so that a command line is parsed without loading jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pure_jax.config import require_one_of
from pure_jax.errors import PureError


def require(config: Any, **ranges: tuple[float, float]) -> None:
    """Raise PureError unless each field that is named lies in its range; NaN lies in none."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise PureError(f"{name} is {value}, but it must lie in {low:,.10g} ... {high:,.10g}")


def require_parts(batch: int, accumulate: int) -> None:
    """Raise PureError unless a batch can be cut into so many equal parts."""
    if not 1 <= accumulate <= batch:
        raise PureError(f"accumulate is {accumulate}, but it must lie in 1 ... {batch:,}, the batch")
    if batch % accumulate:
        raise PureError(f"a batch of {batch} cannot be cut into {accumulate} equal parts (accumulate)")


GUIDANCE = ("none", "perception", "understanding", "full")
"""Of `pure_jax.sequence`, which would load numpy."""
LABELS = ("params", "twin", "file")
"""The same of `pure_jax.train.data.labels`."""
STEPS = (1, 10**9)
MUON = (0.0, 1e3)
SHARE = (0.0, 1.0)
WEIGHT = (0.0, 1e6)
RUN: dict[str, tuple[float, float]] = {"batch": (1, 2**16), "steps": STEPS, "seed": (0, 2**32 - 1)}
DISCRIMINATOR: dict[str, tuple[float, float]] = {
    "adversarial_weight": WEIGHT,
    "adversarial_start": (0, 10**9),
    "discriminator_width": (8, 4096),
    "discriminator_layers": (1, 8),
}


def require_discriminated(side: int, layers: int, width: int) -> None:
    """Raise PureError unless pictures of `side` pixels leave the discriminator a logit, and its norm whole groups."""
    if width % 8:
        raise PureError(f"discriminator_width is {width}, but it must be a multiple of 8")
    if side < 3 * 2**layers:
        raise PureError(
            f"pictures of {side} pixels are too small for {layers} discriminator_layers, which need {3 * 2**layers}"
        )


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with warm-up, cosine decay and clipping; the defaults other than `warmup_steps` are PURE's."""

    learning_rate: float = 4e-4
    """Highest rate, reached after the warm-up."""
    min_learning_rate: float = 0.0
    """Rate at the end of the decay."""
    warmup_steps: int = 371
    """Steps in which the rate rises from 0."""
    decay_steps: int | None = None
    """Length of the decay at the end of the run, after a constant rate; by default it begins with the end of the
    warm-up, as PURE's does. With it, a run that is made longer or shorter differs in its last part only."""
    b1: float = 0.9
    """Decay of the mean of the gradients."""
    b2: float = 0.95
    """Decay of the mean of their squares."""
    eps: float = 1e-8
    """Added to the root of the latter."""
    weight_decay: float = 0.1
    """Decoupled, times the learning rate."""
    clip_norm: float = 4.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        rates = {"learning_rate": (0.0, 10.0), "min_learning_rate": (0.0, 10.0), "warmup_steps": (0, 10**9)}
        below_1 = (0.0, 1 - 1e-9)
        require(self, **rates, b1=below_1, b2=below_1, eps=SHARE, weight_decay=(0.0, 10.0), clip_norm=(1e-9, 1e9))
        if self.decay_steps is not None:
            require(self, decay_steps=STEPS)


@dataclass(frozen=True)
class VQGANTrainConfig:
    """Losses and sizes of one run; the weights are LlamaGen's unless said otherwise in the model card."""

    batch: int = 16
    """Crops a step."""
    crop: int = 64
    """Side of a crop in pixels."""
    steps: int = 2000
    """Updates in all."""
    seed: int = 0
    """Of the initial weights and of every step's data."""
    l1_weight: float = 0.0
    """Of the mean absolute error of the pixels, which lie in [-1, 1]."""
    l2_weight: float = 1.0
    """Of their mean squared error."""
    chroma_weight: float = 0.0
    """Mean absolute error of the colour differences R - G and B - G. Colour is a small part of a photo's energy, and a
    short run would otherwise leave one of its two axes out."""
    perceptual_weight: float = 1.0
    """Of the perceptual distance; 0 needs no network for it."""
    codebook_weight: float = 1.0
    """Of the mean squared distance that pulls the codes to the latents."""
    commitment_weight: float = 0.25
    """Of the same distance, pulling the latents to their codes."""
    autoencoder_steps: int = 0
    """First steps without quantiser: a noisy autoencoder, after which k-means of its latents fills the codebook.
    LlamaGen has none; with hundreds instead of 400,000 steps it decides the result."""
    autoencoder_noise: float = 0.15
    """Standard deviation per channel of the noise on the unit latents meanwhile, about the later quantisation error."""
    entropy_weight: float = 0.0
    """Ratio of (per-position entropy - entropy of the batch mean) of the soft assignment; > 0 spreads the usage."""
    adversarial_weight: float = 0.5
    """Of the discriminator's judgement."""
    adversarial_start: int = 20_000
    """Step from which on the discriminator is trained and asked."""
    discriminator_width: int = 64
    """Channels of the discriminator's first layer."""
    discriminator_layers: int = 3
    """Its layers of stride 2."""
    degraded_share: float = 0.0
    """Share of crops that are shown degraded (and must be reproduced as such): the tokenizer reads LQ pictures too."""
    ema_decay: float = 0.9999
    """Of the averaged weights, which are the ones that are exported."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(1e-4, 1e-4, warmup_steps=0, weight_decay=0.0, clip_norm=1.0)
    )

    def __post_init__(self) -> None:
        weights = ("l1", "l2", "chroma", "perceptual", "codebook", "commitment", "entropy")
        require(self, **RUN, **DISCRIMINATOR, **{f"{name}_weight": WEIGHT for name in weights})
        require(self, crop=(1, 4096), autoencoder_steps=(0, self.steps), autoencoder_noise=(0.0, 100.0))
        require(self, degraded_share=SHARE, ema_decay=SHARE)
        require_discriminated(self.crop, self.discriminator_layers, self.discriminator_width)


LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2021): a kernel W [in, out] becomes W + alpha / rank A B, and only A [in, rank]
    and B [rank, out] are trained."""

    rank: int = 0
    """0: all parameters are trained, and there are no adapters."""
    alpha: float = 16.0
    """Weight of what is learned; the released flags' value."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Kernels of each layer that have adapters; the released flags' choice."""
    codes: bool = True
    """Train the image codes' rows of embedding and head too."""

    def __post_init__(self) -> None:
        require(self, rank=(0, 4096), alpha=(1e-6, 1e6))
        for target in self.targets:
            require_one_of("a target of lora", target, LORA_TARGETS)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise PureError("the targets of lora must be one or more, each named once")


@dataclass(frozen=True)
class LanguageModelTrainConfig:
    """One run; the optimiser's defaults are PURE's, made for 7B parameters and batches of 128."""

    batch: int = 8
    """Pairs of tiles a step."""
    steps: int = 1484
    """Updates in all."""
    seed: int = 0
    """Of the initial weights and of every step's data."""
    sequence: int | None = None
    """Tokens that every sequence is padded to, so that all batches are of one shape, and one program is compiled; None
    pads to the longest of a batch."""
    accumulate: int = 1
    """Parts of a batch whose gradients are added up, one after the other; the result is that of the whole batch."""
    z_loss: float = 0.0
    """Of the mean square of the logits' log-sum-exp, which keeps them from growing."""
    logit_rows: int = 0
    """Positions of the answer whose logits are there at a time, in the backward pass too; 0: all of them."""
    compute_dtype: str = "float32"
    """Of matrix products: float32 or bfloat16. Parameters and optimiser are float32."""
    remat: str = "none"
    """What each layer's backward pass computes once more instead of having stored it: none, dots (all but products with
    weights) or full. Memory for time; the numbers stay."""
    attention: str = "auto"
    """xla, splash (TPU) or cudnn (GPU, 16 bits); auto is the best that the devices have. The same numbers, up to
    rounding."""
    uncond_prob: float = 0.0
    """Share of the pairs that are shown as the HQ picture alone, as guidance's unconditional rows are: a model that has
    seen some can be guided by scales other than 1. PURE's own training had none."""
    drift: float = 0.0
    """Moves the HQ codes that the model reads, not those it must predict: see `drifted`."""
    ema_decay: float = 0.0
    """Of the averaged weights that are exported; 0 exports the last ones."""
    muon: float = 0.0
    """The layers' matrices follow Muon (Jordan et al. 2024), not AdamW, at the learning rate times this; 0: none."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        require(self, **RUN, drift=(0.0, 100.0), ema_decay=SHARE, uncond_prob=SHARE, muon=MUON)
        if self.muon and self.lora.rank:
            raise PureError("muon is for the layers' matrices, which LoRA does not train; leave one of them out")
        if self.sequence is not None:
            require(self, sequence=(2, 2**20))
        require(self, z_loss=WEIGHT, logit_rows=(0, 10**9))
        require_parts(self.batch, self.accumulate)
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise PureError(f"compute_dtype is {self.compute_dtype!r}, but it must be float32 or bfloat16")
        require_one_of("remat", self.remat, ("none", "dots", "full"))
        require_one_of("attention", self.attention, ("auto", "xla", "splash", "cudnn"))


@dataclass(frozen=True)
class AdversarialTrainConfig:
    """One run of a network that makes pictures: see `pure_jax.train.adversarial`."""

    batch: int = 4
    steps: int = 2000
    seed: int = 0
    l1_weight: float = 1.0
    """Of the mean absolute error of the pixels, which lie in [-1, 1]."""
    l2_weight: float = 10.0
    """Of their mean squared error."""
    perceptual_weight: float = 0.1
    """Of the perceptual distance; 0 needs no network for it."""
    adversarial_weight: float = 0.5
    """Of the adversarial gradient at the pixels, after it was made as long as that of the other terms."""
    adversarial_start: int = 200
    discriminator_width: int = 32
    discriminator_layers: int = 3
    ema_decay: float = 0.998
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(4e-4, 1e-5, warmup_steps=50, weight_decay=0.0, clip_norm=1.0)
    )

    def __post_init__(self) -> None:
        require(self, **RUN, **DISCRIMINATOR, **{f"{n}_weight": WEIGHT for n in ("l1", "l2", "perceptual")})
        require(self, ema_decay=SHARE)


@dataclass(frozen=True)
class DecoderTrainConfig(AdversarialTrainConfig):
    """One run. Each step reads `batch` fresh crops through the encoder and `batch` tiles that were restored."""


@dataclass(frozen=True)
class TokenizeConfig:
    """What decides the records of a photo, apart from the image tokenizer."""

    tile: int = 0
    """Side of a tile in pixels; 0: the model's own."""
    tiles_per_side: int = 1
    """Tiles along a side of a region, which is degraded as a whole and gives a record for each tile."""
    crops: int = 1
    """Regions of each photo, each at a place of its own."""
    variants: int = 4
    """Degradations of each region; every epoch of a training reads another one."""
    preset: str = "real-esrgan"
    """real-esrgan, mild or light"""
    sharpen: str = "input_only"
    """Unsharp mask: none, input_only (what is degraded, not the target) or both."""
    largest_reduction: float = 1.0
    """Half of the regions are cut larger, up to so many times, and shrunk; 1 keeps the photo's own pixels."""
    pad: bool = False
    """Mirror photos that are smaller than a region at their right and lower edge, from 3/4 of its side up (by area),
    instead of leaving them out."""
    twin: bool = True
    """Measure blur and noise against a degradation without noise, beside computing them from the draws."""
    seed: int = 0
    """The same seed, photo and options give the same records."""
    photos_per_file: int = 64
    """Photos of one file of records; a killed run makes the file again that it was writing."""

    def __post_init__(self) -> None:
        counts = {"crops": (1, 10**6), "variants": (1, 1024), "tiles_per_side": (1, 64), "photos_per_file": (1, 10**6)}
        require(self, tile=(0, 4096), largest_reduction=(1.0, 64.0), seed=(0, 2**32 - 1), **counts)


@dataclass(frozen=True)
class TextConfig:
    """What answers say before their image."""

    guidance: str = "full"
    """none, perception, understanding, full, or shares that a sample draws from, such as full=0.7,none=0.3."""
    labels: str = "params"
    """Scores that the levels of blur and noise come from: params (draws), twin (measured) or file (--scores)."""
    caption_dropout: float = 0.0
    """Share of samples whose caption is left out."""
    text_tokens: int = 240
    """Tokens at most; a longer caption loses its last sentences, then words. A model of a fixed length has its own."""

    def __post_init__(self) -> None:
        require(self, caption_dropout=SHARE, text_tokens=(40, 8192))
        if self.labels not in LABELS:
            raise PureError(f"labels is {self.labels!r}, but it must be one of {', '.join(LABELS)}")
        self.shares()

    def shares(self) -> dict[str, float]:
        """The share of each guidance that is drawn.

        Raises:
            PureError: an unknown guidance, or shares that are no positive numbers.
        """
        if "=" not in self.guidance:
            return {_known_guidance(self.guidance): 1.0}
        shares: dict[str, float] = {}
        for part in self.guidance.split(","):
            name, _, text = part.partition("=")
            try:
                share = float(text)
            except ValueError:
                share = 0.0
            if not 0 < share < 1e9 or name.strip() in shares:
                raise PureError(f"guidance has {part!r}; write shares above 0 as full=0.7,none=0.3, each name once")
            shares[_known_guidance(name.strip())] = share
        return {name: share / sum(shares.values()) for name, share in shares.items()}


def _known_guidance(name: str) -> str:
    if name not in GUIDANCE:
        raise PureError(f"guidance is {name!r}, but it must be one of {', '.join(GUIDANCE)}, or shares of them")
    return name
