"""The coupled rule draws from the plain loop's distribution: a chi-square test on a toy model of few codes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from pure_jax.config import SamplingConfig
from pure_jax.infer.decoding.noise import SeedNoise
from pure_jax.infer.decoding.rules import RULES, Coupled, Relaxed

CODES, LENGTH, WINDOW, DRAWS = 3, 4, 3, 20_000
SAMPLING = SamplingConfig(guidance_scale=1.0, temperature=0.7, k_min=1, k_max=4, entropy_center=0.9)
# k is 2 or 3 here.


def toy_logits(prefix: np.ndarray) -> np.ndarray:
    """float32 [..., CODES] for prefixes int32 [..., n] of a language of three letters; each letter matters."""
    weights = np.arange(1, prefix.shape[-1] + 1)
    state = (prefix * weights).sum(-1)[..., None] + prefix.shape[-1]
    return (1.5 * np.sin(1.3 * state + np.array([0.0, 2.0, 4.5]))).astype(np.float32)


def exact() -> np.ndarray:
    """The probability of each of the CODES ** LENGTH words, from the definitions in float64."""
    words = np.stack(np.meshgrid(*[np.arange(CODES)] * LENGTH, indexing="ij"), -1).reshape(-1, LENGTH)
    total = np.ones(len(words))
    for place in range(LENGTH):
        logits = toy_logits(words[:, :place]).astype(np.float64)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        entropy = -(p * np.log(p + 1e-10)).sum(-1)
        k = np.round(
            SAMPLING.k_min + (SAMPLING.k_max - SAMPLING.k_min) / (1 + np.exp(SAMPLING.entropy_center - entropy))
        )
        k = np.clip(k, 2, 2).astype(int)
        threshold = np.take_along_axis(np.sort(logits, -1), (CODES - k)[:, None], -1)
        kept = np.where(logits >= threshold, np.exp(logits / SAMPLING.temperature), 0.0)
        kept /= kept.sum(-1, keepdims=True)
        total *= kept[np.arange(len(words)), words[:, place]]
    return total


def drawn(rule) -> np.ndarray:
    """DRAWS words int32 [DRAWS, LENGTH], each a picture of its own, decoded in windows as the loop does."""
    images = jnp.arange(DRAWS)
    words, done = np.zeros((DRAWS, LENGTH + 2 * WINDOW), int), np.zeros(DRAWS, int)
    drafts = np.ones((DRAWS, WINDOW), int)
    belief = rule.belief(jnp.asarray(drafts), CODES)
    judge = jax.jit(rule.judge, static_argnames="sampling")
    rows = np.arange(DRAWS)
    for step in range(LENGTH):  # a code a pass at least
        logits = np.zeros((DRAWS, WINDOW, CODES), np.float32)
        for length in range(LENGTH):
            mine = done == length
            for j in range(WINDOW):
                prefix = np.concatenate([words[mine, :length], drafts[mine, :j]], 1)
                logits[mine, j] = toy_logits(prefix)
        positions = jnp.asarray(done[:, None] + np.arange(WINDOW))
        verdict = judge(
            jnp.asarray(logits), jnp.asarray(drafts), belief, SeedNoise(jnp.uint32(1)), sampling=SAMPLING,
            images=images, positions=positions, passes=jnp.full(DRAWS, step),
        )  # fmt: skip
        codes, kept = np.asarray(verdict.codes), np.asarray(verdict.kept)[:, :-1]
        accepted = 1 + np.cumprod(kept, 1).sum(1)
        for j in range(WINDOW):
            words[rows, done + j] = codes[:, j]
        shift = accepted[:, None] + np.arange(WINDOW)
        both = np.concatenate([codes, np.full((DRAWS, WINDOW), 2)], 1)
        drafts = np.take_along_axis(both, shift, 1)
        q = np.concatenate(
            [np.asarray(verdict.belief), np.asarray(rule.belief(jnp.asarray(both[:, WINDOW:]), CODES))], 1
        )
        belief = jnp.asarray(np.take_along_axis(q, shift[..., None], 1))
        done = np.minimum(done + accepted, LENGTH)
    return words[:, :LENGTH]


@pytest.fixture(scope="module")
def words():
    return drawn(Coupled())


def test_the_coupled_rule_draws_words_of_the_exact_distribution(words):
    expected = exact() * DRAWS
    assert expected.sum() == pytest.approx(DRAWS)
    counts = np.bincount(words @ CODES ** np.arange(LENGTH)[::-1], minlength=CODES**LENGTH)
    assert (counts[expected == 0] == 0).all()  # what top-k removes is never drawn
    common = expected >= 5
    seen, wanted = (np.append(x[common], x[~common].sum()) for x in (counts, expected))
    if wanted[-1] == 0:
        seen, wanted = seen[:-1], wanted[:-1]
    # The numbers are fixed by their keys; a wrong rule gives p below 1e-20 here.
    assert chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue > 1e-3


def test_a_rule_that_does_not_correct_is_told_apart():
    """The test above can fail: keeping every draft that is possible at all gives another distribution."""

    class Careless(Coupled):
        def belief(self, codes, codebook_size):
            return jnp.full((*codes.shape, codebook_size), 1e-6)

    counts = np.bincount(drawn(Careless()) @ CODES ** np.arange(LENGTH)[::-1], minlength=CODES**LENGTH)
    expected = exact() * DRAWS
    common = expected >= 5
    assert chisquare(counts[common], expected[common] * counts[common].sum() / expected[common].sum()).pvalue < 1e-10


def test_every_rule_has_a_name():
    assert set(RULES) == {"jacobi", "coupled", "relaxed"}


def test_a_relaxed_rule_keeps_what_a_pass_has_drawn_if_it_is_likely_enough():
    sampling = SamplingConfig(temperature=1.0, k_min=4, k_max=4)
    rule = Relaxed()
    p = jnp.asarray([0.25, 0.25, 0.25, 0.25]), jnp.asarray([0.97, 0.01, 0.01, 0.01])
    logits = jnp.log(jnp.stack([p[0], p[0], p[1], p[1]]))[None]
    drafts = jnp.asarray([[1, 1, 1, 0]])
    belief = jnp.asarray([[True, False, True, False]])
    first = jnp.zeros(1, jnp.int32)

    def zeros(images, positions, n):  # the plain loop draws 0 everywhere
        return jnp.eye(n)[jnp.zeros_like(images)]

    judge = jax.jit(lambda *args: rule.judge(*args[:3], zeros, sampling, *args[3:]))
    verdict = judge(logits, drafts, belief, first, jnp.arange(4)[None], first)
    # Of four equal codes one is as good as another; a guess is not kept for that; an unlikely one is not; 0 is exact.
    assert verdict.kept.tolist() == [[True, False, False, True]]
    assert verdict.codes.tolist() == [[1, 0, 0, 0]]
    assert verdict.belief.all() and not rule.belief(drafts, 4).any()
