"""Strength, candidates, fidelity, device, manifest and other tools' names, mostly with the toy family."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.__main__ import main
from pure_jax.config import SamplingConfig
from pure_jax.errors import PureError
from pure_jax.infer.control.aliases import translated
from pure_jax.infer.control.candidates import agreement, best_of
from pure_jax.infer.control.device import use_device
from pure_jax.infer.control.fidelity import at_fidelity
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.restore import Restoration, Restorer
from tests import toy
from tests.toy_restore import toy_command

PHOTO = np.random.default_rng(0).integers(40, 200, (20, 24, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PHOTO).save("photo.png")
    return tmp_path


def pure(*arguments: str) -> int:
    """Exit status of `pure restore photo.png ... --model toy --scale 2` with the toy."""
    with toy_command():
        try:
            main(["restore", *arguments, "--model", "toy", "--scale", "2"])
        except SystemExit as end:
            return int(end.code or 0)
    return 0


# ---- strength ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_strength_is_the_share_of_the_result(strength):
    photo = Image.fromarray(PHOTO)
    with toy.registered():
        restorer = Restorer(toy.ToyModel(toy.ToyConfig(), toy.params(), None, "", None))
        whole = np.asarray(restorer.restore(photo, scale=2).image, float)
        mixed = np.asarray(restorer.restore(photo, scale=2, strength=strength).image, float)
    enlarged = np.asarray(photo.resize((48, 40), Image.Resampling.BICUBIC), float)
    assert np.abs(mixed - (strength * whole + (1 - strength) * enlarged)).max() <= 1  # both are rounded
    if strength == 0.0:
        np.testing.assert_array_equal(mixed, enlarged)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_out_of_range_is_refused(folder, capsys, strength):
    assert pure("photo.png", "out.png", f"--strength={strength}") == 2
    assert "must lie in 0 ... 1" in capsys.readouterr().err and not (folder / "out.png").exists()


# ---- candidates ----------------------------------------------------------------------------------------------------


def candidate(shade: int, seed: int) -> Restoration:
    rgb = (PHOTO.repeat(2, axis=0).repeat(2, axis=1).astype(int) + shade).clip(0, 255).astype(np.uint8)
    return Restoration(Picture(rgb), None, "", np.zeros((1, 1)), [], ["as always"], seed)


def test_agreement_is_the_psnr_of_the_mean_of_each_area():
    fine = np.random.default_rng(1).integers(-30, 30, (40, 48, 3))
    rgb = (PHOTO.repeat(2, axis=0).repeat(2, axis=1) + fine).astype(np.uint8)
    small = rgb.reshape(20, 2, 24, 2, 3).mean(axis=(1, 3))
    from skimage.metrics import peak_signal_noise_ratio

    expected = peak_signal_noise_ratio(PHOTO.astype(float), small, data_range=255)
    assert agreement(Picture(rgb), Picture(PHOTO)) == pytest.approx(expected, abs=0.1)  # Pillow rounds
    assert agreement(candidate(0, 0).picture, Picture(PHOTO)) == float("inf")


def test_the_candidate_that_agrees_best_is_kept_and_named():
    shades = {5: 9, 6: 3, 7: 4, 8: 3}
    asked: list[int] = []

    def restore(*, seed: int) -> Restoration:
        asked.append(seed)
        return candidate(shades[seed], seed)

    best = best_of(restore, Picture(PHOTO), 5, 4)
    assert asked == [5, 6, 7, 8] and best.seed == 6
    assert best.remarks[0] == "as always" and "of 4 candidates, seed 6 agrees best" in best.remarks[1]
    assert best_of(restore, Picture(PHOTO), 5, 1).remarks == ["as always"]


@pytest.mark.parametrize("options", [("--candidates", "0"), ("--candidates", "2", "--seed", str(2**32 - 1))])
def test_candidates_without_a_seed_are_refused(folder, capsys, options):
    assert pure("photo.png", "out.png", *options) == 2
    assert "candidates" in capsys.readouterr().err


def test_the_seed_that_was_kept_is_told(folder, capsys):
    assert pure("photo.png", "out.png", "--candidates", "2", "--seed", "4", "--json", "--quiet") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seed"] == 4 and "of 2 candidates, seed 4 agrees best" in told["remarks"][-1]


# ---- fidelity ------------------------------------------------------------------------------------------------------


def test_the_middle_is_the_models_own_and_the_ends_are_greedy_and_free():
    own = SamplingConfig(k_max=256.0, temperature=0.8, entropy_center=4.0)
    assert at_fidelity(own, 0.5) == own
    assert at_fidelity(own, 1.0) == replace(own, k_max=1.0, temperature=0.4, entropy_center=5.0)
    assert at_fidelity(own, 0.0) == replace(own, k_max=1024.0, temperature=1.0, entropy_center=3.0)
    k_max = [at_fidelity(own, step / 20).k_max for step in range(21)]
    assert k_max == sorted(k_max, reverse=True)


@pytest.mark.parametrize("fidelity", [-0.1, 1.1, float("nan")])
def test_a_fidelity_out_of_range_is_refused(fidelity):
    with pytest.raises(PureError, match="must lie in 0 ... 1"):
        at_fidelity(SamplingConfig(), fidelity)


def test_a_family_that_draws_otherwise_has_no_fidelity(folder, capsys):
    assert pure("photo.png", "out.png", "--fidelity", "0.7") == 2
    assert "fidelity has no meaning for this model" in capsys.readouterr().err


# ---- what another family does not have, the device, the manifest -----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--guidance", "none"), "guidance"),
        (("--blur", "large"), "reading"),
        (("--noise", "small"), "reading"),
        (("--description", "A cat."), "description"),
        (("--one-description",), "one_description"),
    ],
)
def test_words_have_no_meaning_for_a_family_without(folder, capsys, options, name):
    assert pure("photo.png", "out.png", *options) == 2
    assert f"{name} has no meaning for a model of the family toy" in capsys.readouterr().err


def test_the_device_that_is_here_is_used_and_another_refused(folder, capsys):
    before = jax.config.jax_platforms  # type: ignore[attr-defined]
    try:
        here = jax.default_backend()
        assert pure("photo.png", "out.png", "--device", here) == 0
        other = "tpu" if here != "tpu" else "gpu"
        assert pure("photo.png", "other.png", "--device", other) == 2
        assert f"leave --device {other} out" in capsys.readouterr().err and not (folder / "other.png").exists()
    finally:
        jax.config.update("jax_platforms", before)
    with pytest.raises(PureError, match="must be one of cpu, gpu, tpu"):
        use_device("abacus")


def test_a_folder_done_with_another_strength_is_not_done(folder, capsys):
    (folder / "scans").mkdir()
    with toy.registered():
        pure_jax.save(folder / "toy", toy.ToyConfig(), toy.params(), "", "")
    Image.fromarray(PHOTO).save("scans/a.png")
    assert pure("scans", "out/", "--strength", "0.5") == 0
    [line] = (folder / "out" / "manifest.jsonl").read_text().splitlines()
    assert json.loads(line)["settings"]["strength"] == 0.5
    assert pure("scans", "out/") == 1
    assert "made with other settings" in capsys.readouterr().err


# ---- names of other tools --------------------------------------------------------------------------------------------


def test_other_tools_names_are_understood():
    said = "--input_image a.png --output_dir=out/ --upscale 4 --align_method nofix --seed 3 --mixed_precision fp16"
    assert translated(said.split()) == (
        ["a.png", "out/", "--scale=4", "--colour-fix=none", "--seed", "3", "--dtype=float16"],
        [],
    )


def test_names_of_files_stay_together():
    assert translated(["a.png", "--seed", "3", "--output", "b.png"]) == (["a.png", "b.png", "--seed", "3"], [])


def test_an_overlap_of_latents_is_told_in_pixels():
    assert translated(["a.png", "--latent_tiled_overlap=4"]) == (["a.png", "--overlap=32"], [])


def test_own_names_stay_and_tile_sizes_are_passed_over_with_a_remark():
    own = ["a.png", "b.png", "--scale", "4", "--colour-fix", "lab"]
    assert translated(own) == (own, [])
    arguments, remarks = translated(["a.png", "--process_size", "512", "--latent-tiled-size=96"])
    assert arguments == ["a.png"] and len(remarks) == 2 and "--process_size has no meaning here" in remarks[0]


@pytest.mark.parametrize(
    "arguments", [["--upscale"], ["--upscale", "--seed"], ["--align_method", "magic"], ["--latent_tiled_overlap", "a"]]
)
def test_a_name_without_a_value_that_fits_is_refused(arguments):
    with pytest.raises(PureError, match=arguments[0]):
        translated(arguments)


def test_a_photo_is_restored_with_other_tools_names(folder, capsys):
    assert pure("--image_path", "photo.png", "--output", "new.png", "--align_method", "adain") == 0
    with Image.open("new.png") as image:
        assert image.size == (48, 40)
