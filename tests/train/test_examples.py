"""Training from folders of records: the sequences, and a run that is stopped and goes on bit for bit."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import cache
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer

from pure_jax.errors import PureError
from pure_jax.sequence import IGNORE, parse_answer, training_example
from pure_jax.train import language_model, stages
from pure_jax.train.config import LanguageModelTrainConfig, OptimiserConfig, TextConfig
from pure_jax.train.data.image_tokenizer import ImageTokenizer
from pure_jax.train.data.records import open_records
from pure_jax.train.examples import require_fitting
from pure_jax.train.loop import newest_tree
from pure_jax.train.opening import open_batches
from pure_jax.train.runs import Run
from pure_jax.train.stages import train_language_model
from tests.models import tiny_config, tiny_model, tiny_tokenizer
from tests.train.data.test_records import record, write_folder

CONFIG = tiny_config(tile_size=16, num_layers=1, scan_layers=True)
TRAIN = LanguageModelTrainConfig(batch=4, steps=7, drift=0.1, optimiser=OptimiserConfig(warmup_steps=1))
VOCABULARY = tiny_tokenizer(64)[1]
CODEBOOK = np.asarray(tiny_model(tile_size=16).params["vqgan"]["quantizer"]["codebook"])


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    """Every run here is of the same sizes."""
    make_step = cache(lambda config, train, length: language_model.make_step(config, train, VOCABULARY, length))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "load_vocabulary", lambda *args: VOCABULARY)
        stand_in = SimpleNamespace(
            make_step=lambda config, train, vocabulary, length, shardings: make_step(config, train, length),
            init_state=language_model.init_state,
        )
        patch.setattr(stages, "language_model", stand_in)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("records")
    side = CONFIG.tile_size // CONFIG.vqgan.stride
    assert side == 4
    return write_folder(home / "a", [4, 3]), write_folder(home / "b", [5], first=100)


def opened(folders, out, weights=(), text=TextConfig(), **files):  # noqa: B008
    files = {"captions": None, "scores": None, "thresholds": None} | files
    return open_batches(folders, weights, text, out=out, **files)


def rows_of(source, config=CONFIG, train=TRAIN):
    tokenizer, vocabulary = tiny_tokenizer(config.vqgan.codebook_size)
    return source.row_maker(config, train, tokenizer, vocabulary, CODEBOOK)


def test_rows_are_training_examples_of_one_length(folders, tmp_path):
    """A model of free text length: what is behind the answer is padding that nobody scores."""
    config = dataclasses.replace(CONFIG, text_length=None)
    source = opened(folders, tmp_path, text=TextConfig(text_tokens=40))
    make = rows_of(source, config, dataclasses.replace(TRAIN, drift=0.0))
    tokenizer, vocabulary = tiny_tokenizer(64)
    lengths = set()
    for number, caption in ((0, "A cat."), (6, ""), (3, "A long caption. " * 40)):
        own = dataclasses.replace(record(number), caption=caption)
        tokens, labels = make(own, 1, np.random.default_rng(0))
        lengths.add(len(tokens))
        answer = np.flatnonzero(labels != IGNORE)
        np.testing.assert_array_equal(tokens[answer], labels[answer])
        text, [image] = parse_answer(tokens[answer], vocabulary, tokenizer)
        assert text.startswith(("Small", "Medium", "Large")) and caption.startswith(text.partition("noise. ")[2])
        np.testing.assert_array_equal(image, own.hq_codes)
        again, _ = training_example(tokenizer, vocabulary, own.lq_codes[1], own.hq_codes, text)
        np.testing.assert_array_equal(tokens[: len(again)], again)
        assert (tokens[len(again) :] == vocabulary.pad).all() and (labels[len(again) :] == IGNORE).all()
    [length] = lengths
    assert length % 128 == 0


def test_a_sequence_of_a_given_length_shortens_texts_instead_of_failing(folders, tmp_path):
    config = dataclasses.replace(CONFIG, text_length=None)
    source = opened(folders, tmp_path)
    own = dataclasses.replace(record(1), caption="A long caption. " * 40)
    whole, _ = rows_of(source, config)(own, 0, np.random.default_rng(0))
    for sequence in (160, 200, len(whole), 600):
        train = dataclasses.replace(TRAIN, drift=0.0, sequence=sequence)
        tokens, labels = rows_of(source, config, train)(own, 0, np.random.default_rng(0))
        assert len(tokens) == sequence
        tokenizer, vocabulary = tiny_tokenizer(64)
        text, [image] = parse_answer(tokens[labels != IGNORE], vocabulary, tokenizer)
        np.testing.assert_array_equal(image, own.hq_codes)
        assert "noise. A long" in text
    with pytest.raises(PureError, match="a sequence of 60 tokens is too short for an answer"):
        rows_of(source, config, dataclasses.replace(TRAIN, sequence=60))


def test_drift_moves_the_codes_that_are_read_and_follows_from_the_generator(folders, tmp_path):
    make = rows_of(opened(folders, tmp_path), train=dataclasses.replace(TRAIN, drift=2.0))
    plain, _ = rows_of(opened(folders, tmp_path), train=dataclasses.replace(TRAIN, drift=0.0))(
        record(1), 0, np.random.default_rng(0)
    )
    first, labels = make(record(1), 0, np.random.default_rng(0))
    again, _ = make(record(1), 0, np.random.default_rng(0))
    np.testing.assert_array_equal(first, again)
    moved = first != plain
    assert moved.any() and (labels[moved] != IGNORE).all()


def trained(folders, out, tokenizer_file, source=None):
    source = source or opened(folders, out, weights=(2.0, 1.0))
    done = train_language_model(
        source, source.thresholds, CONFIG, TRAIN, tokenizer_file, CODEBOOK, Run(out, save_every=3)
    )
    assert done
    return newest_tree(out)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "tokenizer.json"
    tokenizer: Tokenizer = tiny_tokenizer(64)[0]
    path.write_text(tokenizer.to_str())
    return path


class Killed:
    """Batches that stop at one of them."""

    def __init__(self, source, after):
        self.source, self.after = source, after

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __iter__(self):
        return self

    def __next__(self):
        self.after -= 1
        if self.after < 0:
            raise KeyboardInterrupt
        return next(self.source)


def losses(out):
    return {row["step"]: row["loss"] for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())}


def test_a_killed_run_goes_on_bit_for_bit(folders, tmp_path, tokenizer_file, monkeypatch):
    whole = trained(folders, tmp_path / "whole", tokenizer_file)
    for killed in (2, 5):  # before and behind the first checkpoint
        out = tmp_path / f"cut{killed}"
        source = opened(folders, out, weights=(2.0, 1.0))
        begin = type(source).stream
        with monkeypatch.context() as patch:
            patch.setattr(type(source), "stream", lambda self, *args, n=killed, b=begin: Killed(b(self, *args), n))
            with pytest.raises(KeyboardInterrupt):
                trained(folders, out, tokenizer_file, source=source)
        again = trained(folders, out, tokenizer_file)
        jax.tree.map(np.testing.assert_array_equal, again, whole)
        assert losses(out)[7] == losses(tmp_path / "whole")[7]


def test_the_place_in_the_data_is_in_the_checkpoint(folders, tmp_path, tokenizer_file):
    trained(folders, tmp_path / "run", tokenizer_file)
    stored = json.loads((tmp_path / "run" / "checkpoints" / "7" / "_CHECKPOINT_METADATA").read_text())
    assert stored["custom_metadata"]["stream"] == {"next_index": 7}


def test_a_run_does_not_go_on_with_other_data(folders, tmp_path, tokenizer_file):
    out = tmp_path / "run"
    trained(folders, out, tokenizer_file)
    for words, other in (
        ("records.weights", opened(folders, out, weights=(1.0, 1.0))),
        ("records.folders", opened(folders[:1], out)),
        ("records.text.guidance", opened(folders, out, weights=(2.0, 1.0), text=TextConfig(guidance="none"))),
    ):
        with pytest.raises(PureError, match=f"was begun with {words}"):
            trained(folders, out, tokenizer_file, source=other)


def test_a_run_keeps_its_level_borders(folders, tmp_path, tokenizer_file):
    first, both = opened(folders[:1], tmp_path / "run"), opened(folders, tmp_path / "other")
    assert first.thresholds != both.thresholds
    trained(folders, tmp_path / "run", tokenizer_file, source=first)
    assert opened(folders, tmp_path / "run").thresholds == first.thresholds
    given = tmp_path / "run" / "thresholds.json"
    assert opened(folders, tmp_path / "other", thresholds=given).thresholds == first.thresholds
    with pytest.raises(PureError, match="has borders for the labels 'params', not 'twin'"):
        opened(folders, tmp_path / "run", text=TextConfig(labels="twin"))


def test_files_that_do_not_fit_the_records_are_refused(folders, tmp_path):
    captions, scores = tmp_path / "captions.jsonl", tmp_path / "scores.jsonl"
    captions.write_text('{"key": "x", "caption": "X."}\n')
    scores.write_text('{"key": "x", "blur": 1, "noise": 1}\n')
    for words, files in (
        ("captions.jsonl has nothing for these records; their keys are such as", {"captions": captions}),
        ("scores.jsonl has nothing for", {"scores": scores, "text": TextConfig(labels="file")}),
        ("need both", {"scores": scores}),
        ("need both", {"text": TextConfig(labels="file")}),
    ):
        with pytest.raises(PureError, match=words):
            opened(folders, tmp_path / "out", **files)
    with pytest.raises(PureError, match="given twice"):
        opened([folders[0], folders[0]], tmp_path / "out")
    with pytest.raises(PureError, match="a run needs records"):
        opened([], tmp_path / "out")


def test_records_of_another_tokenizer_or_size_are_refused(folders, tmp_path):
    model = tiny_model(tile_size=16)
    own = ImageTokenizer(model.config.vqgan, model.params["vqgan"])
    with pytest.raises(PureError, match="were written with another image tokenizer than there"):
        require_fitting([open_records(folders[0])], own, "there", CONFIG)
    fitting = write_folder(tmp_path / "c", [1], tokenizer=own.fingerprint)
    require_fitting([open_records(fitting)], own, "there", CONFIG)
    with pytest.raises(PureError, match="have tiles of 4x4 codes of 64, but the model's are 8x8"):
        require_fitting([open_records(fitting)], own, "there", tiny_config(tile_size=32))
    shutil.rmtree(fitting)
