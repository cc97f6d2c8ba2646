"""`pure benchmark` on tiny shapes: what it writes, how it keeps its budget, what it refuses; no duration counts."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pure_jax.__main__ import main
from pure_jax.config import pure_300m, tiny
from pure_jax.errors import PureError
from pure_jax.infer.benchmark import machine, sweep
from pure_jax.infer.benchmark.machine import Machine, Sizes
from pure_jax.infer.benchmark.passes import Opening, Timed, at_place, at_row, in_windows, time_opening
from pure_jax.infer.benchmark.plan import Plan, read_grid, read_numbers, read_precisions
from pure_jax.infer.benchmark.report import CITED_S, Report, facts, format_report
from pure_jax.infer.benchmark.subject import Subject, bare, bare_vocabulary, loaded, questions
from pure_jax.infer.decoding.cost import Lengths
from pure_jax.infer.decoding.rows import decode_rows
from pure_jax.sequence import parse_image_block
from tests.models import tiny_model

SMALL = Sizes(2**20, 64, 64)
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "benchmark.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the documented command for an accelerator fills, for tiny sizes and fewer of them."""
    folder = tmp_path_factory.mktemp("benchmark") / "out"
    text = DOCUMENT.read_text(encoding="utf-8")
    [command] = re.findall(r"^pure (benchmark --config pure_7b .*)$", text, re.MULTILINE)
    small = {"pure_7b": "tiny", "1,2,4,8,16,32,64": "1,3", "1,16": "2", "h200": str(folder)}
    words = [small.pop(word, word) for word in command.split()]
    assert small == {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "CPU", SMALL)
        main([*words, "--against", "torch", "--quiet"])
    return folder


def test_it_writes_an_object_and_a_plot(written: Path) -> None:
    found = json.loads((written / "benchmark.json").read_text())
    assert found["random_weights"] and found["grid"] == [8, 8] and found["remarks"] == []
    rows = [(row["precision"], row["batch"], row["window"]) for row in found["measured"]]
    assert rows == list(itertools.product(("bfloat16", "int8"), (2,), (1, 3)))
    plain, window, *_ = found["measured"]
    assert plain["passes_per_picture"] == 64 and plain["seconds_per_picture"] > 0
    assert window["passes_per_picture"] is window["seconds_per_picture"] is None  # random weights cannot tell
    assert len(plain["ms_per_pass_at_first_middle_last_row"]) == 3
    assert plain["share_of_roofline"] == pytest.approx(plain["roofline_ms_per_pass"] / plain["ms_per_pass"])
    with Image.open(written / "benchmark.png") as plot:
        assert plot.format == "PNG" and np.unique(plot).size > 4


def test_torch_is_timed_the_originals_way(written: Path) -> None:
    found = json.loads((written / "benchmark.json").read_text())["torch"]
    assert found["guided_steps"] == 8 * 9 + 1 and len(found["step_s"]) == 3 and found["timed_steps"] > 1
    assert found["times_faster"] > 0


def test_what_is_there_already_is_not_replaced_unasked(written: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["benchmark", "--config", "tiny", "--out", str(written)])
    assert end.value.code == 2 and "exists already" in capsys.readouterr().err


# ---- what is timed -------------------------------------------------------------------------------------------------


def test_a_moved_state_is_that_of_the_loop() -> None:
    """A state that was moved to a row has the lengths that decoding until there leaves."""
    subject = bare(tiny(), "float32")
    opening = time_opening(subject, (8, 8), 1)
    static = (subject.net, subject.vocabulary, subject.config.sampling)
    state = decode_rows(*static, subject.params, opening.state, jnp.int32(3))
    want = [int(c.length) for c in state.caches], int(state.position[0]), int(state.row)
    moved = at_row(at_row(state, jnp.int32(7)), jnp.int32(3))
    assert ([int(c.length) for c in moved.caches], int(moved.position[0]), int(moved.row)) == want
    windowed = at_place(at_place(in_windows(moved), jnp.array([60])), jnp.array([27]))
    # The token that closes row 3 of 8 codes and a new-line each is fed next.
    assert [int(c.length[0]) for c in windowed.caches] == [length + 1 for length in want[0]]
    assert (int(windowed.position[0]), int(windowed.index[0])) == (want[1] + 1, 27)
    assert opening.text_tokens == 16  # random weights do not open a picture
    assert opening.lengths.opening == questions(subject, (8, 8), 1).shape[1] + 16


def test_a_question_has_the_published_length() -> None:
    """22 tokens of instruction, begin, separator and a picture of 64x64: 4,188."""
    config = pure_300m()
    subject = Subject(config, {}, bare_vocabulary(config), jnp.float32)
    ids = questions(subject, subject.tile, 2)
    assert ids.shape == (2, 4188)
    assert parse_image_block(ids[1, 23:-1], subject.vocabulary).shape == (64, 64)
    assert not np.array_equal(*ids)


def test_a_vocabulary_without_room_is_refused() -> None:
    config = tiny()
    small = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, vocab_size=80))
    with pytest.raises(PureError, match="no room for 64 codes"):
        bare_vocabulary(small)


def test_a_loaded_model_is_real() -> None:
    model = tiny_model()
    subject = loaded(model)
    assert subject.model is model and subject.tile == (8, 8)
    assert subject.params is model.params["transformer"]


# ---- the budget ----------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass only when something is measured."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def measured_in_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Nothing is measured, but every measurement takes 10 seconds."""
    clock = Clock()
    lengths = Lengths(30, 8, 8, guided=True)

    def takes_ten(result: Any) -> Any:
        def stand_in(*args: Any) -> Any:
            clock.now += 10
            return result

        return stand_in

    timed = Timed(0.1, 1.0, 0)
    monkeypatch.setattr(sweep, "measure_machine", takes_ten(Machine("cpu", "cpu", 1e9, 1e9, 1e9)))
    monkeypatch.setattr(sweep, "time_opening", takes_ten(Opening(None, lengths, timed, 8)))  # type: ignore[arg-type]
    monkeypatch.setattr(sweep, "time_rows", takes_ten((None, timed, (0.1, 0.1, 0.1))))
    monkeypatch.setattr(sweep, "time_window", takes_ten((None, timed)))
    monkeypatch.setattr(sweep, "in_windows", lambda state: state)
    yield clock


def reports(clock: Clock, budget: float, plan: Plan) -> list[Report]:
    config = tiny()

    def subject_of(precision: str) -> Subject:
        clock.now += 10
        return Subject(config, {}, bare_vocabulary(config), jnp.dtype(precision))

    return list(sweep.sweep("tiny", subject_of, plan, sweep.Budget(budget, clock)))


PLAN = Plan(None, ("float32", "bfloat16"), (1, 4), (1, 2, 8))


def test_all_is_measured_when_there_is_time(measured_in_ten_seconds: Clock) -> None:
    last = reports(measured_in_ten_seconds, 1e6, PLAN)[-1]
    found = [(m.precision, m.batch, m.window) for m in last.measured]
    assert found == [(p, b, w) for p in PLAN.precisions for b in PLAN.batches for w in PLAN.windows]
    assert last.remarks == () and last.grid == (8, 8)


@pytest.mark.parametrize("budget", [1.0, 75.0, 130.0, 190.0])
def test_the_budget_is_kept_but_for_the_first_plain_loop(measured_in_ten_seconds: Clock, budget: float) -> None:
    clock = measured_in_ten_seconds
    last = reports(clock, budget, PLAN)[-1]
    assert (last.measured[0].precision, last.measured[0].window) == ("float32", 1)
    # A batch is begun with what comes before its plain loop, which is then measured too: 10 seconds over at most.
    assert clock.now - 100 <= max(budget + 10, 40)
    assert any("no time was left" in remark for remark in last.remarks)


def test_the_first_ones_windows_leave_time_for_the_others(measured_in_ten_seconds: Clock) -> None:
    last = reports(measured_in_ten_seconds, 150.0, PLAN)[-1]
    assert {(m.precision, m.batch) for m in last.measured} == {(p, b) for p in PLAN.precisions for b in PLAN.batches}


def test_the_report_grows_by_one_thing_at_a_time(measured_in_ten_seconds: Clock) -> None:
    sizes = [sum(map(len, (r.bounds, r.openings, r.measured))) for r in reports(measured_in_ten_seconds, 1e6, PLAN)]
    assert sizes == list(range(1, len(sizes) + 1))


def test_a_batch_beyond_the_memory_is_named_and_left_out(measured_in_ten_seconds: Clock, monkeypatch) -> None:
    monkeypatch.setattr(sweep, "available_memory", lambda: 30_000_000)
    last = reports(measured_in_ten_seconds, 1e6, dataclasses.replace(PLAN, batches=(1, 400)))[-1]
    assert {m.batch for m in last.measured} == {1}
    assert "batch 400" in last.remarks[0] and "GB of memory" in last.remarks[0]


def test_no_memory_for_one_picture_is_refused(measured_in_ten_seconds: Clock, monkeypatch) -> None:
    monkeypatch.setattr(sweep, "available_memory", lambda: 1000)
    with pytest.raises(PureError, match="choose a smaller grid"):
        reports(measured_in_ten_seconds, 1e6, PLAN)


def test_the_papers_figures_stand_beside_pictures_of_their_size_only(measured_in_ten_seconds: Clock) -> None:
    last = reports(measured_in_ten_seconds, 1e6, PLAN)[-1]
    assert facts(last)["cited_seconds_per_picture"] == {} and "cited" not in format_report(last)
    same = dataclasses.replace(last, grid=(64, 64))
    assert facts(same)["cited_seconds_per_picture"] == CITED_S and "256.87 s" in format_report(same)


def test_seconds_per_picture_count_the_opening(measured_in_ten_seconds: Clock) -> None:
    last = reports(measured_in_ten_seconds, 1e6, PLAN)[-1]
    plain = last.measured[3]  # batch 4
    assert last.picture_s(plain) == pytest.approx((0.1 + 64 * 0.1) / 4)


# ---- what a user may say -------------------------------------------------------------------------------------------


def test_lists_are_read_once_each() -> None:
    assert read_numbers("windows", "1,16, 4,16") == (1, 16, 4)
    assert read_precisions("float32,bfloat16,float32") == ("float32", "bfloat16")
    assert read_precisions("int8, float16") == ("int8", "float16")
    assert read_precisions("auto") == ("float32" if jax.default_backend() == "cpu" else "bfloat16",)
    assert read_grid("64x48") == (64, 48)


@pytest.mark.parametrize(
    "options, said",
    [
        (["--windows", "1,0"], "windows are '1,0'"),
        (["--windows", "257"], "from 1 to 256"),
        (["--batches", "two"], "batches are 'two'"),
        (["--batches", ""], "batches are ''"),
        (["--precisions", "float12"], "dtype is 'float12'"),
        (["--grid", "64"], "such as 64x64"),
        (["--grid", "6x8"], "6 codes has no grid token"),
        (["--grid", "4096x4096"], "no grid token"),
        (["--budget", "0"], "above 0"),
        (["--budget", "nan"], "above 0"),
        (["--model", "somewhere"], "not both"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence(options: list[str], said: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr(machine, "CPU", SMALL)
    with pytest.raises(SystemExit) as end:
        main(["benchmark", "--config", "tiny", "--quiet", *options])
    [line] = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and said in line


def test_weights_beyond_the_memory_are_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr("pure_jax.infer.benchmark.subject.available_memory", lambda: 10**10)
    with pytest.raises(SystemExit) as end:
        main(["benchmark", "--config", "pure_7b", "--precisions", "bfloat16", "--quiet"])
    assert end.value.code == 2 and "14.2 GB in bfloat16" in capsys.readouterr().err


# ---- torch ---------------------------------------------------------------------------------------------------------


def test_torch_missing_is_one_sentence(monkeypatch, capsys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(SystemExit) as end:
        main(["benchmark", "--config", "tiny", "--against", "torch", "--quiet"])
    assert end.value.code == 2 and "pip install torch" in capsys.readouterr().err


def test_torchs_network_is_the_same_one() -> None:
    """With the baseline's weights, this library gives its logits: a question, then steps over the cache."""
    import torch
    from flax import traverse_util

    from pure_jax.convert.chameleon import transformer_from_torch
    from pure_jax.infer.benchmark.torch_baseline import Context, random_network
    from pure_jax.tensors import in_memory
    from pure_jax.transformer import Transformer

    config = dataclasses.replace(tiny().transformer, scan_layers=False)
    model = random_network(config, "float32")
    tensors = {name: in_memory(t.numpy()) for name, t in model.state_dict().items()}
    converted, _ = transformer_from_torch(tensors, config)
    params = traverse_util.unflatten_dict({p: jnp.asarray(np.asarray(t)) for p, t in converted.items()}, sep=".")
    ids = np.random.default_rng(0).integers(0, config.vocab_size, 12)
    with torch.inference_mode():
        context = Context(model)
        theirs = [context.feed(torch.from_numpy(part)).numpy() for part in np.split(ids, [9, 10, 11])]
    ours = jax.jit(Transformer(config).apply)({"params": params}, ids[None], np.arange(12)[None])[0]
    np.testing.assert_allclose(np.stack(theirs), np.asarray(ours)[0, 8:], atol=1e-5)
    assert np.ptp(theirs[0]) > 0.1


def test_torchs_step_draws_a_code_over_a_filled_cache() -> None:
    import torch

    from pure_jax.infer.benchmark.torch_baseline import Context, random_network, step

    config = tiny()
    vocabulary = bare_vocabulary(config)
    model = random_network(config.transformer, "float32")
    contexts = [Context(model), Context(model)]
    for context, tokens in zip(contexts, (40, 7), strict=True):
        context.fill(tokens)
    codes = torch.zeros(config.transformer.vocab_size, dtype=torch.bool)
    codes[torch.from_numpy(vocabulary.code_to_id).long()] = True
    with torch.inference_mode():
        token = step(contexts, torch.tensor([5]), codes, config.sampling)
    assert token.shape == (1,) and vocabulary.id_to_code[int(token)] >= 0
    assert [context.cache.get_seq_length() for context in contexts] == [41, 8]
