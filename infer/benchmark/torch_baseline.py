"""The original's way in PyTorch: transformers' Chameleon, one token a step and two forwards of one row for it.

The conditional context and, for guidance, the unconditional one have a cache each, and each reads all weights; the
scores then go through the original's steps over the whole vocabulary. Random weights of the same shapes. As a picture
takes thousands of steps, a few are timed at the picture's beginning, middle and end, over caches filled with noise.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from pure_jax.config import SamplingConfig, TransformerConfig
from pure_jax.errors import PureError
from pure_jax.infer.benchmark.passes import places
from pure_jax.infer.decoding.cost import Fill, Lengths
from pure_jax.vocabulary import Vocabulary

STEPS = 7
"""That are timed at each place; the median counts."""


@dataclass(frozen=True)
class TorchTimes:
    """Seconds, of one picture."""

    opening_s: float
    """To read the question."""
    text_step_s: float
    """A single forward, for a token of text."""
    step_s: tuple[float, ...]
    """A step at the picture's first, middle and last row."""
    guided_steps: int
    """A code, a new-line or the end each."""
    plain_steps: int
    """Text, and what opens the picture."""
    timed_steps: int
    """At each of the three rows."""
    threads: int

    @property
    def mean_step_s(self) -> float:
        return sum(self.step_s) / len(self.step_s)

    @property
    def picture_s(self) -> float:
        """Extrapolated from the steps that were timed."""
        return self.opening_s + self.plain_steps * self.text_step_s + self.guided_steps * self.mean_step_s


def require_torch() -> Any:
    """The torch package.

    Raises:
        PureError: it is missing, or cannot compute where jax does, so that a comparison would say nothing.
    """
    try:
        import torch
    except ImportError as error:
        raise PureError("comparing with PyTorch needs it; install it with `pip install torch`") from error
    if jax.default_backend() != "cpu" and not torch.cuda.is_available():
        raise PureError(f"jax computes on {jax.default_backend()} and torch on CPU here; install torch for this device")
    return torch


def random_network(config: TransformerConfig, dtype: str, seed: int = 0) -> Any:
    """transformers' Chameleon with random weights in `dtype`, on the GPU where there is one.

    Its norms are 1; its own image tokenizer, of which nothing is used, is as small as can be.
    """
    torch = require_torch()
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    sizes: dict[str, Any] = dict(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        swin_norm=config.swin_norm,
        vocabulary_map={"<image>": 2, "IMGIMGAZ": 0, "IMGIMGBZ": 1},
        vq_config={"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 32},
        attn_implementation="sdpa",
    )
    ours = ChameleonConfig(**sizes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device("meta"):
        model = ChameleonForConditionalGeneration(ours).eval()
    model = model.to(getattr(torch, dtype)).to_empty(device=device)
    # Its frequencies are no parameters, and stay float32: they are computed when it is made.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=ours).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "_norm." not in name:
            parameter.data.normal_(0.0, 0.02, generator=generator)
        else:
            parameter.data.fill_(float(name.endswith("weight")))
    return model


class Context:
    """A sequence that counts from position 0, with its cache."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self.model, self.cache = model, DynamicCache()

    def fill(self, tokens: int) -> None:
        """Put noise where so many tokens' keys and values would be."""
        import torch

        cfg, head = self.model.config, self.model.lm_head.weight
        shape = (1, cfg.num_key_value_heads, tokens, cfg.hidden_size // cfg.num_attention_heads)
        for layer in range(cfg.num_hidden_layers if tokens else 0):
            keys, values = torch.randn((2, *shape), dtype=head.dtype, device=head.device)
            self.cache.update(keys, values, layer)

    def feed(self, tokens: Any) -> Any:
        """Append tokens [n]; logits float32 [vocabulary] behind the last. Not by the whole model, which masks codes."""
        out = self.model.model(input_ids=tokens[None], past_key_values=self.cache, use_cache=True)
        return self.model.lm_head(out.last_hidden_state[0, -1]).float()


def step(contexts: list[Context], token: Any, codes: Any, sampling: SamplingConfig) -> Any:
    """One step inside a picture, as the original takes it: feed token [1], draw the next one [1].

    contexts: the conditional one and, with guidance, the unconditional one. codes: bool [vocabulary].
    """
    import torch

    scores, *without = [context.feed(token) for context in contexts]
    if without:
        scores = without[0] + sampling.guidance_scale * (scores - without[0])
    scores = scores.masked_fill(~codes, -math.inf)
    p = torch.softmax(scores, dim=-1)
    entropy = min(max(float(-(p * torch.log(p + 1e-10)).sum()), 0.0), 10.0)
    span = sampling.k_max - sampling.k_min
    k = int(round(sampling.k_min + span / (1 + math.exp(sampling.entropy_center - entropy))))
    scores = scores.masked_fill(scores < torch.topk(scores, min(k, len(scores))).values[-1], -math.inf)
    if sampling.temperature == 0.0:
        return scores.argmax()[None]
    return torch.multinomial(torch.softmax(scores / sampling.temperature, dim=-1), 1)


def time_original(
    model: Any, vocabulary: Vocabulary, sampling: SamplingConfig, lengths: Lengths, text_tokens: int
) -> TorchTimes:
    """Time the original's way for a question and an answer of these lengths; what they say plays no part.

    text_tokens: how many of lengths.opening are the answer's text, a step each.
    """
    import torch

    device = model.lm_head.weight.device
    codes = torch.zeros(model.lm_head.weight.shape[0], dtype=torch.bool, device=device)
    codes[torch.from_numpy(vocabulary.code_to_id).long()] = True
    one = torch.tensor([int(vocabulary.code_to_id[0])], device=device)

    def timed(run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def filled(fill: Fill) -> list[Context]:
        contexts = [Context(model) for _ in range(2 if lengths.guided else 1)]
        for context, tokens in zip(contexts, (fill.conditional, fill.unconditional), strict=False):
            context.fill(int(tokens))
        return contexts

    with torch.inference_mode():
        question = [Context(model)]
        tokens = one.expand(lengths.opening - text_tokens)
        opening_s = timed(lambda: question[0].feed(tokens))
        text_step_s = statistics.median(timed(lambda: question[0].feed(one)) for _ in range(STEPS))
        question.clear()  # its cache is let go of before there are others
        steps = []
        for row in places(lengths.height):
            contexts = filled(lengths.at_row(row))

            def one_step(contexts: list[Context] = contexts) -> float:
                return timed(lambda: step(contexts, one, codes, sampling))

            one_step()  # fills the processor's caches, and is not counted
            steps.append(statistics.median(one_step() for _ in range(STEPS)))
    body = lengths.height * (lengths.width + 1) + 1
    return TorchTimes(opening_s, text_step_s, tuple(steps), body, text_tokens + 3, STEPS, torch.get_num_threads())
