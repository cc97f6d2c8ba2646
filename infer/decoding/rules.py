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


class Jacobi:
    """Keep a draft if it is the code that the plain loop would draw there, with the same noise (seed-exact).

    The noise is fixed for each place, so the plain loop's picture is the only fixed point; a place is right as soon as
    all before it are.
    """

    def belief(self, codes: Array, codebook_size: int) -> None:
        return None

    def judge(self, logits, drafts, belief, noise, sampling, images, positions, passes) -> Verdict:
        batch, window, count = logits.shape
        own = noise(jnp.repeat(images, window), _flat(positions), count)
        codes, entropy = (x.reshape(batch, window) for x in sample_code(_flat(logits), own, sampling))
        return Verdict(codes, codes == drafts, entropy, None)


class Coupled:
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

        def of(probabilities: Array) -> Array:
            return jnp.take_along_axis(probabilities, drafts[..., None], axis=-1)[..., 0]

        kept = drawn(TEST, (), jax.random.uniform) * of(q) < of(p)
        residual = jnp.maximum(p - q, 0.0)
        residual = jnp.where(residual.sum(-1, keepdims=True) > 0, residual, p)
        gumbel = drawn(RESIDUAL, (count,), jax.random.gumbel)
        fresh = jnp.argmax(jnp.log(residual) + gumbel, axis=-1).astype(jnp.int32)
        return Verdict(jnp.where(kept, drafts, fresh), kept, found.entropy, p)


def _seed(noise: Any) -> Array:
    return noise.seed


RULES: dict[str, Rule] = {"jacobi": Jacobi(), "coupled": Coupled()}
