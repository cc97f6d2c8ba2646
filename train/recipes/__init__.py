"""Recipes: everything that decides a trained model, as frozen data. `pure train demo` follows one and stores it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pure_jax.config import ModelConfig, demo, tiny
from pure_jax.errors import PureError
from pure_jax.train.config import DecoderTrainConfig, LanguageModelTrainConfig, OptimiserConfig, VQGANTrainConfig


@dataclass(frozen=True)
class Recipe:
    """All stages of a model that is made from nothing but photographs."""

    model: ModelConfig
    text_vocab: int
    """Text tokens at most, the 256 bytes included."""
    vqgan: VQGANTrainConfig
    lm: LanguageModelTrainConfig
    decoder: DecoderTrainConfig
    regions_per_round: int = 128
    """Regions of 16 pairs of tiles that are made, read once, and replaced by others while the language model trains."""
    decoder_regions: int = 128
    """Regions that the language model restores for the decoder's training,"""
    regions_per_part: int = 8
    """so many between two looks at the clock."""
    tuning_photos: int = 12
    """Photos of the train split that no stage trains on: the sampling defaults are chosen on them."""
    tuning_crop: int = 192
    temperatures: tuple[float, ...] = (0.6, 0.8, 1.0)
    top_k: tuple[float, ...] = (32.0, 256.0)
    guidance_scales: tuple[float, ...] = (1.0,)
    """Others than 1 want a language model that was shown some pictures without their question (lm.uncond_prob)."""
    largest_psnr_loss: float = 1.5
    """Of the sampling settings that lose at most so many dB of PSNR-Y against bicubic, the best to look at is taken."""
    evaluation_crop: int = 256
    seed: int = 0
    """Of the regions; a run that starts from a model wants another one than that model's."""
    start: str | None = None
    """Directory or hub id of a finished model of these sizes: its tokenizers are taken as they are, and its language
    model and its decoder are trained on."""


def demo_recipe() -> Recipe:
    """The model that ships."""
    return Recipe(
        model=demo(),
        text_vocab=400,
        vqgan=VQGANTrainConfig(
            batch=8,
            steps=4500,
            autoencoder_steps=1500,
            autoencoder_noise=0.1,
            l1_weight=1.0,
            l2_weight=10.0,
            chroma_weight=2.0,
            perceptual_weight=0.05,
            entropy_weight=0.01,
            adversarial_weight=0.0,  # the decoder's own stage has one
            degraded_share=0.15,
            ema_decay=0.998,
            optimiser=OptimiserConfig(1.2e-3, 2e-5, warmup_steps=50, decay_steps=1000, weight_decay=0.0, clip_norm=1.0),
        ),
        lm=LanguageModelTrainConfig(
            batch=8,
            steps=6000,
            drift=0.4,
            uncond_prob=0.1,
            ema_decay=0.999,
            muon=2.0,
            optimiser=OptimiserConfig(3e-3, 1e-5, warmup_steps=100, decay_steps=1200, clip_norm=1.0),
        ),
        # A discriminator of weight 0.5 made the decoder worse from its first step on.
        decoder=DecoderTrainConfig(adversarial_weight=0.15, adversarial_start=300),
        guidance_scales=(1.0, 2.0, 2.5, 3.0),
        temperatures=(0.8, 1.0),
        top_k=(32.0,),
    )


def tiny_recipe() -> Recipe:
    """Every stage in seconds, to try the command."""
    optimiser = OptimiserConfig(1e-3, 1e-4, warmup_steps=1, decay_steps=2, clip_norm=1.0)
    model = tiny()
    vqgan = dataclasses.replace(model.vqgan, channels=8, channel_multipliers=(1, 1), latent_channels=8, num_groups=2)
    return Recipe(
        model=dataclasses.replace(model, vqgan=vqgan, tile_size=16, text_length=16),
        text_vocab=300,
        vqgan=VQGANTrainConfig(
            batch=2,
            crop=16,
            steps=3,
            autoencoder_steps=1,
            perceptual_weight=0.0,
            adversarial_weight=0.0,
            discriminator_width=16,
            discriminator_layers=1,
            optimiser=optimiser,
        ),
        lm=LanguageModelTrainConfig(batch=4, steps=5, ema_decay=0.9, optimiser=optimiser),
        decoder=DecoderTrainConfig(
            batch=2,
            steps=3,
            perceptual_weight=0.0,
            adversarial_start=1,
            discriminator_width=16,
            discriminator_layers=1,
            optimiser=optimiser,
        ),
        regions_per_round=1,
        decoder_regions=2,
        regions_per_part=1,
        tuning_photos=1,
        tuning_crop=64,
        temperatures=(1.0,),
        top_k=(8.0, 16.0),
        evaluation_crop=64,
    )


def with_steps(recipe: Any, steps: Sequence[str], networks: Collection[str]) -> Any:
    """The recipe with other numbers of steps, each written NETWORK=NUMBER, of these networks.

    Raises:
        PureError: there is no such network, or it is no number; what the network's options refuse.
    """
    for text in steps:
        name, _, number = text.partition("=")
        if name not in networks or not number.isdecimal():
            raise PureError(f"{text!r} is no number of steps; write NETWORK=NUMBER, with one of {', '.join(networks)}")
        own = dataclasses.replace(getattr(recipe, name), steps=int(number))
        recipe = dataclasses.replace(recipe, **{name: own})
    return recipe


RECIPES = {"demo": demo_recipe, "tiny": tiny_recipe}
