"""`pure compare`: a PyTorch model and its conversion are the same, a spoilt one is not, and the numbers are right."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from transformers import ChameleonForConditionalGeneration

import pure_jax
from pure_jax.checkpoint import open_checkpoint
from pure_jax.convert import jax_runner, torch_runner
from pure_jax.convert.command import Compare, Convert
from pure_jax.convert.compare import MOST_KL, Report, Side, code_margins, compare, compare_logits
from pure_jax.convert.upstream import open_upstream
from pure_jax.errors import PureError
from pure_jax.sequence import prompt_ids
from pure_jax.tensors import LazyTensor, in_memory
from tests.upstream import VARIANTS, change_config, change_tensors, transformer_config, write_model

SIZE = 32
PIXELS = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
IDS = np.random.default_rng(0).integers(0, 500, 40).astype(np.int32)
EXTRAS: dict[str, dict[str, Any]] = {
    "two ranks, grouped queries": {"rows_per_head": False},  # as PURE has them
    "a rank per head": {"tied": True},
}


@pytest.fixture(scope="module")
def make_pair(tmp_path_factory) -> Callable[..., tuple[Path, Path]]:
    @cache
    def make(variant: str) -> tuple[Path, Path]:
        """A PyTorch model and its conversion."""
        source: Path = tmp_path_factory.mktemp("models") / "torch"
        extras = EXTRAS.get(variant, {})
        rows = extras.get("rows_per_head", True)
        write_model(source, transformer_config(**VARIANTS[variant]), rows_per_head=rows, shard_size="1GB")
        if "tied" in extras:
            change_tensors(source, lambda name, t: None if name == "lm_head.weight" else t)
            change_config(source, tie_word_embeddings=True)
        Convert(source=str(source), destination=source.with_name("flax")).run()
        return source, source.with_name("flax")

    return make


@pytest.fixture(scope="module")
def pair(make_pair) -> tuple[Path, Path]:
    return make_pair("one rank")


def opened(pair: tuple[Path, Path]) -> tuple[Side, Side]:
    source, converted = pair
    return (
        Side("theirs", open_upstream(source).checkpoint, torch_runner),
        Side("ours", open_checkpoint(converted), jax_runner),
    )


@pytest.fixture(scope="module")
def sides(pair) -> tuple[Side, Side]:
    return opened(pair)


def spoilt(side: Side, network: str, path: str, change: Callable[[np.ndarray], None]) -> Side:
    """The same model with one changed parameter."""
    array = np.asarray(side.checkpoint.tensors[network][path]).copy()
    change(array)
    tensors = side.checkpoint.tensors | {network: side.checkpoint.tensors[network] | {path: in_memory(array)}}
    return dataclasses.replace(side, checkpoint=dataclasses.replace(side.checkpoint, tensors=tensors))


# ---- models and their conversions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_and_its_conversion_compute_the_same(variant: str, make_pair) -> None:
    report = compare(*opened(make_pair(variant)), PIXELS)
    assert (report.verdict, report.failed) == ("same", ())
    assert [layer.name for layer in report.layers] == ["embedding", "layer 0", "layer 1", "final norm"]
    assert max(layer.max_abs for layer in report.layers) < 1.7e-5  # measured 8.6e-6, with swin norm
    assert report.logits.max_abs < 2.3e-5  # measured 1.1e-5, with the tied head, whose logits are large; else 4.8e-6
    assert report.logits.kl_max < 2e-11  # measured 9.1e-12
    assert report.logits.top1_clear == 1.0 and report.logits.top10 > 0.99
    assert report.image.codes == 16 and report.image.equal_clear == 1.0 and report.image.max_level <= 1


def test_in_bfloat16_the_divergence_is_reported_and_judged(sides: tuple[Side, Side]) -> None:
    report = compare(*sides, PIXELS, "bfloat16")
    assert (report.dtype, report.verdict) == ("bfloat16", "same")
    # How far two libraries' roundings part depends on the processor: the limit is the report's own.
    assert 0 < report.logits.kl_mean <= MOST_KL and report.logits.max_abs > 1e-3
    assert report.image.equal_clear == 1.0 and report.image.max_level <= 1  # the image tokenizer stays in float32


@pytest.mark.parametrize("which", [0, 1])
def test_a_model_equals_itself_exactly(which: int, sides) -> None:
    report = compare(sides[which], sides[which], PIXELS)
    assert report.verdict == "same"
    assert {layer.max_abs for layer in report.layers} == {0.0} == {report.logits.max_abs, report.logits.kl_max}
    assert report.logits.top10 == report.image.equal == 1.0 and report.image.pixels_differing == 0.0


# ---- models that differ --------------------------------------------------------------------------------------------


def spoil_row(kernel: np.ndarray) -> None:
    kernel[1, :, 5] += 0.5  # of layer 1


def test_one_wrong_row_is_found_where_it_is(sides: tuple[Side, Side]) -> None:
    report = compare(sides[0], spoilt(sides[1], "transformer", "layers.mlp.up_proj.kernel", spoil_row), PIXELS)
    assert report.verdict == "different"
    assert report.layers[1].max_abs < 1e-5 < 1e-2 < report.layers[2].max_abs
    assert report.failed[0].startswith("logits differ by up to")
    assert report.failed[-1] == "layer 1 is the first point beyond rounding"
    assert report.image.equal_clear == 1.0 and report.image.max_level <= 1


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [("decoder.conv_out.kernel", "decoded pixels differ"), ("encoder.conv_in.kernel", "picture's codes are equal")],
)
def test_a_wrong_convolution_is_seen_in_the_picture_only(parameter: str, sentence: str, sides) -> None:
    def change(kernel: np.ndarray) -> None:
        kernel[1, 1] += 0.2

    report = compare(sides[0], spoilt(sides[1], "vqgan", parameter, change), PIXELS)
    assert report.verdict == "different" and len(report.failed) == 1 and sentence in report.failed[0]
    assert (report.image.max_level > 1) == parameter.startswith("decoder")
    assert (report.image.equal_clear < 1) == parameter.startswith("encoder")


def test_in_bfloat16_another_model_is_different(sides: tuple[Side, Side]) -> None:
    def change(kernel: np.ndarray) -> None:
        kernel[0] *= -1

    report = compare(sides[0], spoilt(sides[1], "transformer", "layers.self_attn.o_proj.kernel", change), PIXELS)
    in_bfloat16 = compare(
        sides[0], spoilt(sides[1], "transformer", "layers.self_attn.o_proj.kernel", change), PIXELS, "bfloat16"
    )
    assert report.verdict == in_bfloat16.verdict == "different"
    assert in_bfloat16.failed[0].startswith("the mean KL divergence is")
    assert in_bfloat16.failed[-1] == report.failed[-1] == "layer 0 is the first point beyond rounding"


def test_parameters_that_overflow_are_named(sides: tuple[Side, Side]) -> None:
    def change(kernel: np.ndarray) -> None:
        kernel[1] = 1e38

    broken = spoilt(sides[1], "transformer", "layers.mlp.down_proj.kernel", change)
    with pytest.raises(PureError, match=r"^ours computes values that are not finite \(layer 1\)"):
        compare(sides[0], broken, PIXELS)


# ---- the command ---------------------------------------------------------------------------------------------------


def shown(report: dict[str, Any]) -> list[list[str]]:
    points = [*report["layers"], {"name": "logits"} | report["logits"]]
    return [[point["name"], f"{point['max_abs']:.2e}", f"{point['max_relative']:.2e}"] for point in points]


def test_the_command_prints_and_writes_the_same_numbers_and_tells_by_its_exit_status(pair, tmp_path, capsys) -> None:
    other, file = shutil.copytree(pair[1], tmp_path / "other"), tmp_path / "report.json"
    tensors = load_file(other / "transformer.safetensors")
    spoil_row(tensors["layers.mlp.up_proj.kernel"])
    save_file(tensors, other / "transformer.safetensors")
    tokenizer, vocabulary = Tokenizer.from_file(str(other / "tokenizer.json")), open_checkpoint(other).vocabulary
    tokens = len(prompt_ids(tokenizer, vocabulary, np.zeros((4, 4), np.int32)))

    for model, verdict in ((pair[1], "same"), (other, "different")):
        command = Compare(a=str(pair[0]), b=str(model), size=SIZE, json=file, overwrite=True)
        if verdict == "same":
            command.run()
        else:
            with pytest.raises(SystemExit) as stop:
                command.run()
            assert stop.value.code == 1
        printed, report = capsys.readouterr().out, json.loads(file.read_text())
        lines = [line for line in printed.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        assert cells[0] == ["point", "max abs", "max relative"] and cells[2:] == shown(report)
        assert f"KL(A || B): mean {report['logits']['kl_mean']:.2e}" in printed
        assert f"A = torch, B = {model.name}, float32, {tokens} tokens" in printed
        assert list(report) == [field.name for field in dataclasses.fields(Report)][:-1] + ["verdict", "failed"]
        assert (report["a"], report["b"], report["tokens"]) == ("torch", model.name, tokens)
        assert (report["verdict"], bool(report["failed"])) == (verdict, verdict == "different")
        assert printed.splitlines()[-1].startswith(f"{verdict}: {'; '.join(report['failed'])}")
        assert str(pair[0].parent) not in printed + file.read_text()


def refused(message: str, a: Path, b: Path, **options: Any) -> None:
    with pytest.raises(PureError, match=message):
        Compare(a=str(a), b=str(b), **({"size": SIZE} | options)).run()


def test_models_of_other_sizes_or_words_are_refused(pair, make_pair, sides, tmp_path) -> None:
    grouped = make_pair("swin norm, two ranks, grouped queries")[1]
    refused(r"torch and flax cannot be compared: transformer\.num_kv_heads is 4 and 2", pair[0], grouped)
    text = sides[1].checkpoint.tokenizer_json.replace('"<reserved08801>"', '"<reserved08999>"')
    renamed = dataclasses.replace(sides[1], checkpoint=dataclasses.replace(sides[1].checkpoint, tokenizer_json=text))
    with pytest.raises(PureError, match="^theirs and ours cannot be .* give '<reserved08801>' id [0-9]+ and no id$"):
        compare(sides[0], renamed, PIXELS)


def test_a_wrong_option_is_refused_before_anything_is_computed(pair, tmp_path) -> None:
    refused("size is 48, but it must be a multiple of 32", *pair, size=48)
    refused("nowhere.png cannot be read as a picture", *pair, image=tmp_path / "nowhere.png")
    refused("neither .* is a PyTorch model; leave vqgan out", pair[1], pair[1], vqgan=tmp_path / "vq.pt")
    refused("there is no directory", *pair, json=tmp_path / "nowhere" / "report.json")
    (tmp_path / "old.json").write_text("old")
    refused("exists already", *pair, json=tmp_path / "old.json")
    refused("is not a model directory", pair[0], tmp_path / "nowhere")


def test_a_pytorch_side_without_an_image_tokenizer_takes_the_one_given(pair, tmp_path) -> None:
    lacking = shutil.copytree(pair[0], tmp_path / "lacking")
    given = Path(shutil.move(lacking / "vq_ds8_c2i.pt", tmp_path / "given.pt"))
    refused("no image tokenizer", lacking, pair[1])
    Compare(a=str(lacking), b=str(pair[1]), vqgan=given, size=SIZE).run()


def test_a_pytorch_side_with_its_text_tokenizer_elsewhere(pair, tmp_path) -> None:
    lacking = shutil.copytree(pair[0], tmp_path / "lacking")
    given = Path(shutil.move(lacking / "tokenizer.json", tmp_path / "text_tokenizer.json"))
    refused("cannot read the tokenizer file", lacking, pair[1])
    Compare(a=str(lacking), b=str(pair[1]), tokenizer=given, size=SIZE).run()


def test_large_logits_may_differ_by_rounding_of_their_own_size(sides) -> None:
    def scale(kernel: np.ndarray) -> None:
        kernel *= 300

    larger = [spoilt(side, "transformer", "lm_head.kernel", scale) for side in (sides[1], sides[1])]
    theirs = dataclasses.replace(larger[0], runner=sides[0].runner)
    report = compare(theirs, larger[1], PIXELS)
    assert report.logits.max_abs > 1e-4 and report.verdict == "same"


def test_without_torch_the_command_says_how_to_get_it(sides: tuple[Side, Side], monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PureError, match="needs PyTorch; install it with `pip install torch`"):
        compare(*sides, PIXELS)


# ---- what is computed ----------------------------------------------------------------------------------------------


def activations(side: Side) -> dict[str, np.ndarray]:
    seen: dict[str, np.ndarray] = {}
    side.runner.activations(side.checkpoint, IDS, "float32", seen.__setitem__)
    return seen


def test_the_torch_side_is_transformers_model_as_it_loads_itself(pair, sides) -> None:
    model = ChameleonForConditionalGeneration.from_pretrained(pair[0]).eval()
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor(IDS[None]).long(), output_hidden_states=True)
    logits = wanted.logits[0].numpy()
    seen = activations(sides[0])
    # transformers masks the codes, this report does not
    codes = sides[0].checkpoint.vocabulary.code_to_id
    rest = np.setdiff1d(np.arange(seen["logits"].shape[1]), codes)
    np.testing.assert_array_equal(seen["logits"][:, rest], logits[:, rest])
    assert np.abs(logits[:, codes]).min() > 1e30 and np.abs(seen["logits"]).max() < 100
    for name, state in zip(("embedding", "layer 0"), wanted.hidden_states, strict=False):
        np.testing.assert_array_equal(seen[name], state[0])


def test_the_jax_side_is_this_librarys_model_as_it_loads_itself(pair, sides) -> None:
    model = pure_jax.load(pair[1], dtype="float32")
    positions = jnp.arange(len(IDS))[None]
    wanted, _ = jax.jit(model.transformer.apply)(
        {"params": model.params["transformer"]}, jnp.asarray(IDS)[None], positions
    )
    np.testing.assert_allclose(activations(sides[1])["logits"], wanted[0], rtol=0, atol=3.4e-6)  # measured 1.7e-6


@pytest.mark.parametrize("which", [0, 1])
def test_a_layer_is_read_when_its_turn_comes(which: int, sides) -> None:
    """So a model need not fit into memory."""
    log: list[str] = []

    def noted(path: str, tensor: LazyTensor) -> LazyTensor:
        def read(index: Any) -> np.ndarray:
            stacked = path.startswith("layers.")
            log.append(path.replace("layers", f"layers_{index[0].start}") if stacked else path)
            assert not stacked or index[0].stop - index[0].start == 1
            return tensor.read(index)

        return dataclasses.replace(tensor, read=read)

    own = sides[which].checkpoint.tensors
    watched = own | {"transformer": {path: noted(path, tensor) for path, tensor in own["transformer"].items()}}
    checkpoint = dataclasses.replace(sides[which].checkpoint, tensors=watched)
    sides[which].runner.activations(checkpoint, IDS, "float32", lambda name, state: log.append(f"= {name}"))
    turns = list(dict.fromkeys(entry.split(".")[0] for entry in log))
    points = ["embedding", "layer 0", "layer 1", "final norm", "logits"]
    assert turns[1::2] == [f"= {name}" for name in points]
    assert turns[::2] == ["embed", "layers_0", "layers_1", "norm", "lm_head"]
    assert len(log) == len(set(log))  # each is read once


def test_the_measures_are_those_of_torch() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(300, 64)).astype(np.float32) * 3 for _ in range(2))
    b = (a + 0.1 * b).astype(np.float32)
    b[1, :2] = b[1].max() + 1  # a tie
    measured = compare_logits(a, b)
    x, y = (torch.tensor(side).double() for side in (a, b))
    kl = torch.nn.functional.kl_div(y.log_softmax(1), x.log_softmax(1), log_target=True, reduction="none").sum(1)
    best = [side.topk(10).indices.tolist() for side in (x, y)]
    same = (x.argmax(1) == y.argmax(1)).numpy()
    assert math.isclose(measured.kl_mean, kl.mean().item(), rel_tol=1e-9)
    assert math.isclose(measured.kl_max, kl.max().item(), rel_tol=1e-9)
    assert math.isclose(measured.top1, same.mean()) and 0.5 < measured.top1 < 1
    assert math.isclose(measured.top1_clear, np.delete(same, 1).mean())
    assert math.isclose(measured.top10, np.mean([len(set(p) & set(q)) / 10 for p, q in zip(*best, strict=True)]))
    assert math.isclose(measured.max_abs, np.abs(a - b).max(), rel_tol=1e-6)
    assert math.isclose(measured.max_relative, np.abs(a - b).max() / np.abs(b).max(), rel_tol=1e-6)

    z = torch.nn.functional.normalize(torch.tensor(rng.normal(size=(3, 5, 8))), dim=-1)
    codebook = torch.tensor(rng.normal(size=(40, 8)))
    distances = torch.cdist(z.reshape(-1, 8), torch.nn.functional.normalize(codebook, dim=-1)) ** 2
    nearest = distances.sort(dim=1).values
    margins = (nearest[:, 1] - nearest[:, 0]).reshape(3, 5)
    np.testing.assert_allclose(code_margins(z.numpy(), codebook.numpy()), margins, rtol=0, atol=1e-12)
