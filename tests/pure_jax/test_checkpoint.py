"""A model directory comes back bit for bit, is never half-written, and is refused in one sentence if broken."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from pure_jax.checkpoint import Format, read_config, save
from pure_jax.config import tiny
from pure_jax.convert.opening import load
from pure_jax.errors import PureError
from pure_jax.model import Model
from pure_jax.pure import parameter_shapes
from tests.disk import files_limited_to
from tests.models import tiny_model, tiny_tokenizer

SMALL: dict[str, Any] = {"channels": 8, "num_groups": 4, "channel_multipliers": (1, 1), "hidden_size": 16}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(**SMALL)


def write(model: Model, directory: Path, **options: Any) -> Path:
    save(directory, model.config, model.params, model.tokenizer.to_str(), "# A model\n", **options)
    return directory


@pytest.fixture(scope="module")
def whole(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good directory, not to be written to."""
    return write(model, tmp_path_factory.mktemp("models") / "good")


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    """A copy of the good directory, to be broken."""
    return Path(shutil.copytree(whole, tmp_path / "broken"))


def assert_equal_bits(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()


# ---- round trip ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["safetensors", "orbax"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_what_is_saved_is_loaded(model: Model, tmp_path: Path, format: Format, dtype: str | None) -> None:
    directory = write(model, tmp_path / "new" / "model", format=format, dtype=dtype)
    loaded = load(directory, dtype=dtype or "float32", scan_layers=False)
    saved = jax.tree.map(lambda leaf: leaf if dtype is None else leaf.astype(dtype), model.params)
    # The image tokenizer always runs in float32, whatever it was stored in.
    expected = {"transformer": saved["transformer"], "vqgan": jax.tree.map(jnp.float32, saved["vqgan"])}
    assert_equal_bits(loaded.params, expected)
    assert loaded.config == model.config
    assert loaded.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert loaded.vocabulary.image_start == model.vocabulary.image_start
    assert (directory / "README.md").read_text() == "# A model\n"
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


def test_safetensors_on_disk_have_the_dtype_asked_for_and_dotted_names(model: Model, tmp_path: Path) -> None:
    tensors = load_file(write(model, tmp_path / "model", dtype="bfloat16") / "transformer.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert "layers_0.self_attn.q_proj.kernel" in tensors


@pytest.mark.parametrize("dtype, expected", [("float16", "float16"), ("bfloat16", "bfloat16"), ("auto", "float32")])
def test_the_dtype_asked_for_is_the_transformers(whole: Path, dtype: str, expected: str) -> None:
    if dtype == "auto" and jax.default_backend() != "cpu":
        pytest.skip("auto means float32 on CPU only")
    loaded = load(whole, dtype=dtype)
    assert loaded.dtype == expected
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params["transformer"])} == {expected}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params["vqgan"])} == {"float32"}


def test_scanned_and_unrolled_layers_give_the_same_logits(whole: Path, tmp_path: Path) -> None:
    unrolled = load(whole, scan_layers=False)
    scanned = load(whole, scan_layers=True)
    assert "layers_1" in unrolled.params["transformer"] and "layers" in scanned.params["transformer"]
    tokens = jnp.arange(24).reshape(2, 12)
    positions = jnp.broadcast_to(jnp.arange(12), (2, 12))

    def logits(model: Model) -> np.ndarray:
        apply = jax.jit(model.transformer.apply)
        return np.asarray(apply({"params": model.params["transformer"]}, tokens, positions)[0])

    assert logits(unrolled).std() > 0.5
    # Logits reach about 10; measured 6.4e-6.
    np.testing.assert_allclose(logits(scanned), logits(unrolled), rtol=0, atol=1.3e-5)
    again = load(write(scanned, tmp_path / "scanned"), scan_layers=False)
    assert again.config == unrolled.config
    assert_equal_bits(again.params, unrolled.params)


@pytest.mark.parametrize("name", ["transformer", "vqgan"])
def test_shapes_of_parameters_are_known_from_the_configuration(model: Model, name: str) -> None:
    module, params = getattr(model, name), traverse_util.flatten_dict(model.params[name], sep=".")
    assert parameter_shapes(getattr(model.config, name)) == {path: leaf.shape for path, leaf in params.items()}
    inputs = (jnp.zeros((1, 1), jnp.int32),) * 2 if name == "transformer" else (jnp.zeros((1, 8, 8, 3)),)
    made = traverse_util.flatten_dict(jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"], sep=".")
    assert {path: leaf.shape for path, leaf in made.items()} == {path: leaf.shape for path, leaf in params.items()}


# ---- whole or not at all -------------------------------------------------------------------------------------------


# Orbax drops the writes still under way, which asyncio complains about when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("format", ["safetensors", "orbax"])
def test_a_write_that_fails_leaves_nothing(model: Model, tmp_path: Path, format: Format) -> None:
    with files_limited_to(20_000), pytest.raises(PureError, match="model cannot be written"):
        write(model, tmp_path / "model", format=format)
    assert list(tmp_path.iterdir()) == []


def test_a_bug_in_the_middle_leaves_nothing_either(model: Model, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        save(tmp_path / "model", model.config, {"transformer": model.params["transformer"]}, "{}", "")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_no_hindrance(model: Model, tmp_path: Path) -> None:
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial" / "rest").write_text("half")
    directory = write(model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (directory / "rest").exists()


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_an_existing_target_is_refused_and_kept(model: Model, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "model")
    with pytest.raises(PureError, match="model exists already; name a new directory"):
        write(model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ---- broken parts --------------------------------------------------------------------------------------------------


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        values = json.loads((directory / "config.json").read_text())
        change(values)
        (directory / "config.json").write_text(json.dumps(values))

    return edit


def edit_weights(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        tensors = load_file(directory / "transformer.safetensors")
        change(tensors)
        save_file(tensors, directory / "transformer.safetensors")

    return edit


def poison(value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.kernel"] = tensors["lm_head.kernel"].copy()
        tensors["lm_head.kernel"][3, 5] = value

    return change


def replace(name: str, content: str | bytes | None) -> Callable[[Path], None]:
    """Write other content into a file; None removes it."""

    def edit(directory: Path) -> None:
        (directory / name).unlink()
        if content is not None:
            (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return edit


def truncate(name: str) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) // 2])

    return edit


def pipe(name: str) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        (directory / name).unlink()
        os.mkfifo(directory / name)

    return edit


def device(name: str) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).symlink_to("/dev/zero")

    return edit


def endless(name: str) -> Callable[[Path], None]:
    """A sparse file: it takes no room on the disk."""
    return lambda directory: os.truncate(directory / name, 2**40)


HEAD = "lm_head.kernel"
OTHER_TOKENIZER = tiny_tokenizer(65)[0].to_str()
LARGER_TOKENIZER = tiny_tokenizer(64)[0].to_str().replace('"Ġ"', '"Ġ":600,"Ġunused"', 1)
NO_TOKENIZER = json.dumps({"model": {"vocab": tiny_tokenizer(64)[0].get_vocab()}})

BREAKAGES = {
    "no directory": (shutil.rmtree, "broken is not a model directory: there is no such directory"),
    "no config": (replace("config.json", None), "config.json is missing"),
    "config is no JSON": (replace("config.json", "{,"), "config.json cannot be read as JSON"),
    "config is no text": (replace("config.json", b"\xff\xfe\x00"), "config.json cannot be read as JSON"),
    "config is nested deep": (
        replace("config.json", "[" * 100_000),
        "config.json cannot be read as JSON: its brackets are nested too deep",
    ),
    "config is a pipe": (pipe("config.json"), "config.json cannot be read as JSON: it is no ordinary file"),
    "config is a device": (device("config.json"), "config.json cannot be read as JSON: it is no ordinary file"),
    "config is endless": (endless("config.json"), "config.json cannot be read as JSON: it has more than 64 MiB"),
    "config without a size": (
        edit_config(lambda c: c["vqgan"].pop("codebook_dim")),
        "config.json: vqgan does not say codebook_dim;",
    ),
    "a billion layers": (
        edit_config(lambda c: c["transformer"].update(num_layers=10**9)),
        "num_layers is 1000000000, but it must be above 0 and at most 512",
    ),
    "the most layers": (
        edit_config(lambda c: c["transformer"].update(num_layers=512)),
        r"does not fit config.json: layers_10\S* is missing",
    ),
    "huge tiles": (edit_config(lambda c: c.update(tile_size=2**20)), "tile_size is 1048576, but .* at most 4,096"),
    "config is a list": (replace("config.json", "[]"), "config.json must hold a JSON object"),
    "unknown field": (edit_config(lambda c: c.update(colour=1)), "config.json has the unknown field 'colour'"),
    "unknown inner field": (
        edit_config(lambda c: c["vqgan"].update(colour=1)),
        "config.json: vqgan has the unknown field 'colour'",
    ),
    "wrong type": (
        edit_config(lambda c: c["transformer"].update(hidden_size="16")),
        "config.json: transformer: hidden_size is '16'",
    ),
    "out of range": (
        edit_config(lambda c: c["sampling"].update(temperature=-1)),
        "config.json: temperature is -1.0, but it must be in",
    ),
    "no tokenizer": (replace("tokenizer.json", None), "cannot read the tokenizer file .*tokenizer.json"),
    "tokenizer is a pipe": (pipe("tokenizer.json"), "cannot read the tokenizer file .*: it is no ordinary file"),
    "tokenizer is endless": (endless("tokenizer.json"), "cannot read the tokenizer file .*: it has more than 64 MiB"),
    "tokenizer is nested deep": (replace("tokenizer.json", "[" * 100_000), "tokenizer.json is not a tokenizer file"),
    "an id beyond all tables": (
        replace("tokenizer.json", LARGER_TOKENIZER.replace(":600,", f":{10**12},")),
        "tokenizer.json is not a tokenizer file",
    ),
    "a code beyond all numbers": (
        replace("tokenizer.json", LARGER_TOKENIZER.replace('"Ġunused"', f'"IMGIMG{"B" * 5000}Z":601,"Ġunused"')),
        "tokenizer.json: .* image code without a number",
    ),
    "tokenizer is no tokenizer": (replace("tokenizer.json", "{}"), "tokenizer.json is not a tokenizer file"),
    "tokenizer without rules": (replace("tokenizer.json", NO_TOKENIZER), "tokenizer.json is not a tokenizer file"),
    "other codebook": (
        replace("tokenizer.json", OTHER_TOKENIZER),
        "tokenizer.json: .* names 65 image codes but the image tokenizer has 64",
    ),
    "other model's tokenizer": (
        replace("tokenizer.json", LARGER_TOKENIZER),
        "tokenizer.json has 601 ids, more than the model's vocab_size 512; it belongs to another model",
    ),
    "no weights": (replace("vqgan.safetensors", None), "not a complete model directory: vqgan.safetensors is missing"),
    "half the weights": (truncate("transformer.safetensors"), "transformer.safetensors is broken"),
    "empty weights": (replace("transformer.safetensors", ""), "transformer.safetensors is broken"),
    "a tensor too few": (edit_weights(lambda t: t.pop(HEAD)), f"does not fit config.json: {HEAD} is missing$"),
    "a tensor too many": (
        edit_weights(lambda t: t.update(extra=np.zeros(1, np.float32))),
        "does not fit config.json: extra is unknown$",
    ),
    "a transposed tensor": (
        edit_weights(lambda t: t.update({HEAD: np.ascontiguousarray(t[HEAD].T)})),
        rf"{HEAD} has shape \[512, 16\] instead of \[16, 512\]$",
    ),
    "whole numbers": (
        edit_weights(lambda t: t.update({HEAD: t[HEAD].astype(np.int32)})),
        f"transformer.safetensors: tensor '{HEAD}' holds I32, but parameters are F32, BF16, F16, I8$",
    ),
    "other sizes": (
        edit_config(lambda c: c["transformer"].update(num_layers=3)),
        r"does not fit config.json: layers_2\S* is missing \(and \d+ more\)$",
    ),
    "not a number": (edit_weights(poison(np.nan)), f"tensor '{HEAD}' holds values that are not finite"),
    "infinity": (edit_weights(poison(np.inf)), f"tensor '{HEAD}' holds values that are not finite"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_directory_is_refused_in_one_sentence(broken: Path, name: str) -> None:
    breakage, complaint = BREAKAGES[name]
    breakage(broken)
    with pytest.raises(PureError, match=complaint) as refusal:
        load(broken)
    assert "broken" in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_unknown_dtype_is_refused(whole: Path) -> None:
    with pytest.raises(PureError, match="dtype is 'float31', but it must be one of auto, float32, bfloat16, float16"):
        load(whole, dtype="float31")


@pytest.mark.parametrize("lost", ["*", "_METADATA", "manifest.ocdbt"])
def test_an_incomplete_orbax_directory_is_refused(model: Model, tmp_path: Path, lost: str) -> None:
    directory = write(model, tmp_path / "model", format="orbax")
    for path in (directory / "vqgan").glob(lost):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(PureError, match="vqgan is no complete Orbax checkpoint"):
        load(directory)


def test_config_json_comes_back(whole: Path, model: Model) -> None:
    assert read_config(whole) == model.config != tiny()
