"""`pure convert` there and back: the same bits, in files that transformers and LlamaGen's code load."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, ChameleonForConditionalGeneration

import pure_jax
from pure_jax.__main__ import main
from pure_jax.convert import conversion
from pure_jax.convert.command import Convert, Quantize
from pure_jax.errors import PureError
from tests.models import tiny_model
from tests.upstream import (
    VARIANTS,
    change_config,
    change_tensors,
    image_tensors,
    transformer_config,
    write_model,
)


def convert(source: Path, destination: Path, **options: Any) -> Path:
    Convert(source=str(source), destination=destination, **options).run()
    return destination


def hashes(directory: Path) -> dict[str, str]:
    """Name -> dtype, shape and sha256 of every tensor of the language model."""
    found = {}
    for file in directory.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            if "vqmodel" not in name:
                bits = tensor.contiguous().view(torch.uint8).numpy().tobytes()
                found[name] = f"{tensor.dtype} {list(tensor.shape)} {hashlib.sha256(bits).hexdigest()}"
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return write_model(tmp_path_factory.mktemp("models") / "torch")


@pytest.fixture(scope="module")
def native(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(source, tmp_path_factory.mktemp("converted") / "model")


# ---- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["safetensors", "orbax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_there_and_back_is_the_same_bits(tmp_path: Path, dtype: torch.dtype, format: Any) -> None:
    cfg = transformer_config(num_kv_heads=2, model_parallel_size=2)
    source = write_model(tmp_path / "torch", cfg, dtype=dtype)
    there = convert(source, tmp_path / "flax", format=format, verify=True)
    back = convert(there, tmp_path / "back", to="torch", verify=True)
    assert hashes(back) == hashes(source) and len(hashes(back)) == 3 + 13 * 2
    fields, own = (json.loads((directory / "config.json").read_text()) for directory in (back, source))
    assert {name: fields.get(name) for name in own} == own
    assert (back / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    image = torch.load(back / "vq_ds8_c2i.pt", weights_only=True)["model"]
    assert image.keys() == image_tensors().keys() and len(image) == 300  # what LlamaGen's strict loading asks for
    for name, tensor in image_tensors().items():
        assert torch.equal(tensor, image[name]) and tensor.dtype == image[name].dtype, name


@pytest.mark.parametrize("shard_size", ["10MB", "40KB"])
def test_the_originals_own_layout_comes_back_too(tmp_path: Path, shard_size: str) -> None:
    cfg = transformer_config(num_kv_heads=2, model_parallel_size=2)
    source = write_model(tmp_path / "torch", cfg, rows_per_head=False, shard_size=shard_size)
    assert len(list(source.glob("*.safetensors"))) == (1 if shard_size == "10MB" else 11)
    back = convert(convert(source, tmp_path / "flax"), tmp_path / "back", to="torch", norm_rows="ranks")
    assert hashes(back) == hashes(source)
    assert "[2, 8]" in hashes(back)["model.layers.0.self_attn.q_norm.weight"]


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_transformers_loads_what_goes_back_and_computes_the_same(tmp_path: Path, variant: dict[str, Any]) -> None:
    source = write_model(tmp_path / "torch", transformer_config(**variant), rows_per_head=False)
    native = convert(source, tmp_path / "flax")
    back = ChameleonForConditionalGeneration.from_pretrained(convert(native, tmp_path / "back", to="torch")).eval()
    ids = np.random.default_rng(0).integers(150, 400, (2, 17))  # text
    with torch.no_grad():
        wanted = back.lm_head(back.model(input_ids=torch.tensor(ids)).last_hidden_state).numpy()
    for directory in (source, native):
        model = pure_jax.load(directory)
        positions = jnp.broadcast_to(jnp.arange(17), (2, 17))
        apply = jax.jit(model.transformer.apply)
        logits = apply({"params": model.params["transformer"]}, jnp.asarray(ids), positions)[0]
        assert wanted.std() > 0.5
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=6e-6)  # measured 2.9e-6; required 1e-4


def test_several_shards_are_written_with_an_index_that_transformers_reads(tmp_path: Path, native: Path) -> None:
    from pure_jax.checkpoint import open_checkpoint
    from pure_jax.convert.export import write_upstream

    (tmp_path / "back").mkdir()
    write_upstream(tmp_path / "back", open_checkpoint(native), shard_bytes=80_000)
    files = sorted(path.name for path in tmp_path.rglob("*.safetensors"))
    assert files == [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    assert all(path.stat().st_size < 85_000 for path in tmp_path.rglob("*.safetensors"))
    loaded = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "back").state_dict()
    for name, tensor in load_file(tmp_path / "back" / files[1]).items():
        assert torch.equal(loaded[name], tensor)


def test_a_model_of_this_library_goes_to_torch_and_back(tmp_path: Path) -> None:
    model = tiny_model(channel_multipliers=(1, 2, 2, 4), scan_layers=True)
    pure_jax.save(tmp_path / "own", model.config, model.params, model.tokenizer.to_str(), "# Mine\n")
    there = convert(tmp_path / "own", tmp_path / "torch", to="torch")
    back = pure_jax.load(convert(there, tmp_path / "back"), scan_layers=True)
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)
    assert (back.config.transformer, back.config.vqgan) == (model.config.transformer, model.config.vqgan)
    assert (there / "README.md").read_text() == "# Mine\n"
    ChameleonForConditionalGeneration.from_pretrained(there)
    tokenizer = AutoTokenizer.from_pretrained(there)
    v = model.vocabulary
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (v.bos, v.pad, v.eos)
    assert tokenizer("A cat.", add_special_tokens=False).input_ids == model.tokenizer.encode("A cat.").ids


def test_an_image_tokenizer_that_pytorch_would_compute_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PureError, match="group norms of 32 groups .* this image tokenizer 4 and"):
        convert(pure_jax.checkpoint.demo_directory(), tmp_path / "torch", to="torch")
    assert list(tmp_path.iterdir()) == []


def test_what_goes_back_says_its_own_dtype(tmp_path: Path) -> None:
    source = write_model(tmp_path / "torch", dtype=torch.bfloat16)
    back = convert(convert(source, tmp_path / "flax", dtype="float32"), tmp_path / "back", to="torch")
    assert json.loads((back / "config.json").read_text())["dtype"] == "float32"
    assert ChameleonForConditionalGeneration.from_pretrained(back).dtype == torch.float32


@pytest.mark.parametrize(
    "fields",
    [{"vocabulary_map": None}, {"num_key_value_heads": None}, {"rope_parameters": None, "rope_theta": 10000.0}],
)
def test_what_a_configuration_lacks_is_added_for_transformers(tmp_path: Path, fields: dict[str, Any]) -> None:
    source = write_model(tmp_path / "torch")
    change_config(source, **fields)
    back = convert(convert(source, tmp_path / "flax"), tmp_path / "back", to="torch")
    ChameleonForConditionalGeneration.from_pretrained(back)


def test_a_tokenizer_that_calls_the_image_token_by_transformers_name(tmp_path: Path) -> None:
    source = write_model(tmp_path / "torch")
    for name in ("tokenizer.json", "config.json"):
        text = (source / name).read_text().replace("<reserved08707>", "<image>")
        (source / name).write_text(text)
    change_config(source, vocabulary_map=None)
    back = convert(convert(source, tmp_path / "flax"), tmp_path / "back", to="torch")
    assert json.loads((back / "config.json").read_text())["vocabulary_map"]["<image>"] == 71


def test_without_a_token_for_an_image_there_is_no_model_for_transformers(tmp_path: Path) -> None:
    source = write_model(tmp_path / "torch")
    (source / "tokenizer.json").write_text((source / "tokenizer.json").read_text().replace("<reserved08707>", "<void>"))
    map_ = json.loads((source / "config.json").read_text())["vocabulary_map"]
    known = convert(source, tmp_path / "known")
    back = convert(known, tmp_path / "back", to="torch")  # the original's configuration names it
    assert json.loads((back / "config.json").read_text())["vocabulary_map"]["<image>"] == map_["<image>"]
    change_config(source, vocabulary_map=None)
    native = convert(source, tmp_path / "flax")
    with pytest.raises(PureError, match="the tokenizer names neither <image> nor <reserved08707>; this model cannot"):
        convert(native, tmp_path / "none", to="torch")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("format", ["safetensors", "orbax"])
def test_layers_of_several_dtypes(tmp_path: Path, dtype: Any, format: Any, capsys: Any) -> None:
    source = write_model(tmp_path / "torch")
    change_tensors(source, lambda name, tensor: tensor.to(torch.float16) if "layers.1." in name else tensor)
    native = convert(source, tmp_path / "flax", dtype=dtype, format=format, verify=True)
    assert ("stacked as float32" in capsys.readouterr().out) == (dtype == "auto")
    direct, converted = pure_jax.load(source, scan_layers=True), pure_jax.load(native, scan_layers=True)
    if dtype == "bfloat16":
        direct.params["transformer"] = jax.tree.map(
            lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), direct.params["transformer"]
        )
    jax.tree.map(np.testing.assert_array_equal, direct.params, converted.params)


def test_a_tied_head_is_tied_again(tmp_path: Path, source: Path) -> None:
    directory = write_model(tmp_path / "torch")
    change_config(directory, tie_word_embeddings=True)
    change_tensors(directory, lambda name, tensor: None if name == "lm_head.weight" else tensor)
    native = convert(directory, tmp_path / "flax")
    params = pure_jax.load(native).params["transformer"]
    np.testing.assert_array_equal(params["lm_head"]["kernel"], params["embed"]["embedding"].T)
    assert hashes(convert(native, tmp_path / "back", to="torch")) == hashes(directory)


def test_a_tied_head_that_is_there_all_the_same_is_told_and_not_used(tmp_path: Path, capsys: Any) -> None:
    directory = write_model(tmp_path / "torch")
    change_config(directory, tie_word_embeddings=True)
    params = pure_jax.load(convert(directory, tmp_path / "flax")).params["transformer"]
    assert "not used: lm_head.weight" in capsys.readouterr().out
    np.testing.assert_array_equal(params["lm_head"]["kernel"], params["embed"]["embedding"].T)


@pytest.mark.parametrize("inside", ["language_model.model.", "model.language_model.", ""])
def test_older_and_newer_files_of_one_model_load_as_the_same(tmp_path: Path, source: Path, inside: str) -> None:
    """Names by every wrapper, saved RoPE frequencies, and configuration fields by their older names."""
    old = write_model(tmp_path / "torch", shard_size="10MB")
    tensors = {
        name.replace("model.", inside, 1) if "vqmodel" not in name else name: tensor
        for name, tensor in load_file(old / "model.safetensors").items()
    }
    if inside == "language_model.model.":
        tensors["language_model.lm_head.weight"] = tensors.pop("lm_head.weight")
    tensors[f"{inside}layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, old / "model.safetensors", {"format": "pt"})
    change_config(old, rope_parameters=None, rope_theta=10000.0, rope_scaling=None, dtype=None, torch_dtype="float32")
    a, b = pure_jax.load(old), pure_jax.load(source)
    assert a.config == b.config
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_a_model_that_masks_image_logits_is_told_and_keeps_the_field(tmp_path: Path, capsys: Any, caplog: Any) -> None:
    source = write_model(tmp_path / "torch")
    change_config(source, mask_image_logits=True)
    pure_jax.load(source)
    assert [message for message in caplog.messages if "pictures, so they stay unmasked here" in message]
    native = convert(source, tmp_path / "flax")
    assert "such a model cannot write pictures, so they stay unmasked" in capsys.readouterr().out
    back = convert(native, tmp_path / "back", to="torch")
    assert json.loads((back / "config.json").read_text())["mask_image_logits"] is True


# ---- options -------------------------------------------------------------------------------------------------------


def test_dtype_is_the_transformers_and_rounds_to_nearest(tmp_path: Path, source: Path) -> None:
    native = convert(source, tmp_path / "flax", dtype="bfloat16", verify=True)
    back = convert(native, tmp_path / "back", to="torch")
    wanted = load_file(next(file for file in source.glob("*.safetensors") if "lm_head.weight" in load_file(file)))
    got = load_file(back / "model.safetensors")["lm_head.weight"]
    assert torch.equal(got, wanted["lm_head.weight"].to(torch.bfloat16))
    image = torch.load(back / "vq_ds8_c2i.pt", weights_only=True)["model"]
    assert {tensor.dtype for tensor in image.values()} == {torch.float32}


def test_a_model_directory_changes_its_format_and_nothing_else(tmp_path: Path, native: Path) -> None:
    other = convert(convert(native, tmp_path / "orbax", format="orbax"), tmp_path / "again")
    for name in ("config.json", "upstream.json", "tokenizer.json"):
        assert (other / name).read_bytes() == (native / name).read_bytes(), name
    assert hashes(other) == hashes(native) and len(hashes(native)) > 300


def test_layers_are_stacked_and_the_old_tokenizer_is_listed(native: Path) -> None:
    from safetensors.numpy import load_file as load_numpy

    tensors = load_numpy(native / "transformer.safetensors")
    assert tensors["layers.mlp.gate_proj.kernel"].shape == (2, 32, 48) and len(tensors) == 3 + 13
    record = json.loads((native / "upstream.json").read_text())
    assert record["model"] == "torch" and record["commit"] is None and record["vqgan"] == "vq_ds8_c2i.pt"
    assert "vq_ds8_c2i.pt: quantize.codebook_used" in record["unused"]
    assert sum(name.startswith("model.vqmodel.") for name in record["unused"]) == len(record["unused"]) - 1 > 30


@pytest.mark.parametrize("options", [{}, {"format": "orbax"}, {"to": "torch"}], ids=str)
def test_sha256sum_checks_every_file(tmp_path: Path, native: Path, options: dict[str, Any]) -> None:
    directory = convert(native, tmp_path / "new", **options)
    files = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    listed = {line.split("  ")[1] for line in (directory / "SHA256SUMS").read_text().splitlines()}
    assert listed == files - {"SHA256SUMS"}
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=directory).returncode == 0
    file = directory / sorted(listed)[-1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert subprocess.run(check, cwd=directory, capture_output=True).returncode == 1


@pytest.mark.parametrize("to", ["flax", "torch"])
def test_verify_finds_one_wrong_bit(tmp_path: Path, source: Path, monkeypatch: Any, to: Any) -> None:
    wrong = {"flax": "transformer.safetensors", "torch": "model.safetensors"}[to]
    compare_bits = conversion.compare_bits

    def damaging(directory: Path, *args: Any) -> int:
        content = bytearray((directory / wrong).read_bytes())
        content[-1] ^= 1
        (directory / wrong).write_bytes(content)
        return compare_bits(directory, *args)

    monkeypatch.setattr(conversion, "compare_bits", damaging)
    with pytest.raises(PureError, match=r"^transformer\..* is not what was to be written"):
        convert(source, tmp_path / "new", to=to, verify=True)
    assert list(tmp_path.iterdir()) == []


def test_options_that_a_model_directory_has_no_use_for_are_refused(tmp_path: Path, native: Path) -> None:
    with pytest.raises(PureError, match="whole model directory of this library; leave vqgan out"):
        convert(native, tmp_path / "new", vqgan=native / "vqgan.safetensors")
    with pytest.raises(PureError, match="which has no revisions"):
        convert(native, tmp_path / "new", revision="main")
    with pytest.raises(PureError, match="'orbax' has a meaning with --to flax only"):
        convert(native, tmp_path / "new", to="torch", format="orbax")
    with pytest.raises(PureError, match="'ranks' has a meaning with --to torch only"):
        convert(native, tmp_path / "new", norm_rows="ranks")
    with pytest.raises(PureError, match="whole model directory of this library; leave tokenizer out"):
        pure_jax.load(native, tokenizer=native / "tokenizer.json")
    with pytest.raises(PureError, match="which has no revisions"):
        pure_jax.load(revision="main")


def test_a_text_tokenizer_from_elsewhere(tmp_path: Path, source: Path) -> None:
    for file in source.iterdir():
        if file.name != "tokenizer.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(PureError, match="cannot read the tokenizer file"):
        pure_jax.load(tmp_path)
    loaded = pure_jax.load(tmp_path, tokenizer=source / "tokenizer.json")
    assert loaded.tokenizer.get_vocab() == pure_jax.load(source).tokenizer.get_vocab()


def test_a_model_card_is_carried_along(tmp_path: Path, native: Path) -> None:
    (card := tmp_path / "own" / "README.md").parent.mkdir()
    for file in native.iterdir():
        (card.parent / file.name).write_bytes(file.read_bytes())
    card.write_text("# Photos by their authors\n")
    assert (convert(card.parent, tmp_path / "new", format="orbax") / "README.md").read_text() == card.read_text()


def test_an_image_tokenizer_from_elsewhere(tmp_path: Path, source: Path, native: Path) -> None:
    for file in source.iterdir():
        if file.suffix != ".pt":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(PureError, match="no image tokenizer; name LlamaGen's file .* with --vqgan"):
        convert(tmp_path, tmp_path / "new")
    new = convert(tmp_path, tmp_path / "new", vqgan=source / "vq_ds8_c2i.pt")
    assert (new / "vqgan.safetensors").read_bytes() == (native / "vqgan.safetensors").read_bytes()


# ---- use -----------------------------------------------------------------------------------------------------------


def test_both_directories_load_as_the_same_model(source: Path, native: Path) -> None:
    direct, converted = pure_jax.load(source), pure_jax.load(native)
    assert direct.config == converted.config
    jax.tree.map(np.testing.assert_array_equal, direct.params, converted.params)
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    codes = direct.encode(image)
    assert len(np.unique(codes)) > 5
    np.testing.assert_array_equal(codes, converted.encode(image))


def test_a_photo_is_restored_with_a_converted_model(tmp_path: Path, source: Path) -> None:
    from pure_jax.infer.command import Restore

    model = convert(source, tmp_path / "model")
    values = json.loads((model / "config.json").read_text())
    values["tile_size"] = 32  # a full tile of the original's is 4,160 tokens, too many for a test
    values["sampling"]["max_text_tokens"] = 4
    (model / "config.json").write_text(json.dumps(values))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "in.png")
    Restore((str(tmp_path / "in.png"), str(tmp_path / "out.png")), model=model, scale=2, unchecked=True).run()
    assert Image.open(tmp_path / "out.png").size == (32, 32)


# ---- int8 ----------------------------------------------------------------------------------------------------------


def quantize(source: Path, destination: Path, **options: Any) -> Path:
    Quantize(source=str(source), destination=destination, **options).run()
    return destination


@pytest.mark.parametrize("format", ["safetensors", "orbax"])
def test_a_quantised_directory_loads_as_what_load_quantises(native: Path, tmp_path: Path, capsys, format: Any) -> None:
    small = quantize(native, tmp_path / "small", cache="int8", format=format, verify=True)
    assert re.search(r"small: [0-9.]+ MB of parameters instead of [0-9.]+ MB", capsys.readouterr().out)
    assert "weights int8, cache int8" in (small / "README.md").read_text()
    ours, theirs = pure_jax.load(small), pure_jax.load(native, weights="int8", cache="int8")
    assert ours.config == theirs.config and ours.config.transformer.cache == "int8"
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def test_pytorchs_files_are_quantised_as_their_conversion_is(source: Path, native: Path, tmp_path: Path) -> None:
    ours, theirs = (pure_jax.load(quantize(path, tmp_path / path.name), scan_layers=True) for path in (source, native))
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    assert ours.params["transformer"]["layers"]["mlp"]["up_proj"]["kernel"].dtype == jnp.int8


def set_transformer(directory: Path, **fields: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["transformer"] |= fields
    (directory / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def small(native: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return quantize(native, tmp_path_factory.mktemp("quantised") / "small")


def said_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which `pure` ends, status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("pure: error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            {"weights": "int8-groups"},
            "config.json: weights is 'int8-groups', but it must be one of float, int8; a model",
        ),
        ({"cache": 8}, "transformer: cache is 8, but the type must be str"),
        (
            {"weights": "float"},
            "transformer.safetensors does not fit config.json: layers.mlp.down_proj.scale is unknown",
        ),
    ],
)
def test_a_quantised_directory_of_another_kind_is_refused(
    small: Path, tmp_path: Path, capsys, damage: dict[str, Any], sentence: str
) -> None:
    other = shutil.copytree(small, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["transformer"] |= damage
    (other / "config.json").write_text(json.dumps(config))
    assert sentence in said_of(["quantize", str(other), str(tmp_path / "new")], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("wrong", ["kernel", "scale"])
def test_floats_in_the_place_of_int8_are_refused_and_the_other_way_round(
    small: Path, tmp_path: Path, wrong: str
) -> None:
    other, name = shutil.copytree(small, tmp_path / "other"), f"lm_head.{wrong}"
    tensors = load_file(other / "transformer.safetensors")
    to = torch.float32 if wrong == "kernel" else torch.int8
    save_file(tensors | {name: tensors[name].to(to)}, other / "transformer.safetensors")
    holds = "float32 instead of int8" if wrong == "kernel" else "int8 instead of floats"
    with pytest.raises(PureError, match=f"does not fit config.json: {name} holds {holds}"):
        pure_jax.load(other)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["quantize", "SMALL", "SMALL"], "exists already; name a new directory"),
        (["quantize", "SMALL", "NEW", "--weights", "float"], "has int8 weights, not float; take the full model"),
        (
            ["convert", "SMALL", "NEW", "--to", "torch"],
            "has int8 weights, which PyTorch's has not; take the full model",
        ),
    ],
)
def test_what_int8_weights_cannot_be(small: Path, tmp_path: Path, capsys, arguments: list[str], sentence: str) -> None:
    names = {"SMALL": str(small), "NEW": str(tmp_path / "new")}
    assert sentence in said_of([names.get(word, word) for word in arguments], capsys)
    assert list(tmp_path.iterdir()) == []
