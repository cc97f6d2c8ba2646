"""PSNR, SSIM and NIQE against scikit-image, scipy and Pillow, and against published behaviour."""

import hashlib
import io
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pure_jax.errors import PureError
from pure_jax.infer.metrics.distortion import luma, psnr_rgb, psnr_y, ssim_y
from pure_jax.infer.metrics.niqe import NiqeParams, _halve, fit_aggd, load_niqe_params, niqe


def waves(height: int = 64, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 9
    rgb = 127.5 + 120 * np.stack([np.sin(x + y), np.cos(2 * x - y), np.sin(3 * y)], axis=-1)
    return np.round(rgb).astype(np.uint8)


def noisy(image: np.ndarray, sigma: float = 12) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def test_luma_runs_from_16_to_235() -> None:
    assert luma(np.zeros((1, 1, 3), np.uint8))[0, 0] == pytest.approx(16)
    assert luma(np.full((1, 1, 3), 255, np.uint8))[0, 0] == pytest.approx(235)


def test_psnr_equals_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    color = pytest.importorskip("skimage.color")
    a, b = waves(), noisy(waves())
    y_a, y_b = color.rgb2ycbcr(a)[..., 0], color.rgb2ycbcr(b)[..., 0]
    # the 1e-8 beside the mean square error moves 28 dB by 3e-5 dB
    assert psnr_y(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(y_a, y_b, data_range=255), abs=1e-4)
    assert psnr_rgb(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=255), abs=1e-4)


def test_equal_images_have_80_db_and_ssim_1() -> None:
    assert psnr_y(waves(), waves()) == pytest.approx(80)
    assert psnr_rgb(waves(), waves()) == pytest.approx(80)
    assert ssim_y(waves(), waves()) == pytest.approx(1)


def test_ssim_equals_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a, b = waves(), noisy(waves())
    y_a, y_b = np.round(luma(a)), np.round(luma(b))
    expected = metrics.structural_similarity(
        y_a, y_b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim_y(a, b) == pytest.approx(expected, abs=1e-6)


def test_ssim_cuts_negative_structure_at_zero() -> None:
    assert 0 <= ssim_y(waves(), 255 - waves()) < 0.1


@pytest.mark.parametrize("metric", [psnr_y, psnr_rgb, ssim_y])
def test_different_sizes_are_refused(metric) -> None:
    with pytest.raises(PureError, match="80x64 and 72x64"):
        metric(waves(), waves(width=72))


def test_ssim_refuses_less_than_its_window() -> None:
    with pytest.raises(PureError, match="11x11"):
        ssim_y(waves(10, 40), waves(10, 40))


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0, 4.0])
def test_aggd_fit_finds_the_distribution_that_scipy_draws(shape: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    samples = stats.gennorm.rvs(shape, scale=3, size=200_000, random_state=0)
    samples = np.where(samples > 0, 2 * samples, samples)
    samples = np.where(samples > 0, 1, np.random.default_rng(1).random(samples.size) < 0.5) * samples
    samples = samples[samples != 0]  # the mass of each side is proportional to its scale, as the model says
    fitted, left, right = fit_aggd(samples)
    assert fitted == pytest.approx(shape, rel=0.04)
    assert (left, right) == (pytest.approx(3, rel=0.04), pytest.approx(6, rel=0.04))


def test_halving_equals_pillow_inside_and_mirrors_at_the_edge() -> None:
    y = np.random.default_rng(0).random((64, 48)).astype(np.float32) * 255
    expected = Image.fromarray(y).resize((24, 32), Image.Resampling.BICUBIC)  # antialiased, same kernel; other edges
    half = _halve(y.astype(np.float64))
    np.testing.assert_allclose(half[2:-2, 2:-2], np.asarray(expected)[2:-2, 2:-2], atol=1e-4)
    mirrored = _halve(np.pad(y, 16, mode="symmetric").astype(np.float64))
    np.testing.assert_allclose(half, mirrored[8:-8, 8:-8], atol=1e-9)


@pytest.fixture(scope="module")
def niqe_params() -> NiqeParams:
    return load_niqe_params()


def test_the_pristine_model_that_ships_is_the_published_one(shared_data: Path, niqe_params: NiqeParams) -> None:
    published = load_niqe_params(shared_data / "metrics" / "niqe_pris_params.npz")
    for name in ("mean", "covariance", "window"):
        np.testing.assert_array_equal(getattr(niqe_params, name), getattr(published, name))


def test_the_pristine_model_ships_with_its_source_and_licences() -> None:
    folder = Path(str(files("pure_jax") / "assets" / "niqe"))
    content = {name: (folder / name).read_text(encoding="utf-8") for name in ("README.md", "LICENSE", "NOTICE")}
    assert "BasicSR" in content["README.md"] and "Apache License" in content["LICENSE"]
    assert hashlib.sha256((folder / "niqe_pris_params.npz").read_bytes()).hexdigest() in content["README.md"]
    assert "The University of Texas at Austin" in content["NOTICE"]


def damaged(image: Image.Image) -> dict[str, Image.Image]:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    width, height = image.size
    return {
        "clean": image,
        "jpeg 20": Image.open(buffer),
        "bicubic x4": image.resize((width // 4, height // 4), 3).resize(image.size, 3),
        "blur 2": image.filter(ImageFilter.GaussianBlur(2)),
        "noise 25": Image.fromarray(noisy(np.asarray(image), 25)),
    }


def test_niqe_of_photographs_lies_where_the_published_code_puts_it(shared_data: Path, niqe_params: NiqeParams) -> None:
    names = ["elementary-mr-lee-t0", "elementary-jonas-nilsson-lee", "gcompris-erase-alpaca", "gcompris-erase-calf"]
    names += ["gcompris-erase-bee", "gcompris-erase-gorilla", "gcompris-erase-pika", "gcompris-erase-gibbon"]
    values: dict[str, list[float]] = {}
    for name in names:
        with Image.open(shared_data / "photos" / f"{name}.jpg") as photo:
            left, top = (photo.width - 576) // 2, (photo.height - 576) // 2
            crop = photo.convert("RGB").crop((left, top, left + 576, top + 576))
        for kind, image in damaged(crop).items():
            values.setdefault(kind, []).append(niqe(np.asarray(image), niqe_params))
    # BasicSR's figures on eight other crops; the crop moves a mean of eight by about 1
    published = {"clean": 4.3, "jpeg 20": 5.4, "bicubic x4": 7.7, "blur 2": 8.3, "noise 25": 9.7}
    assert {kind: np.mean(v) for kind, v in values.items()} == {
        k: pytest.approx(v, abs=1.5) for k, v in published.items()
    }
    for kind in ("jpeg 20", "bicubic x4", "blur 2", "noise 25"):
        assert all(bad > good for bad, good in zip(values[kind], values["clean"], strict=True)), kind


def test_niqe_reads_whole_blocks_only(shared_data: Path, niqe_params: NiqeParams) -> None:
    with Image.open(shared_data / "photos" / "gcompris-erase-pika.jpg") as photo:
        pixels = np.asarray(photo.convert("RGB"))
    assert niqe(pixels[:240, :300], niqe_params) == niqe(pixels[:192, :288], niqe_params)


def test_niqe_refuses_too_small_and_flat_images() -> None:
    params = NiqeParams(np.zeros(36), np.eye(36), np.full((7, 7), 1 / 49))
    with pytest.raises(PureError, match="191x191"):
        niqe(waves(191, 191), params)
    with pytest.raises(PureError, match="flat"):
        niqe(np.zeros((192, 192, 3), np.uint8), params)


def test_broken_niqe_parameter_files_are_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(PureError, match="no NIQE parameter file"):
        load_niqe_params(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    np.savez(tmp_path / "other.npz", mu_pris_param=np.zeros(36))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(PureError, match="is not a NIQE parameter file"):
            load_niqe_params(tmp_path / name)
