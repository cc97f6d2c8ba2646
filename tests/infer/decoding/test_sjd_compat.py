"""The published sampler against a second one, written from its description over full forwards without caches."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pure_jax.errors import PureError
from pure_jax.infer.decoding.generate import generate
from pure_jax.infer.decoding.sjd_compat import DRAFT, DRAW, REST, TEST, Regime, Seeded, SjdCompat, inverse, process
from pure_jax.sequence import prompt_ids
from tests.models import teach, tiny_model

LENGTH, GRID, SEED = 192, (4, 8), 5


@partial(jax.jit, static_argnames="net")
def forward(net, params, tokens, positions, valid):
    return net.apply({"params": params}, tokens[None], positions[None], valid=valid[None])[0][0]


class Oracle:
    """The answer to one prompt. Its unconditional branch hides the prompt but for its last token, as the original's."""

    def __init__(self, model, prompt, image, window):
        self.model, self.v, self.s = model, model.vocabulary, model.config.sampling
        self.prompt, self.window = list(prompt), window
        self.u = partial(self._uniform, Seeded(SEED), image)
        self.passes = 0

    def _uniform(self, seeded, image, purpose, place):
        return seeded(purpose, image, self.passes, place)

    def logits(self, tokens, visible_from):
        n = len(tokens)
        filled = np.zeros(LENGTH, np.int32)
        filled[:n] = tokens
        visible = np.arange(LENGTH) >= visible_from
        positions = np.maximum(np.cumsum(visible) - 1, 0).astype(np.int32)
        out = forward(self.model.transformer, self.model.params["transformer"], filled, positions, jnp.asarray(visible))
        return np.asarray(out, np.float64)[:n, : self.v.size]

    def after(self, context, drafts):
        """Processed distributions behind the context and each of the drafts."""
        tokens = context + drafts
        scores = self.logits(tokens, 0)[len(context) - 1 :]
        if self.in_picture(context):
            hidden = self.logits(tokens, len(self.prompt) - 1)[len(context) - 1 :]
            scores = hidden + self.s.guidance_scale * (scores - hidden)
        return self.processed(scores, context)

    def in_picture(self, context):
        return context.count(self.v.image_start) - context.count(self.v.image_end) == 1

    def processed(self, scores, context):
        v, scores = self.v, np.array(scores)
        k = 1
        if self.in_picture(context):
            last = max(i for i, t in enumerate(context) if t == v.image_start)
            m = len(context) - 1 - last
            if m >= 2:
                h, w = (4 * list(v.grid_ids).index(t) * v.codes_per_grid // 4 for t in context[last + 1 : last + 3])
                for j in range(len(scores)):
                    i = m - 2 + 1 + j
                    allowed = list(v.code_to_id)
                    if i % (w + 1) == 0:
                        allowed = [v.new_line]
                    elif i % (h * (w + 1) + 1) == 0:
                        allowed = [v.image_end]
                    row = np.full(scores.shape[1], -np.inf)
                    row[allowed] = scores[j][allowed] if len(allowed) > 1 else 0.0
                    scores[j] = row
            mean = np.mean([self.entropy(row) for row in scores])
            span = self.s.k_max - self.s.k_min
            k = round(self.s.k_min + span / (1 + math.exp(-(min(max(mean, 0.0), 10.0) - self.s.entropy_center))))
        out = []
        for row in scores:
            row = np.where(row >= np.sort(row)[::-1][k - 1], row, -np.inf) / self.s.temperature
            row = np.exp(row - row.max())
            out.append(row / row.sum())
        return out

    @staticmethod
    def entropy(row):
        p = np.exp(row - row.max())
        p /= p.sum()
        return -(p * np.log(p + 1e-10)).sum()

    def run(self, grid):
        v = self.v
        accepted, carried = list(self.prompt), []
        before = len(accepted)
        first, last = 3, grid[0] * grid[1] + grid[0] - 10
        while True:
            begun, before = before - len(self.prompt), len(accepted)
            wanted = min(self.window, last - begun) - 1 if self.passes and first <= begun < last else 0
            carried = carried[:wanted]
            while len(carried) < wanted:
                g = int(v.code_to_id[int(self.u(DRAFT, len(carried)) * v.codebook_size)])
                one_hot = np.zeros(v.size)
                one_hot[g] = 1.0
                carried.append((g, one_hot))
            drafts = [g for g, _ in carried]
            p = self.after(accepted, drafts)
            t = [inverse(row, self.u(DRAW, j)) for j, row in enumerate(p)]
            outputs = []
            for i, (g, q) in enumerate(carried):
                if self.u(TEST, i) < p[i][g] / q[g]:
                    outputs.append(g)
                else:
                    with np.errstate(divide="ignore"):
                        rest = np.log(np.maximum(p[i] - q, 0.0))
                    outputs.append(inverse(self.processed([rest], accepted + outputs)[0], self.u(REST, i)))
                    break
            else:
                outputs.append(t[-1])
            carried = list(zip(t, p, strict=True))[len(outputs) :]
            accepted += outputs
            self.passes += 1
            answer = accepted[len(self.prompt) :]
            if v.image_start in answer:
                body = answer[answer.index(v.image_start) + 3 :]
                if len(body) >= grid[0] * (grid[1] + 1):
                    rows = np.array(body[: grid[0] * (grid[1] + 1)]).reshape(grid[0], -1)
                    assert (rows[:, -1] == v.new_line).all()
                    return v.id_to_code[rows[:, :-1]], answer[: answer.index(v.image_start)]


@pytest.fixture(scope="module")
def model():
    """It says two words, opens a picture of GRID and gives it its size."""
    model = tiny_model(num_layers=1, max_text_tokens=6)
    v = model.vocabulary
    words = [int(i) for i in np.flatnonzero(v.is_text)[:2]]
    sizes = [int(v.grid_ids[side // v.codes_per_grid]) for side in GRID]
    chain = [v.separator, *words, v.image_start, *sizes]
    taught = teach(model.params["transformer"], dict(zip(chain, chain[1:], strict=False)))
    return dataclasses.replace(model, params=model.params | {"transformer": taught})


@pytest.mark.parametrize("window", [4, 16])
def test_the_published_sampler_is_reproduced(model, window):
    lq = np.random.default_rng(1).integers(0, 64, (2, *GRID))
    answers = generate(model, lq, decoding=SjdCompat(window), seed=SEED)
    for image, answer in enumerate(answers):
        oracle = Oracle(model, prompt_ids(model.tokenizer, model.vocabulary, lq[image]), image, window)
        codes, text = oracle.run(GRID)
        np.testing.assert_array_equal(answer.codes, codes)
        assert (answer.passes, answer.opened) == (oracle.passes, True)
        assert answer.text == model.tokenizer.decode(text).strip()
        tokens = len(text) + 3 + GRID[0] * (GRID[1] + 1)
        assert answer.passes < tokens  # some drafts were accepted, most were not


def test_uniform_numbers_may_be_given(model):
    asked = []

    def uniform(purpose, image, pass_, place):
        asked.append((purpose, image))
        return Seeded(SEED)(purpose, image, pass_, place)

    lq = np.zeros((1, *GRID), int)
    given, seeded = (generate(model, lq, decoding=way, seed=SEED) for way in (SjdCompat(4, uniform), SjdCompat(4)))
    np.testing.assert_array_equal(given[0].codes, seeded[0].codes)
    assert set(asked) == {(purpose, 0) for purpose in (DRAFT, DRAW, TEST, REST)}
    with pytest.raises(PureError, match="no meaning with sjd_compat"):
        generate(model, lq, decoding=SjdCompat(4), noise=np.zeros((1, 256, 64), np.float32))


def test_a_model_that_opens_nothing_and_names_no_size_gets_both_by_force():
    model = tiny_model(num_layers=1, guidance_scale=1.0, max_text_tokens=3)
    [answer] = generate(model, np.zeros((1, *GRID), int), decoding=SjdCompat(4), seed=SEED)
    assert not answer.opened
    assert answer.codes.shape[0] % 4 == answer.codes.shape[1] % 4 == 0


def test_codes_from_8192_on_are_never_drawn_in_a_picture():
    """Facts of the released sampler: half of a codebook of 16,384, one k for the window, forced rows certain."""
    from pure_jax.vocabulary import Vocabulary

    v = Vocabulary(
        size=16_404, bos=0, pad=1, eos=2, separator=3, image_start=4, image_end=5, new_line=6,
        grid_ids=np.arange(10, 15, dtype=np.int32), code_to_id=np.arange(20, 16_404, dtype=np.int32),
        id_to_code=np.zeros(16_404, np.int32), is_text=np.zeros(16_404, bool),
    )  # fmt: skip
    sampling = dataclasses.replace(tiny_model().config.sampling, k_min=1.0, k_max=2000.0, entropy_center=5.0)
    scores = np.zeros((3, 16_404), np.float32)
    p, entropies = process(scores, Regime(2 + 7, 4, 8), v, sampling)
    assert (p[:, 20 + 8192 :] == 0).all() and (p[0, 20 : 20 + 8192] > 0).all()
    assert p[1, 6] == 1.0 and entropies[1] == pytest.approx(0.0, abs=1e-6)  # the ninth token of a row of eight
    assert entropies[0] == entropies[2] == pytest.approx(math.log(8192), abs=1e-4)
