"""Training of the image tokenizer: LlamaGen's losses and update order, on crops of photographs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jax import Array
from PIL import Image
from scipy.cluster.vq import kmeans2

from pure_jax.config import VQGANConfig
from pure_jax.files import replacing
from pure_jax.infer.metrics.perceptual import perceptual_distance
from pure_jax.train.config import VQGANTrainConfig
from pure_jax.train.data.degradation import REAL_ESRGAN, degrade
from pure_jax.train.data.photos import Photo, random_crop
from pure_jax.train.discriminator import PatchDiscriminator
from pure_jax.train.optimiser import adamw, averaged
from pure_jax.vqgan import VQGAN, from_pixels, l2_normalize


@flax.struct.dataclass
class VQGANState:
    """Everything a resumed run needs."""

    step: Array
    params: Any
    ema: Any
    opt_state: Any
    disc_params: Any
    disc_opt_state: Any


def crops_at(photos: list[Photo], config: VQGANTrainConfig, step: int) -> np.ndarray:
    """The uint8 [batch, crop, crop, 3] batch of one step; depends on the seed and the step alone."""
    rng = np.random.default_rng([config.seed, step])
    return np.stack([_crop(photos, config, rng) for _ in range(config.batch)])


def _crop(photos: list[Photo], config: VQGANTrainConfig, rng: np.random.Generator) -> np.ndarray:
    size = config.crop
    if rng.random() >= config.degraded_share:
        return random_crop(photos, size, rng)[0]
    clean = random_crop(photos, 2 * size, rng)[0].astype(np.float32) / 255
    lq, _ = degrade(clean, REAL_ESRGAN, int(rng.integers(2**31)))
    enlarged = np.asarray(Image.fromarray(lq).resize((2 * size, 2 * size), Image.Resampling.BICUBIC))
    top, left = rng.integers(size + 1, size=2)
    return enlarged[top : top + size, left : left + size]


def codebook_loss(z: Array, e: Array) -> Array:
    """Mean squared distance of codes e to the latents z they stand for, both [..., d]; moves the codes only."""
    return jnp.square(e - jax.lax.stop_gradient(z)).mean()


def commitment_loss(z: Array, e: Array) -> Array:
    """Mean squared distance of latents z to their codes e, both [..., d]; moves the latents only."""
    return jnp.square(jax.lax.stop_gradient(e) - z).mean()


def assignment_entropy(z: Array, codebook: Array, temperature: float = 0.01) -> Array:
    """LlamaGen's entropy term for unit vectors z [n, d] and codebook [codes, d]: mean H(p) - H(mean p), p soft."""
    distances = jnp.sum(z * z, -1, keepdims=True) + jnp.sum(codebook * codebook, -1) - 2.0 * z @ codebook.T
    logits = -distances / temperature
    log_p = jax.nn.log_softmax(logits + 1e-5, axis=-1)
    p = jnp.exp(log_p)
    mean_p = p.mean(axis=0)
    return -(p * log_p).sum(-1).mean() + (mean_p * jnp.log(mean_p + 1e-5)).sum()


@partial(jax.jit, static_argnames=("model_config", "config"))
def init_state(model_config: VQGANConfig, config: VQGANTrainConfig) -> VQGANState:
    """Fresh weights and optimiser states."""
    keys = jax.random.split(jax.random.key(config.seed))
    image = jnp.zeros((1, config.crop, config.crop, 3))
    params = VQGAN(model_config).init(keys[0], image)["params"]
    disc_params = _discriminator(config).init(keys[1], image)["params"]
    tx = adamw(config.optimiser, config.steps)
    ema = jax.tree.map(jnp.copy, params)
    return VQGANState(jnp.zeros((), jnp.int32), params, ema, tx.init(params), disc_params, tx.init(disc_params))


def _discriminator(config: VQGANTrainConfig) -> PatchDiscriminator:
    return PatchDiscriminator(config.discriminator_width, config.discriminator_layers)


def make_step(
    model_config: VQGANConfig, config: VQGANTrainConfig, perceptual_params: Any | None, quantise: bool = True
) -> Callable[[VQGANState, Array], tuple[VQGANState, dict[str, Array]]]:
    """The jitted update (state, uint8 crops) -> (state, metrics): generator, EMA, then discriminator.

    The discriminator sees the reconstruction from before the generator's update, and neither its loss nor the
    adversarial term exists before `adversarial_start`. Without `quantise` it is an autoencoder's update.
    """
    model: Any = VQGAN(model_config)
    disc: Any = _discriminator(config)
    tx = adamw(config.optimiser, config.steps)

    def forward(params: Any, x: Array, key: Array) -> tuple[Array, Array, Array, Array]:
        if quantise:
            return model.apply({"params": params}, x)
        z = model.apply({"params": params}, x, method="latents")
        noisy = l2_normalize(z + config.autoencoder_noise * jax.random.normal(key, z.shape))
        return model.apply({"params": params}, noisy, method="decode_latents"), z, z, jnp.zeros(z.shape[:-1], jnp.int32)

    def generator_loss(params: Any, disc_params: Any, x: Array, adversarial: Array, key: Array):
        y, z, e, codes = forward(params, x, key)
        codebook = model.apply({"params": params}, method=lambda m: m.quantizer.vectors())
        l1, l2 = jnp.abs(x - y).mean(), jnp.square(x - y).mean()
        difference = x - y
        chroma = jnp.abs(difference[..., ::2] - difference[..., 1:2]).mean()
        perceptual = jnp.zeros(())
        if perceptual_params is not None:
            perceptual = perceptual_distance(perceptual_params, (x + 1) / 2, (y + 1) / 2).mean()
        quantisation = config.codebook_weight * codebook_loss(z, e) + config.commitment_weight * commitment_loss(z, e)
        entropy = jnp.zeros(())
        if config.entropy_weight:
            entropy = assignment_entropy(rearrange(z, "b h w d -> (b h w) d"), codebook)
        loss = (
            config.l1_weight * l1
            + config.l2_weight * l2
            + config.chroma_weight * chroma
            + config.perceptual_weight * perceptual
            + quantisation
            + config.entropy_weight * entropy
        )
        fooling = jnp.zeros(())
        if config.adversarial_weight:
            fooling = jax.lax.cond(
                adversarial, lambda: -disc.apply({"params": disc_params}, y).mean(), lambda: jnp.zeros(())
            )
        used = jnp.zeros(model_config.codebook_size).at[codes.reshape(-1)].set(1.0).mean()
        metrics = {"loss": loss, "l1": l1, "psnr": -10 * jnp.log10(l2 / 4), "chroma": chroma, "perceptual": perceptual}
        metrics |= {"quantisation": quantisation, "codes_in_batch": used, "fooling": fooling}
        return loss + config.adversarial_weight * fooling, (metrics, y)

    def discriminator_loss(disc_params: Any, x: Array, y: Array) -> Array:
        real, fake = (disc.apply({"params": disc_params}, image) for image in (x, y))
        return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean())

    @jax.jit
    def step_fn(state: VQGANState, crops: Array) -> tuple[VQGANState, dict[str, Array]]:
        x = from_pixels(crops)
        adversarial = state.step >= config.adversarial_start
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        grads, (metrics, y) = jax.grad(generator_loss, has_aux=True)(
            state.params, state.disc_params, x, adversarial, key
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = averaged(state.ema, params, state.step, config.ema_decay)

        def update_discriminator():
            loss, grads = jax.value_and_grad(discriminator_loss)(state.disc_params, x, y)
            updates, opt = tx.update(grads, state.disc_opt_state, state.disc_params)
            return optax.apply_updates(state.disc_params, updates), opt, loss

        as_it_was = state.disc_params, state.disc_opt_state, jnp.zeros(())
        judged = as_it_was
        if config.adversarial_weight:
            judged = jax.lax.cond(adversarial, update_discriminator, lambda: as_it_was)
        disc_params, disc_opt, metrics["discriminator"] = judged
        return VQGANState(state.step + 1, params, ema, opt_state, disc_params, disc_opt), metrics

    return step_fn


def fill_codebook(model_config: VQGANConfig, state: VQGANState, crops: np.ndarray, seed: int) -> VQGANState:
    """Set the codebook to k-means centres of the latents of uint8 crops [n, H, W, 3]."""
    latents = jax.jit(lambda p, x: VQGAN(model_config).apply({"params": p}, from_pixels(x), method="latents"))
    z = np.concatenate([np.asarray(latents(state.params, crops[i : i + 16])) for i in range(0, len(crops), 16)])
    z = z.reshape(-1, model_config.codebook_dim)
    centres, _ = kmeans2(z, model_config.codebook_size, iter=20, minit="points", rng=np.random.default_rng(seed))
    codebook = l2_normalize(jnp.asarray(centres, jnp.float32))

    def with_codebook(params: Any) -> Any:
        return params | {"quantizer": {"codebook": codebook}}

    return dataclasses.replace(state, params=with_codebook(state.params), ema=with_codebook(state.ema))


def codebook_usage(model_config: VQGANConfig, params: Any, crops: np.ndarray) -> float:
    """Share of the codebook that appears in the codes of uint8 crops [n, H, W, 3]."""
    encode = jax.jit(lambda p, x: VQGAN(model_config).apply({"params": p}, from_pixels(x), method="encode"))
    codes = np.concatenate([np.asarray(encode(params, crops[i : i + 16])).ravel() for i in range(0, len(crops), 16)])
    return len(np.unique(codes)) / model_config.codebook_size


def write_samples(path: Path, model_config: VQGANConfig, params: Any, crops: np.ndarray) -> None:
    """A PNG with crops above and their reconstructions below, to be looked at."""
    y = VQGAN(model_config).apply({"params": params}, from_pixels(jnp.asarray(crops)))[0]
    out = np.asarray(jnp.clip((y + 1) * 127.5, 0, 255)).astype(np.uint8)
    with replacing(path) as beside:
        Image.fromarray(rearrange(np.stack([crops, out]), "r n h w c -> (r h) (n w) c")).save(beside, format="PNG")
