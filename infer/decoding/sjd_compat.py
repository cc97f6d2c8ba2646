"""Speculative Jacobi decoding as it was published with PURE, quirks included, to compare with. It is not exact.

What it does otherwise than `windows.Windows("coupled")`:

- the window opens in the text already, and one known pass late; its rows all follow the regime (text or picture) of the
  accepted tokens, so that the first tokens of a picture may be accepted unmasked and unguided;
- only the first 8,192 codes can be drawn;
- one k serves the whole window, from the mean of its entropies, in which forced rows count as 0;
- the rest (p - q)+ after a rejection goes through top-k, by its own entropy, and temperature once more;
- new-lines are drafts like others, rejected at first sight;
- the unconditional rows know the answer's text, from the separator before it on, and guide the size tokens too.

Everything that is drawn comes from uniform numbers, which may be given. Host code around one compiled pass: slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pure_jax.config import SamplingConfig
from pure_jax.errors import PureError
from pure_jax.infer.decoding.contract import Job, Params, Written, feed, logits_of
from pure_jax.infer.decoding.noise import SeedNoise
from pure_jax.quantisation import columns
from pure_jax.sampling import ENTROPY_LIMIT
from pure_jax.transformer import KVCache, Transformer, init_cache
from pure_jax.vocabulary import Vocabulary

CODES = 8192
"""Left over from the T2I model, whose codebook has no more."""
OPENS = 3
"""Tokens of the answer from which on passes have a window."""
CLOSES_EARLY = 10
"""The window closes so many tokens before a picture of the model's size would end if no text came before it."""

DRAFT, DRAW, TEST, REST = range(4)
Uniform = Callable[[int, int, int, int], float]
"""(purpose, image, pass, place in the window) -> [0, 1). DRAFT: a first guess; DRAW: a token from its distribution, by
its inverse, ids ascending; TEST: of a draft; REST: the token instead of a rejected draft."""


@dataclass(frozen=True)
class Seeded:
    """Uniform numbers of a seed."""

    seed: int

    def __call__(self, purpose: int, image: int, pass_: int, place: int) -> float:
        return float(np.random.default_rng([self.seed, purpose, image, pass_, place]).random())


@partial(jax.jit, static_argnames=("net", "size"), donate_argnames="caches")
def _pass(
    net: Transformer, size: int, params: Params, caches: tuple[KVCache, ...], tokens: Array, position: Array
) -> tuple[Array, tuple[KVCache, ...]]:
    """Logits float32 [groups, n, size] behind each of the tokens [1, n]; the caches have them."""
    hidden, caches = feed(net, params, tokens, position, caches, None)
    return logits_of(hidden, columns(params["lm_head"], slice(size))), caches


@partial(jax.jit, static_argnames=("net", "slots"))
def _read(net: Transformer, slots: int, params: Params, prompt: Array) -> KVCache:
    """A cache that has the prompt [1, n]."""
    empty = init_cache(net.config, 1, slots, net.dtype)
    return feed(net, params, prompt, jnp.zeros(1, jnp.int32), (empty,), None, prefill=True)[1][0]


@dataclass(frozen=True)
class Regime:
    """What accepted tokens say of the next one: text (drawn None), or a picture of which `drawn` tokens are there.

    height, width: of the picture in codes, once both size tokens are there.
    """

    drawn: int | None = None
    height: int = 0
    width: int = 0


def regime_of(tokens: list[int], vocabulary: Vocabulary) -> Regime:
    """Of a whole context, prompt included."""
    if tokens.count(vocabulary.image_start) != tokens.count(vocabulary.image_end) + 1:
        return Regime()
    picture = tokens[len(tokens) - tokens[::-1].index(vocabulary.image_start) :]
    if len(picture) < 2:
        return Regime(len(picture))
    height, width = (_side(token, vocabulary) for token in picture[:2])
    return Regime(len(picture), height, width)


def _side(token: int, vocabulary: Vocabulary) -> int:
    """The latent side that a size token names; 0 for another token."""
    found = np.flatnonzero(vocabulary.grid_ids == token)
    return int(found[0]) * vocabulary.codes_per_grid if len(found) else 0


def process(
    scores: np.ndarray, regime: Regime, vocabulary: Vocabulary, sampling: SamplingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The processors of a window: scores float32 [rows, vocabulary] -> (probabilities likewise, entropies [rows])."""
    scores = scores.copy()
    if regime.drawn is not None and regime.drawn >= 2:
        shown = np.zeros(scores.shape[1], bool)
        shown[vocabulary.code_to_id[:CODES]] = True
        scores[:, ~shown] = -np.inf
        line, end = regime.width + 1, regime.height * (regime.width + 1) + 1
        for row in range(len(scores)):
            place = regime.drawn - 2 + 1 + row
            forced = vocabulary.new_line if place % line == 0 else vocabulary.image_end if place % end == 0 else None
            if forced is not None:
                scores[row] = -np.inf
                scores[row, forced] = 0.0
    p = _softmax(scores)
    entropies = -(p * np.log(p + 1e-10)).sum(-1)
    k = 1
    if regime.drawn is not None:
        e = float(np.clip(entropies.mean(), 0.0, ENTROPY_LIMIT))
        curve = sampling.k_min + (sampling.k_max - sampling.k_min) / (1 + np.exp(sampling.entropy_center - e))
        k = int(np.clip(round(float(curve)), max(1, sampling.k_min), sampling.k_max))
    threshold = np.partition(scores, -min(k, scores.shape[1]), axis=-1)[:, -min(k, scores.shape[1])]
    kept = np.where(scores >= threshold[:, None], scores, -np.inf)
    if sampling.temperature == 0.0:
        return (kept == kept.max(-1, keepdims=True)).astype(np.float64), entropies
    return _softmax(kept / sampling.temperature), entropies


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def inverse(p: np.ndarray, uniform: float) -> int:
    """The id that a uniform number stands for."""
    cumulative = np.cumsum(p)
    return min(int(np.searchsorted(cumulative / cumulative[-1], uniform, side="right")), len(p) - 1)


@dataclass(frozen=True)
class SjdCompat:
    """window: tokens of a pass, the known one included. uniform: see `Uniform`; None takes those of the job's seed."""

    window: int = 16
    uniform: Uniform | None = None

    def image_slots(self, height: int, width: int) -> int:
        return 3 + height * (width + 1) * 2 + self.window  # the model may choose a larger picture

    def write(self, job: Job, batch: int, on_codes: Callable[[int], None]) -> Iterator[tuple[int, Written]]:
        uniform = self.uniform
        if uniform is None:
            if not isinstance(job.noise, SeedNoise):
                raise PureError("noise that is given has no meaning with sjd_compat, which draws uniform numbers")
            uniform = Seeded(int(job.noise.seed))
        for image in range(job.count):
            answer = _Answer(job, image, self.window, uniform, self.image_slots(*job.grid))
            while not answer.finished:
                answer.advance()
                on_codes(image * job.grid[0] * job.grid[1] + answer.codes_drawn)
            yield image, answer.written()


@dataclass
class _Answer:
    """One answer under way."""

    job: Job
    image: int
    window: int
    uniform: Uniform
    image_slots: int
    tokens: list[int] = field(init=False)
    """Accepted, the prompt's included."""
    drafts: list[int] = field(default_factory=list)
    beliefs: list[np.ndarray] = field(default_factory=list)
    """What each draft was drawn from."""
    entropies: list[float] = field(default_factory=list)
    """Of the accepted tokens of the answer."""
    passes: int = 0
    forced: bool = False
    """The picture was opened by force."""

    def __post_init__(self) -> None:
        job = self.job
        prompt = job.prompts[self.image]
        self.prompt_length = len(prompt)
        self.tokens = [int(token) for token in (*prompt, *job.prefix)]
        self.entropies = [0.0] * len(job.prefix)
        self.previous = self.prompt_length
        """Accepted tokens when the last pass began."""
        slots = job.sampling.max_text_tokens + len(job.prefix) + self.image_slots + 1
        read = _read(job.net, self.prompt_length - 1 + slots, job.params, jnp.asarray(prompt[None, :-1]))
        self.caches: tuple[KVCache, ...] = (read,)
        if job.sampling.guidance_scale != 1.0:
            self.caches += (init_cache(job.net.config, 1, slots, job.net.dtype),)

    @property
    def regime(self) -> Regime:
        return regime_of(self.tokens, self.job.vocabulary)

    @property
    def codes_drawn(self) -> int:
        regime = self.regime
        drawn = max((regime.drawn or 0) - 2, 0)
        return drawn - drawn // (regime.width + 1)

    @property
    def finished(self) -> bool:
        regime = self.regime
        return (regime.drawn or 0) >= 2 and regime.drawn - 2 >= regime.height * (regime.width + 1)  # type: ignore[operator]

    def advance(self) -> None:
        """One pass: judge the drafts, accept, keep what was drawn behind them as the next ones."""
        job, regime = self.job, self.regime
        drafts, beliefs = self._next_drafts()
        fed = len(self.tokens) - self.prompt_length + 1  # of the answer, from the separator on, when all are fed
        known = self.tokens[-1:] if self.passes else self.tokens[self.prompt_length - 1 :]
        scores = self._scores([*known, *drafts], fed - len(known), regime)[len(known) - 1 :]
        p, entropies = process(scores, regime, job.vocabulary, job.sampling)
        drawn = [inverse(row, self._number(DRAW, j)) for j, row in enumerate(p)]
        outputs: list[int] = []
        for i, (draft, q) in enumerate(zip(drafts, beliefs, strict=True)):
            if self._number(TEST, i) < min(1.0, p[i, draft] / q[draft]):
                outputs.append(draft)
                continue
            with np.errstate(divide="ignore"):
                rest = np.log(np.maximum(p[i] - q, 0.0))
            if not np.isfinite(rest).any():
                rest = np.log(np.maximum(p[i], 1e-300))
            context = regime_of(self.tokens + outputs, job.vocabulary)
            again, _ = process(rest[None], context, job.vocabulary, job.sampling)
            outputs.append(inverse(again[0], self._number(REST, i)))
            break
        else:
            outputs.append(drawn[-1])
        count = len(outputs)
        self.previous = len(self.tokens)
        self.drafts, self.beliefs = drawn[count:], list(p[count:])
        self._accept(outputs, entropies)
        self.passes += 1
        # What was fed and not accepted is fed again, and overwritten.
        length = len(self.tokens) - self.prompt_length
        self.caches = tuple(
            replace(c, length=jnp.int32(length + (self.prompt_length - 1) * (i == 0)))
            for i, c in enumerate(self.caches)
        )

    def _number(self, purpose: int, place: int) -> float:
        return self.uniform(purpose, self.job.first + self.image, self.passes, place)

    def _next_drafts(self) -> tuple[list[int], list[np.ndarray]]:
        job, v = self.job, self.job.vocabulary
        side_a, side_b = job.grid
        begun, closes = self.previous - self.prompt_length, side_a * side_b + side_a - CLOSES_EARLY
        if not self.passes or not OPENS <= begun < closes:
            return [], []
        wanted = min(self.window, closes - begun) - 1
        drafts, beliefs = self.drafts[:wanted], self.beliefs[:wanted]
        for place in range(len(drafts), wanted):
            code = int(self._number(DRAFT, place) * len(v.code_to_id))
            drafts.append(int(v.code_to_id[code]))
            beliefs.append(np.eye(1, v.size, drafts[-1])[0])
        return drafts, beliefs

    def _scores(self, tokens: list[int], start: int, regime: Regime) -> np.ndarray:
        """Guided scores [len(tokens), vocabulary] behind each of the tokens, the first the answer's `start`-th."""
        job = self.job
        count = len(tokens)
        # One or a whole window's worth, so that there are two compiled programs, not one for each length.
        length = count if count == 1 or not self.passes else self.window
        padded = np.array([[*tokens, *[job.vocabulary.pad] * (length - count)]], np.int32)
        position = jnp.array([self.prompt_length - 1 + start], jnp.int32)
        logits, self.caches = _pass(job.net, job.vocabulary.size, job.params, self.caches, padded, position)
        conditional, *rest = np.asarray(logits)[:, :count]
        if regime.drawn is None or not rest:
            return conditional
        return rest[0] + np.float32(job.sampling.guidance_scale) * (conditional - rest[0])

    def _accept(self, outputs: list[int], entropies: np.ndarray) -> None:
        """Append tokens, up to one that has to be another: an answer without a picture, or without a size, is none."""
        v, sampling = self.job.vocabulary, self.job.sampling
        for i, token in enumerate(outputs):
            regime = self.regime
            right = token
            if regime.drawn is None:
                written = len(self.tokens) - self.prompt_length
                ends = token == v.separator and i == len(outputs) - 1
                if ends or (written >= sampling.max_text_tokens and token != v.image_start):
                    right, self.forced = v.image_start, True
            elif regime.drawn < 2:
                right = self._fitting_size(token, regime.drawn)
            self.tokens.append(int(right))
            self.entropies.append(float(entropies[i]))
            if right != token:
                self.drafts, self.beliefs = [], []
                return

    def _fitting_size(self, token: int, drawn: int) -> int:
        """The token if it names a side for which there is room, else that of the job's pictures."""
        v, grid = self.job.vocabulary, self.job.grid
        side = _side(token, v)
        height, width = (side, grid[1]) if drawn == 0 else (_side(self.tokens[-1], v), side)
        fits = 3 + height * (width + 1) + self.window <= self.image_slots
        return token if side and fits else int(v.grid_ids[grid[drawn] // v.codes_per_grid])

    def written(self) -> Written:
        job = self.job
        regime = self.regime
        first = len(self.tokens) - (regime.drawn or 0) + 2
        places = np.arange(regime.height * (regime.width + 1)).reshape(regime.height, -1)[:, :-1] + first
        # A code that was drawn before the mask held may be none; there the first one stands.
        codes = np.maximum(job.vocabulary.id_to_code[np.array(self.tokens)[places]], 0)
        entropies = np.array(self.entropies)[places - self.prompt_length].astype(np.float32)
        text = np.full(job.sampling.max_text_tokens + len(job.prefix), job.vocabulary.pad, np.int32)
        own = np.array(self.tokens[self.prompt_length : first - 3])[: len(text)]
        text[: len(own)] = own
        return Written(codes.astype(np.int32), entropies, text, not self.forced, self.passes)
