"""Nothing wrong crosses over: damaged, foreign and malicious files end in one sentence that names file and tensor, no
destination is left behind, and no code from a file is ever executed."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

import pure_jax
from pure_jax.__main__ import main
from pure_jax.config import VQGANConfig
from pure_jax.convert.command import Convert
from pure_jax.convert.upstream import open_upstream
from pure_jax.errors import PureError
from tests import upstream
from tests.upstream import change_config, change_tensors, image_tensors, write_tokenizer

PT = "vq_ds8_c2i.pt"
INDEX = "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"
CONV = "decoder.mid.0.conv1.weight"
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return upstream.write_model(tmp_path_factory.mktemp("whole") / "pure")


@pytest.fixture
def model(whole, tmp_path) -> Path:
    """A copy to damage: 11 shards and, as a link because it is large, LlamaGen's file."""
    copy = Path(shutil.copytree(whole, tmp_path / "pure", ignore=shutil.ignore_patterns(PT)))
    os.link(whole / PT, copy / PT)
    return copy


def assert_nothing_written(folder: Path) -> None:
    assert [path.name for path in folder.iterdir() if path.name.startswith("out")] == []


def assert_refused(model: Path, *parts: str, load: bool = True, **options: Any) -> None:
    """Both ways into the library refuse it, in one line that holds `parts`."""
    ways = [lambda: Convert(str(model), model.parent / "out", **options).run()]
    if load:
        ways.append(lambda: pure_jax.load(model, vqgan=options.get("vqgan")))
    for way in ways:
        with pytest.raises(PureError) as error:
            way()
        for part in parts:
            assert part in str(error.value)
        assert "\n" not in str(error.value)
        assert_nothing_written(model.parent)


def shard_of(model: Path, name: str) -> Path:
    return model / json.loads((model / INDEX).read_text())["weight_map"][name]


def change_index(model: Path, change: Callable[[dict[str, str]], Any]) -> None:
    content = json.loads((model / INDEX).read_text())
    change(content["weight_map"])
    (model / INDEX).write_text(json.dumps(content))


def change_header(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite what a safetensors file says of its data."""
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def replaced(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Damage:
    return lambda model: change_tensors(model, lambda own, tensor: change(tensor) if own == name else tensor)


def add_tensor(model: Path, name: str, file: str | None = None) -> None:
    """Into an existing shard, or into a new file."""
    path = model / (file or shard_of(model, UP).name)
    tensors = load_file(path) if path.is_file() else {}
    save_file({n: torch.from_numpy(t) for n, t in tensors.items()} | {name: torch.ones(2)}, path, {"format": "pt"})
    change_index(model, lambda places: places.update({name: path.name}))


def write_pt(model: Path, content: Any, legacy: bool = False) -> None:
    (model / PT).unlink()  # it may be the link
    if isinstance(content, bytes):
        (model / PT).write_bytes(content)
    else:
        torch.save(content, model / PT, _use_new_zipfile_serialization=not legacy)


def with_image_tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    return lambda model: write_pt(model, {"model": image_tensors() | {name: change(image_tensors()[name])}})


def poisoned(dtype: torch.dtype, value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """The last of its values is not finite."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(dtype, copy=True)
        tensor.view(-1)[-1] = value
        return tensor

    return change


# ---- .pt files: only weights come out of them ----------------------------------------------------------------------


class Attack:
    """Unpickled without care, this creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("where", ["beside", "among", "alone"])
def test_code_in_a_pt_file_is_not_executed(model, tmp_path, where, legacy):
    attack = Attack(tmp_path / "owned")
    content = {
        "beside": {"model": {CONV: torch.ones(2)}, "args": attack},
        "among": {"model": {CONV: attack}},
        "alone": attack,
    }
    write_pt(model, content[where], legacy)
    assert_refused(model, str(model / PT), "holds more than weights", "not executed")
    assert not (tmp_path / "owned").exists()


def test_code_in_a_bare_pickle_is_not_executed(model, tmp_path):
    attack = pickle.dumps(Attack(tmp_path / "owned"))
    write_pt(model, attack)
    assert_refused(model, str(model / PT), "not executed")
    assert not (tmp_path / "owned").exists()
    pickle.loads(attack)
    assert (tmp_path / "owned").exists()  # the attack is real


def test_a_whole_module_is_refused(model):
    write_pt(model, upstream.image_tokenizer())
    assert_refused(model, str(model / PT), "holds more than weights")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is broken"),
        (b"\x80", "is broken"),
        (b"PK\x03\x04 and no archive", "is broken"),
        (b"<html>404 Not Found</html>", "no PyTorch file"),
    ],
)
def test_what_is_no_pt_file_is_refused(model, content, part):
    write_pt(model, content)
    assert_refused(model, str(model / PT), part)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_truncated_pt_file_is_refused(model, legacy, share):
    write_pt(model, {"model": {CONV: image_tensors()[CONV]}}, legacy)
    content = (model / PT).read_bytes()
    write_pt(model, content[: int(len(content) * share)])
    assert_refused(model, str(model / PT), "get the file again")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([torch.ones(2)], "holds a list instead of tensors"),
        (torch.ones(2), "holds a Tensor instead of tensors"),
        ({"model": [1, 2]}, "no weights under 'model'; it holds 'model'"),
        ({"model": {"steps": 7}}, "'steps' is a int, not a tensor"),
        ({"model": {}}, "tensor 'encoder.conv_in.weight' is missing"),
        ({"model": {CONV: torch.ones(4, 4).to_sparse()}}, f"tensor '{CONV}' is no dense tensor"),
        ({"model": {CONV: torch.ones(4, device="meta")}}, f"tensor '{CONV}' is no dense tensor"),
    ],
)
def test_a_pt_file_of_something_else_is_refused(model, content, part):
    write_pt(model, content)
    assert_refused(model, str(model / PT), part)


def trained() -> dict[str, Any]:
    """As LlamaGen's trainer writes it: two sets of weights, its command line and its optimisers."""
    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimiser.step()
    return {
        "optimizer": optimiser.state_dict(),
        "ema": {name: tensor + 1 for name, tensor in image_tensors().items()},
        "model": image_tensors(),
        "discriminator": layer.state_dict(),
        "optimizer_disc": optimiser.state_dict(),
        "steps": 7,
        "args": argparse.Namespace(lr=1e-4, data_path="/data", betas=(0.9, 0.95), ema=True),
    }


CODEBOOK = "quantize.embedding.weight"


@pytest.mark.parametrize(
    ("content", "weights", "shift", "legacy"),
    [
        (trained, None, 0, False),
        (trained, "model", 0, False),
        (trained, "ema", 1, False),
        (trained, None, 0, True),
        (lambda: {"ema": image_tensors()}, None, 0, False),
        (lambda: {"state_dict": image_tensors()}, None, 0, False),
        (image_tensors, None, 0, False),
        (image_tensors, None, 0, True),
    ],
)
def test_every_form_of_llamagens_file_is_taken(model, content, weights, shift, legacy):
    write_pt(model, content(), legacy)
    taken = open_upstream(model, vqgan_weights=weights).checkpoint.tensors["vqgan"]["quantizer.codebook"]
    np.testing.assert_array_equal(np.asarray(taken), image_tensors()[CODEBOOK] + shift)


def test_the_command_line_chooses_the_weights(model):
    write_pt(model, trained())
    Convert(str(model), model.parent / "out", vqgan_weights="ema").run()
    written = load_file(model.parent / "out" / "vqgan.safetensors")["quantizer.codebook"]
    np.testing.assert_array_equal(written, image_tensors()[CODEBOOK] + 1)


def test_weights_that_are_not_there_are_refused(model):
    assert_refused(model, str(model / PT), "no weights under 'ema'; it holds 'model'", load=False, vqgan_weights="ema")
    write_pt(model, image_tensors())
    assert_refused(model, "no weights under 'model'", load=False, vqgan_weights="model")


# ---- safetensors files and their index -----------------------------------------------------------------------------


def cut(model: Path) -> None:
    content = shard_of(model, UP).read_bytes()
    shard_of(model, UP).write_bytes(content[:-100])


def long_header(model: Path) -> None:
    content = shard_of(model, UP).read_bytes()
    shard_of(model, UP).write_bytes(struct.pack("<Q", 200 << 20) + content[8:])


def shifted(by: int) -> Damage:
    def change(header: dict[str, Any]) -> None:
        own = header[UP]["data_offsets"]
        header[UP]["data_offsets"] = [own[0] + by, own[1] + by]

    return lambda model: change_header(shard_of(model, UP), change)


def told(**fields: Any) -> Damage:
    return lambda model: change_header(shard_of(model, UP), lambda header: header[UP].update(fields))


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        long_header,
        shifted(-4),
        shifted(4),
        told(data_offsets=[0, 1 << 40]),
        told(shape=[48, 33]),
        told(shape=[-48, 32]),
        told(dtype="F9"),
        lambda model: shard_of(model, UP).write_bytes(b""),
        lambda model: shard_of(model, UP).write_bytes(b"\x08\0\0\0"),
        lambda model: shard_of(model, UP).write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    ],
    ids=lambda damage: damage.__qualname__,
)
def test_a_damaged_shard_is_refused(model, damage):
    shard = shard_of(model, UP)
    damage(model)
    assert_refused(model, str(shard), "get the file again")


def move_away(model: Path, name: str) -> str:
    shard = shard_of(model, name)
    shard.unlink()
    return shard.name


def test_a_shard_that_the_index_lists_but_is_missing_is_named(model):
    name = move_away(model, UP)
    assert_refused(model, f"{model / name} is missing")


def test_a_shard_that_the_index_does_not_list_is_named(model):
    shard = shard_of(model, UP).name
    change_index(model, lambda places: [places.pop(name) for name in [*places] if places[name] == shard])
    assert_refused(model, f"{model / shard} is a shard that {INDEX} does not list")


def test_a_tensor_that_the_index_does_not_list_is_named(model):
    change_index(model, lambda places: places.pop(UP))
    assert_refused(model, f"{shard_of_name(model)}: tensor '{UP}' is there")


def shard_of_name(model: Path) -> Path:
    """The file that really holds UP."""
    return next(file for file in model.glob("*.safetensors") if UP in load_file(file))


def test_a_tensor_that_the_index_lists_in_vain_is_named(model):
    shard = shard_of(model, UP).name
    change_index(model, lambda places: places.update({"model.layers.2.norm.weight": shard}))
    assert_refused(model, f"{model / shard}: tensor 'model.layers.2.norm.weight' is missing")


def test_a_tensor_in_two_shards_is_named(model):
    first, own = shard_of(model, "model.embed_tokens.weight"), shard_of(model, UP)
    add_tensor(model, UP, first.name)
    change_index(model, lambda places: places.update({UP: own.name}))
    assert_refused(model, f"{first}: tensor '{UP}' is there, but not where {INDEX} lists it")


def test_a_tensor_under_two_names_is_named(model):
    shard = shard_of(model, UP)
    add_tensor(model, f"language_model.{UP}")
    assert_refused(model, f"{shard}: tensor ", "is there already under another name")


@pytest.mark.parametrize("place", ["../other.safetensors", "/etc/passwd", "deeper/other.safetensors", ".."])
def test_an_index_that_points_elsewhere_is_refused(model, place):
    save_file({UP: torch.ones(48, 32)}, model.parent / "other.safetensors")
    change_index(model, lambda places: places.update({UP: place}))
    assert_refused(model, INDEX, place)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_refused(model, text):
    (model / INDEX).write_text(text)
    assert_refused(model, str(model / INDEX))


def test_a_directory_without_weights_is_refused(model):
    (model / INDEX).unlink()
    assert_refused(model, f"{model} has neither model.safetensors nor {INDEX}")


# ---- tensors that do not fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "parts"),
    [
        (UP, lambda t: t.T, ["shape [32, 48] does not fit"]),
        (UP, lambda t: t[:-1], ["shape [47, 32] does not fit"]),
        (UP, lambda t: t[None], ["2 axes, not 3"]),
        ("model.embed_tokens.weight", lambda t: t[:-1], ["shape [511, 32] does not fit"]),
        ("model.layers.0.self_attn.q_norm.weight", lambda t: t[:, :-1], ["shape [4, 7] does not fit"]),
        ("model.layers.0.self_attn.k_proj.weight", lambda t: t[:16], ["shape [16, 32] does not fit"]),
        ("model.norm.weight", lambda t: t[:0], ["shape [0] does not fit"]),
        (UP, lambda t: t.long(), ["I64"]),
        (UP, lambda t: t.double(), ["F64"]),
        (UP, lambda t: t.to(torch.float8_e4m3fn), ["F8_E4M3"]),
    ],
)
def test_a_tensor_of_another_shape_or_dtype_is_named(model, name, change, parts):
    shard = shard_of(model, name).name
    replaced(name, change)(model)
    assert_refused(model, shard, f"tensor '{name}'", *parts)


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        (CONV, lambda t: t[:-1], "does not fit"),
        (CONV, lambda t: t[0], "4 axes, not 3"),
        (CONV, lambda t: t.long(), "holds int64"),
        (CONV, lambda t: t.double(), "holds float64"),
        (CONV, lambda t: t.to(torch.float8_e4m3fn), "holds float8_e4m3fn"),
        ("quantize.embedding.weight", lambda t: t[0], "wrong shape"),
        ("encoder.conv_in.weight", lambda t: t[:0], "wrong shape"),
    ],
)
def test_an_image_tensor_of_another_shape_or_dtype_is_named(model, name, change, part):
    with_image_tensor(name, change)(model)
    assert_refused(model, str(model / PT), f"tensor '{name}'", part)


NOT_FINITE = [
    (dtype, value) for dtype in (torch.float32, torch.bfloat16, torch.float16) for value in (np.nan, np.inf)
] + [(torch.float32, -np.inf)]


@pytest.mark.parametrize(("dtype", "value"), NOT_FINITE)
def test_values_that_are_not_finite_are_refused(model, dtype, value):
    shard = shard_of(model, UP)
    replaced(UP, poisoned(dtype, value))(model)
    assert_refused(model, f"{shard}: tensor '{UP}' holds values that are not finite")


@pytest.mark.parametrize(("dtype", "value"), NOT_FINITE)
def test_image_values_that_are_not_finite_are_refused(model, dtype, value):
    with_image_tensor(CONV, poisoned(dtype, value))(model)
    assert_refused(model, f"{model / PT}: tensor '{CONV}' holds values that are not finite")


def test_a_norm_that_is_not_finite_is_refused(model):
    """Its rows are compared before anything is converted."""
    name = "model.layers.1.self_attn.q_norm.weight"
    shard = shard_of(model, name)
    replaced(name, poisoned(torch.float32, np.nan))(model)
    assert_refused(model, f"{shard}: tensor '{name}' holds values that are not finite")


def test_an_unknown_tensor_is_named(model):
    add_tensor(model, "model.layers.1.mlp.gate.weight")
    assert_refused(model, shard_of(model, UP).name, "tensor 'model.layers.1.mlp.gate.weight' is unknown")


def test_an_unknown_image_tensor_is_named(model):
    write_pt(model, {"model": image_tensors() | {"decoder.mid.3.weight": torch.ones(2)}})
    assert_refused(model, str(model / PT), "tensor 'decoder.mid.3.weight' is unknown")


def test_a_missing_tensor_is_named(model):
    replaced(UP, lambda _: None)(model)
    assert_refused(model, str(model), "tensor 'model.layers.1.mlp.up_proj.weight' is missing")


def test_a_missing_image_tensor_is_named(model):
    write_pt(model, {"model": {name: tensor for name, tensor in image_tensors().items() if name != CONV}})
    assert_refused(model, str(model / PT), "tensor 'decoder.mid.0.conv1.weight' is missing")


# ---- parts of different models -------------------------------------------------------------------------------------


def test_a_codebook_of_half_the_size_is_refused(model):
    """As Chameleon's vocabulary of 8,192 codes against PURE's of 16,384."""
    write_pt(model, {"model": image_tensors(VQGANConfig(channels=32, latent_channels=32, codebook_size=32))})
    assert_refused(model, str(model / PT), "'quantize.embedding.weight' has 32 codes", "tokenizer.json names 64")


def test_a_tokenizer_of_half_the_codes_is_refused(model):
    write_tokenizer(model / "tokenizer.json", codes=32)
    assert_refused(model, "'quantize.embedding.weight' has 64 codes", f"{model / 'tokenizer.json'} names 32")


def change_tokenizer(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(model: Path) -> None:
        content = json.loads((model / "tokenizer.json").read_text())
        change(content)
        (model / "tokenizer.json").write_text(json.dumps(content))

    return damage


def without_codes(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {name: id_ for name, id_ in vocab.items() if not name.startswith("IMGIMG")}


def swapped(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    vocab["IMGIMGAZ"], vocab["IMGIMGBZ"] = vocab["IMGIMGBZ"], vocab["IMGIMGAZ"]


def one_more(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["more"] = 512


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (change_tokenizer(without_codes), ["names no image codes", "text tokenizer"]),
        (change_tokenizer(lambda content: content["model"]["vocab"].pop("<eoss>")), ["lacks <eoss>"]),
        (change_tokenizer(swapped), ["'IMGIMGAZ' the id", "another model's tokenizer"]),
        (change_tokenizer(one_more), ["513 ids", "vocab_size 512", "another model"]),
        (change_tokenizer(lambda content: content.pop("model")), ["is not a tokenizer file"]),
        (lambda model: (model / "tokenizer.json").write_text("no json"), ["is not a tokenizer file"]),
        (lambda model: (model / "tokenizer.json").write_text("[]"), ["is not a tokenizer file"]),
        (lambda model: (model / "tokenizer.json").write_bytes(b"\xff\xfe{}"), ["is not a tokenizer file"]),
        (lambda model: (model / "tokenizer.json").unlink(), ["cannot read the tokenizer file"]),
    ],
)
def test_another_models_tokenizer_is_refused(model, damage, parts):
    damage(model)
    assert_refused(model, str(model / "tokenizer.json"), *parts)


def test_a_tokenizer_named_on_the_command_line_is_checked_too(model, tmp_path):
    write_tokenizer(tmp_path / "other.json", codes=32)
    assert_refused(model, str(tmp_path / "other.json"), "names 32", load=False, tokenizer=tmp_path / "other.json")


def test_the_image_tokenizer_must_be_one(model, tmp_path):
    shutil.copy(model / PT, model / "second.pt")
    assert_refused(model, f"several .pt files (second.pt, {PT})", "--vqgan")
    (model / "second.pt").unlink()
    (model / PT).unlink()
    assert_refused(model, "no image tokenizer", "--vqgan")
    assert_refused(model, str(tmp_path / "none.pt"), "is no file", vqgan=tmp_path / "none.pt")


# ---- config.json ---------------------------------------------------------------------------------------------------

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", [None, "32", -1, 0])
def test_a_size_that_is_missing_or_none_is_named(model, field, value):
    change_config(model, **{field: value})
    ours = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}.get(field, field)
    with pytest.raises(PureError) as error:
        pure_jax.load(model)
    assert str(model / "config.json") in str(error.value)
    assert field in str(error.value) or ours in str(error.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "rope scaling 'linear'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope scaling 'yarn'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"apply_lora": True}, "apply_lora"),
        ({"num_attention_heads": 3}, "num_heads 3"),
        ({"num_hidden_layers": 2.5}, "2.5"),
        ({"hidden_size": 32.0}, "32.0"),
        ({"num_hidden_layers": 10**9}, "more than the"),
        ({"num_key_value_heads": 2.0}, "wrong type"),
        ({"rope_parameters": [1]}, "wrong type"),
        ({"rope_parameters": None, "rope_theta": "abc"}, "wrong type"),
    ],
)
def test_a_model_of_another_kind_is_refused(model, changes, part):
    change_config(model, **changes)
    assert_refused(model, str(model / "config.json"), part)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"num_hidden_layers": 3}, "tensor 'model.layers.2."),
        ({"num_hidden_layers": 1}, "tensor 'model.layers.1."),
        ({"vocab_size": 513}, "tensor 'model.embed_tokens.weight' of shape [512, 32] does not fit"),
        ({"hidden_size": 64}, "tensor 'model.embed_tokens.weight' of shape [512, 32] does not fit"),
        ({"intermediate_size": 49}, "mlp.up_proj.weight' of shape [48, 32] does not fit"),
    ],
)
def test_sizes_that_are_not_the_files_are_refused(model, changes, part):
    change_config(model, **changes)
    assert_refused(model, str(model), part)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_config_that_is_none_is_refused(model, text):
    (model / "config.json").write_text(text)
    assert_refused(model, str(model / "config.json"))


# ---- where the result goes -----------------------------------------------------------------------------------------


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_destination_that_exists_is_left_alone(model, tmp_path):
    for name in ("file", "folder"):
        (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_text("mine")
        with pytest.raises(PureError, match=f"{name} exists already"):
            Convert(str(model), tmp_path / name).run()
    assert (tmp_path / "file").read_text() == "mine" and not any((tmp_path / "folder").iterdir())
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "pure"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(model, monkeypatch):
    usage = namedtuple("usage", "total used free")
    size = sum(path.stat().st_size for path in model.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(size * 2, size, size))
    assert_refused(model, "out needs 0.0 GB, but only 0.0 GB are free", load=False)


def test_a_disk_that_fills_up_leaves_nothing(model, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert_refused(model, "out cannot be written: No space left on device", load=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_destination_that_is_read_only_is_refused(model, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PureError, match="cannot be written: Permission denied"):
        Convert(str(model), tmp_path / "locked" / "out").run()


def test_a_source_that_is_none_is_refused(model, tmp_path):
    assert_refused(tmp_path / "nowhere", f"{tmp_path / 'nowhere'} is not a model directory")
    assert_refused(model / PT, f"{model / PT} is not a model directory")
    assert_refused(model, f"{model} is a directory, which has no revisions", load=False, revision="main")


def test_a_value_too_large_for_float16_is_refused(model):
    replaced(UP, lambda t: torch.full_like(t, 1e5))(model)
    assert_refused(model, "too large for float16", load=False, dtype="float16")
    with pytest.raises(PureError, match="too large for float16"):
        pure_jax.load(model, dtype="float16")


# ---- what was not used ---------------------------------------------------------------------------------------------


def test_every_tensor_that_is_not_used_is_recorded(model, capsys):
    """The remark shows three; upstream.json has them all."""
    write_pt(model, trained() | {"model": image_tensors()})
    there = {name for file in model.glob("*.safetensors") for name in load_file(file)}
    old = {name for name in there if name.startswith("model.vqmodel.")}
    assert len(old) > 3
    others = {"optimizer", "ema", "discriminator", "optimizer_disc", "steps", "args"}
    others |= {"quantize.codebook_used"}
    Convert(str(model), model.parent / "out").run()
    unused = json.loads((model.parent / "out" / "upstream.json").read_text())["unused"]
    assert len(unused) == len(set(unused))
    assert set(unused) == old | {f"{PT}: {name}" for name in others}
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert f"and {len(old) - 3} more" in notes[0] and "and 4 more" in notes[1]


def test_a_head_that_is_tied_is_recorded_as_not_used(model):
    change_config(model, tie_word_embeddings=True)
    Convert(str(model), model.parent / "out").run()
    assert "lm_head.weight" in json.loads((model.parent / "out" / "upstream.json").read_text())["unused"]
    written = load_file(model.parent / "out" / "transformer.safetensors")
    np.testing.assert_array_equal(written["lm_head.kernel"], written["embed.embedding"].T)


# ---- as a program --------------------------------------------------------------------------------------------------

WAITING = """
import signal
import time
import pure_jax.checkpoint as checkpoint
from pure_jax.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
write = checkpoint.write_safetensors
checkpoint.write_safetensors = lambda *args, progress: write(*args, progress=lambda _: time.sleep(600))
main()
"""
"""`pure`, which waits when it has written its first tensor."""


def start(*arguments: Any, code: str = "from pure_jax.__main__ import main; main()") -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_program_refuses_in_one_line(model, tmp_path):
    write_pt(model, pickle.dumps(Attack(tmp_path / "owned")))
    run = start("convert", model, tmp_path / "out")
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (2, "")
    assert err.startswith(f"pure: error: {model / PT} holds more than weights") and err.count("\n") == 1
    assert os.listdir(tmp_path) == ["pure"]


def test_the_command_line_refuses_in_one_line_what_it_finds_while_writing(model, tmp_path, monkeypatch, capsys):
    replaced("lm_head.weight", poisoned(torch.float32, np.nan))(model)
    monkeypatch.setattr(sys, "argv", ["pure", "convert", str(model), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith("pure: error: ") and err.count("\n") == 1 and "tensor 'lm_head.weight' holds" in err
    assert os.listdir(tmp_path) == ["pure"]


def test_an_interruption_leaves_no_destination_and_the_next_run_succeeds(model, tmp_path):
    names = {"out-interrupted": signal.SIGINT, "out-killed": signal.SIGKILL}
    runs = {name: start("convert", model, tmp_path / name, code=WAITING) for name in names}
    deadline = time.monotonic() + 120
    for name, number in names.items():
        while not (tmp_path / f".{name}.partial" / "transformer.safetensors").is_file():
            assert runs[name].poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        runs[name].send_signal(number)
    try:
        ends = {name: (*run.communicate(timeout=60), run.returncode) for name, run in runs.items()}
    finally:
        for run in runs.values():
            run.kill()
    assert ends["out-interrupted"] == ("", "pure: interrupted; nothing was written\n", 130)
    assert ends["out-killed"][2] == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path)) == [".out-killed.partial", "pure"]

    (tmp_path / ".out-killed.partial" / "left over").touch()
    Convert(str(model), tmp_path / "out-killed", verify=True).run()
    assert sorted(os.listdir(tmp_path)) == ["out-killed", "pure"]
    listed = dict(line.split("  ")[::-1] for line in (tmp_path / "out-killed" / "SHA256SUMS").read_text().splitlines())
    found = sums(tmp_path / "out-killed")
    del found["SHA256SUMS"]
    assert listed == found
