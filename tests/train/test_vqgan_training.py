"""The tokenizer's update has LlamaGen's losses and order; k-means fills the codebook; crops follow (seed, step)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from PIL import Image

from pure_jax.config import VQGANConfig
from pure_jax.train.config import OptimiserConfig, VQGANTrainConfig
from pure_jax.train.data.photos import Photo
from pure_jax.train.discriminator import PatchDiscriminator
from pure_jax.train.vqgan import (
    assignment_entropy,
    codebook_loss,
    codebook_usage,
    commitment_loss,
    crops_at,
    fill_codebook,
    init_state,
    make_step,
    write_samples,
)
from pure_jax.vqgan import VQGAN, from_pixels

MODEL = VQGANConfig(
    channels=8, channel_multipliers=(1,), num_res_blocks=1, latent_channels=8, codebook_size=32, num_groups=2
)
OPTIONS = VQGANTrainConfig(
    batch=2,
    crop=8,
    steps=50,
    chroma_weight=0.5,
    perceptual_weight=0.0,
    adversarial_start=2,
    discriminator_width=16,
    discriminator_layers=1,
    entropy_weight=0.1,
    ema_decay=0.5,
    optimiser=OptimiserConfig(1e-2, 1e-2, warmup_steps=0, weight_decay=0.0, clip_norm=1.0),
)


def smooth_photo(seed: int, side: int = 48) -> Photo:
    small = np.random.default_rng(seed).integers(256, size=(6, 6, 3), dtype=np.uint8)
    return Photo(str(seed), np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)), "")


PHOTOS = [smooth_photo(0), smooth_photo(1)]
CROPS = crops_at(PHOTOS, OPTIONS, 0)


@pytest.fixture(scope="module")
def start():
    """`init_state` with numpy's numbers: its own draws take as long as a compilation (the commands' test has them)."""
    shapes = jax.eval_shape(lambda: init_state(MODEL, OPTIONS))
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> jax.Array:
        name = path[-1].key
        if name in ("bias", "scale"):
            return jnp.full(leaf.shape, name == "scale", leaf.dtype)
        values = rng.normal(size=leaf.shape)
        norm = np.linalg.norm(values, axis=1, keepdims=True) if name == "codebook" else np.sqrt(values[..., 0].size)
        return jnp.asarray(values / norm, leaf.dtype)

    params, disc_params = (jax.tree_util.tree_map_with_path(fill, t) for t in (shapes.params, shapes.disc_params))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)  # as optimisers start
    return dataclasses.replace(zeros, params=params, ema=params, disc_params=disc_params)


@pytest.fixture(scope="module")
def step_fn():
    return make_step(MODEL, OPTIONS, None)


@pytest.fixture(scope="module")
def forward():
    return jax.jit(lambda params, x: VQGAN(MODEL).apply({"params": params}, x))


@pytest.fixture(scope="module")
def critic():
    apply = jax.jit(lambda params, x: PatchDiscriminator(16, 1).apply({"params": params}, x))
    return lambda params, x: np.asarray(apply(params, jnp.asarray(x, jnp.float32)), np.float64)


def hinge(real: np.ndarray, fake: np.ndarray) -> float:
    return 0.5 * float(np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean())


@pytest.fixture(scope="module")
def trained(start, step_fn):
    """(state, metrics of every step) after 30 steps on one batch, all before the discriminator's start."""
    state, rows = start, []
    for _ in range(30):
        state, metrics = step_fn(at(state, 0), CROPS)
        rows.append(jax.tree.map(float, metrics))
    return state, rows


def at(state: Any, step: int) -> Any:
    return dataclasses.replace(state, step=jnp.asarray(step, jnp.int32))


def equal(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b)))


def test_crops_follow_from_seed_and_step():
    assert CROPS.shape == (2, 8, 8, 3) and CROPS.dtype == np.uint8
    np.testing.assert_array_equal(CROPS, crops_at(PHOTOS, OPTIONS, 0))
    assert (CROPS != crops_at(PHOTOS, OPTIONS, 1)).any()
    assert (CROPS != crops_at(PHOTOS, dataclasses.replace(OPTIONS, seed=1), 0)).any()


def test_degraded_crops_have_the_same_shape_and_less_detail():
    noise = [Photo("n", np.random.default_rng(0).integers(256, size=(80, 80, 3), dtype=np.uint8), "")]
    options = dataclasses.replace(OPTIONS, batch=8, crop=20)
    plain = crops_at(noise, options, 3)
    degraded = crops_at(noise, dataclasses.replace(options, degraded_share=1.0), 3)
    assert degraded.shape == plain.shape and degraded.dtype == np.uint8
    detail = [np.abs(np.diff(crops.astype(float), axis=2)).mean() for crops in (plain, degraded)]
    assert detail[1] < 0.5 * detail[0]
    np.testing.assert_array_equal(degraded, crops_at(noise, dataclasses.replace(options, degraded_share=1.0), 3))


def test_assignment_entropy_is_the_formula():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(50, 8)), rng.normal(size=(9, 8))
    z, codebook = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in normal)
    for temperature in (0.01, 1.0):
        p = scipy.special.softmax(-np.square(z[:, None] - codebook).sum(-1) / temperature, axis=1)
        per_position = scipy.special.entr(p).sum(1).mean()
        expected = per_position - scipy.special.entr(p.mean(0)).sum()
        # Measured: 9e-6 for 9 codes, the 1e-5 that LlamaGen adds inside the logarithm of the mean.
        found = assignment_entropy(jnp.asarray(z, jnp.float32), jnp.asarray(codebook, jnp.float32), temperature)
        assert float(found) == pytest.approx(expected, abs=1e-4)


def test_entropy_prefers_decided_positions_and_many_codes():
    codebook = jnp.eye(8)
    spread, collapsed = assignment_entropy(codebook, codebook), assignment_entropy(codebook[:1].repeat(8, 0), codebook)
    assert float(spread) == pytest.approx(-np.log(8), abs=1e-3)
    assert float(collapsed) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("loss", "moved"), [(codebook_loss, 1), (commitment_loss, 0)])
def test_codebook_loss_moves_the_codes_and_commitment_loss_the_latents(loss, moved):
    z, e = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    assert float(loss(z, e)) == pytest.approx(np.square(z - e).mean(), rel=1e-5)
    gradients = jax.grad(loss, argnums=(0, 1))(z, e)
    wanted = [2 * (z - e) / z.size, 2 * (e - z) / z.size]
    wanted[1 - moved] *= 0
    for gradient, right in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, right, rtol=1e-5, atol=1e-7)


def test_metrics_are_those_of_the_state_before_the_update(start, step_fn, forward, critic):
    _, metrics = step_fn(at(start, 2), CROPS)
    x = np.asarray(from_pixels(jnp.asarray(CROPS)), np.float64)
    y, z, e, codes = (np.asarray(out, np.float64) for out in forward(start.params, from_pixels(jnp.asarray(CROPS))))
    codebook = np.asarray(start.params["quantizer"]["codebook"])
    quantisation = (1 + 0.25) * np.square(e - z).mean()
    entropy = float(assignment_entropy(jnp.asarray(z.reshape(-1, 8), jnp.float32), jnp.asarray(codebook)))
    real, fake = (critic(start.disc_params, image) for image in (x, y))
    chroma = np.abs((x - y)[..., [0, 2]] - (x - y)[..., [1]]).mean()
    expected = {
        "l1": np.abs(x - y).mean(),
        "psnr": 10 * np.log10(4 / np.square(x - y).mean()),
        "chroma": chroma,
        "perceptual": 0.0,
        "quantisation": quantisation,
        "loss": np.square(x - y).mean() + 0.5 * chroma + quantisation + 0.1 * entropy,
        "codes_in_batch": len(np.unique(codes)) / 32,
        "fooling": -fake.mean(),
        "discriminator": hinge(real, fake),
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        # Measured: 1e-6 relative.
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_update_reduces_the_loss_on_one_batch(trained):
    losses = [row["loss"] for row in trained[1]]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.5  # measured: 0.72 falls to -0.15, the entropy's sign
    assert trained[1][-1]["psnr"] > trained[1][0]["psnr"] + 10


def test_discriminator_rests_until_its_start(start, step_fn, forward, critic):
    before, metrics = step_fn(at(start, 1), CROPS)
    assert equal((before.disc_params, before.disc_opt_state), (start.disc_params, start.disc_opt_state))
    assert float(metrics["discriminator"]) == float(metrics["fooling"]) == 0
    after, metrics = step_fn(at(start, 2), CROPS)
    assert not equal(after.disc_params, start.disc_params)
    assert float(metrics["discriminator"]) > 0
    assert not equal(after.params, before.params)  # the adversarial term reaches the generator
    x = from_pixels(jnp.asarray(CROPS))
    y = forward(start.params, x)[0]
    losses = [hinge(critic(params, x), critic(params, y)) for params in (start.disc_params, after.disc_params)]
    assert losses[1] < losses[0]  # and it learns to tell them apart


@pytest.mark.parametrize(("step", "decay"), [(0, 1 / 10), (5, 6 / 15), (100, 0.5)])
def test_average_of_the_weights(start, step_fn, trained, step, decay):
    state = dataclasses.replace(at(start, step), ema=trained[0].params)
    new, _ = step_fn(state, CROPS)
    assert int(new.step) == step + 1
    expected = jax.tree.map(lambda old, p: decay * old + (1 - decay) * p, state.ema, new.params)
    # Measured: 2.4e-7.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-7), new.ema, expected)


def test_gradient_passes_the_quantiser_straight_through(start):
    model: Any = VQGAN(MODEL)
    x = from_pixels(jnp.asarray(CROPS))
    weights = jnp.asarray(np.random.default_rng(0).normal(size=x.shape), jnp.float32)

    @jax.jit
    def both(params):
        grads = jax.grad(lambda p: (model.apply({"params": p}, x)[0] * weights).sum())(params)
        z, pull = jax.vjp(lambda p: model.apply({"params": p}, x, method="latents"), params)
        e = model.apply({"params": params}, model.apply({"params": params}, x, method="encode"),
                        method=lambda m, codes: m.quantizer.lookup(codes))  # fmt: skip
        at_codes = jax.grad(lambda v: (model.apply({"params": params}, v, method="decode_latents") * weights).sum())(e)
        return grads, pull(at_codes)[0], jnp.abs(z - e).max()

    grads, expected, distance = both(start.params)
    assert distance > 0.1
    for part in ("encoder", "quant_conv"):
        # Measured: 2e-5 of gradients up to 30.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), grads[part], expected[part])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads["encoder"])) > 0.1
    assert not np.any(grads["quantizer"]["codebook"])


def test_kmeans_fills_the_codebook_with_unit_rows_that_are_used(start, forward):
    crops = np.concatenate([crops_at(PHOTOS, OPTIONS, step) for step in range(8)])
    filled = fill_codebook(MODEL, start, crops, seed=0)
    codebook = np.asarray(filled.params["quantizer"]["codebook"])
    np.testing.assert_allclose(np.linalg.norm(codebook, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(codebook, filled.ema["quantizer"]["codebook"])
    rest = {name: tree for name, tree in filled.params.items() if name != "quantizer"}
    assert equal(rest, {name: start.params[name] for name in rest})
    assert equal(filled, fill_codebook(MODEL, start, crops, seed=0))

    usage = codebook_usage(MODEL, filled.params, crops)
    pairs = from_pixels(jnp.asarray(crops)).reshape(8, 2, 8, 8, 3)
    before, after = ([forward(state.params, pair) for pair in pairs] for state in (start, filled))
    assert usage == len(np.unique([codes for *_, codes in after])) / 32
    assert usage > 0.9
    # Against 32 random directions; measured: 0.35 of their error.
    errors = [np.mean([np.square(z - e).mean() for _, z, e, _ in rows]) for rows in (before, after)]
    assert errors[1] < 0.7 * errors[0]


def test_without_quantiser_the_codebook_rests_and_the_picture_is_learnt(start):
    options = dataclasses.replace(OPTIONS, entropy_weight=0.0, adversarial_weight=0.0)
    step_fn = make_step(MODEL, options, None, quantise=False)
    state, first = step_fn(start, CROPS)
    for _ in range(29):
        state, metrics = step_fn(state, CROPS)
    assert float(metrics["l1"]) < 0.7 * float(first["l1"])
    assert float(metrics["quantisation"]) == float(metrics["fooling"]) == 0
    assert equal(state.params["quantizer"], start.params["quantizer"])
    assert equal(state.disc_params, start.disc_params)  # weight 0 switches it off for good


def test_samples_show_crops_above_reconstructions(tmp_path, start, forward):
    write_samples(tmp_path / "samples.png", MODEL, start.params, CROPS)
    with Image.open(tmp_path / "samples.png") as image:
        shown = np.asarray(image)
    np.testing.assert_array_equal(shown[:8], np.concatenate(list(CROPS), axis=1))
    y = np.asarray(forward(start.params, from_pixels(jnp.asarray(CROPS)))[0])
    wanted = np.clip((np.concatenate(list(y), axis=1) + 1) * 127.5, 0, 255)
    assert np.abs(shown[8:] - wanted).max() < 1.01  # truncated to 8 bits
