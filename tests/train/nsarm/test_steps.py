"""Both stages' losses are those of PyTorch code; what rests, rests; what is flipped is made good."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F

from pure_jax.nsarm.bsq import decompose
from pure_jax.train.config import OptimiserConfig
from pure_jax.train.nsarm.config import MapTrainConfig, ScalesTrainConfig
from pure_jax.train.nsarm.initial import decays, initial_params
from pure_jax.train.nsarm.pairs import Pairs
from pure_jax.train.nsarm.steps import init_state, make_step, map_objective, scales_objective
from pure_jax.train.nsarm.targets import map_loss, random_flips, taught, token_weights
from pure_jax.vqgan import from_pixels
from tests.nsarm_models import FEW_SCALES, tiny_config, tiny_pair

CONFIG, KEY = tiny_config(next_input="linear"), jax.random.key(0)
RNG = np.random.default_rng(1)
PIXELS = [RNG.integers(256, size=(2, side, side, 3), dtype=np.uint8) for side in (8, 32)]
LQ, HQ = (from_pixels(jnp.asarray(pixels)) for pixels in PIXELS)
OPTIMISER = OptimiserConfig(1e-3, 1e-3, warmup_steps=0, b2=0.97, weight_decay=0.1, clip_norm=1e9)
PAIRS = Pairs(*map(jnp.asarray, PIXELS))
# Of steps, which take long to compile.
FEW = tiny_config(**FEW_SCALES)
SMALL = Pairs(*(jnp.asarray(pixels[:, :side, :side]) for pixels, side in zip(PIXELS, (4, 16), strict=True)))


def pair():
    return tiny_pair(next_input="linear")


def resting():
    return {name: pair().model.params[name] for name in ("vae", "prompt")}


def few(*names):
    params = tiny_pair(**FEW_SCALES).model.params
    return {name: params[name] for name in names}


def begin(params, options):
    """`init_state`, compiled as one program."""
    return jax.jit(lambda params: init_state(params, options))(params)


def up(x: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(x[:, :, None], size=(1, side, side), mode="trilinear")[:, :, 0]


def patches(x: torch.Tensor) -> torch.Tensor:
    return F.pixel_unshuffle(x, CONFIG.patch).flatten(2).transpose(1, 2)


def features(images: jax.Array) -> torch.Tensor:
    return pair().vae.encoder(torch.tensor(np.asarray(images)).permute(0, 3, 1, 2))


@torch.no_grad()
def stage_two(first: int, reweight: bool) -> float:
    """Algorithm 2 and the re-weighted bit loss, as the paper and Infinity's code have them."""
    sides = [CONFIG.patch * side for side in CONFIG.sides]
    given = pair().infinity.map_transformer(features(LQ))
    f, total, inputs, labels = features(HQ), 0.0, [], []
    for i, side in enumerate(sides):
        if i:
            inputs.append(patches(up(total, side)))
        r = given[i] if i < len(given) else F.interpolate(f - total, size=(side, side), mode="area")
        bits = r > 0
        total = total + up(torch.where(bits, 1.0, -1.0) / r.shape[1] ** 0.5, sides[-1])
        labels.append(patches(bits.float()).long())
    prompt = [torch.tensor(np.asarray(resting()["prompt"]["features"]))] * len(f)
    logits = pair().infinity(torch.cat(inputs, 1), prompt, [False] * len(f))
    each = F.cross_entropy(logits.flatten(0, 2), torch.cat(labels, 1).flatten(), reduction="none")
    each = each.view(*logits.shape[:3]).mean(-1)
    weights = [
        torch.full((n * n,), (sides[-1] / n if reweight else 1.0) if i >= first else 0.0)
        for i, n in enumerate(CONFIG.sides)
    ]
    w = torch.cat(weights)
    return float((each * w / w.sum()).sum(-1).mean())


@pytest.mark.parametrize(("first", "reweight"), [(None, True), (0, False)])
def test_the_second_stages_loss_is_that_of_pytorch(first, reweight):
    options = ScalesTrainConfig(batch=2, hidden_share=0.0, first_scored=first, reweight=reweight)
    params = {name: pair().model.params[name] for name in ("transformer", "map_network")}
    loss, metrics = jax.jit(scales_objective(CONFIG, options))(params, resting(), PAIRS, KEY)
    wanted = stage_two(CONFIG.given_scales if first is None else first, reweight)
    assert float(loss) == pytest.approx(wanted, abs=1e-6)  # measured 1.2e-7
    assert 0 < metrics["bits_right"] < 1


@pytest.mark.parametrize("kind", ["squares", "bits"])
def test_the_first_stages_loss_is_that_of_pytorch(kind):
    options = MapTrainConfig(batch=2, loss=kind)
    params = {"map_network": pair().model.params["map_network"]}
    loss, _ = jax.jit(map_objective(CONFIG, options))(params, resting(), PAIRS, KEY)
    with torch.no_grad():
        found, f, total, parts = pair().infinity.map_transformer(features(LQ)), features(HQ), 0.0, []
        for own in found:
            side = own.shape[-1]
            target = F.interpolate(f - total, size=(side, side), mode="area")
            total = total + up(torch.where(target > 0, 1.0, -1.0) / f.shape[1] ** 0.5, f.shape[-1])
            if kind == "squares":
                parts.append(F.mse_loss(own, target))
            else:
                logits = own / target.abs().mean()
                parts.append(F.binary_cross_entropy_with_logits(logits, (target > 0).float()))
    assert float(loss) == pytest.approx(float(sum(parts) / len(parts)), abs=1e-6)


def test_latents_are_measured_against_what_the_maps_own_scales_leave():
    config = dataclasses.replace(CONFIG, map_network=dataclasses.replace(CONFIG.map_network, predicts="latents"))
    params = {"map_network": pair().model.params["map_network"]}
    loss, _ = jax.jit(map_objective(config, MapTrainConfig(batch=2, loss="squares")))(params, resting(), PAIRS, KEY)
    with torch.no_grad():
        # What is taken off cancels out: the distance is that of the latents, whatever the network's own bits are.
        pairs = [
            (own, F.adaptive_avg_pool2d(features(HQ), own.shape[-1]))
            for own in pair().infinity.map_transformer(features(LQ))
        ]
        wanted = sum(F.mse_loss(own, target) for own, target in pairs) / len(pairs)
    assert float(loss) == pytest.approx(float(wanted), abs=1e-6)


def test_the_maps_losses_are_nothing_where_it_is_right():
    target = jnp.asarray(RNG.normal(size=(2, 3, 3, 5)), jnp.float32)
    assert map_loss([target], [target], "squares") == 0
    assert map_loss([100 * target], [target], "bits") < map_loss([target], [target], "bits") < np.log(2)


def test_flipped_bits_are_written_and_their_labels_are_not():
    latent = jnp.asarray(RNG.normal(size=(1, 16, 16, 5)), jnp.float32)
    flips = [jnp.zeros((1, *side, 5), bool) for side in CONFIG.latent_scales]
    flips[1] = flips[1].at[0, 0, 0, 0].set(True)
    right, wrong = (taught(latent, [], CONFIG, "area", own) for own in (None, flips))
    ends = CONFIG.ends
    np.testing.assert_array_equal(right.labels[:, : ends[1]], wrong.labels[:, : ends[1]])
    np.testing.assert_array_equal(right.tokens[:, : ends[1] - 1], wrong.tokens[:, : ends[1] - 1])
    assert (right.tokens[:, ends[1] - 1 :] != wrong.tokens[:, ends[1] - 1 :]).any()
    # The last scale is quantised from what the others have left: it makes the wrong bit good, as far as it can.
    assert (right.labels[:, ends[-2] :] != wrong.labels[:, ends[-2] :]).any()
    scaled = decompose(latent, CONFIG.latent_scales, flips=flips)
    assert (
        jnp.abs(scaled.total - latent).mean()
        < 1.2 * jnp.abs(decompose(latent, CONFIG.latent_scales).total - latent).mean()
    )


def test_flips_have_one_strength_for_a_scale_up_to_the_largest():
    drawn = [random_flips(jax.random.key(i), CONFIG, 64, 0.3)[-1].mean() for i in range(20)]
    assert 0 <= min(drawn) and 0.2 < max(drawn) < 0.33 and np.std(drawn) > 0.05


def test_weights_count_a_scale_by_its_side():
    weights = token_weights(CONFIG, 3, reweight=True)
    parts = np.split(weights, CONFIG.ends[:-1])
    np.testing.assert_allclose([part.sum() for part in parts], np.array([0, 0, 0, 5, 8]) / 13, atol=1e-6)


def test_a_step_moves_both_networks_and_the_published_parameters_do_not_decay():
    options = ScalesTrainConfig(batch=2, steps=10, ema_decay=0.5, optimiser=OPTIMISER)
    params = few("transformer", "map_network")
    step_fn = make_step(options, scales_objective(FEW, options))
    state, metrics = step_fn(begin(params, options), SMALL, resting())
    assert int(state.step) == 1 and np.isfinite(float(metrics["loss"]))
    for name in params:
        same = jax.tree.map(np.array_equal, params[name], state.params[name])
        assert np.mean(jax.tree.leaves(same)) < 0.5, name
    decaying = jax.tree_util.tree_flatten_with_path(decays(params))[0]
    names = {path[-1].key for path, decaying_ in decaying if decaying_}
    assert names == {"kernel", "kv"}


def test_gradients_in_parts_are_those_of_the_whole_batch():
    four = jax.tree.map(lambda x: jnp.concatenate([x, x[:, ::-1]]), SMALL)
    params = few("map_network")
    ends = []
    for parts in (1, 2):
        options = MapTrainConfig(batch=4, steps=10, accumulate=parts, optimiser=OPTIMISER)
        objective = map_objective(FEW, options)
        ends.append(make_step(options, objective)(begin(params, options), four, resting()))
    (whole, metrics), (state, own) = ends
    assert float(own["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)
    for a, b in zip(*(jax.tree.leaves(optax.tree.get(end.opt_state, "mu")) for end in (whole, state)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * float(metrics["grad_norm"]))


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    options = MapTrainConfig(batch=2, steps=10, optimiser=OPTIMISER)
    params = jax.tree.map(lambda x: np.full_like(x, np.nan), few("map_network"))
    begun = begin(params, options)
    state, metrics = make_step(options, map_objective(FEW, options))(begun, SMALL, resting())
    assert int(state.step) == 1 and metrics["skipped"] == 1 and metrics["loss"] == 0
    for a, b in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(begun.opt_state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fresh_blocks_are_almost_the_identity():
    config = dataclasses.replace(tiny_config())
    params = initial_params(config, ("transformer",), 0)["transformer"]
    block, width = params["layers_0"], config.transformer.hidden_size
    assert np.abs(block["ada"][:2]).max() < 1e-4 < np.abs(block["ada"][2:]).max() < 1e-2
    assert np.std(block["fc1"]["kernel"]) == pytest.approx((1 / (3 * width)) ** 0.5 * 0.88, rel=0.1)  # cut at 2
    assert np.std(block["fc2"]["kernel"]) < 0.6 * np.std(block["fc1"]["kernel"])
    assert np.std(params["head"]["kernel"]) < 0.03 * np.std(block["fc1"]["kernel"])
    assert (block["self_attn"]["factor"] == np.float32(np.log(4))).all()
