"""Recipes of NSARM models that are made from nothing but photographs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pure_jax.nsarm.config import MapConfig, NsarmConfig, SamplingConfig, TransformerConfig, VAEConfig
from pure_jax.nsarm.presets import tiny
from pure_jax.train.config import OptimiserConfig
from pure_jax.train.nsarm.config import MapTrainConfig, ScalesTrainConfig, VAETrainConfig


@dataclass(frozen=True)
class NsarmRecipe:
    """All stages."""

    model: NsarmConfig
    vae: VAETrainConfig
    map_network: MapTrainConfig
    scales: ScalesTrainConfig
    tuning_photos: int = 12
    """Photos of the train split that no stage trains on: the sampling defaults are chosen on them."""
    tuning_crop: int = 192
    temperatures: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0)
    largest_psnr_loss: float = 1.0
    """Of the temperatures that lose at most so many dB of PSNR-Y against bicubic, the best to look at is taken."""
    evaluation_crop: int = 256
    seed: int = 0


def nsarm_demo() -> NsarmConfig:
    """Tiles of 128 pixels from 64: seven scales, of which T writes five and the transformer draws two.

    Photos are to be enlarged x4, so T reads them enlarged x2. From tiles of 32 it could write three scales, all that
    the transformer learns of a photo, and even the ground truth's hold less of it than bicubic enlargement does.
    """
    return NsarmConfig(
        transformer=TransformerConfig(
            token_bits=48, hidden_size=192, intermediate_size=768, num_layers=6, num_heads=4, pool_heads=2,
            text_size=32, text_length=4, max_scales=8, grid_side=16, drop_path=0.0, scan_layers=False,
        ),
        map_network=MapConfig(
            latent_side=16, stem=(32, 64), widths=(64, 64, 96, 128, 128), layers=(2, 2, 2, 3, 3), heads=(4, 4, 4, 4, 4),
            dropout=0.0, layout="channels_last", predicts="latents",
        ),
        vae=VAEConfig(channels=32, channel_multipliers=(1, 2, 4), num_res_blocks=1, latent_channels=12, num_groups=8),
        sampling=SamplingConfig(temperature=(0.75,)),
        sides=(1, 2, 4, 6, 8, 12, 16),
        prompt_length=1,
        tile_overlap=32,
    )  # fmt: skip


def nsarm_demo_recipe() -> NsarmRecipe:
    """The demo of this family, for two CPU cores and four hours."""
    constant = {"b1": 0.9, "b2": 0.97, "weight_decay": 0.005, "clip_norm": 1.0}
    return NsarmRecipe(
        model=nsarm_demo(),
        vae=VAETrainConfig(
            # A discriminator from 600 on, with half its weight or more, made everything worse: too early, too strong.
            batch=4, steps=3000, adversarial_start=2300, adversarial_weight=0.1, ema_decay=0.995,
            optimiser=OptimiserConfig(5e-4, 2e-5, warmup_steps=50, decay_steps=1000, weight_decay=0.0, clip_norm=1.0),
        ),
        map_network=MapTrainConfig(
            batch=16, steps=1000, loss="squares", sharpen=False, region=2, muon=2.0,
            optimiser=OptimiserConfig(2e-3, 1e-5, warmup_steps=50, decay_steps=500, **constant),
        ),
        scales=ScalesTrainConfig(
            batch=8, steps=4000, largest_flip=0.1, sharpen=False, region=2, muon=2.0, ema_decay=0.995,
            optimiser=OptimiserConfig(2e-3, 1e-5, warmup_steps=100, decay_steps=1500, **constant),
        ),
    )  # fmt: skip


def tiny_recipe() -> NsarmRecipe:
    """Every stage in seconds, to try the command."""
    optimiser = OptimiserConfig(1e-3, 1e-4, warmup_steps=1, decay_steps=2, clip_norm=1.0)
    model = dataclasses.replace(tiny(), prompt_length=2)
    return NsarmRecipe(
        model=model,
        vae=VAETrainConfig(
            batch=2, steps=2, perceptual_weight=0.0, adversarial_start=1, discriminator_width=16,
            discriminator_layers=1, optimiser=optimiser,
        ),
        map_network=MapTrainConfig(batch=2, steps=2, optimiser=optimiser),
        scales=ScalesTrainConfig(batch=2, steps=3, ema_decay=0.9, optimiser=optimiser),
        tuning_photos=1,
        tuning_crop=64,
        temperatures=(0.0, 1.0),
        evaluation_crop=64,
    )  # fmt: skip


NSARM_RECIPES = {"nsarm": nsarm_demo_recipe, "nsarm-tiny": tiny_recipe}
