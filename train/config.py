"""Configurations of the training runs, apart from the code so that a command line is parsed without loading jax."""

from __future__ import annotations

from dataclasses import dataclass, field


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


@dataclass(frozen=True)
class LanguageModelTrainConfig:
    """One run; the optimiser's defaults are PURE's, made for 7B parameters and batches of 128."""

    batch: int = 8
    """Pairs of tiles a step."""
    steps: int = 1484
    """Updates in all."""
    seed: int = 0
    """Of the initial weights and of every step's data."""
    drift: float = 0.0
    """Moves the HQ codes that the model reads, not those it must predict: see `drifted`."""
    ema_decay: float = 0.0
    """Of the averaged weights that are exported; 0 exports the last ones."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)


@dataclass(frozen=True)
class DecoderTrainConfig:
    """One run. Each step reads `batch` fresh crops through the encoder and `batch` tiles that were restored."""

    batch: int = 4
    steps: int = 2000
    seed: int = 0
    l1_weight: float = 1.0
    l2_weight: float = 10.0
    perceptual_weight: float = 0.1
    adversarial_weight: float = 0.5
    """Of the adversarial gradient at the pixels, after it was made as long as that of the other terms."""
    adversarial_start: int = 200
    discriminator_width: int = 32
    discriminator_layers: int = 3
    ema_decay: float = 0.998
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(4e-4, 1e-5, warmup_steps=50, weight_decay=0.0, clip_norm=1.0)
    )
