"""Every size and default of a model, as frozen dataclasses, and the presets that have names.

Configuration is data: it is hashable (so it can be a static argument of jit) and goes to config.json and back.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pure_jax.errors import PureError

# Far above every known model of the kind; what a broken or hostile file asks for beyond would fill time or memory.
_LARGEST: dict[str, float] = {
    **{"vocab_size": 2**20, "hidden_size": 2**16, "intermediate_size": 2**18, "num_layers": 512, "num_heads": 1024},
    **{"num_kv_heads": 1024, "head_dim": 1024, "model_parallel_size": 1024, "rms_norm_eps": 1.0, "rope_theta": 1e12},
    **{"channels": 4096, "channel_multipliers": 64, "num_res_blocks": 16, "latent_channels": 4096},
    **{"codebook_dim": 4096, "codebook_size": 2**20, "num_groups": 4096, "norm_eps": 1.0},
    **{"tile_size": 4096, "tile_overlap": 4096, "codes_per_grid": 256, "text_length": 8192},
}
_MOST_LEVELS = 6


PRECISIONS = ("float", "int8")
COLOUR_FIXES = ("none", "wavelet", "adain", "adain+wavelet", "lab")
"""Names of the colour corrections; what they do is in `pure_jax.infer.pictures.colour`."""


def require_precision(name: str, value: str) -> None:
    """Raises PureError unless `value` is one of PRECISIONS; name: what it is that of."""
    if value not in PRECISIONS:
        raise PureError(
            f"{name} is {value!r}, but it must be one of {', '.join(PRECISIONS)}; "
            "a model that says so was quantised by another version of pure-jax"
        )


def require_range(config: Any, largest: Mapping[str, float], except_for: Collection[str] = ()) -> None:
    """Raise PureError unless every number in the fields of `config` is above 0 and at most what `largest` says."""
    for name, value in vars(config).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not isinstance(number, bool) and name not in except_for:
                if not 0 < number <= largest[name]:  # so NaN ends here too
                    raise PureError(f"{name} is {value}, but it must be above 0 and at most {largest[name]:,.10g}")


def require_one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise PureError unless `value` is allowed; name: what it is the value of."""
    if value not in allowed:
        raise PureError(f"{name} is {value!r}, but it must be one of {', '.join(allowed)}")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the decoder-only transformer (Chameleon / Lumina-mGPT family; defaults are PURE-7B's)."""

    may_be_absent = frozenset({"dropout", "scan_layers", "weights", "cache"})
    former = frozenset({"remat"})
    vocab_size: int = 73_728
    hidden_size: int = 4096
    intermediate_size: int = 11_008
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int = 32
    head_dim: int = 128
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    model_parallel_size: int = 1
    """Rows of the QK-norm weights; each row serves num_heads / model_parallel_size consecutive heads. Where there are
    fewer key heads than this, their norm has a row for each."""
    swin_norm: bool = False
    """Normalise the branch outputs instead of their inputs (the 34B sibling's variant)."""
    dropout: float = 0.05
    """Rate on each branch output before the residual add; active only in training."""
    scan_layers: bool = True
    """Stack the layers' parameters and scan over them; False keeps one sub-tree per layer."""
    weights: str = "float"
    """int8: the layers' kernels and the head's are int8, with a scale for each output channel. For inference only."""
    cache: str = "float"
    """int8: keys and values are rounded to int8 with a scale for each head and token. For inference only."""

    def __post_init__(self) -> None:
        require_range(self, _LARGEST, except_for={"dropout"})
        for name in ("weights", "cache"):
            require_precision(name, getattr(self, name))
        if self.num_heads % self.num_kv_heads:
            raise PureError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        for name in ("num_heads", "num_kv_heads"):
            if getattr(self, name) % self.norm_rows(getattr(self, name)):
                raise PureError(
                    f"{name} {getattr(self, name)} is not a multiple of model_parallel_size {self.model_parallel_size}"
                )
        if self.head_dim % 2:
            raise PureError(f"head_dim {self.head_dim} must be even for rotary positions")
        if not 0.0 <= self.dropout < 1.0:
            raise PureError(f"dropout {self.dropout} must lie in [0, 1)")

    def norm_rows(self, heads: int) -> int:
        """Rows of the QK-norm over this many heads."""
        return min(self.model_parallel_size, heads)


@dataclass(frozen=True)
class VQGANConfig:
    """Sizes of the image tokenizer (LlamaGen VQ model; defaults are VQ-8's, 70,109,835 parameters)."""

    may_be_absent = frozenset[str]()
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    """Residual blocks per encoder level; the decoder has one more."""
    latent_channels: int = 256
    codebook_dim: int = 8
    codebook_size: int = 16_384
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
class SamplingConfig:
    """How an answer is drawn (PURE paper, Eq. 2 and section 4.1; defaults are the released settings)."""

    guidance_scale: float = 0.8
    """s = u + scale * (c - u); 1.0 switches the unconditional rows off."""
    temperature: float = 0.9
    """Divides the kept logits of image codes; 0 means greedy."""
    k_min: float = 1.0
    k_max: float = 2000.0
    entropy_center: float = 5.0
    """Entropy in nats at which k lies half-way between k_min and k_max (the paper's mu)."""
    max_text_tokens: int = 256
    """The text phase ends here at the latest; then the image is opened by force."""

    def __post_init__(self) -> None:
        checks = [
            (0.0 <= self.guidance_scale <= 100.0, "guidance_scale", self.guidance_scale, "in [0, 100]"),
            (0.0 <= self.temperature <= 10.0, "temperature", self.temperature, "in [0, 10]"),
            (1.0 <= self.k_min <= 1e6, "k_min", self.k_min, "in [1, 1,000,000]"),
            (self.k_min <= self.k_max <= 1e6, "k_max", self.k_max, f"between k_min ({self.k_min:g}) and 1,000,000"),
            (0.0 <= self.entropy_center <= 100.0, "entropy_center", self.entropy_center, "in [0, 100]"),
            (0 <= self.max_text_tokens <= 8192, "max_text_tokens", self.max_text_tokens, "in [0, 8192]"),
        ]
        for ok, name, value, wanted in checks:
            if not ok:  # NaN fails every comparison and ends here too
                raise PureError(f"{name} is {value}, but it must be {wanted}")


@dataclass(frozen=True)
class ModelConfig:
    """One model directory's config.json: the family, both networks, and how the model wants to be used."""

    may_be_absent = frozenset({"family", "sampling", "tile_overlap", "text_length", "colour_fix"})
    family: str = "pure"
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    vqgan: VQGANConfig = field(default_factory=VQGANConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    tile_size: int = 512
    """Side in pixels of the square pictures the model was trained on."""
    tile_overlap: int | None = None
    """Pixels that neighbouring tiles of a larger picture share at least; None is a quarter of a tile."""
    codes_per_grid: int = 4
    """Latent positions per side of one grid, the unit in which the size tokens count (32 px at stride 8)."""
    text_length: int | None = None
    """If set, answer texts are padded to this many tokens, so that the picture starts at a fixed distance."""
    colour_fix: str = "wavelet"
    """Default colour correction after decoding, one of COLOUR_FIXES."""

    def __post_init__(self) -> None:
        require_range(self, _LARGEST)
        require_one_of("family", self.family, ("pure",))
        require_one_of("colour_fix", self.colour_fix, COLOUR_FIXES)
        unit = self.vqgan.stride * self.codes_per_grid
        if self.tile_size < unit or self.tile_size % unit:
            raise PureError(f"tile_size {self.tile_size} is not a multiple of one grid ({unit} pixels)")
        if self.tile_overlap is not None and self.tile_overlap > self.tile_size // 2:
            raise PureError(f"tile_overlap {self.tile_overlap} must be at most half a tile ({self.tile_size // 2})")

    @property
    def stride(self) -> int:
        """Pixels per code, along each side."""
        return self.vqgan.stride

    @property
    def magnification(self) -> int:
        """Photos are enlarged before they are restored."""
        return 1

    @property
    def max_entropy(self) -> float:
        """Entropy in nats of a code when all are equally likely."""
        return math.log(self.vqgan.codebook_size)


def pure_7b() -> ModelConfig:
    """PURE as published: 7,080,267,776 transformer parameters, VQ-8, 512 px pictures."""
    return ModelConfig()


def pure_300m() -> ModelConfig:
    """PURE's shape in small, for benchmarks: 299,420,160 parameters are read for a code, 320 M are there."""
    return ModelConfig(
        transformer=TransformerConfig(
            vocab_size=18_432,
            hidden_size=1024,
            intermediate_size=2816,
            num_layers=22,
            num_heads=16,
            num_kv_heads=16,
            head_dim=64,
        )
    )


def demo() -> ModelConfig:
    """The small model that is trained by this project and ships inside the package.

    On a CPU a decode step's time is the reading of the cache, and that of training is attention: hence one key/value
    head.
    """
    return ModelConfig(
        transformer=TransformerConfig(
            vocab_size=4608,
            hidden_size=192,
            intermediate_size=512,
            num_layers=6,
            num_heads=3,
            num_kv_heads=1,
            head_dim=64,
            dropout=0.0,
            scan_layers=False,
        ),
        vqgan=VQGANConfig(
            channels=32,
            channel_multipliers=(1, 2, 2),
            num_res_blocks=1,
            latent_channels=64,
            codebook_size=4096,
            num_groups=4,  # 32 groups of 32 channels would be instance norm, which forgets a picture's mean colour
        ),
        # Where nobody chooses: a run of `pure train demo` does, on its tuning photos, and puts its choice here.
        sampling=SamplingConfig(
            guidance_scale=1.0, temperature=0.8, k_max=256.0, entropy_center=4.0, max_text_tokens=32
        ),
        tile_size=64,
        tile_overlap=24,
        text_length=24,
    )


def tiny() -> ModelConfig:
    """For tests: every part is there, nothing is large."""
    return ModelConfig(
        transformer=TransformerConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=48,
            num_layers=2,
            num_heads=4,
            num_kv_heads=4,
            head_dim=8,
            dropout=0.0,
        ),
        vqgan=VQGANConfig(
            channels=32, channel_multipliers=(1, 1, 1), num_res_blocks=1, latent_channels=32, codebook_size=64
        ),
        sampling=SamplingConfig(max_text_tokens=16),
        tile_size=32,
    )


PRESETS: dict[str, typing.Callable[[], ModelConfig]] = {
    "pure_7b": pure_7b,
    "300m": pure_300m,
    "demo": demo,
    "tiny": tiny,
}


def to_dict(config: Any) -> dict[str, Any]:
    """A frozen config as plain JSON-able values."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: Any, where: str = "config.json") -> Any:
    """Build the dataclass `cls` from parsed JSON; a PureError names what is unknown, of a wrong type, or absent.

    A class says in `may_be_absent` which of its fields have a default that no file need repeat; by default all. A size
    is not among them: another model's, taken silently, would be refused late or never. What it names in `former` said
    something once that is no part of a model, and is passed over.
    """
    if not isinstance(values, dict):
        raise PureError(f"{where} must hold a JSON object, not {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    values = {name: value for name, value in values.items() if name not in getattr(cls, "former", ())}
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise PureError(f"{where} has the unknown field {unknown[0]!r}; it may come from a newer version of pure-jax")
    found = {name: _checked(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    absent = [name for name in hints if name not in found and name not in getattr(cls, "may_be_absent", hints)]
    if absent:
        raise PureError(f"{where} does not say {absent[0]}; get the file again, or convert the model again")
    return cls(**found)


def _checked(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if isinstance(hint, types.UnionType):
        return None if value is None else _checked(typing.get_args(hint)[0], value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise PureError(f"{where} is {value!r}, but a list is needed")
        return tuple(_checked(typing.get_args(hint)[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1000 else math.inf
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise PureError(f"{where} is {value!r}, but the type must be {hint.__name__}")
    return value
