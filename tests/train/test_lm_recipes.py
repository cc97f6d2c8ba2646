"""Recipes of the language model: the paper's numbers, files, and changes by name."""

from __future__ import annotations

import json

import pytest

from pure_jax.config import to_dict
from pure_jax.errors import PureError
from pure_jax.train.optimiser import learning_rate
from pure_jax.train.recipes.language_model import LM_RECIPES, language_model_recipe


def test_the_papers_recipe_has_the_papers_numbers():
    train = language_model_recipe("pure_7b").train
    images, epochs = 94_991, 2
    assert train.steps == images // train.batch * epochs
    assert train.optimiser.warmup_steps == images // train.batch // 2
    rate = learning_rate(train.optimiser, train.steps)
    assert float(rate(0)) == 0 and float(rate(train.optimiser.warmup_steps)) == pytest.approx(4e-4)
    assert float(rate(train.steps)) == pytest.approx(0, abs=1e-12)
    assert (train.sequence - 1) % 512 == 0 and train.sequence > 2 * 4164


@pytest.mark.parametrize("name", LM_RECIPES)
def test_a_recipe_that_is_written_and_read_is_the_same(tmp_path, name):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(to_dict(language_model_recipe(name))))
    assert language_model_recipe(str(path)) == language_model_recipe(name)


def test_values_are_changed_by_name():
    changed = language_model_recipe(
        "tiny", ["train.batch=4", "train.optimiser.learning_rate=1e-2", "mesh=data=2", "model.transformer.num_layers=3"]
    )
    assert (changed.train.batch, changed.train.optimiser.learning_rate) == (4, 1e-2)
    assert (changed.mesh, changed.model.transformer.num_layers) == ("data=2", 3)
    assert changed.train.steps == language_model_recipe("tiny").train.steps


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("huge", [], "there is no recipe 'huge'; choose one of pure_7b"),
        ("tiny", ["train.bach=4"], "has no value 'train.bach'"),
        ("tiny", ["train"], "has no value 'train'"),
        ("tiny", ["train.batch.x=4"], "has no value 'train.batch.x'"),
        ("tiny", ["train.batch=many"], "train: batch is 'many', but the type must be int"),
        ("tiny", ["train.batch=0"], "batch is 0"),
        ("absent.json", [], "absent.json"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(name, changes, words):
    with pytest.raises(PureError, match=words):
        language_model_recipe(name, changes)
