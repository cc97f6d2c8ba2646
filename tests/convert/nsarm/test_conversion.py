"""NSARM's PyTorch files, in all the forms they come in, become a model directory, and that the same files again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import pure_jax
from pure_jax.__main__ import main
from pure_jax.config import to_dict
from pure_jax.convert.nsarm import torch_networks
from pure_jax.convert.nsarm.sizes import map_config, transformer_config, vae_config
from pure_jax.convert.opening import open_model
from pure_jax.errors import PureError
from pure_jax.nsarm.config import MapConfig, NsarmConfig, TransformerConfig, VAEConfig
from tests.nsarm_models import TEXT, text_encoder, tiny_config, tiny_pair, tokenizer

CONFIG = tiny_config(prompt_length=0, text_encoder=TEXT)


def states(chunks: int = 2) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State dicts of transformer and image tokenizer, as published: with buffers, blocks in chunks."""
    pair = tiny_pair(prompt_length=0)
    infinity = torch_networks.Infinity(CONFIG, chunks)
    for own, wanted in zip(infinity.parameters(), pair.infinity.parameters(), strict=True):
        own.data = wanted.data
    return infinity.state_dict(), pair.vae.state_dict()


def write(directory: Path, transformer: Any, vae: Any, text: bool = True) -> Path:
    directory.mkdir()
    torch.save(transformer, directory / "release.pth")
    torch.save(vae, directory / "tokenizer.pth")
    config = CONFIG if text else dataclasses.replace(CONFIG, text_encoder=None)
    (directory / "nsarm.json").write_text(json.dumps(to_dict(config)))
    if text:
        text_encoder().save_pretrained(directory / "t5")
        (directory / "t5" / "tokenizer.json").write_text(tokenizer().to_str())
    return directory


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    transformer, vae = states()
    return write(tmp_path_factory.mktemp("torch") / "published", transformer, {"vae": vae})


def params_of(path: Path) -> dict[str, np.ndarray]:
    networks = open_model(path).checkpoint.tensors
    return {f"{name}.{path}": np.asarray(t) for name, own in networks.items() for path, t in own.items()}


def test_files_are_recognised_and_what_is_not_needed_is_named(published):
    checkpoint, remarks = open_model(published)
    assert checkpoint.config == CONFIG and checkpoint.tokenizer_json
    assert set(checkpoint.tensors) == {"transformer", "map_network", "vae", "text_encoder"}
    assert any("zero_k_bias" in remark for remark in remarks)
    assert "tokenizer.pth: quantizer.lfq.mask" in checkpoint.upstream["unused"]


def short(vae: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The other spelling: without the level of names inside of convolutions and norms."""
    parts = {name: name.rsplit(".", 2) for name in vae}
    short = {n: f"{p[0]}.{p[2]}" if len(p) == 3 and p[1] in ("conv", "norm") else n for n, p in parts.items()}
    return {short[name].replace("quantizer.", "quantize."): tensor for name, tensor in vae.items()}


def split(directory: Path) -> None:
    """The transformer's file in parts, which end in the middle of tensors."""
    content = (directory / "release.pth").read_bytes()
    size = len(content) // 3 + 1
    for i in range(3):
        (directory / f"release.pth.part_a{'abc'[i]}").write_bytes(content[i * size : (i + 1) * size])
    (directory / "release.pth").unlink()


@pytest.mark.parametrize(
    "form",
    ["training checkpoint", "short spelling, stored masks", "parts", "blocks without chunks", "PyTorch's old format"],
)
def test_every_form_gives_the_same_parameters(published, tmp_path, form):
    transformer, vae = states(1 if form == "blocks without chunks" else 2)
    wrapped: Any = transformer
    if form == "training checkpoint":
        wrapped = {"trainer": {"gpt_fsdp": transformer, "gpt_ema_fsdp": {"x": torch.zeros(1)}}, "epoch": 5}
    if form == "short spelling, stored masks":
        vae = short(vae)
        wrapped = transformer | {"lvl_1L": torch.zeros(3, dtype=torch.int64), "attn_bias_for_masking": torch.zeros(1)}
    directory = write(tmp_path / "other", wrapped, {"vae": vae})
    if form == "parts":
        split(directory)
    if form == "PyTorch's old format":
        torch.save(wrapped, directory / "release.pth", _use_new_zipfile_serialization=False)
    wanted, found = params_of(published), params_of(directory)
    assert wanted.keys() == found.keys()
    for name, own in found.items():
        np.testing.assert_array_equal(own, wanted[name])


def test_there_and_back_is_bit_identical(published, tmp_path):
    main(["convert", str(published), str(tmp_path / "flax"), "--verify"])
    main(["convert", str(tmp_path / "flax"), str(tmp_path / "torch"), "--to", "torch", "--verify"])
    transformer, vae = states()
    for file, wanted in (("nsarm.pth", transformer), ("vae.pth", {"vae": vae})):
        found = torch.load(tmp_path / "torch" / file, weights_only=True)
        found, wanted = (own.get("vae", own) for own in (found, wanted))
        assert found.keys() == wanted.keys() - {"quantizer.lfq.mask"}
        assert all(torch.equal(found[name], wanted[name]) for name in found)
    t5 = type(text_encoder()).from_pretrained(tmp_path / "torch" / "text_encoder")
    assert all(torch.equal(a, b) for a, b in zip(t5.parameters(), text_encoder().parameters(), strict=True))


def test_the_converted_model_restores_and_bfloat16_is_kept(published, tmp_path):
    main(["convert", str(published), str(tmp_path / "flax"), "--dtype", "bfloat16"])
    model = pure_jax.load(tmp_path / "flax", dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model.params["transformer"])} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model.params["vae"])} == {"float32"}
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = picture.repeat(2, axis=0).repeat(2, axis=1)
    result = pure_jax.Restorer(model).restore(picture, scale=2, text="a cat")
    assert result.image.size == (32, 32)


def test_a_transformer_without_map_network_is_given_a_fresh_one_to_train(published, tmp_path, capsys):
    transformer, vae = states()
    bare = {name: tensor for name, tensor in transformer.items() if not name.startswith("map_transformer.")}
    directory = write(tmp_path / "infinity", bare, {"vae": vae})
    main(["convert", str(directory), str(tmp_path / "flax"), "--map-network", "fresh", "--verify"])
    assert "train it, with `pure train map`" in capsys.readouterr().out
    fresh, whole = pure_jax.load(tmp_path / "flax").params, pure_jax.load(published).params
    for name, own in fresh.items():
        same = jax.tree.map(np.array_equal, own, whole[name])
        assert all(jax.tree.leaves(same)) == (name != "map_network"), name
    with pytest.raises(SystemExit, match="2"):
        main(["convert", str(published), str(tmp_path / "other"), "--map-network", "fresh"])
    assert "has a map network; leave map_network out" in " ".join(capsys.readouterr().err.split())


def test_the_published_sizes_are_read_off_the_tensors():
    with torch.device("meta"):
        infinity = torch_networks.Infinity(NsarmConfig(), chunks=8)
        vae = torch_networks.VAE(VAEConfig())
    shapes = {name: tuple(p.shape) for name, p in infinity.named_parameters()}
    own = {
        name.replace(f"block_chunks.{i}.module.{j}.", f"blocks.{5 * i + j}."): shape
        for name, shape in shapes.items()
        for i, j in [[int(n) for n in name.split(".")[1:4:2]] if name.startswith("block_chunks") else (0, 0)]
    }
    assert transformer_config(own) == TransformerConfig(scan_layers=False)
    assert map_config(own) == MapConfig()
    assert vae_config({name: tuple(p.shape) for name, p in vae.named_parameters()}) == VAEConfig()


def without(name: str) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        target = directory / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return act


def resaved(name: str, change: Callable[[dict], Any]) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        torch.save(change(torch.load(directory / name, weights_only=True)), directory / name)

    return act


def reconfigured(**changes: Any) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        values = json.loads((directory / "nsarm.json").read_text())
        for name, own in changes.items():
            values[name] = values[name] | own if isinstance(own, dict) else own
        (directory / "nsarm.json").write_text(json.dumps(values))

    return act


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing T": (
        resaved("release.pth", lambda s: {n: p for n, p in s.items() if not n.startswith("map_")}),
        "release.pth has no map_transformer.* tensors",
    ),
    "missing tokenizer": (without("tokenizer.pth"), "no .pth file with the image tokenizer"),
    "missing transformer": (without("release.pth"), "no .pth file with the transformer"),
    "another preset": (
        reconfigured(transformer={"num_layers": 3}),
        "release.pth: these tensors are not a NSARM checkpoint of the configured size: tensor 'blocks.2.",
    ),
    "another bit width": (
        resaved("tokenizer.pth", lambda s: {"vae": s["vae"] | {"encoder.conv_out.conv.bias": torch.zeros(6)}}),
        "tensor 'encoder.conv_out.conv.bias' of shape [6] does not fit",
    ),
    "an unknown tensor": (resaved("release.pth", lambda s: s | {"lora": torch.zeros(2)}), "tensor 'lora' is unknown"),
    "no tensor": (resaved("release.pth", lambda s: s | {"step": 7}), "tensor 'step' is a int"),
    "another file": (resaved("release.pth", lambda s: {"model": torch.zeros(2)}), "holds neither NSARM's transformer"),
    "two tokenizers": (
        lambda d: shutil.copy(d / "tokenizer.pth", d / "copy.pth"),  # type: ignore[dict-item]
        "has two files of the image tokenizer",
    ),
    "no text tokenizer": (without("t5/tokenizer.json"), "tokenizer.json is missing"),
    "no text encoder": (without("t5"), "do not agree on a text encoder: none lies there"),
    "two text encoders": (lambda d: shutil.copytree(d / "t5", d / "t6"), "several text encoders (t5, t6)"),  # type: ignore[dict-item]
    "unknown heads": (without("nsarm.json"), "how many heads its layers have cannot be told"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_one_sentence(published, tmp_path, case):
    directory = shutil.copytree(published, tmp_path / "bad")
    act, complaint = BAD[case]
    act(directory)
    with pytest.raises(PureError) as refusal:
        open_model(directory)
    assert complaint in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_text_encoder_of_another_kind_is_refused(published, tmp_path):
    directory = shutil.copytree(published, tmp_path / "bad")
    (directory / "nsarm.json").unlink()
    config = json.loads((directory / "t5" / "config.json").read_text())
    (directory / "t5" / "config.json").write_text(json.dumps(config | {"feed_forward_proj": "relu"}))
    with pytest.raises(PureError, match="feed_forward_proj must be 'gated-gelu'"):
        open_model(directory)


def test_a_model_without_a_text_encoder_is_converted_with_a_remark(tmp_path):
    transformer, vae = states()
    directory = write(tmp_path / "bare", transformer, {"vae": vae}, text=False)
    assert any("there is no text encoder" in remark for remark in open_model(directory).remarks)


def test_code_in_a_file_is_not_run(published, tmp_path):
    class Touch:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    directory = shutil.copytree(published, tmp_path / "bad")
    torch.save({"pos_start": Touch()}, directory / "release.pth")
    with pytest.raises(PureError, match="was not executed"):
        open_model(directory)
    split(directory)
    with pytest.raises(PureError, match="was not executed"):
        open_model(directory)
    assert not (tmp_path / "ran").exists()


def test_missing_parts_are_noticed(published, tmp_path):
    directory = shutil.copytree(published, tmp_path / "bad")
    split(directory)
    (directory / "release.pth.part_ac").unlink()
    with pytest.raises(PureError, match="release.pth.part_aa is broken and cannot be read"):
        open_model(directory)
