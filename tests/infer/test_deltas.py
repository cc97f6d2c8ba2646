"""What a model loses against another is nothing against itself, and elsewhere what the definitions say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.__main__ import main
from pure_jax.errors import PureError
from pure_jax.infer import deltas
from pure_jax.infer.decoding.generate import generate
from pure_jax.model import Model, next_code_distribution
from pure_jax.sequence import answer_ids, prompt_ids
from tests.models import tiny_model

SIDE = 16  # at scale 4 four tiles side by side


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(num_layers=1, guidance_scale=0.8)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    for kind, side in (("lq", SIDE), ("gt", 4 * SIDE)):
        (folder / kind).mkdir()
        noise.resize((side, side), Image.Resampling.BICUBIC).save(folder / kind / "a.png")
    return folder


def test_a_model_loses_nothing_against_itself(pairs: Path, model: Model) -> None:
    found = deltas.compare(pairs, model, model)
    assert (found.kl, found.agreement, found.psnr, found.model) == (0, 1, 80, found.full)
    assert found.codes == 4 * 8 * 8


def test_distributions_are_those_of_the_next_code(pairs: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(tiny_model(seed=1, num_layers=1, guidance_scale=0.8), tokenizer=model.tokenizer)
    seen = []
    monkeypatch.setattr(
        deltas, "generate", lambda *args, **kwargs: seen.append((args[1], generate(*args, **kwargs))) or seen[0][1]
    )
    picture = np.asarray(Image.open(pairs / "lq" / "a.png"))
    found = list(deltas._distributions(model, other, [picture], 4, 3))
    [(lq, answers)] = seen
    question = prompt_ids(model.tokenizer, model.vocabulary, lq[0])
    tokens = np.concatenate(
        [question, answer_ids(model.tokenizer, model.vocabulary, answers[0].text, answers[0].codes)]
    )
    start = len(question) + int(np.argmax(tokens[len(question) :] == model.vocabulary.image_start))
    code, place = 8, 12  # behind start, two sizes, eight codes and a new-line
    for one, logs in zip((model, other), found[0], strict=True):
        wanted = next_code_distribution(one, tokens[: start + place])
        p = np.exp(logs[code])
        np.testing.assert_allclose(-(p * logs[code]).sum(), wanted.entropy, atol=1e-5)
        assert p.argmax() == np.argmax(wanted.probabilities)


def test_models_that_share_no_codes_are_not_compared(pairs: Path, model: Model) -> None:
    other = tiny_model(codebook_size=32)
    with pytest.raises(PureError, match="different tokenizers, so that their distributions cannot be compared"):
        deltas.compare(pairs, model, other)


def test_the_command_says_what_int8_costs(pairs: Path, tmp_path: Path, model: Model, capsys) -> None:
    pure_jax.save(tmp_path / "full", model.config, model.params, model.tokenizer.to_str(), "")
    common = ["evaluate", str(pairs), "--model", str(tmp_path / "full"), "--weights", "int8", "--cache", "int8"]
    main([*common, "--against", str(tmp_path / "full"), "--json", "--quiet"])
    facts = json.loads(capsys.readouterr().out)
    against = facts["against"]
    assert against["codes"] == 256 and 0 < against["kl"] < 0.05 and 0.5 < against["agreement"] <= 1
    assert against["means"].keys() == facts["means"]["ours"].keys()
    with pytest.raises(SystemExit):
        main([*common, "--against", str(tmp_path / "full"), "--save-images", str(tmp_path / "images")])
    assert "leave --against or --save-images out" in capsys.readouterr().err
