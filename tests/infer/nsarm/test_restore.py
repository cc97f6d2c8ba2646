"""An NSARM model directory restores photos of any size, by the tool that knows families by their tables only."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.__main__ import main
from pure_jax.errors import PureError
from pure_jax.infer import preview as module
from tests.nsarm_models import tiny_config, tiny_pair


def save(directory: Path, **changes) -> Path:
    model = tiny_pair(**changes).model
    pure_jax.save(directory, model.config, model.params, "", "# Tiny\n")
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "nsarm")


@pytest.fixture(scope="module")
def restorer(directory) -> pure_jax.Restorer:
    return pure_jax.Restorer(pure_jax.load(directory), unchecked=True)


def photo(mode: str = "RGB", size: tuple[int, int] = (18, 21)) -> Image.Image:
    channels = len(mode) if mode != "L" else 1
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], channels), np.uint8)
    return Image.fromarray(noise[..., 0] if mode == "L" else noise, mode)


def test_a_saved_model_is_loaded_again_with_layers_as_wanted(directory):
    one, two = (pure_jax.load(directory, scan_layers=scan) for scan in (False, True))
    assert one.config == tiny_config() and two.config.transformer.scan_layers
    assert set(two.params) == {"transformer", "map_network", "vae", "prompt"}
    for own, wanted in zip(jax.tree.leaves(one.params), jax.tree.leaves(tiny_pair().model.params), strict=True):
        np.testing.assert_array_equal(own, wanted)


def test_previews_end_with_the_result(restorer, monkeypatch):
    monkeypatch.setattr(module, "REST", 0.0)
    seen = []
    result = restorer.restore(photo(), preview=lambda image: seen.append(image.copy()), batch=2, colour_fix="none")
    np.testing.assert_array_equal(seen[-1], np.asarray(result.image))
    assert len(seen) > 4 and (seen[0] != seen[-1]).any()
    np.testing.assert_array_equal(restorer.restore(photo(), batch=2, colour_fix="none").image, result.image)


@pytest.mark.parametrize(("mode", "size"), [("RGB", (18, 21)), ("RGBA", (18, 21)), ("L", (18, 21))])
def test_photos_of_any_size_and_kind_are_restored(restorer, mode, size):
    result = restorer.restore(photo(mode, size), scale=4, seed=1)
    width, height = (4 * side for side in size)
    assert result.image.size == (width, height) and result.image.mode == mode
    assert result.entropy.shape == (-(-height // 4), -(-width // 4))
    assert (result.degradation, result.description) == (None, "")


def test_the_seed_decides_and_the_batch_does_not(restorer):
    one, two, other = (
        np.asarray(restorer.restore(photo(), seed=seed, batch=batch).image)
        for seed, batch in ((1, None), (1, 4), (2, None))
    )
    assert np.abs(one.astype(int) - two).max() <= 1 and (one != other).any()


def test_the_default_colour_fix_is_adain_then_wavelet(restorer):
    one, two, plain = (
        np.asarray(restorer.restore(photo(), colour_fix=fix).image) for fix in (None, "adain+wavelet", "none")
    )
    np.testing.assert_array_equal(one, two)
    assert (one != plain).any()


def test_three_times_the_pixels_are_a_magnification_too(tmp_path):
    model = pure_jax.load(save(tmp_path / "three", sides=(1, 2, 3, 6)))
    assert (model.config.magnification, model.config.stride) == (3, 4)
    result = pure_jax.Restorer(model).restore(photo(), scale=3)
    assert result.image.size == (54, 63) and result.entropy.shape == (16, 14)


def test_the_round_trip_through_codes_is_that_of_all_scales(restorer):
    model = restorer.model
    image = np.asarray(photo(size=(32, 32)))
    codes = model.encode(image)
    assert [own.shape for own in codes] == [(2 * side, 2 * side) for side in model.config.sides]
    assert model.decode(codes).shape == image.shape
    assert [own.shape for own in model.encode(np.asarray(photo(size=(32, 64))))][-2:] == [(20, 10), (32, 16)]


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (lambda r: r.restore(photo(), text="A cat."), "no text encoder"),
        (lambda r: r.restore(photo(), window=4), "window has no meaning for a model of the family nsarm"),
        (lambda r: r.restore(photo(), batch=0), "the batch is 0"),
        (lambda r: r.model.encode(np.zeros((30, 32, 3), np.uint8)), "32x30 is no multiple of 4"),
        (lambda r: r.model.encode(np.zeros((32, 32), np.uint8)), "must be uint8"),
        (lambda r: r.model.decode([np.zeros((2, 2))]), "codes must be integers"),
        (lambda r: r.model.decode([np.full((2, 2), 32)]), r"codes must lie in 0\.\.31"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(restorer, act, complaint):
    with pytest.raises(PureError, match=complaint):
        act(restorer)


def test_the_command_takes_it(directory, tmp_path, capsys):
    photo().save(tmp_path / "photo.png")
    paths = [str(tmp_path / name) for name in ("photo.png", "out.png")]
    options = ["--temperature", "0", "--entropy-map", str(tmp_path / "map.png"), "--json"]
    main(["restore", *paths, "--model", str(directory), *options])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width"], facts["height"], facts["description"]) == (72, 84, "")
    assert Image.open(tmp_path / "map.png").size == (72, 84)


def test_bad_options_of_the_command_are_one_sentence(directory, tmp_path, capsys):
    photo().save(tmp_path / "photo.png")
    captions = tmp_path / "captions.jsonl"
    captions.write_text(json.dumps({"image_path": "photo.png", "long_caption": "A cat."}))
    for options, complaint in (
        (["--k-max", "3"], "k_max has no meaning for this model"),
        (["--captions", str(captions)], "no text encoder"),  # it was read
        (["--captions", str(captions), "--text", "A dog."], "give --text or --captions, not both"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["restore", str(tmp_path / "photo.png"), "--model", str(directory), "--quiet", *options])
        [line] = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and complaint in line
