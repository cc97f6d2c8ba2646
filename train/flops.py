"""Floating-point operations that a training step's model needs, by formula: what MFU is a share of."""

from __future__ import annotations

from dataclasses import dataclass

from pure_jax.config import TransformerConfig

PEAK_TFLOPS = {
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5": 459,
    "TPU v6 lite": 918,
    "TPU7x": 1153.5,  # half a chip, which is one device
    "NVIDIA A100": 312,
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
}
"""Dense bfloat16 products of one device, by the beginning of its name in jax; from the makers' data sheets."""


def peak_flops(device_kind: str) -> float | None:
    """bfloat16 operations a second of a device; None where nothing is known of its kind."""
    known = [name for name in PEAK_TFLOPS if device_kind.startswith(name)]
    return PEAK_TFLOPS[max(known, key=len)] * 1e12 if known else None


@dataclass(frozen=True)
class StepFlops:
    """Of one update. A multiplication and an addition are two; the backward pass is twice the forward one; what remat
    computes once more does not count (PaLM, Chowdhery et al. 2022, appendix B)."""

    layers: float
    """Products with the layers' weights: 6 per weight and token."""
    attention: float
    """Scores and weighted values below the diagonal: 12 per layer, channel of the heads, and pair of a query and a
    key that it sees."""
    head: float
    """Products with the head, on the positions that are scored."""

    @property
    def total(self) -> float:
        return self.layers + self.attention + self.head


def step_flops(config: TransformerConfig, batch: int, sequence: int, prompt: int, adapted: bool = False) -> StepFlops:
    """batch: sequences of `sequence` tokens, the first `prompt` of which are the question. adapted: LoRA, in which the
    layers' weights have no gradient (4 instead of 6); what its adapters take is left out."""
    c, inputs = config, sequence - 1
    heads = c.head_dim * (c.num_heads + c.num_kv_heads)
    weights = c.num_layers * c.hidden_size * (2 * heads + 3 * c.intermediate_size)
    seen = inputs * (inputs + 1) / 2
    return StepFlops(
        layers=(4.0 if adapted else 6.0) * batch * inputs * weights,
        attention=3.0 * 4 * batch * c.num_layers * c.num_heads * c.head_dim * seen,
        head=6.0 * batch * (sequence - prompt) * c.hidden_size * c.vocab_size,
    )
