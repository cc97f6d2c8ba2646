"""The degradation pipeline: kernels, resizing, noise, JPEG and sharpening against outside oracles; folders of pairs."""

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
from PIL import Image

from pure_jax.errors import PureError
from pure_jax.train.data.command import Degrade
from pure_jax.train.data.degradation import (
    LIGHT,
    MILD,
    PRESETS,
    REAL_ESRGAN,
    USM_KERNEL,
    DegradationConfig,
    Noise,
    _add_noise,
    apply,
    apply_twice,
    degrade,
    draw,
    recorded,
    usm_sharpen,
)
from pure_jax.train.data.degrade import degrade_folder, photo_seed
from pure_jax.train.data.jpeg import jpeg, quality_factor
from pure_jax.train.data.kernels import DELTA, Kernel, correlate, resize, resize_weights

KERNELS = [
    Kernel("gaussian", 7, (0.2, 0.2)),
    Kernel("gaussian", 21, (3.0, 0.7), theta=0.4),
    Kernel("gaussian", 15, (2.0, 1.0), theta=-2.0, beta=3.5),
    Kernel("plateau", 13, (2.0, 2.0), beta=1.7),
    Kernel("sinc", 9, cutoff=2.0),
    DELTA,
    USM_KERNEL,
]


@pytest.fixture
def photo() -> np.ndarray:
    """Smooth structure plus texture, float32 [64, 96, 3] in [0, 1]."""
    rng = np.random.default_rng(0)
    waves = 0.5 + 0.3 * np.sin(np.arange(64)[:, None, None] / 7 + np.arange(96)[None, :, None] / 5 + np.arange(3))
    return np.clip(waves + 0.1 * rng.standard_normal((64, 96, 3)), 0, 1).astype(np.float32)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel.kind}{kernel.size}")
def test_kernels_sum_to_one_and_are_point_symmetric(kernel):
    taps = kernel.taps()
    assert taps.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(taps, taps[::-1, ::-1], atol=1e-15)


def test_isotropic_gaussian_is_scipys():
    impulse = np.zeros((21, 21))
    impulse[10, 10] = 1
    expected = scipy.ndimage.gaussian_filter(impulse, 1.3, mode="constant", radius=10)
    np.testing.assert_allclose(Kernel("gaussian", 21, (1.3, 1.3)).taps(), expected, atol=1e-12)


def test_anisotropic_gaussian_has_the_covariance_of_its_rotation():
    theta, sigma = 0.5, (2.0, 1.0)
    taps = Kernel("gaussian", 21, sigma, theta=theta).taps()
    y, x = np.mgrid[-10:11, -10:11]
    covariance = [[(taps * a * b).sum() for b in (x, y)] for a in (x, y)]
    rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    np.testing.assert_allclose(covariance, rotation @ np.diag(np.square(sigma)) @ rotation.T, rtol=1e-3)


def test_sinc_kernel_is_the_bessel_low_pass():
    size, w = 9, 1.7
    taps = Kernel("sinc", size, cutoff=w).taps()
    radius = np.hypot(*np.mgrid[-4:5, -4:5])
    radius[4, 4] = 1
    expected = w * scipy.special.j1(w * radius) / (2 * np.pi * radius)
    expected[4, 4] = w * w / (4 * np.pi)
    np.testing.assert_allclose(taps, expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize("shape", [(24, 31), (5, 3)])
def test_correlate_is_scipys_with_mirrored_border(shape):
    image = np.random.default_rng(0).random((3, *shape), np.float32)
    taps = np.random.default_rng(1).random((21, 21)) / 441  # no symmetry: a convolution would differ
    expected = np.stack([scipy.ndimage.correlate(plane, taps, mode="mirror") for plane in image])
    np.testing.assert_allclose(correlate(image, taps), expected, atol=1e-6)  # measured 3e-7


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [0.15, 0.37, 0.999, 1.0, 1.23, 1.5])
def test_resize_is_torchs_interpolate_by_factor_and_by_size(mode, factor):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((3, 40, 56), np.float32)
    options = {} if mode == "area" else {"align_corners": False}
    tensor = torch.from_numpy(image)[None]
    by_factor = torch.nn.functional.interpolate(tensor, scale_factor=factor, mode=mode, **options)[0].numpy()
    ours = resize(image, by_factor.shape[1:], mode, step=1 / factor)
    np.testing.assert_allclose(ours, by_factor, atol=1e-5)  # measured 4.4e-6: torch samples in float32
    shape = (int(40 * factor), int(56 * factor) + 1)
    by_size = torch.nn.functional.interpolate(tensor, size=shape, mode=mode, **options)[0].numpy()
    np.testing.assert_allclose(resize(image, shape, mode), by_size, atol=1e-5)


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
def test_resize_weights_sum_to_one(mode):
    np.testing.assert_allclose(resize_weights(37, 91, mode).sum(axis=1), 1, atol=1e-6)


def test_jpeg_factor_values():
    assert [quality_factor(q) for q in (50, 25, 90)] == pytest.approx([1, 2, 0.2])
    with pytest.raises(PureError, match="quality 100"):
        quality_factor(100)


def test_jpeg_leaves_only_multiples_of_the_table_in_scipys_dct():
    grey = np.broadcast_to(np.random.default_rng(0).random((1, 16, 16), np.float32) * 0.5 + 0.25, (3, 16, 16))
    block = jpeg(grey, 25)[0, :8, :8].astype(np.float64) * 255 - 128
    # row 0 of the transposed luminance table starts 16, 12; column 0 starts 16, 11; factor 2
    steps = scipy.fft.dctn(block, norm="ortho")[[0, 0, 1], [0, 1, 0]] / [32, 24, 22]
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)  # measured 2e-5


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_jpeg_loss_is_near_libjpegs(photo, quality, tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray((photo * 255).round().astype(np.uint8)).save(path, quality=quality, subsampling="4:2:0")
    real = np.asarray(Image.open(path), np.float32) / 255
    ours = jpeg(photo.transpose(2, 0, 1), quality).transpose(1, 2, 0)
    assert np.std(ours - photo) == pytest.approx(np.std(real - photo), rel=0.1)  # measured 5 %


def test_jpeg_of_odd_sides_keeps_the_shape_and_the_inside(photo):
    planar = photo.transpose(2, 0, 1)[:, :37, :51]
    assert jpeg(planar, 80).shape == planar.shape
    inside = jpeg(planar[:, :32, :48], 80)
    np.testing.assert_allclose(jpeg(planar, 80)[:, :32, :48], inside, atol=1e-6)  # BLAS sums in another order: 1e-7


def test_usm_sigma_is_8_and_sharpening_is_the_definition(photo):
    assert USM_KERNEL.sigma == pytest.approx((0.3 * ((51 - 1) * 0.5 - 1) + 0.8,) * 2) == (8.0, 8.0)

    def blur(x):
        return scipy.ndimage.gaussian_filter(x.astype(np.float64), 8.0, mode="mirror", radius=25, axes=(0, 1))

    residual = photo - blur(photo)
    soft = blur(np.abs(residual) * 255 > 10)
    expected = soft * np.clip(photo + 0.5 * residual, 0, 1) + (1 - soft) * photo
    np.testing.assert_allclose(usm_sharpen(photo), expected, atol=1e-4)


def test_gaussian_noise_has_the_drawn_strength_and_grey_noise_is_shared():
    image = np.full((3, 200, 200), 0.5, np.float32)
    colour = _add_noise(image, Noise("gaussian", 20.0, False, 1)) - image
    assert colour.std() * 255 == pytest.approx(20, rel=0.01)  # 120,000 values: standard error 0.2 %
    assert abs(np.corrcoef(colour[0].ravel(), colour[1].ravel())[0, 1]) < 0.02
    grey = _add_noise(image, Noise("gaussian", 20.0, True, 1)) - image
    np.testing.assert_allclose(grey[0], grey[2], atol=1e-7)


@pytest.mark.parametrize("grey", [False, True])
def test_poisson_noise_has_the_standard_deviation_of_its_photon_count(grey):
    # 150 distinct values: 256 photons for white
    image = np.broadcast_to(np.linspace(26, 175, 150, dtype=np.float32).round() / 255, (3, 800, 150))
    noise = _add_noise(image, Noise("poisson", 2.0, grey, 3)) - image
    expected = 2 * np.sqrt(image[0, 0] / 256)
    # 800 or 2,400 values a column: allow 4 standard errors
    np.testing.assert_allclose(noise.std(axis=(0, 1)), expected, rtol=0.11)
    assert np.allclose(noise[0], noise[1], atol=1e-6) == grey


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", range(6))
def test_a_constant_grey_image_passes_unchanged_without_noise(preset, seed):
    image = np.full((64, 64, 3), 128 / 255, np.float32)
    degradation = draw(PRESETS[preset], np.random.default_rng(seed))
    assert set(np.unique(apply(degradation, image, noise=False))) == {128}


def test_identity_draws_reduce_to_the_last_resize(photo):
    torch = pytest.importorskip("torch")
    noise = Noise("gaussian", 0.0, False, 0)
    degradation = draw(LIGHT, np.random.default_rng(0))
    stage = dataclasses.replace(degradation.stages[0], kernel=DELTA, scale=1.0, noise=noise)
    degradation = dataclasses.replace(degradation, stages=(stage,), mode="bicubic", kernel=DELTA)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(photo.transpose(2, 0, 1).copy())[None], size=(16, 24), mode="bicubic"
    )[0].numpy()
    ours = apply(degradation, photo, noise=False).astype(int)
    expected = np.round(expected.transpose(1, 2, 0).clip(0, 1) * 255).astype(int)
    assert np.abs(ours - expected).max() <= 1 and (ours != expected).mean() < 0.01  # float ties at half a level


def test_order_of_the_second_order_pipeline(photo, monkeypatch):
    calls: list[str] = []
    import pure_jax.train.data.degradation as module

    for name in ("_blur", "resize", "_add_noise", "jpeg"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _n=name, _f=original, **k: calls.append(_n) or _f(*a, **k))
    stages = ["_blur", "resize", "_add_noise", "jpeg", "_blur", "resize", "_add_noise"]
    for jpeg_last, end in ((True, ["resize", "_blur", "jpeg"]), (False, ["jpeg", "resize", "_blur"])):
        calls.clear()
        apply(dataclasses.replace(draw(REAL_ESRGAN, np.random.default_rng(0)), jpeg_last=jpeg_last), photo)
        assert calls == stages + end


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", [2, 4])
def test_the_output_has_the_size_and_type_of_an_lq_image(photo, preset, scale):
    for seed in range(5):
        lq, _ = degrade(photo, PRESETS[preset], seed, scale)
        assert lq.shape == (64 // scale, 96 // scale, 3) and lq.dtype == np.uint8


def test_smallest_image_is_degraded():
    lq, _ = degrade(np.full((4, 8, 3), 0.5, np.float32), REAL_ESRGAN, 0)
    assert lq.shape == (1, 2, 3)


def test_same_seed_same_image_and_the_draws_alone_reproduce_it(photo):
    lq, degradation = degrade(photo, REAL_ESRGAN, 7)
    again, _ = degrade(photo, REAL_ESRGAN, 7)
    other, _ = degrade(photo, REAL_ESRGAN, 8)
    np.testing.assert_array_equal(lq, again)
    np.testing.assert_array_equal(lq, apply(degradation, photo))
    assert (lq != other).any()


def test_degrading_leaves_its_input_untouched(photo):
    before = photo.copy()
    degrade(photo, dataclasses.replace(REAL_ESRGAN, usm_gt="input_only"), 3)
    np.testing.assert_array_equal(photo, before)


def test_usm_option_degrades_the_sharpened_input(photo):
    sharpened, _ = degrade(photo, dataclasses.replace(REAL_ESRGAN, usm_gt="input_only"), 3)
    by_hand, _ = degrade(usm_sharpen(photo), REAL_ESRGAN, 3)
    np.testing.assert_array_equal(sharpened, by_hand)
    with pytest.raises(PureError, match="usm_gt"):
        DegradationConfig(stages=(), jpeg_quality=(30, 95), usm_gt="output_only")


def test_draws_read_back_from_json_give_the_same_image(photo):
    for preset in PRESETS.values():
        lq, drawn = degrade(photo, preset, 5)
        again = recorded(json.loads(json.dumps(dataclasses.asdict(drawn))), "draws")
        assert again == drawn
        np.testing.assert_array_equal(apply(again, photo), lq)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "lanczos"},
        {"stages": []},
        {"kernel": {"kind": "box"}},
        {"kernel": {"kind": "sinc", "size": 10**6}},
        {"kernel": {}},
        {"sharpen": "yes"},
        {"more": 1},
    ],
)
def test_draws_that_cannot_be_repeated_are_refused(change):
    values = dataclasses.asdict(draw(REAL_ESRGAN, np.random.default_rng(0))) | change
    with pytest.raises(PureError, match="the file"):
        recorded(values, "the file")


@pytest.mark.parametrize("seed", range(4))
def test_applying_with_and_without_noise_at_once_is_the_same_as_twice(photo, seed):
    drawn = draw(REAL_ESRGAN, np.random.default_rng(seed))
    noisy, clean = apply_twice(drawn, photo)
    np.testing.assert_array_equal(noisy, apply(drawn, photo))
    np.testing.assert_array_equal(clean, apply(drawn, photo, noise=False))


def test_draws_are_json_and_follow_the_table():
    draws = [draw(REAL_ESRGAN, np.random.default_rng(seed)) for seed in range(2000)]
    json.dumps(dataclasses.asdict(draws[0]))
    first, second = [d.stages[0] for d in draws], [d.stages[1] for d in draws]

    def share(values):
        return pytest.approx(np.mean(list(values)), abs=0.04)  # 2,000 draws: standard error at most 1.1 %

    assert 0.7 == share(s.scale < 1 for s in first) and 0.2 == share(s.scale > 1 for s in first)
    assert 0.4 == share(s.scale < 1 for s in second) and 0.3 == share(s.scale > 1 for s in second)
    assert 0.2 == share(s.kernel.kind == "delta" for s in second)
    assert 0.1 == share(s.kernel.kind == "sinc" for s in first)
    assert 0.9 * 0.15 == share(s.kernel.kind == "plateau" for s in first)
    assert 0.5 == share(s.noise.kind == "gaussian" for s in first) and 0.4 == share(s.noise.grey for s in second)
    assert 0.8 == share(d.kernel.kind == "sinc" for d in draws) and 0.5 == share(d.jpeg_last for d in draws)
    assert all(30 <= d.jpeg_quality <= 95 and 30 <= d.stages[0].jpeg_quality <= 95 for d in draws)
    assert all(0.15 <= s.scale <= 1.5 for s in first) and all(0.3 <= s.scale <= 1.2 for s in second)
    assert all(0.2 <= min(s.kernel.sigma) and max(s.kernel.sigma) <= 1.5 for s in second)
    assert {s.kernel.size for s in first} == set(range(7, 22, 2))
    assert len(draw(LIGHT, np.random.default_rng(0)).stages) == 1
    assert draw(MILD, np.random.default_rng(0)).stages[1].jpeg_quality is None


@pytest.mark.parametrize("shape, dtype", [((64, 64, 3), "float64"), ((64, 64), "float32"), ((66, 64, 3), "float32")])
def test_wrong_images_are_refused_in_one_sentence(shape, dtype):
    with pytest.raises(PureError, match="the image is"):
        degrade(np.zeros(shape, dtype), REAL_ESRGAN, 0)


@pytest.fixture
def folder(tmp_path, photo):
    source = tmp_path / "photos"
    source.mkdir()
    pixels = (photo * 255).astype(np.uint8)
    for index, name in enumerate(["a.png", "b.png", "c.png"]):
        Image.fromarray(np.roll(pixels, index * 9, 0)).save(source / name)
    rows = [{"file": f"{s}.png", "split": "val" if s == "b" else "train", "caption": f"Photo {s}."} for s in "abc"]
    (source / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return source


def _rows(destination):
    return [json.loads(line) for line in (destination / "pairs.jsonl").read_text().splitlines()]


def test_folder_becomes_pairs_with_records(folder, tmp_path):
    out = tmp_path / "out"
    assert degrade_folder(folder, out, crop=32) == 3
    rows = _rows(out)
    assert [row["file"] for row in rows] == ["a.png", "b.png", "c.png"] and rows[0]["caption"] == "Photo a."
    gt, lq = np.asarray(Image.open(out / "gt" / "a.png")), np.asarray(Image.open(out / "lq" / "a.png"))
    np.testing.assert_array_equal(gt, np.asarray(Image.open(folder / "a.png"))[16:48, 32:64])
    np.testing.assert_array_equal(lq, degrade(gt.astype(np.float32) / 255, REAL_ESRGAN, rows[0]["seed"])[0])
    assert rows[0]["levels"]["params"]["blur"] in ("small", "medium", "large")
    assert sorted(p.name for p in out.iterdir()) == ["gt", "lq", "pairs.jsonl"]
    assert len(list((out / "gt").iterdir())) == 3, "no temporary file stays behind"


def test_recorded_draws_are_repeated(folder, tmp_path):
    degrade_folder(folder, tmp_path / "a", crop=32, seed=3, sharpen="input_only")
    degrade_folder(folder, tmp_path / "b", crop=32, replay=tmp_path / "a" / "pairs.jsonl")
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    (tmp_path / "empty.jsonl").touch()
    for words, options in (
        ("lists no pairs", {"replay": tmp_path / "empty.jsonl"}),
        ("at the scale 4, not 2", {"replay": tmp_path / "a" / "pairs.jsonl", "scale": 2}),
    ):
        with pytest.raises(PureError, match=words):
            degrade_folder(folder, tmp_path / "c", **options)


def test_the_target_is_sharpened_if_asked_for(folder, tmp_path):
    for sharpen in ("none", "both"):
        degrade_folder(folder, tmp_path / sharpen, crop=32, sharpen=sharpen)
    for path in (tmp_path / "none" / "gt").iterdir():
        plain, sharp = (np.asarray(Image.open(tmp_path / s / "gt" / path.name)) for s in ("none", "both"))
        wanted = np.round(usm_sharpen(plain.astype(np.float32) / 255) * 255)
        np.testing.assert_array_equal(sharp, wanted)


def test_adding_a_photo_changes_no_other_pair(folder, tmp_path):
    degrade_folder(folder, tmp_path / "one", seed=5)
    (folder / "a.png").rename(folder / "a0.png")
    degrade_folder(folder, tmp_path / "two", seed=5)
    assert _rows(tmp_path / "one")[1:] == _rows(tmp_path / "two")[1:]
    assert (tmp_path / "one/lq/b.png").read_bytes() == (tmp_path / "two/lq/b.png").read_bytes()
    assert photo_seed(5, "b.png") != photo_seed(6, "b.png")


def test_split_and_limit_select_photos(folder, tmp_path):
    assert degrade_folder(folder, tmp_path / "val", split="val") == 1
    with pytest.raises(PureError, match="no photo 'a.png' of that split"):
        degrade_folder(folder, tmp_path / "other", split="val", names=["a.png"])
    assert _rows(tmp_path / "val")[0]["file"] == "b.png"
    assert degrade_folder(folder, tmp_path / "two", limit=2) == 2


def test_a_broken_photo_is_skipped_with_a_warning(folder, tmp_path, caplog):
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:200])
    (folder / "d.jpg").write_text("no picture")
    assert degrade_folder(folder, tmp_path / "out") == 2
    assert "b.png" in caplog.text and "2 of 4 photos were skipped" in caplog.text


@pytest.mark.parametrize(
    "options, words",
    [
        ({"preset": "worst"}, "preset"),
        ({"scale": 0}, "scale"),
        ({"crop": 30}, "crop"),
        ({"crop": 512}, "none of the 3 photos"),
        ({"limit": 0}, "limit"),
        ({"split": "test"}, "train, val"),
    ],
)
def test_wrong_options_are_one_sentence(folder, tmp_path, options, words):
    with pytest.raises(PureError, match=words):
        degrade_folder(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_missing_empty_and_unwritable_folders_are_one_sentence(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(PureError, match="not a folder"):
        degrade_folder(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(PureError, match="no photos"):
        degrade_folder(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(PureError, match="cannot write"):
        degrade_folder(folder, tmp_path / "file" / "out")


def test_two_photos_with_one_stem_are_refused(folder, tmp_path):
    (folder / "a.jpg").write_bytes(b"")
    with pytest.raises(PureError, match="share an output"):
        degrade_folder(folder, tmp_path / "out")


def _contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["os.replace", "PIL.Image.Image.save"])
def test_a_failing_disk_leaves_no_output(folder, tmp_path, monkeypatch, place):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(place, fail)
    with pytest.raises(PureError, match="no space left"):
        degrade_folder(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interruption_leaves_nothing_but_what_was_there(folder, tmp_path, monkeypatch):
    degrade_folder(folder, tmp_path / "out", crop=32)
    before = _contents(tmp_path / "out")
    made = []

    def interrupted(image, *rest):
        if made:
            raise KeyboardInterrupt
        made.append(image)
        return apply_twice(image, *rest)

    monkeypatch.setattr("pure_jax.train.data.degrade.apply_twice", interrupted)
    for destination in ("out", "new"):
        made.clear()
        with pytest.raises(KeyboardInterrupt):
            degrade_folder(folder, tmp_path / destination, overwrite=True)
    assert _contents(tmp_path / "out") == before and not (tmp_path / "out" / ".partial").exists()
    assert not (tmp_path / "new").exists()


def test_older_pairs_are_kept_unless_they_may_be_replaced(folder, tmp_path):
    degrade_folder(folder, tmp_path / "out", crop=32)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = _contents(tmp_path / "out")
    with pytest.raises(PureError, match="out is not empty; .* --overwrite"):
        degrade_folder(folder, tmp_path / "out", crop=32)
    assert _contents(tmp_path / "out") == before
    assert degrade_folder(folder, tmp_path / "out", crop=32, names=["b.png"], overwrite=True) == 1
    after = _contents(tmp_path / "out")
    assert sorted(map(str, after)) == ["gt/b.png", "lq/b.png", "notes.txt", "pairs.jsonl"]
    assert [row["file"] for row in _rows(tmp_path / "out")] == ["b.png"]
    (tmp_path / "out" / "lq" / "z.png").write_bytes(b"")
    with pytest.raises(PureError, match="z.png is not of the pairs that pairs.jsonl lists"):
        degrade_folder(folder, tmp_path / "out", overwrite=True)


def test_the_command_reads_names_from_a_file(folder, tmp_path, capsys):
    (tmp_path / "names").write_text("c.png\n\na.png \n")
    Degrade(folder, tmp_path / "out", names=tmp_path / "names").run()
    assert [row["file"] for row in _rows(tmp_path / "out")] == ["a.png", "c.png"]
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 2 pairs\n"
    (tmp_path / "names").write_text("\n")
    with pytest.raises(PureError, match="names names no photo"):
        Degrade(folder, tmp_path / "none", names=tmp_path / "names").run()


def test_val_photos_of_the_project_are_degraded(shared_data, tmp_path):
    assert degrade_folder(shared_data / "photos", tmp_path, split="val", crop=128, limit=2) == 2
    assert Image.open(next((tmp_path / "lq").iterdir())).size == (32, 32)
