"""A picture that is written with a cache, scale by scale, is the one that a plain loop in PyTorch writes."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pure_jax.errors import PureError
from pure_jax.infer.nsarm.captions import conditioning_of
from pure_jax.infer.nsarm.generate import equal_parts, generate
from pure_jax.nsarm.config import SamplingConfig
from tests.nsarm_models import Pair, tiny_config, tiny_pair

CONFIG = tiny_config()
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
DRAWN = [side**2 for side in CONFIG.sides[3:]]
NOISE = [np.random.default_rng(1).logistic(size=(3, n, 20)).astype(np.float32) for n in DRAWN]
SAMPLINGS = {
    "default": SamplingConfig(),
    "greedy": SamplingConfig(temperature=0.0),
    "guided, per scale": SamplingConfig(temperature=(1.0, 0.7), guidance_scale=(3.0, 1.5), top_p=0.9),
}


def plain(pair: Pair, sampling: SamplingConfig) -> tuple[list[torch.Tensor], torch.Tensor]:
    """No cache: for every scale the whole masked forward. Returns (bits of the drawn scales, NCHW; the sum)."""
    config, (model, infinity, vae) = pair.model.config, pair
    last = 2 * config.sides[-1]
    pixels = 2 * (torch.tensor(PICTURES).permute(0, 3, 1, 2) / 255) - 1
    given = infinity.map_transformer(vae.encoder(pixels))
    total = torch.zeros(3, 5, last, last)
    tokens = torch.zeros(3, config.ends[-1] - 1, 20)
    caption = torch.tensor(np.asarray(model.params["prompt"]["features"]))
    all_bits = []
    for k, side in enumerate(config.sides):
        if k:
            small = F.interpolate(total, size=(2 * side, 2 * side), mode="area")
            tokens[:, config.ends[k - 1] - 1 : config.ends[k] - 1] = F.pixel_unshuffle(small, 2).flatten(2).mT
        if k < len(given):
            bits = F.normalize(given[k], dim=1) > 0
        else:
            (tau, scale), noise = sampling.at(k - len(given)), torch.tensor(NOISE[k - len(given)])
            span = slice(config.ends[k - 1], config.ends[k])
            told, untold = (infinity(tokens, [caption] * 3, [hide] * 3)[:, span] for hide in (False, True))
            logits = scale * told + (1 - scale) * untold
            gap = logits[..., 1] - logits[..., 0]
            if tau:
                least = torch.sigmoid(-gap.abs() / tau)
                drawn = torch.where(least <= 1 - sampling.top_p, gap > 0, gap / tau > noise)
            else:
                drawn = gap > 0
            bits = F.pixel_shuffle(drawn.mT.unflatten(2, (side, side)).float(), 2) > 0
            all_bits.append(bits)
        codes = torch.where(bits, 1.0, -1.0) / 5**0.5
        total = total + F.interpolate(codes[:, :, None], size=(1, last, last), mode="trilinear")[:, :, 0]
    return all_bits, total


def written(pair: Pair, name: str, **options):
    sampling = SAMPLINGS[name]
    about = conditioning_of(pair.model, "", sampling.guided)
    return generate(pair.model, PICTURES, about, sampling=sampling, **options)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_bit_is_the_one_of_a_plain_loop(name):
    pair = tiny_pair()
    ours = written(pair, name, noise=NOISE)
    with torch.no_grad():
        bits, total = plain(pair, SAMPLINGS[name])
    assert len(ours.bits) == len(bits) == 2
    for own, wanted in zip(ours.bits, bits, strict=True):
        np.testing.assert_array_equal(own, wanted.permute(0, 2, 3, 1))
        assert 0.05 < own.mean() < 0.95
    np.testing.assert_allclose(ours.latents, total.permute(0, 2, 3, 1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["default", "guided, per scale"])
def test_neither_the_batch_nor_the_way_layers_are_stored_changes_a_bit(name):
    scanned = dataclasses.replace(CONFIG.transformer, scan_layers=True)
    whole = written(tiny_pair(), name, seed=7)
    parts = written(tiny_pair(), name, seed=7, batch=2)
    other = written(tiny_pair(transformer=scanned), name, seed=7, batch=3)
    for own, in_parts, stacked in zip(whole.bits, parts.bits, other.bits, strict=True):
        np.testing.assert_array_equal(own, in_parts)
        np.testing.assert_array_equal(own, stacked)
    assert any((a != b).any() for a, b in zip(whole.bits, written(tiny_pair(), name, seed=8).bits, strict=True))
    assert whole.entropy.shape == (3, 8, 8) and 0 < whole.entropy.min() and whole.entropy.max() < CONFIG.max_entropy


def test_a_schedule_that_the_map_network_fills_needs_no_pass():
    sides = (1, 2, 4)
    pair = tiny_pair(sides=sides)
    ours = generate(pair.model, PICTURES, conditioning_of(pair.model, "", False))
    assert ours.bits == [] and ours.latents.shape == (3, 8, 8, 5) and not ours.entropy.any()


def test_a_batch_below_1_is_refused():
    with pytest.raises(PureError, match="the batch is 0"):
        written(tiny_pair(), "default", batch=0)


def test_parts_are_equally_long_and_cover_all():
    assert equal_parts(5, 3).tolist() == [[0, 1, 2], [3, 4, 4]]
    assert equal_parts(2, 16).tolist() == [[0, 1]]


def test_what_is_shown_grows_to_what_is_written():
    pair = tiny_pair()
    seen = []

    def show(places, share, latents):
        seen.append((places.tolist(), share, latents()))

    ours = written(pair, "default", batch=2, show=show)
    np.testing.assert_array_equal(ours.latents, written(pair, "default", batch=2).latents)
    ends, given = pair.model.config.ends, pair.model.config.given_scales
    shares = [end / ends[-1] for end in ends[given - 1 :]]
    assert [places for places, _, _ in seen] == [[0, 1]] * len(shares) + [[2]] * len(shares)
    assert [share for _, share, _ in seen] == shares * 2 and shares[-1] == 1.0
    for places, share, latents in seen:
        assert (np.abs(latents - ours.latents[places]).max() == 0) == (share == 1.0)


def test_where_memory_runs_out_half_as_many_are_tried(monkeypatch):
    from pure_jax.infer.nsarm import generate as module

    tried, real = [], module._write

    def hungry(model, nets, sampling, pictures, about, draw, first, batch, progress, show):
        tried.append(batch)
        if batch > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return real(model, nets, sampling, pictures, about, draw, first, batch, progress, show)

    model = tiny_pair().model
    pictures = np.random.default_rng(0).integers(256, size=(2, 8, 8, 3), dtype=np.uint8)
    about = conditioning_of(model, "", False)
    whole = module.generate(model, pictures, about, batch=2)
    monkeypatch.setattr(module, "_write", hungry)
    halved = module.generate(model, pictures, about, batch=2)
    assert tried == [2, 1]
    np.testing.assert_array_equal(halved.bits[-1], whole.bits[-1])
