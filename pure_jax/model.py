"""A loaded model: configuration, parameters, tokenizer and vocabulary in one place, with picture <-> codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pure_jax.config import ModelConfig, SamplingConfig
from pure_jax.errors import PureError
from pure_jax.quantisation import columns, product
from pure_jax.sampling import CODE, CodeDistribution, body_kind, code_distribution, guide
from pure_jax.sequence import latent_side
from pure_jax.transformer import Transformer
from pure_jax.vocabulary import Vocabulary
from pure_jax.vqgan import VQGAN, fitting, from_pixels, to_pixels

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@partial(jax.jit, static_argnames="vqgan")
def encode_images(vqgan: VQGAN, params: Any, pixels: Array) -> Array:
    """uint8 [n, H, W, 3] -> int32 codes [n, H / stride, W / stride]."""
    codes: Any = vqgan.apply({"params": params}, from_pixels(pixels), method="encode")
    return codes


@partial(jax.jit, static_argnames="vqgan")
def decode_codes(vqgan: VQGAN, params: Any, codes: Array) -> Array:
    """int32 codes [n, h, w] -> uint8 [n, stride * h, stride * w, 3]."""
    images: Any = vqgan.apply({"params": params}, codes, method="decode")
    return to_pixels(images)


@dataclass(frozen=True, eq=False)
class Model:
    """What `pure_jax.load` returns. `params` holds plain nested dicts: {"transformer": ..., "vqgan": ...}."""

    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    dtype: Any = jnp.float32

    @property
    def transformer(self) -> Transformer:
        """The network's description; apply it to params["transformer"]."""
        return Transformer(self.config.transformer, self.dtype)

    @property
    def vqgan(self) -> VQGAN:
        """The image tokenizer's description; apply it to params["vqgan"]. Always float32, as in the original."""
        return VQGAN(self.config.vqgan)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] (or a batch [n, H, W, 3]) -> int32 codes [H / stride, W / stride] (or [n, ...]).

        Raises:
            PureError: not uint8 RGB, or a side that is no multiple of the stride.
        """
        stride = self.config.vqgan.stride
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3:
            raise PureError(f"an image must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
        if image.shape[-3] % stride or image.shape[-2] % stride or 0 in image.shape:
            raise PureError(f"an image of {image.shape[-2]}x{image.shape[-3]} is no multiple of {stride} pixels")
        batch = image if image.ndim == 4 else image[None]
        vqgan, most = fitting(self.config.vqgan, *batch.shape[1:3])
        parts = (batch[i : i + most] for i in range(0, len(batch), most))
        codes = np.concatenate([np.asarray(encode_images(vqgan, self.params["vqgan"], part)) for part in parts])
        return codes if image.ndim == 4 else codes[0]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int32 codes [h, w] (or [n, h, w]) -> uint8 [stride * h, stride * w, 3] (or [n, ...]).

        Raises:
            PureError: not integers of that shape, or a code outside the codebook.
        """
        codes = np.asarray(codes)
        if codes.dtype.kind not in "iu" or codes.ndim not in (2, 3) or 0 in codes.shape:
            raise PureError(f"codes must be integers [height, width], not {codes.dtype} {list(codes.shape)}")
        size = self.config.vqgan.codebook_size
        if codes.min() < 0 or codes.max() >= size:
            raise PureError(f"codes must lie in 0..{size - 1}, but range over {codes.min()}..{codes.max()}")
        batch = codes if codes.ndim == 3 else codes[None]
        stride = self.config.vqgan.stride
        vqgan, most = fitting(self.config.vqgan, stride * batch.shape[1], stride * batch.shape[2])
        parts = (batch[i : i + most].astype(np.int32) for i in range(0, len(batch), most))
        pixels = np.concatenate([np.asarray(decode_codes(vqgan, self.params["vqgan"], part)) for part in parts])
        return pixels if codes.ndim == 3 else pixels[0]


def next_code_distribution(
    model: Model, tokens: np.ndarray, sampling: SamplingConfig | None = None
) -> CodeDistribution:
    """What the code that follows a context is drawn from; a forward pass over all of it, without a cache.

    Args:
        tokens: int32 [n]: the question (`pure_jax.sequence.prompt_ids`), the answer's text, image start, both size
            tokens, and the codes so far with their new-lines. Where guidance is on, the unconditional logits are those
            of the last image alone.
        sampling: None takes the model's defaults.

    Returns:
        Arrays of shape [] and [codes].

    Raises:
        PureError: no image is open at the end, or no code comes next, but a new-line or the image's end.
    """
    tokens, vocabulary = np.asarray(tokens, np.int32), model.vocabulary
    sampling = sampling or model.config.sampling
    starts = np.flatnonzero(tokens == vocabulary.image_start)
    image = tokens[starts[-1] :] if len(starts) else tokens[:0]
    if len(image) < 3 or vocabulary.image_end in image:
        raise PureError("the context must end inside an image: image start, two size tokens, and codes so far")
    height, width = (latent_side(int(id_), vocabulary) for id_ in image[1:3])
    if int(body_kind(*map(jnp.asarray, (len(image) - 3, height, width)))) != CODE:
        raise PureError(f"no code follows {len(image) - 3} tokens of an image of {height} x {width} codes")
    next_logits = partial(_next_logits, model.transformer, model.params["transformer"], vocabulary.code_to_id)
    logits = next_logits(tokens)
    if sampling.guidance_scale != 1.0:
        logits = guide(logits, next_logits(image), sampling.guidance_scale)
    return jax.jit(code_distribution, static_argnums=1)(logits, sampling)


@partial(jax.jit, static_argnames="net")
def _next_logits(net: Transformer, params: Any, ids: Array, tokens: Array) -> Array:
    """Logits, float32 [ids], of these ids behind the last of tokens [n]."""
    hidden: Any = net.apply({"params": params}, tokens[None], jnp.arange(len(tokens))[None], hidden_only=True)[0]
    return product(hidden[0, -1:], columns(params["lm_head"], ids))[0]
