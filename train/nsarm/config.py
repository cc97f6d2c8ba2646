"""Configurations of NSARM's training, apart from the code so that a command line is parsed without loading jax."""

from __future__ import annotations

from dataclasses import dataclass, field

from pure_jax.errors import PureError
from pure_jax.train.config import (
    MUON,
    RUN,
    SHARE,
    WEIGHT,
    AdversarialTrainConfig,
    OptimiserConfig,
    require,
    require_parts,
)

MAP_LOSSES = ("squares", "bits")
DEGRADATIONS = ("real-esrgan", "mild", "light")
"""Names of `pure_jax.train.data.degradation.PRESETS`; light is one stage of Real-ESRGAN's."""
REGION = (1, 16)
REDUCTION = (1, 16)


@dataclass(frozen=True)
class VAETrainConfig(AdversarialTrainConfig):
    """The bitwise tokenizer's run; each step sees `batch` crops of a model's tile."""

    steps: int = 4000
    adversarial_start: int = 2000
    commitment_weight: float = 0.25
    """Of the features' mean squared distance to the sum of the scales so far, over scales."""
    entropy_weight: float = 0.1
    """Of (a bit's mean entropy - the entropy of its mean): bits that are sure, and used."""
    inverse_temperature: float = 10.0
    """Of the probabilities for that; Infinity's is 100."""
    degraded_share: float = 0.15
    """Share of crops that are shown degraded and must be reproduced as such: the tokenizer reads LQ pictures too."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(
            1e-3, 2e-5, warmup_steps=50, decay_steps=1000, weight_decay=0.0, clip_norm=1.0
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, commitment_weight=WEIGHT, entropy_weight=WEIGHT, inverse_temperature=(1e-3, 1e4))
        require(self, degraded_share=SHARE)


@dataclass(frozen=True)
class MapTrainConfig:
    """Stage 1: the map network alone, against the ground truth's residuals (NSARM paper, Eq. 4)."""

    batch: int = 196
    """Tiles a step."""
    steps: int = 100_000
    """Updates in all."""
    accumulate: int = 1
    """Parts of a batch whose gradients are added up, one after the other."""
    seed: int = 0
    """Decides the data and the fresh weights."""
    loss: str = "squares"
    """squares: mean squared error of the residuals; bits: logistic loss of their signs, all that is used of them."""
    degradation: str = "real-esrgan"
    """real-esrgan, mild or light."""
    reduction: int = 4
    """A photo's side over that of its degraded copy, which is enlarged, as at inference, where the model's low-quality
    tiles are larger: a multiple of the model's magnification."""
    sharpen: bool = True
    """Sharpen the photo before it is degraded; what is to be restored stays as it is."""
    region: int = 1
    """Tiles along a region's side. A region is degraded as a whole, so that a tile's blur reaches beyond its edges."""
    muon: float = 0.0
    """Factor on the learning rate of the layers' matrices, which Muon trains then, all else being AdamW's and without
    weight decay; 0: AdamW trains all, as in NSARM."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(
            2e-5, 2e-5, warmup_steps=0, b1=0.9, b2=0.97, weight_decay=0.005, clip_norm=5.0
        )
    )

    def __post_init__(self) -> None:
        require(self, **RUN, muon=MUON, region=REGION, reduction=REDUCTION)
        require_parts(self.batch, self.accumulate)
        _one_of("loss", self.loss, MAP_LOSSES)
        _one_of("degradation", self.degradation, DEGRADATIONS)


@dataclass(frozen=True)
class ScalesTrainConfig:
    """Stage 2: both networks, on the map network's scales and the ground truth's residuals after them (Algorithm 2)."""

    batch: int = 32
    """Tiles a step."""
    steps: int = 40_000
    """Updates in all."""
    accumulate: int = 1
    """Parts of a batch whose gradients are added up, one after the other."""
    seed: int = 0
    """Decides the data and the fresh weights."""
    first_scored: int | None = None
    """The first scale, counted from 0, whose bits are scored; None: the first that the transformer draws. 0 scores the
    map network's own bits too."""
    reweight: bool = True
    """Weight a scale by its side instead of its number of tokens."""
    next_input: str | None = None
    """How what is written so far is made as small as the next scale, in training: "area", "linear", or None as at
    inference."""
    hidden_share: float = 0.1
    """Share of captions that are not told."""
    largest_flip: float = 0.0
    """Bitwise self-correction (Infinity): a scale's bits are flipped with a probability drawn from 0 up to this, and
    later scales make it good. 0.3 in Infinity; none in NSARM's last run, as its name says."""
    train_map: bool = True
    """Let the loss reach the map network, through the quantiser."""
    degradation: str = "real-esrgan"
    """As in stage 1."""
    reduction: int = 4
    """As in stage 1."""
    sharpen: bool = True
    """As in stage 1."""
    region: int = 1
    """As in stage 1."""
    muon: float = 0.0
    """As in stage 1."""
    ema_decay: float = 0.0
    """Of the averaged weights that are exported; 0 exports the last ones."""
    compute_dtype: str = "float32"
    """Of the transformer's and the text encoder's products; parameters, the map network and the tokenizer stay
    float32."""
    remat: bool = False
    """Compute each block again for its gradient, instead of keeping what it made."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(
            4e-5, 4e-5, warmup_steps=0, b1=0.9, b2=0.97, weight_decay=0.005, clip_norm=5.0
        )
    )

    def __post_init__(self) -> None:
        require(
            self,
            **RUN,
            hidden_share=SHARE,
            largest_flip=(0.0, 0.5),
            ema_decay=SHARE,
            muon=MUON,
            region=REGION,
            reduction=REDUCTION,
        )
        require_parts(self.batch, self.accumulate)
        _one_of("compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        _one_of("degradation", self.degradation, DEGRADATIONS)
        if self.first_scored is not None:
            require(self, first_scored=(0, 63))
        if self.next_input is not None:
            _one_of("next_input", self.next_input, ("area", "linear"))


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PureError(f"{name} is {value!r}, but it must be one of {', '.join(known)}")
