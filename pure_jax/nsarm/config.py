"""Every size and default of an NSARM model, as frozen dataclasses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pure_jax.config import COLOUR_FIXES, require_one_of, require_range
from pure_jax.errors import PureError
from pure_jax.nsarm.resize import KINDS
from pure_jax.nsarm.schedule import SIDES_1M, Scales, ends, square

PROMPT = "A high-quality image with harmonious colors and rich details."
"""What a model is told of a picture without a caption. Source: NSARM paper."""

# Far above every known model of the kind; what a broken or hostile file asks for beyond would fill time or memory.
_LARGEST: dict[str, float] = {
    **{"token_bits": 4096, "hidden_size": 2**16, "intermediate_size": 2**18, "num_layers": 512, "num_heads": 1024},
    **{"pool_heads": 1024, "text_size": 2**16, "text_length": 8192, "max_scales": 64, "grid_side": 1024},
    **{"norm_eps": 1.0, "rope_theta": 1e12, "channels": 4096, "channel_multipliers": 64, "num_res_blocks": 16},
    **{"latent_channels": 30, "num_groups": 4096, "latent_side": 256, "stem": 4096, "widths": 2**14, "layers": 256},
    **{"heads": 1024, "vocab_size": 2**20, "head_dim": 1024, "num_buckets": 4096, "max_distance": 2**16},
    **{"sides": 256, "patch": 8, "tile_overlap": 4096},
}
LAYOUTS = ("raw", "channels_last")
PREDICTIONS = ("residuals", "latents")
_MOST_LEVELS = 6
_MOST_SCALES = 64


def _require_rate(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise PureError(f"{name} {value} must lie in [0, 1)")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the next-scale transformer (Infinity; defaults are the 8b preset's, which NSARM has)."""

    may_be_absent = frozenset({"drop_path", "scan_layers", "remat"})
    token_bits: int = 56
    """Bits of a token, which are its channels at the input: latent channels times patch**2."""
    hidden_size: int = 3584
    intermediate_size: int = 14_336
    num_layers: int = 40
    num_heads: int = 28
    pool_heads: int = 16
    """Heads of the attention that pools a caption into one vector."""
    text_size: int = 2048
    """Channels of the text encoder's features."""
    text_length: int = 512
    """Most tokens of a caption; so many rows of features stand in for one that is not told."""
    max_scales: int = 15
    """Rows of the level embedding."""
    grid_side: int = 64
    """Side in tokens of the grid that positions refer to: the finest of the schedule, however many scales are used."""
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    drop_path: float = 0.1
    """Rate at which the last layer's branches are left out in training; it rises from 0 at the first layer."""
    scan_layers: bool = True
    """Stack the layers' parameters and scan over them; False keeps one sub-tree per layer."""
    remat: bool = False
    """Recompute each block's activations in the backward pass instead of storing them."""

    def __post_init__(self) -> None:
        require_range(self, _LARGEST, except_for={"drop_path"})
        _require_rate("drop_path", self.drop_path)
        for name in ("num_heads", "pool_heads"):
            if self.hidden_size % getattr(self, name):
                raise PureError(f"hidden_size {self.hidden_size} is not a multiple of {name} {getattr(self, name)}")
        if self.head_dim % 4:
            raise PureError(f"hidden_size / num_heads is {self.head_dim}, but two-dimensional positions need fourths")

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the bitwise image tokenizer (defaults are the 14-bit, stride-8 one's, 81,624,209 parameters)."""

    may_be_absent = frozenset[str]()
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    """Residual blocks per encoder level; the decoder has one more."""
    latent_channels: int = 14
    """Bits per latent position."""
    num_groups: int = 32
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        require_range(self, _LARGEST)
        if not 1 <= len(self.channel_multipliers) <= _MOST_LEVELS:
            raise PureError(
                f"channel_multipliers has {len(self.channel_multipliers)} levels, but it must have 1 to {_MOST_LEVELS}"
            )
        if self.channels % self.num_groups:
            raise PureError(f"channels {self.channels} is not a multiple of num_groups {self.num_groups}")

    @property
    def stride(self) -> int:
        """Pixels per latent position, along each side."""
        return 2 ** (len(self.channel_multipliers) - 1)


@dataclass(frozen=True)
class MapConfig:
    """Sizes of the transformation network T; its tuples have one entry for each scale that it writes."""

    may_be_absent = frozenset({"dropout", "predicts"})
    latent_side: int = 32
    """Side of the low-quality picture's latent."""
    stem: tuple[int, ...] = (64, 128)
    """Widths of the convolutions before the branches."""
    widths: tuple[int, ...] = (64, 128, 256, 384, 512, 768, 1024)
    layers: tuple[int, ...] = (4, 6, 8, 10, 12, 14, 16)
    heads: tuple[int, ...] = (4, 4, 8, 8, 8, 12, 16)
    dropout: float = 0.1
    layout: str = "raw"
    """How its output [positions, channels] is read, one of LAYOUTS: "raw", as memory of [channels, height, width],
    which the published weights need; "channels_last", each row as the channels of its position."""
    predicts: str = "residuals"
    """What its branches say, one of PREDICTIONS: "residuals", as the published network; "latents", the latent at each
    scale's size, of which the scales before leave the residual. The branches do not know each other's bits: where they
    say residuals, what a scale gets wrong no other makes good."""

    def __post_init__(self) -> None:
        require_range(self, _LARGEST, except_for={"dropout", "layout", "predicts"})
        _require_rate("dropout", self.dropout)
        require_one_of("layout", self.layout, LAYOUTS)
        require_one_of("predicts", self.predicts, PREDICTIONS)
        if not len(self.widths) == len(self.layers) == len(self.heads) or not self.widths:
            raise PureError("widths, layers and heads of the map network must have one entry for each of its scales")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads or width % 2:
                raise PureError(f"a width {width} of the map network is not a multiple of 2 and of its {heads} heads")


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the T5 encoder (defaults are flan-t5-xl's, 1,223,527,424 parameters)."""

    may_be_absent = frozenset[str]()
    vocab_size: int = 32_128
    hidden_size: int = 2048
    intermediate_size: int = 5120
    num_layers: int = 24
    num_heads: int = 32
    head_dim: int = 64
    num_buckets: int = 32
    """Learned biases for relative positions; half of them for each direction."""
    max_distance: int = 128
    """Relative positions from here on share a bias."""
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        require_range(self, _LARGEST)
        if self.num_buckets % 4:
            raise PureError(f"num_buckets {self.num_buckets} is not a multiple of 4")


@dataclass(frozen=True)
class SamplingConfig:
    """How bits are drawn; the defaults are the released settings.

    Temperature and guidance are one number for all scales, or one for each scale that is drawn, coarse to fine.
    """

    temperature: tuple[float, ...] = (0.5,)
    """Divides the logits; 0 means greedy."""
    guidance_scale: tuple[float, ...] = (1.0,)
    """s = u + scale * (c - u); 1.0 at all scales switches the rows without a caption off."""
    top_p: float = 0.97
    """A value of a bit that is no likelier than 1 - top_p is never drawn; 1.0 keeps all."""

    def __post_init__(self) -> None:
        for name, most in (("temperature", 10.0), ("guidance_scale", 100.0)):
            value = getattr(self, name)
            numbers = tuple(map(float, value)) if isinstance(value, tuple | list) else (float(value),)
            object.__setattr__(self, name, numbers)  # so that one number may be given as it is
            if not numbers or not all(0.0 <= number <= most for number in numbers):
                raise PureError(f"{name} is {value}, but it must be in [0, {most:g}]")
        if not 0.5 <= self.top_p <= 1.0:
            raise PureError(f"top_p is {self.top_p}, but it must be in [0.5, 1]")

    def at(self, index: int) -> tuple[float, float]:
        """(temperature, guidance scale) of a scale that is drawn, counted from 0; the last number goes on."""
        first, second = (numbers[min(index, len(numbers) - 1)] for numbers in (self.temperature, self.guidance_scale))
        return first, second

    @property
    def guided(self) -> bool:
        """Whether rows without a caption are needed."""
        return any(scale != 1.0 for scale in self.guidance_scale)


@dataclass(frozen=True)
class NsarmConfig:
    """One model directory's config.json: the networks, the schedule, and how the model wants to be used."""

    may_be_absent = frozenset({"sampling", "tile_overlap", "colour_fix", "prompt", "prompt_length", "text_encoder"})
    family: str = "nsarm"
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    map_network: MapConfig = field(default_factory=MapConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text_encoder: TextConfig | None = None
    """None in a model that cannot read captions, but only knows the features of its prompt."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    sides: tuple[int, ...] = SIDES_1M
    """Side in tokens of each scale; the map network writes the first ones."""
    patch: int = 2
    """Side of the square of latent positions that make a token."""
    next_input: str = "area"
    """How what was written so far is made as small as the next scale, one of KINDS."""
    prompt: str = PROMPT
    """The caption of pictures that have none."""
    prompt_length: int = 0
    """Tokens of the prompt whose features lie in the model directory (network "prompt"); 0: none lie there."""
    tile_overlap: int | None = None
    """Pixels that neighbouring tiles of a larger picture share at least; None is a quarter of a tile."""
    colour_fix: str = "adain+wavelet"
    """Default colour correction after decoding, one of COLOUR_FIXES."""

    def __post_init__(self) -> None:
        require_range(self, _LARGEST, except_for={"prompt_length"})
        require_one_of("family", self.family, ("nsarm",))
        require_one_of("next_input", self.next_input, KINDS)
        require_one_of("colour_fix", self.colour_fix, COLOUR_FIXES)
        text, own = self.text_encoder, self.transformer
        drawn_bits = self.vae.latent_channels * self.patch**2
        tile, low = self.tile_size, self.low_quality_size
        checks = [
            (list(self.sides) == sorted(set(self.sides)) and self.sides[:1] == (1,), "sides must rise from 1"),
            (len(self.sides) <= min(own.max_scales, _MOST_SCALES), f"sides has more scales than {own.max_scales}"),
            (self.sides[-1:] <= (own.grid_side,), f"the last of sides is beyond the grid of {own.grid_side}"),
            (
                own.token_bits == drawn_bits,
                f"token_bits is {own.token_bits}, but tokens of this image tokenizer have {drawn_bits} bits",
            ),
            (len(self.map_network.widths) <= len(self.sides), "the map network writes more scales than there are"),
            (
                text is None or text.hidden_size == own.text_size,
                f"text_size is {own.text_size}, but the text encoder's features are of another size",
            ),
            (
                0 <= self.prompt_length <= own.text_length,
                f"prompt_length {self.prompt_length} must lie in 0 ... text_length ({own.text_length})",
            ),
            (
                tile % low == 0,
                f"pictures of {low} pixels cannot be made {tile} large, which is no whole magnification",
            ),
            (
                self.tile_overlap is None or self.tile_overlap <= tile // 2,
                f"tile_overlap {self.tile_overlap} must be at most half a tile ({tile // 2})",
            ),
        ]
        for ok, complaint in checks:
            if not ok:
                raise PureError(complaint)

    @property
    def scales(self) -> Scales:
        """The schedule in tokens."""
        return square(self.sides)

    @property
    def latent_scales(self) -> Scales:
        """The schedule in latent positions."""
        return square([self.patch * side for side in self.sides])

    @property
    def ends(self) -> tuple[int, ...]:
        """Index of the token behind each scale's last one."""
        return ends(self.scales)

    @property
    def given_scales(self) -> int:
        """How many scales the map network writes."""
        return len(self.map_network.widths)

    @property
    def stride(self) -> int:
        """Pixels per token, along each side."""
        return self.vae.stride * self.patch

    @property
    def tile_size(self) -> int:
        """Side in pixels of the square pictures that the model makes."""
        return self.sides[-1] * self.stride

    @property
    def low_quality_size(self) -> int:
        """Side in pixels of the square pictures that the model is given."""
        return self.map_network.latent_side * self.vae.stride

    @property
    def magnification(self) -> int:
        """A restored tile's side over that of the tile which the model is given."""
        return self.tile_size // self.low_quality_size

    @property
    def max_entropy(self) -> float:
        """Entropy in nats of a token whose bits are all open."""
        return self.transformer.token_bits * math.log(2)


def text_config(config: NsarmConfig) -> TextConfig:
    """The text encoder's sizes. Raises PureError for a model without."""
    if config.text_encoder is None:
        raise PureError("this model has no text encoder and knows its own prompt only; leave the caption out")
    return config.text_encoder
