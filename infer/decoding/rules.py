"""Which drafts of a window are kept, and what takes the others' places: one function for each exact rule.

A pass gives, for every place of the window, the distribution of its code after the accepted codes and the drafts before
it. A draft is kept if all before it are kept and it passes the rule's test; behind the first that fails nothing is
accepted, but what the rule puts there is the next pass's draft.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from pure_jax.config import SamplingConfig
from pure_jax.infer.decoding.noise import Noise
from pure_jax.sampling import code_distribution, position_keys, sample_code

TEST, RESIDUAL = 1, 2
"""Purposes of random numbers beside the noise of the codes."""


class Verdict(NamedTuple):
    """codes int32 [batch, W]: what stands in the window's places now. kept: bool [batch, W], the draft passed."""

    codes: Array
    kept: Array
    entropy: Array
    """float32 [batch, W] nats"""
    belief: Any
    """What the rule has to know of these codes, as drafts, in the next pass; leaves [batch, W, ...]."""


class Rule(Protocol):
    """A rule. images int32 [batch]; positions int32 [batch, W], absolute; passes int32 [batch]: passes made before."""

    def belief(self, codes: Array, codebook_size: int) -> Any:
        """Of codes, int32 [batch, n], that were guessed without a distribution."""

    def judge(
        self,
        logits: Array,
        drafts: Array,
        belief: Any,
        noise: Noise,
        sampling: SamplingConfig,
        images: Array,
        positions: Array,
        passes: Array,
    ) -> Verdict:
        """logits float32 [batch, W, codes], guided; drafts int32 [batch, W], the last of which is never tested."""


def _flat(array: Array) -> Array:
    return array.reshape(-1, *array.shape[2:])


def _of(probabilities: Array, codes: Array) -> Array:
    return jnp.take_along_axis(probabilities, codes[..., None], axis=-1)[..., 0]


class Jacobi(Rule):
    """Keep a draft if it is the code that the plain loop would draw there, with the same noise (seed-exact).

    The noise is fixed for each place, so the plain loop's picture is the only fixed point; a place is right as soon as
    all before it are.
    """

    def belief(self, codes: Array, codebook_size: int) -> Any:
        return None

    def judge(self, logits, drafts, belief, noise, sampling, images, positions, passes) -> Verdict:
        batch, window, count = logits.shape
        own = noise(jnp.repeat(images, window), _flat(positions), count)
        codes, entropy = (x.reshape(batch, window) for x in sample_code(_flat(logits), own, sampling))
        return Verdict(codes, codes == drafts, entropy, None)


class Coupled(Rule):
    """Speculative sampling (Leviathan et al. 2023, section 2.3) with drafts that stay from pass to pass.

    A draft g with the distribution q it was drawn from is kept with probability min(1, p(g) / q(g)), p being this
    pass's distribution, else replaced by a draw from (p - q)+ / sum. That is a draw from p: so it is done at every
    place, behind the first failure too, where the published form draws anew. It is the maximal coupling of p and q, and
    a draft changes no more often than it must. Codes follow the plain loop's distribution; they are not its codes.
    """

    def belief(self, codes: Array, codebook_size: int) -> Array:
        return jax.nn.one_hot(codes, codebook_size)

    def judge(self, logits, drafts, belief, noise, sampling, images, positions, passes) -> Verdict:
        batch, window, count = logits.shape
        found = code_distribution(logits, sampling)
        p, q = found.probabilities, belief
        keys = position_keys(_seed(noise), jnp.repeat(images, window), _flat(positions))
        keys = jax.vmap(jax.random.fold_in)(keys, jnp.repeat(passes, window))

        def drawn(purpose: int, shape: tuple[int, ...], draw: Any) -> Array:
            each = jax.vmap(lambda key: draw(jax.random.fold_in(key, purpose), shape))(keys)
            return each.reshape(batch, window, *shape)

        kept = drawn(TEST, (), jax.random.uniform) * _of(q, drafts) < _of(p, drafts)
        residual = jnp.maximum(p - q, 0.0)
        residual = jnp.where(residual.sum(-1, keepdims=True) > 0, residual, p)
        gumbel = drawn(RESIDUAL, (count,), jax.random.gumbel)
        fresh = jnp.argmax(jnp.log(residual) + gumbel, axis=-1).astype(jnp.int32)
        return Verdict(jnp.where(kept, drafts, fresh), kept, found.entropy, p)


def _seed(noise: Any) -> Array:
    return noise.seed


class Relaxed(Jacobi):
    """Jacobi iteration that also keeps a draft which is likely enough. Lossy.

    Likely enough is p(g) >= min(HIGH, FACTOR exp(-entropy)), the typical acceptance of Medusa (Cai et al. 2024, section
    2.3.1): where the model is unsure, it takes many codes for equal. A first guess is not kept for being likely, only
    what a pass has drawn: guesses copy their neighbours, and would make the picture smooth.
    """

    HIGH, FACTOR = 0.3, 0.6

    def belief(self, codes: Array, codebook_size: int) -> Array:
        return jnp.zeros(codes.shape, bool)

    def judge(self, logits, drafts, belief, noise, sampling, images, positions, passes) -> Verdict:
        exact = super().judge(logits, drafts, None, noise, sampling, images, positions, passes)
        likely = _of(code_distribution(logits, sampling).probabilities, drafts)
        enough = likely >= jnp.minimum(self.HIGH, self.FACTOR * jnp.exp(-exact.entropy))
        kept = exact.kept | (belief & enough)
        return Verdict(jnp.where(kept, drafts, exact.codes), kept, exact.entropy, jnp.ones_like(kept))


RULES: dict[str, Rule] = {"jacobi": Jacobi(), "coupled": Coupled(), "relaxed": Relaxed()}
