"""What `pure compare` measures of two NSARM models: how far apart they are at every point of restoring one picture.

A model directory of this library is computed by this library, PyTorch files by `torch_networks` (and transformers' T5).
Both are given the first one's inputs of the transformer, so that a bit that rounding decides parts nothing. A model is
in memory whole, in float32, one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from pure_jax.checkpoint import Checkpoint, Tensors, unstack
from pure_jax.convert.nsarm.names import TEXT_ROWS, TRANSFORMER_ROWS, map_rows, vae_rows
from pure_jax.convert.tables import to_torch
from pure_jax.convert.torch_files import import_torch, to_torch_tensor
from pure_jax.errors import PureError
from pure_jax.nsarm.bsq import decompose
from pure_jax.nsarm.conditioning import Captions
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.nsarm.map_network import map_network
from pure_jax.nsarm.resize import patchify
from pure_jax.nsarm.text import TextEncoder
from pure_jax.nsarm.transformer import Block, Transformer
from pure_jax.nsarm.vae import VAE
from pure_jax.vqgan import from_pixels, to_pixels

MOST_RELATIVE = 1e-4
"""Most that a point may differ by, as a share of its largest value; of the logits twice as much."""
MOST_LEVELS = 1
TEXT_TOKENS = 8
"""Ids 3, 4, ... and the end: what a text encoder is compared on."""


@dataclass(frozen=True)
class Inputs:
    """What both models are given."""

    low: np.ndarray
    """uint8 [low, low, 3]"""
    high: np.ndarray
    """uint8 [tile, tile, 3]: its scales behind T's are what the transformer is taught."""
    tokens: np.ndarray | None = None
    """float32 [1, n, bits of a token]: the transformer's inputs; None has them made."""
    text: np.ndarray | None = None
    """float32 [1, length, text_size]: a caption's features; None has them made."""


@dataclass(frozen=True)
class Point:
    """max |a - b|, and that over max |b|."""

    name: str
    max_abs: float
    max_relative: float


@dataclass(frozen=True)
class Report:
    a: str
    b: str
    points: tuple[Point, ...]
    max_level: int
    """Most levels of 255 between two pixels of the picture decoded from its scales."""
    failed: tuple[str, ...]

    @property
    def verdict(self) -> str:
        return "different" if self.failed else "same"


def require_same_sizes(a: NsarmConfig, b: NsarmConfig) -> None:
    """Raises PureError, which names the first part whose sizes differ."""
    for name in ("map_network", "vae", "text_encoder", "sides", "patch"):
        if getattr(a, name) != getattr(b, name):
            raise PureError(f"the models cannot be compared: their {name} differ")
    own, other = (dataclasses.replace(config.transformer, scan_layers=False, remat=False) for config in (a, b))
    if dataclasses.replace(own, drop_path=0.0) != dataclasses.replace(other, drop_path=0.0):
        raise PureError("the models cannot be compared: their transformers' sizes differ")


def by_jax(checkpoint: Checkpoint, inputs: Inputs) -> tuple[dict[str, np.ndarray], Inputs]:
    """Every point as this library computes it; and the inputs with what was made."""
    config: NsarmConfig = checkpoint.config
    unrolled = dataclasses.replace(config.transformer, scan_layers=False)
    points: dict[str, np.ndarray] = {}
    with jax.default_matmul_precision("highest"):
        vae: Any = VAE(config.vae)
        params = {"params": _parameters(checkpoint.tensors["vae"])}
        encode = jax.jit(lambda p, x: vae.apply(p, from_pixels(x)[None], method="encode"))
        low, high = encode(params, inputs.low), encode(params, inputs.high)
        net: Any = map_network(config)
        residuals = jax.jit(net.apply)({"params": _parameters(checkpoint.tensors["map_network"])}, low)
        points |= {"encoder": low} | {f"T, scale {i + 1}": own for i, own in enumerate(residuals)}
        scaled = decompose(high, config.latent_scales, residuals, config.next_input)
        decoded = jax.jit(lambda p, z: to_pixels(vae.apply(p, z, method="decode")))(params, _total(high, config))
        if inputs.tokens is None:
            tokens = jnp.concatenate([patchify(own, config.patch) for own in scaled.inputs], axis=1)
            inputs = dataclasses.replace(inputs, tokens=np.asarray(tokens))
        if config.text_encoder is not None:
            ids = _ids()
            encoder: Any = TextEncoder(config.text_encoder)
            text = {"params": _parameters(checkpoint.tensors["text_encoder"])}
            points["text"] = encoder.apply(text, jnp.asarray(ids), jnp.ones(ids.shape, bool))
        if inputs.text is None:
            own = points["text"] if "text" in points else np.asarray(checkpoint.tensors["prompt"]["features"])[None]
            inputs = dataclasses.replace(inputs, text=np.asarray(own, np.float32))
        transformer: Any = Transformer(unrolled)
        assert inputs.text is not None
        captions = Captions(jnp.asarray(inputs.text), jnp.ones(inputs.text.shape[:2], bool))
        (logits, _), seen = transformer.apply(
            {"params": _parameters(unstack(checkpoint.tensors["transformer"]))}, jnp.asarray(inputs.tokens), captions,
            config.scales, capture_intermediates=lambda module, _: isinstance(module, Block), mutable=["intermediates"],
        )  # fmt: skip
        for i in range(unrolled.num_layers):
            points[f"block {i}"] = seen["intermediates"][f"layers_{i}"]["__call__"][0][0][0]
        points["logits"] = logits
    points["pixels"] = decoded
    return {name: np.asarray(own) for name, own in points.items()}, inputs


def _total(features: Any, config: NsarmConfig) -> Any:
    return decompose(features, config.latent_scales, next_input=config.next_input).total


def _parameters(tensors: Tensors) -> Any:
    read = {path: jnp.asarray(np.asarray(tensor), jnp.float32) for path, tensor in tensors.items()}
    return traverse_util.unflatten_dict(read, sep=".")


def _ids() -> np.ndarray:
    return np.array([[*range(3, 3 + TEXT_TOKENS), 1]])


def by_torch(checkpoint: Checkpoint, inputs: Inputs) -> tuple[dict[str, np.ndarray], Inputs]:
    """The same points as PyTorch computes them. Raises PureError if torch is not installed."""
    torch = import_torch("computing a PyTorch model")
    from pure_jax.convert.nsarm import torch_networks

    config: NsarmConfig = checkpoint.config
    points: dict[str, Any] = {}

    def filled(module: Any, tensors: dict[str, Any]) -> Any:
        state = {name: to_torch_tensor(np.asarray(own)).float() for name, own in tensors.items()}
        missing = module.load_state_dict(state, strict=False).missing_keys
        assert all(name.endswith(("zero_k_bias", "lfq.mask")) for name in missing), missing
        return module.eval()

    def pictures(pixels: np.ndarray) -> Any:
        return torch.from_numpy((pixels / 255.0 * 2.0 - 1.0).astype(np.float32)).permute(2, 0, 1)[None]

    def channels_last(x: Any) -> Any:
        return x.permute(0, 2, 3, 1)

    with torch.no_grad():
        vae = filled(torch_networks.VAE(config.vae), to_torch(checkpoint.tensors["vae"], vae_rows(config.vae)))
        low, high = vae.encoder(pictures(inputs.low)), vae.encoder(pictures(inputs.high))
        transformer = to_torch(unstack(checkpoint.tensors["transformer"]), TRANSFORMER_ROWS)
        of_map = to_torch(checkpoint.tensors["map_network"], map_rows(config.map_network))
        net = filled(torch_networks.Infinity(config), transformer | of_map)
        residuals = [channels_last(own) for own in net.map_transformer(low)]
        points |= {"encoder": channels_last(low)} | {f"T, scale {i + 1}": own for i, own in enumerate(residuals)}
        features = jnp.asarray(channels_last(high).numpy())
        if inputs.tokens is None:
            given = [jnp.asarray(own.numpy()) for own in residuals]
            scaled = decompose(features, config.latent_scales, given, config.next_input)
            tokens = jnp.concatenate([patchify(own, config.patch) for own in scaled.inputs], axis=1)
            inputs = dataclasses.replace(inputs, tokens=np.asarray(tokens))
        total = torch.from_numpy(np.array(_total(features, config))).permute(0, 3, 1, 2)
        image = channels_last(vae.decoder(total)).clamp(-1.0, 1.0)
        if config.text_encoder is not None:
            points["text"] = _t5(checkpoint)
        if inputs.text is None:
            own = points["text"] if "text" in points else np.asarray(checkpoint.tensors["prompt"]["features"])[None]
            inputs = dataclasses.replace(inputs, text=np.array(own, np.float32))
        for i, block in enumerate(net.all_blocks()):
            block.register_forward_hook(lambda _, args, out, i=i: points.__setitem__(f"block {i}", out))
        assert inputs.text is not None and inputs.tokens is not None
        captions = [torch.from_numpy(np.array(own)) for own in inputs.text]
        points["logits"] = net(torch.from_numpy(np.array(inputs.tokens)), captions, [False])
        points["pixels"] = ((image + 1.0) / 2.0 * 255.0).to(torch.uint8)
    return {name: np.asarray(own) for name, own in points.items()}, inputs


def _t5(checkpoint: Checkpoint) -> Any:
    import torch
    from transformers import T5Config, T5EncoderModel

    from pure_jax.convert.nsarm.writing import t5_config

    model = T5EncoderModel(T5Config.from_dict(t5_config(checkpoint.config.text_encoder))).eval()
    tensors = to_torch(checkpoint.tensors["text_encoder"], TEXT_ROWS)
    state = {name: to_torch_tensor(np.asarray(own)).float() for name, own in tensors.items()}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert missing in ([], ["encoder.embed_tokens.weight"]), missing  # the latter is the first table, by another name
    return model(input_ids=torch.from_numpy(_ids())).last_hidden_state


Runner = Callable[[Checkpoint, Inputs], tuple[dict[str, np.ndarray], Inputs]]


def compare(a: tuple[str, Checkpoint, Runner], b: tuple[str, Checkpoint, Runner], inputs: Inputs) -> Report:
    """Two models, each with what the report calls it and who computes it, on the same inputs.

    Raises:
        PureError: their sizes differ, a value is not finite, torch is not installed.
    """
    require_same_sizes(a[1].config, b[1].config)
    sides = []
    for name, checkpoint, runner in (a, b):
        found, inputs = runner(checkpoint, inputs)
        broken = next((point for point, own in found.items() if not np.isfinite(own).all()), None)
        if broken is not None:
            raise PureError(f"{name} computes values that are not finite ({broken}); its parameters are damaged")
        sides.append(found)
    pixels = [own.pop("pixels").astype(np.int16) for own in sides]
    points: list[Point] = []
    failed: list[str] = []
    for point, own in sides[0].items():
        other = sides[1][point]
        largest = float(np.abs(own - other).max())
        relative = largest / max(float(np.abs(other).max()), float(np.finfo(np.float32).tiny))
        points.append(Point(point, largest, relative))
        limit = MOST_RELATIVE * (2 if point == "logits" else 1)
        if relative > limit and not failed:
            failed.append(f"{point} differs by {relative:.1e} of its largest value, more than {limit:.0e}")
    levels = int(np.abs(pixels[0] - pixels[1]).max())
    if levels > MOST_LEVELS:
        failed.append(f"decoded pixels differ by up to {levels} levels, more than {MOST_LEVELS}")
    return Report(a[0], b[0], tuple(points), levels, tuple(failed))


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain values, with its verdict."""
    return dataclasses.asdict(report) | {"verdict": report.verdict}


def format_report(report: Report) -> str:
    """A table of the points, the rest, the verdict."""
    lines = [f"A: {report.a}", f"B: {report.b}", "", "| point | max abs | max relative |", "|---|---:|---:|"]
    lines += [f"| {point.name} | {point.max_abs:.2e} | {point.max_relative:.2e} |" for point in report.points]
    closing = "; ".join(report.failed) if report.failed else "within the limits"
    return "\n".join(
        [*lines, "", f"pixels: {report.max_level} of 255 levels apart at most", f"{report.verdict}: {closing}"]
    )
