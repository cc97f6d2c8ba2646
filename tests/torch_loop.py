"""The oracle of token-level parity: PURE's sequential decoding as a torch loop over transformers' Chameleon.

One answer at a time, one token a step, in float32 with transformers' own KV cache, written from the original's order
of operations. It shares the token ids and the values of the noise with the library, and no code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import ChameleonForConditionalGeneration, DynamicCache

from pure_jax.vocabulary import Vocabulary

Noise = Callable[[int, int], np.ndarray]
"""(absolute position of the token to be drawn, n) -> Gumbel noise float32 [n]."""


@dataclass(frozen=True)
class Settings:
    """PURE paper, Eq. 2 and sec. 4.1; the defaults are the released values. Temperature 0 is greedy."""

    guidance_scale: float = 0.8
    temperature: float = 0.9
    k_min: float = 1.0
    k_max: float = 2000.0
    entropy_center: float = 5.0


@dataclass
class TorchAnswer:
    ids: list[int] = field(default_factory=list)
    """Everything after the prompt, the separator included."""
    entropies: list[float] = field(default_factory=list)
    """Of each code that was drawn, in nats."""
    ks: list[int] = field(default_factory=list)
    """k of each code that was drawn."""
    margins: list[float] = field(default_factory=list)
    """By how much each token's score was above the next; infinite where there was no other."""


class Branch:
    """A context of its own: its tokens count from position 0 and fill a cache of their own."""

    def __init__(self, model: ChameleonForConditionalGeneration) -> None:
        self.model, self.cache = model, DynamicCache()

    def feed(self, tokens: list[int]) -> torch.Tensor:
        """Append tokens; logits float32 [V] after the last. Not by `model.forward`, which masks all image codes."""
        out = self.model.model(input_ids=torch.tensor([tokens]), past_key_values=self.cache, use_cache=True)
        return self.model.lm_head(out.last_hidden_state[0, -1])


@torch.inference_mode()
def torch_answer(
    model: ChameleonForConditionalGeneration,
    v: Vocabulary,
    prompt: np.ndarray,
    noise: Noise,
    settings: Settings,
    *,
    force_grid: tuple[int, int] | None = None,
    mask_text: bool = False,
    max_new_tokens: int = 1200,
) -> TorchAnswer:
    """Decode until the separator.

    The original draws the size and masks no text; two switches depart from it as the library's default path does:

    Args:
        force_grid: latent height and width whose size tokens are written in place of drawn ones.
        mask_text: outside pictures only text, pad, separator and image start exist.
    """
    answer = TorchAnswer()
    context = [int(token) for token in prompt]
    grids = {int(id_): n for n, id_ in enumerate(v.grid_ids) if id_ >= 0}
    codes = torch.from_numpy(v.code_to_id).long()
    writable = torch.from_numpy(v.is_text).clone()
    writable[[v.pad, v.separator, v.image_start]] = True
    minus_infinity = torch.full((v.size,), -math.inf)

    conditional, unconditional = Branch(model), None
    newest = context
    while len(answer.ids) < max_new_tokens:
        scores = conditional.feed(newest)
        in_image = context.count(v.image_start) == context.count(v.image_end) + 1
        picture = context[len(context) - context[::-1].index(v.image_start) - 1 :] if in_image else []
        m = len(picture) - 1  # tokens after the start

        if m >= 2 and settings.guidance_scale != 1.0:
            if unconditional is None:
                unconditional = Branch(model)
                without = unconditional.feed(picture)
            else:
                without = unconditional.feed(newest)
            scores = without + settings.guidance_scale * (scores - without)
        elif not in_image:
            unconditional = None

        is_code = False
        if m >= 2:
            height, width = (v.codes_per_grid * grids[token] for token in picture[1:3])
            i = m - 1  # which body token comes next, from 1
            if i % (width + 1) == 0:
                scores = minus_infinity.clone()
                scores[v.new_line] = 0.0
            elif i == height * (width + 1) + 1:
                scores = minus_infinity.clone()
                scores[v.image_end] = 0.0
            else:
                is_code = True
                scores = minus_infinity.scatter(0, codes, scores[codes])
        elif not in_image and mask_text:
            scores = torch.where(writable, scores, minus_infinity)

        p = torch.softmax(scores, dim=-1)
        entropy = float(-(p * torch.log(p + 1e-10)).sum())
        if in_image:
            e = min(max(entropy, 0.0), 10.0)
            span = settings.k_max - settings.k_min
            k = int(round(settings.k_min + span / (1 + math.exp(-(e - settings.entropy_center)))))
            k = int(min(max(k, settings.k_min), settings.k_max))
        else:
            k = 1
        best, second = torch.topk(scores, 2).values.tolist()
        threshold = torch.topk(scores, min(k, v.size)).values[-1]
        scores = torch.where(scores < threshold, minus_infinity, scores)

        if in_image and settings.temperature:
            scores = scores / settings.temperature
            position = len(context)
            if m < 2:
                scores = scores + torch.from_numpy(noise(position, v.size).copy())
            elif is_code:
                scores[codes] += torch.from_numpy(noise(position, len(codes)).copy())
            best, second = torch.topk(scores, 2).values.tolist()
        token = int(torch.argmax(scores))
        if force_grid is not None and in_image and m < 2:
            token, best = int(v.grid_ids[force_grid[m] // v.codes_per_grid]), math.inf

        answer.ids.append(token)
        answer.margins.append(best - second)
        if is_code:
            answer.entropies.append(entropy)
            answer.ks.append(k)
        if token == v.separator:
            break
        context.append(token)
        newest = [token]
    return answer
