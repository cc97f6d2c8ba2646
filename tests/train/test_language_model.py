"""Batches hold question and answer of every record once per epoch; the loss is torch's, over the answer alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from pure_jax.errors import PureError
from pure_jax.sequence import IGNORE, image_block, parse_answer, prompt_ids
from pure_jax.train.config import LanguageModelTrainConfig, OptimiserConfig
from pure_jax.train.data.labels import levels
from pure_jax.train.data.rounds import Records
from pure_jax.train.language_model import (
    answer_text,
    batch_at,
    drifted,
    init_state,
    make_step,
    tercile_thresholds,
)
from pure_jax.train.loop import train
from pure_jax.transformer import Transformer
from tests.models import tiny_config, tiny_tokenizer

CODES = 64
CONFIG = tiny_config(tile_size=16, num_layers=1)
FIXED = dataclasses.replace(CONFIG, text_length=8)
TOKENIZER, VOCABULARY = tiny_tokenizer(CODES)
CAPTIONS = ["A cat.", "A cat sat on a mat.", ""]
OPTIONS = LanguageModelTrainConfig(
    batch=2, steps=60, optimiser=OptimiserConfig(2e-2, warmup_steps=5, weight_decay=0.0, clip_norm=1.0)
)


def some_records(n: int, seed: int = 0) -> Records:
    """The first HQ code of record i is i."""
    rng = np.random.default_rng(seed)
    lq, hq = rng.integers(CODES, size=(2, n, 4, 4)).astype(np.uint16)
    hq[:, 0, 0] = np.arange(n)
    blur, noise = rng.uniform(size=(2, n)).astype(np.float32)
    return Records(lq, hq, blur, noise, (np.arange(n) % 3).astype(np.int32), CAPTIONS)


RECORDS = some_records(12)
THRESHOLDS = tercile_thresholds(RECORDS)
PROMPT_LENGTH = len(prompt_ids(TOKENIZER, VOCABULARY, RECORDS.lq_codes[0]))
CODEBOOK = np.random.default_rng(1).normal(size=(CODES, 8))
CODEBOOK /= np.linalg.norm(CODEBOOK, axis=1, keepdims=True)


def batch(step: int, records: Records = RECORDS, config=CONFIG, options=OPTIONS):
    return batch_at(records, config, options, TOKENIZER, VOCABULARY, THRESHOLDS, np.eye(CODES, 8), step)


@pytest.fixture(scope="module")
def start():
    return init_state(CONFIG, OPTIONS, VOCABULARY, jnp.asarray(CODEBOOK, jnp.float32))


@pytest.fixture(scope="module")
def step_fn():
    return make_step(CONFIG, OPTIONS, VOCABULARY, PROMPT_LENGTH)


def test_terciles_make_the_levels_equally_frequent():
    records = some_records(99)
    thresholds = tercile_thresholds(records)
    for kind in (0, 1):
        found = [levels(float(b), float(n), thresholds)[kind] for b, n in zip(records.blur, records.noise, strict=True)]
        assert [found.count(level) for level in ("small", "medium", "large")] == [33, 33, 33]
    assert thresholds.blur == tuple(np.quantile(records.blur, [1 / 3, 2 / 3]))


def test_the_answer_says_the_levels_and_the_caption_of_its_photo():
    order = np.argsort(RECORDS.blur)
    assert answer_text(RECORDS, int(order[0]), THRESHOLDS).startswith("Small blur, ")
    assert answer_text(RECORDS, int(order[-1]), THRESHOLDS).startswith("Large blur, ")
    assert [answer_text(RECORDS, i, THRESHOLDS).partition("noise.")[2] for i in range(3)] == [
        " A cat.", " A cat sat on a mat.", "",
    ]  # fmt: skip


@pytest.mark.parametrize("config", [CONFIG, FIXED], ids=["free text", "fixed text"])
def test_labels_cover_exactly_the_answer(config):
    options = dataclasses.replace(OPTIONS, batch=3)
    tokens, labels = batch(1, config=config, options=options)
    assert tokens.dtype == labels.dtype == np.int32
    assert tokens.shape == labels.shape == (3, tokens.shape[1])
    ends = []
    for row, own in zip(tokens, labels, strict=True):
        end = np.flatnonzero(row == VOCABULARY.separator)[-1] + 1
        ends.append(end)
        np.testing.assert_array_equal(own[:PROMPT_LENGTH], IGNORE)
        np.testing.assert_array_equal(own[PROMPT_LENGTH:end], row[PROMPT_LENGTH:end])
        np.testing.assert_array_equal(own[end:], IGNORE)
        np.testing.assert_array_equal(row[end:], VOCABULARY.pad)

        text, [hq] = parse_answer(row[PROMPT_LENGTH:end], VOCABULARY, TOKENIZER)
        index = hq[0, 0]  # says which record it is
        np.testing.assert_array_equal(hq, RECORDS.hq_codes[index])
        np.testing.assert_array_equal(row[:PROMPT_LENGTH], prompt_ids(TOKENIZER, VOCABULARY, RECORDS.lq_codes[index]))
        whole = answer_text(RECORDS, index, THRESHOLDS)
        assert text == whole if config is CONFIG else whole.startswith(text)
    assert max(ends) == tokens.shape[1]
    # 8 tokens of text, a frame of 4 * 5 + 4, a separator
    assert set(ends) == {PROMPT_LENGTH + 33} if config is FIXED else len(set(ends)) > 1


def indices(records: Records, options, steps) -> list[int]:
    out = []
    for step in steps:
        for row in batch(step, records, options=options)[0]:
            out.append(int(parse_answer(row[PROMPT_LENGTH:], VOCABULARY, TOKENIZER)[1][0][0, 0]))
    return out


def test_an_epoch_shows_every_record_once_in_an_order_of_its_own():
    options = dataclasses.replace(OPTIONS, batch=3)
    first, second = indices(RECORDS, options, range(4)), indices(RECORDS, options, range(4, 8))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert first == indices(RECORDS, options, range(4))
    assert first != indices(RECORDS, dataclasses.replace(options, seed=1), range(4))


def test_the_remainder_of_an_epoch_is_left_out_after_the_shuffle():
    records, options = some_records(13), dataclasses.replace(OPTIONS, batch=3)
    epochs = [indices(records, options, range(4 * e, 4 * e + 4)) for e in range(3)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert len({frozenset(epoch) for epoch in epochs}) > 1  # another record each time


def test_fewer_records_than_a_batch_are_a_clear_mistake():
    with pytest.raises(PureError, match="12 records do not fill a batch of 13"):
        batch(0, options=dataclasses.replace(OPTIONS, batch=13))


@jax.jit
def full_logits(params, tokens):
    """Logits of an independent reading: the whole sequence, the whole head."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return Transformer(CONFIG.transformer).apply({"params": params}, jnp.asarray(tokens), positions)[0]


def test_loss_is_torch_cross_entropy_over_the_full_logits(start, step_fn):
    tokens, labels = batch(0)
    assert (labels[:, -1] == IGNORE).any()  # one row is padded
    _, metrics = step_fn(start, (tokens, labels))
    logits = torch.tensor(np.asarray(full_logits(start.params, tokens)))[:, :-1].reshape(-1, 512)
    targets = torch.tensor(labels, dtype=torch.long)[:, 1:].reshape(-1)
    nll = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none").numpy()
    expected = float(torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE))
    # Measured: 2.4e-7.
    assert float(metrics["loss"]) == pytest.approx(expected, abs=2e-6)

    ids = targets.numpy()
    code = np.isin(ids, VOCABULARY.code_to_id)
    text = (ids != IGNORE) & VOCABULARY.is_text[np.maximum(ids, 0)]
    frame = (ids != IGNORE) & ~code & ~text
    assert (code.sum(), frame.sum()) == (2 * 16, 2 * 9)  # start, two sizes, 4 new-lines, end, separator
    for name, mask in (("code_nll", code), ("text_nll", text), ("frame_nll", frame)):
        assert float(metrics[name]) == pytest.approx(nll[mask].mean(), abs=2e-6)
    parts = sum(float(metrics[n]) * m.sum() for n, m in (("code_nll", code), ("text_nll", text), ("frame_nll", frame)))
    assert float(metrics["loss"]) == pytest.approx(parts / (ids != IGNORE).sum(), abs=2e-6)
    assert float(metrics["code_accuracy"]) == pytest.approx((logits.argmax(-1).numpy() == ids)[code].mean())


def test_images_start_from_the_codebook_near_codes_near_rows(start):
    embedding, head = start.params["embed"]["embedding"], start.params["lm_head"]["kernel"]
    rows = np.asarray(embedding)[VOCABULARY.code_to_id]
    np.testing.assert_array_equal(rows, np.asarray(head).T[VOCABULARY.code_to_id])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    upper = np.triu_indices(CODES, 1)
    # A projection from 8 to 32 channels blurs the angles a little: measured 0.9.
    assert np.corrcoef((unit @ unit.T)[upper], (CODEBOOK @ CODEBOOK.T)[upper])[0, 1] > 0.8
    others = np.delete(np.asarray(embedding), VOCABULARY.code_to_id, axis=0)
    assert rows.std() == pytest.approx(others.std(), rel=0.3)
    twins = np.concatenate([CODEBOOK[:1], CODEBOOK[:1], CODEBOOK[2:]])
    a, b, c = np.asarray(
        init_state(CONFIG, OPTIONS, VOCABULARY, jnp.asarray(twins, jnp.float32)).params["embed"]["embedding"]
    )[VOCABULARY.code_to_id[:3]]
    assert 0 < np.linalg.norm(a - b) < 0.25 * np.linalg.norm(a - c)


def test_a_vocabulary_larger_than_the_model_is_refused():
    small = tiny_config(vocab_size=256)
    with pytest.raises(PureError, match=f"the tokenizer has {VOCABULARY.size} ids, more than .* 256"):
        init_state(small, OPTIONS, VOCABULARY, jnp.asarray(CODEBOOK, jnp.float32))


@pytest.mark.parametrize("field", ["weights", "cache"])
def test_a_quantised_model_is_not_trained(field):
    config = tiny_config(**{field: "int8"})
    with pytest.raises(PureError, match=f"a model whose {field} is int8 cannot be trained; take the full model"):
        init_state(config, OPTIONS, VOCABULARY, jnp.asarray(CODEBOOK, jnp.float32))
    with pytest.raises(PureError, match="cannot be trained"):
        make_step(config, OPTIONS, VOCABULARY, PROMPT_LENGTH)


def test_the_update_follows_the_gradient_of_the_loss(start, step_fn):
    tokens, labels = batch(0)

    @jax.jit
    def gradient(params):
        def loss(params):
            logits = full_logits(params, tokens)[:, :-1]
            targets = jnp.asarray(labels)[:, 1:, None]
            nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(targets, 0), axis=-1)
            return jnp.where(targets == IGNORE, 0, nll).sum() / (targets != IGNORE).sum()

        return jax.grad(loss)(params)

    state, metrics = step_fn(start, (tokens, labels))
    grads, norm = gradient(start.params), float(metrics["grad_norm"])
    assert norm == pytest.approx(float(optax.tree.norm(grads)), rel=1e-4)
    # After one update Adam's first moment tells what gradient it was given: 1 - b1 times the clipped one.
    moment = optax.tree_utils.tree_get(state.opt_state, "mu")
    wanted = jax.tree.map(lambda leaf: 0.1 * min(1.0, OPTIONS.optimiser.clip_norm / norm) * leaf, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), moment, wanted)
    # And a small step against it lowers the loss.
    lower = jax.tree.map(lambda leaf, mu: leaf - 1e-2 * mu, start.params, moment)
    after = step_fn(dataclasses.replace(start, params=lower), (tokens, labels))[1]
    assert float(after["loss"]) < float(metrics["loss"])


def test_the_loss_of_an_answer_depends_on_its_question(start, step_fn):
    tokens, labels = batch(0)
    exchanged = tokens.copy()
    exchanged[:, :PROMPT_LENGTH] = tokens[::-1, :PROMPT_LENGTH]
    losses = [float(step_fn(start, (own, labels))[1]["loss"]) for own in (tokens, exchanged)]
    assert abs(losses[0] - losses[1]) > 1e-4  # rounding is a hundredth of it


@pytest.fixture(scope="module")
def dropout_step_fn():
    return make_step(tiny_config(tile_size=16, num_layers=1, dropout=0.5), OPTIONS, VOCABULARY, PROMPT_LENGTH)


def test_dropout_follows_the_seed_and_the_step(start, dropout_step_fn):
    data = batch(0, config=FIXED)
    first = float(dropout_step_fn(start, data)[1]["loss"])
    assert first == float(dropout_step_fn(start, data)[1]["loss"])
    later = dataclasses.replace(start, step=start.step + 1)
    assert first != float(dropout_step_fn(later, data)[1]["loss"])


def test_averaged_weights_follow_the_parameters(start, step_fn):
    averaging = make_step(CONFIG, dataclasses.replace(OPTIONS, ema_decay=0.9), VOCABULARY, PROMPT_LENGTH)
    assert start.ema is None and step_fn(start, batch(0))[0].ema is None
    averaged = averaging(dataclasses.replace(start, ema=start.params), batch(0))[0]
    # The first step's decay is 1 / 10, of the ramp.
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, start.params, averaged.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), averaged.ema, expected)


def test_kill_and_resume_equals_never_killed(start, dropout_step_fn, tmp_path):
    def killed(step: int):
        if step == 3:
            raise KeyboardInterrupt
        return batch(step, config=FIXED)

    def run(batch_at, name: str):
        return train(start, dropout_step_fn, batch_at, steps=5, directory=tmp_path / name, save_every=2)

    whole = run(lambda step: batch(step, config=FIXED), "whole")
    with pytest.raises(KeyboardInterrupt):
        run(killed, "cut")
    cut = run(lambda step: batch(step, config=FIXED), "cut")
    jax.tree.map(np.testing.assert_array_equal, cut, whole)
    assert int(whole.step) == 5
    assert np.any(whole.params["embed"]["embedding"] != start.params["embed"]["embedding"])


def test_drift_moves_the_answer_codes_that_are_read_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    codebook = rng.standard_normal((CODES, 8))
    codebook /= np.linalg.norm(codebook, axis=1, keepdims=True)
    block = image_block(rng.integers(0, CODES, (16, 16)), VOCABULARY)
    tokens = np.tile(np.concatenate([block, block]), (20, 1)).astype(np.int32)
    labels = tokens.copy()
    labels[:, : len(block)] = IGNORE  # the first picture is the question's

    def share_moved(most: float) -> float:
        out = drifted(tokens, labels, VOCABULARY, codebook, most, np.random.default_rng(1))
        changed = out != tokens
        assert not changed[:, : len(block)].any()
        assert (VOCABULARY.id_to_code[tokens[changed]] >= 0).all() and (VOCABULARY.id_to_code[out[changed]] >= 0).all()
        return float(changed.mean())

    assert share_moved(0.0) == 0 < share_moved(0.1) < share_moved(0.5)


def test_a_drift_shared_by_the_row_moves_equal_codes_alike() -> None:
    angles = np.linspace(0, 2 * np.pi, CODES, endpoint=False)
    codebook = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # neighbours on a circle: code + 1 is a small turn
    tokens = image_block(np.full((4, 4), 7), VOCABULARY)[None]
    out = [
        VOCABULARY.id_to_code[drifted(tokens, tokens, VOCABULARY, codebook, 0.5, np.random.default_rng(seed))[0, 3:7]]
        for seed in range(40)
    ]
    spread = np.mean([codes.std() for codes in out])
    assert spread < 0.8 * np.std(np.concatenate(out))  # without a shared part both would be equal


def test_some_pictures_are_shown_alone_as_guidance_shows_them():
    options = dataclasses.replace(OPTIONS, batch=6, uncond_prob=0.5)
    tokens, labels = batch(0, config=FIXED, options=options)
    plain = batch(0, config=FIXED, options=dataclasses.replace(options, uncond_prob=0.0))
    alone = tokens[:, 0] == VOCABULARY.image_start
    assert 0 < alone.sum() < 6
    np.testing.assert_array_equal(tokens[~alone], plain[0][~alone])
    for row in np.flatnonzero(alone):
        frame = image_block(VOCABULARY.id_to_code[plain[0][row][hq_places(plain[1][row])]].reshape(4, 4), VOCABULARY)
        np.testing.assert_array_equal(tokens[row, : len(frame) + 1], [*frame, VOCABULARY.separator])
        assert labels[row, 0] == IGNORE and (tokens[row, len(frame) + 1 :] == VOCABULARY.pad).all()
        np.testing.assert_array_equal(labels[row, 1 : len(frame) + 1], tokens[row, 1 : len(frame) + 1])
        assert (labels[row, len(frame) + 1 :] == IGNORE).all()


def hq_places(labels: np.ndarray) -> np.ndarray:
    """Where a pair's HQ codes are."""
    return np.flatnonzero((labels != IGNORE) & (VOCABULARY.id_to_code[np.where(labels == IGNORE, 0, labels)] >= 0))
