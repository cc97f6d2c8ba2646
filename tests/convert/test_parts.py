"""One network is loaded alone, from what there is of it, and computes what it computes in the whole model."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pure_jax
from pure_jax.errors import PureError
from tests.models import tiny_model
from tests.upstream import image_tensors, write_model

TOKENS = np.arange(24, dtype=np.int32).reshape(2, 12)
POSITIONS = np.broadcast_to(np.arange(12, dtype=np.int32), TOKENS.shape)
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 32, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model()
    directory = tmp_path_factory.mktemp("native") / "tiny"
    pure_jax.save(directory, model.config, model.params, model.tokenizer.to_str(), "")
    return directory


def only(source: Path, destination: Path, *patterns: str) -> Path:
    destination.mkdir()
    for file in {file for pattern in patterns for file in source.glob(pattern)}:
        shutil.copy(file, destination)
    return destination


def logits(transformer, params) -> np.ndarray:
    return np.asarray(jax.jit(transformer.apply)({"params": params}, TOKENS, POSITIONS)[0])


def test_a_language_model_without_tokenizers_gives_the_logits_of_the_whole_model(upstream, tmp_path) -> None:
    whole = pure_jax.load(upstream)
    part = only(upstream, tmp_path / "part", "config.json", "model*")
    np.testing.assert_array_equal(
        logits(*pure_jax.load_transformer(part)), logits(whole.transformer, whole.params["transformer"])
    )


@pytest.mark.parametrize("scan", [True, False])
def test_dtype_and_layers_are_as_wanted(native, tmp_path, scan) -> None:
    part = only(native, tmp_path / "part", "config.json", "transformer*")
    transformer, params = pure_jax.load_transformer(part, dtype="bfloat16", scan_layers=scan)
    assert transformer.config == dataclasses.replace(tiny_model().config.transformer, scan_layers=scan)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")} == {jnp.dtype(transformer.dtype)}
    assert ("layers" in params) == scan and ("layers_0" in params) != scan


@pytest.mark.parametrize("file", ["vq_ds8_c2i.pt", "vq.safetensors", ".", "directory with nothing else"])
def test_an_image_tokenizer_alone_encodes_and_decodes_as_in_the_whole_model(upstream, tmp_path, file) -> None:
    if file == "vq.safetensors":
        save_file(image_tensors(), source := tmp_path / file)
    elif file == "directory with nothing else":
        source = only(upstream, tmp_path / "part", "*.pt")
    else:
        source = upstream / file
    vqgan, params = pure_jax.load_vqgan(source)
    whole = pure_jax.load(upstream)
    codes = np.asarray(pure_jax.encode_images(vqgan, params, PIXELS))
    np.testing.assert_array_equal(codes, whole.encode(PIXELS))
    np.testing.assert_array_equal(pure_jax.decode_codes(vqgan, params, codes), whole.decode(codes))


def test_the_image_tokenizer_of_a_model_directory_needs_nothing_else(native, tmp_path) -> None:
    vqgan, params = pure_jax.load_vqgan(only(native, tmp_path / "part", "config.json", "vqgan*"))
    model = tiny_model()
    assert vqgan.config == model.config.vqgan
    jax.tree.map(np.testing.assert_array_equal, params, model.params["vqgan"])


def test_the_averaged_weights_of_a_training_checkpoint_can_be_chosen(tmp_path) -> None:
    ema = {name: tensor + 1 for name, tensor in image_tensors().items()}
    torch.save({"model": image_tensors(), "ema": ema}, tmp_path / "vq.pt")
    plain, averaged = (pure_jax.load_vqgan(tmp_path / "vq.pt", weights=weights)[1] for weights in (None, "ema"))
    np.testing.assert_array_equal(plain["quantizer"]["codebook"] + 1, averaged["quantizer"]["codebook"])


def test_the_demo_is_the_default() -> None:
    config = pure_jax.load(scan_layers=False).config
    assert pure_jax.load_transformer(scan_layers=False)[0].config == config.transformer
    assert pure_jax.load_vqgan()[0].config == config.vqgan


@pytest.mark.parametrize(
    ("load", "parts", "complaint"),
    [
        (pure_jax.load_transformer, ["vqgan*"], "config.json is missing"),
        (pure_jax.load_transformer, ["config.json"], "transformer.safetensors is missing"),
        (pure_jax.load_vqgan, ["config.json"], "vqgan.safetensors is missing"),
        (pure_jax.load_vqgan, ["tokenizer.json"], "no image tokenizer"),
    ],
)
def test_a_part_that_is_not_there_is_one_sentence(native, tmp_path, load, parts, complaint) -> None:
    with pytest.raises(PureError, match=complaint):
        load(only(native, tmp_path / "part", *parts))
    with pytest.raises(PureError, match="there is no such directory"):
        load(tmp_path / "nowhere")


def test_weights_to_choose_are_refused_where_there_is_one_set(native) -> None:
    with pytest.raises(PureError, match="with one set of weights; leave weights out"):
        pure_jax.load_vqgan(native, weights="ema")
