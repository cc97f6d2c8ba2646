"""Restoration keeps a photo's size, kind, orientation and place; votes and remarks say what the tiles said.

Two models serve here. The `perfect` one gives every tile back as it got it, so the right result is Pillow's bicubic
enlargement, pixel by pixel. The tiny one has random parameters and runs the whole way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import pure_jax.infer.pure
from pure_jax.config import ModelConfig, tiny
from pure_jax.errors import PureError
from pure_jax.infer.decoding.generate import Answer
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.pictures.reading import read_picture
from pure_jax.infer.pure import _in_parts, _remarks
from pure_jax.infer.restore import Restoration, Restorer, output_size
from tests.models import tiny_model

TILE, STRIDE = 32, 4
SIDE = TILE // STRIDE
TINT = (30, -10, 20)
SIZES = [(16, 16), (17, 43), (16, 100)]  # (width, height)


class PerfectModel:
    """A tokenizer that remembers each picture under a number and adds `tint` [TILE, TILE, 3] to it on the way back."""

    def __init__(self, tint: Any = 0) -> None:
        self.config: ModelConfig = tiny()
        self.seen: list[np.ndarray] = []
        self.tint = tint

    def encode(self, images: np.ndarray) -> np.ndarray:
        numbers = np.arange(len(self.seen), len(self.seen) + len(images))
        self.seen += list(images)
        return np.broadcast_to(numbers[:, None, None], (len(images), SIDE, SIDE)).astype(np.int32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        if codes.ndim == 2:
            return self.decode(codes[None])[0]
        tiles = np.stack([self.seen[number] for number in codes[:, 0, 0]]).astype(int)
        return (tiles + self.tint).clip(0, 255).astype(np.uint8)


class HungryModel(PerfectModel):
    """A device that has room for so many tiles at a time, whichever way they go."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def encode(self, images: np.ndarray) -> np.ndarray:
        return super().encode(self.fitting(images))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return super().decode(self.fitting(codes))

    def fitting(self, array: np.ndarray) -> np.ndarray:
        if len(array) > self.room:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return array


def echo(model: Any, lq_codes: np.ndarray, **_: Any) -> list[Answer]:
    """Stands in for `generate`: the codes as they came; the entropy is the picture's number."""
    return [
        Answer(codes, codes.astype(np.float32), f"Large blur, small noise. {codes[0, 0]}", True, passes=1)
        for codes in lq_codes
    ]


@pytest.fixture
def perfect(monkeypatch) -> Callable[..., Restoration]:
    """Restores without the sampled noise of a model, by default without a colour fix."""
    monkeypatch.setattr(pure_jax.infer.pure, "generate", echo)

    def restore(photo: Any, tint: Any = 0, **options: Any) -> Restoration:
        model: Any = PerfectModel(tint)
        return Restorer(model).restore(photo, **({"colour_fix": "none", "unchecked": True} | options))

    return restore


@pytest.fixture(scope="module")
def restore() -> Callable[..., Restoration]:
    """The tiny model, one tile at a time, so that pictures of all sizes share one compilation."""
    restorer = Restorer(tiny_model(num_layers=1))

    def run(photo: Any, **options: Any) -> Restoration:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pure_jax.infer.pure, "VQGAN_BATCH", 1)
            return restorer.restore(photo, **({"batch": 1, "scale": 2.0, "unchecked": True} | options))

    return run


def photo(mode: str = "RGB", size: tuple[int, int] = (17, 43), seed: int = 0) -> Image.Image:
    """Smooth noise, away from black and white; palettes have 256 colours; alpha rises from left to right, from 1."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(60, 190, (5, 4, 3), dtype=np.uint8))
    image = small.resize(size, Image.Resampling.BILINEAR)
    if mode == "P":
        return image.quantize(256)
    image = image.convert(mode)
    if mode in ("LA", "RGBA"):
        ramp = np.linspace(1, 255, size[0]).round().astype(np.uint8)
        image.putalpha(Image.fromarray(np.tile(ramp, (size[1], 1))))
    return image


def enlarged(image: Image.Image, scale: float) -> Image.Image:
    """The right answer of the perfect model."""
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel."""
    assert (one.mode, one.size) == (other.mode, other.size)
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_an_image_tokenizer_that_has_too_little_room_takes_fewer_tiles_at_a_time(monkeypatch):
    monkeypatch.setattr(pure_jax.infer.pure, "generate", echo)
    models: list[Any] = [PerfectModel(), HungryModel(3)]
    plain, halved = (
        Restorer(model).restore(photo(size=(90, 70)), colour_fix="none", unchecked=True).image for model in models
    )
    assert difference(plain, halved) == 0 and len(models[0].seen) > 3
    model: Any = HungryModel(0)
    with pytest.raises(PureError, match="too little memory for one picture; free some of it, or try --device cpu"):
        Restorer(model).restore(photo())


# ---- geometry: nothing cropped, nothing moved ----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 1.5, 4])
@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_comes_back_in_its_place(perfect, size, scale):
    source = photo(size=size)
    result = perfect(source, scale=scale)
    assert result.image.size == (round(size[0] * scale), round(size[1] * scale))
    assert difference(result.image, enlarged(source, scale)) == 0


@pytest.mark.parametrize("overlap", [0, 5, 16])
def test_the_overlap_moves_nothing(perfect, overlap):
    source = photo(size=(70, 50))
    assert difference(perfect(source, scale=2, overlap=overlap).image, enlarged(source, 2)) == 0


@pytest.mark.parametrize("scale", [1, 1.5])
@pytest.mark.parametrize("size", SIZES)
def test_the_whole_way_keeps_the_size(restore, size, scale):
    result = restore(photo(size=size), scale=scale)
    width, height = round(size[0] * scale), round(size[1] * scale)
    assert (result.image.mode, result.image.size) == ("RGB", (width, height))
    assert result.entropy.shape == (-(-height // STRIDE), -(-width // STRIDE))
    assert np.isfinite(result.entropy).all() and result.entropy.min() >= 0


def test_the_orientation_in_a_file_is_applied(perfect, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to see it upright"
    path = tmp_path / "turned.png"
    photo(size=(40, 24)).save(path, exif=exif)
    result = perfect(read_picture(path), scale=2)
    assert difference(result.image, enlarged(photo(size=(40, 24)).transpose(Image.Transpose.ROTATE_270), 2)) == 0
    assert not result.image.getexif().get(0x0112)  # else a viewer would turn it twice


# ---- kinds of picture ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fix", ["none", "wavelet", "adain"])
@pytest.mark.parametrize(
    ("mode", "expected"), [("RGB", "RGB"), ("L", "L"), ("P", "RGB"), ("RGBA", "RGBA"), ("LA", "LA")]
)
def test_the_kind_is_kept(restore, mode, expected, fix):
    result = restore(photo(mode), colour_fix=fix)
    assert (result.image.mode, result.image.size) == (expected, (34, 86))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_enlarged_by_bicubic_unless_the_model_shall_restore_it(perfect, mode):
    source = photo(mode)
    bicubic, model = (perfect(source, tint=7, scale=2, alpha=way).image for way in ("bicubic", "model"))
    assert bicubic.mode == model.mode == mode
    # Pillow enlarges RGBA with premultiplied colours; the restoration does not, so compare channel by channel.
    *colours, alpha = source.getbands()
    for band in colours:
        assert difference(bicubic.getchannel(band), enlarged(source.getchannel(band), 2).point(lambda v: v + 7)) == 0
    assert difference(bicubic.getchannel(alpha), enlarged(source.getchannel(alpha), 2)) == 0
    wanted = enlarged(source.getchannel(alpha), 2).point(lambda v: min(v + 7, 255))
    assert difference(model.getchannel(alpha), wanted) == 0


def test_hidden_colours_do_not_reach_the_visible_edge(perfect):
    def result(hidden: tuple[int, int, int]) -> Image.Image:
        pixels = np.full((24, 30, 4), 100, np.uint8)
        pixels[..., 3] = np.linspace(255, 0, 30).round()  # hard edge and soft slope: hidden to the right
        pixels[:, 20:] = (*hidden, 0)
        return perfect(Image.fromarray(pixels), scale=4).image

    image = result((255, 0, 255))
    assert image.convert("RGB").getextrema() == ((100, 100),) * 3
    assert difference(image, result((0, 255, 0))) == 0


def test_a_picture_without_a_visible_pixel_stays_invisible(restore):
    source = photo("RGBA")
    source.putalpha(0)
    assert restore(source).image.getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("alpha", ["bicubic", "model"])
def test_even_transparency_stays_exactly_as_it_was(restore, mode, alpha):
    source = photo(mode)
    source.putalpha(77)
    assert restore(source, alpha=alpha).image.getchannel("A").getextrema() == (77, 77)


def test_an_opaque_alpha_channel_is_no_transparency(restore):
    source = photo("RGBA")
    source.putalpha(255)
    assert difference(restore(source).image, restore(source.convert("RGB")).image) == 0


@pytest.mark.parametrize("alpha", ["bicubic", "model"])
def test_transparency_does_not_touch_the_colours(restore, alpha):
    source = photo("RGBA")
    result = restore(source, alpha=alpha)
    plain = restore(source.convert("RGB"))
    assert difference(result.image.convert("RGB"), plain.image) == 0
    assert len(set(np.asarray(result.image.getchannel("A")).ravel())) > 1
    assert result.texts == plain.texts
    np.testing.assert_array_equal(result.entropy, plain.entropy)


@pytest.mark.parametrize("kind", ["str", "Path", "array", "RGBA array", "grey array"])
def test_a_photo_may_be_a_path_or_an_array(perfect, tmp_path, kind):
    source = photo({"RGBA array": "RGBA", "grey array": "L"}.get(kind, "RGB"))
    source.save(tmp_path / "photo.png")
    path = tmp_path / "photo.png"
    given = {"str": str(path), "Path": path}.get(kind, np.asarray(source))
    assert difference(perfect(given, scale=2).image, perfect(source, scale=2).image) == 0


# ---- flat pictures, slopes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fix", ["none", "wavelet", "adain", "adain+wavelet", "lab"])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_comes_out_flat(restore, level, fix):
    result = restore(Image.new("RGB", (40, 24), (level, 255 - level, 7)), colour_fix=fix)
    assert result.image.getextrema() == ((level, level), (255 - level, 255 - level), (7, 7))
    assert (result.degradation, result.description, set(result.texts)) == (None, "", {""})
    assert result.entropy.shape == (12, 20) and not result.entropy.any()
    assert result.remarks == ["6 of 6 tiles show one flat colour and were left as they are"]


def test_only_tiles_with_something_to_see_are_shown_to_the_model(perfect):
    source = Image.new("RGB", (64, 32), (50, 60, 70))
    source.paste(photo(size=(32, 32)), (32, 0))
    result = perfect(source, tint=TINT, scale=1, overlap=0)
    shift = np.asarray(result.image).astype(int) - np.asarray(source)
    assert not shift[:, :32].any() and (shift[:, 32:] == TINT).all()
    assert result.texts == ["", "Large blur, small noise. 0"]
    assert result.remarks == ["1 of 2 tiles show one flat colour and were left as they are"]


@pytest.mark.parametrize("fix", ["none", "wavelet", "adain"])
@pytest.mark.parametrize("overlap", [0, 5, 16])
def test_a_slope_gets_no_stripes(perfect, fix, overlap):
    slope = Image.linear_gradient("L").resize((70, 50)).rotate(90, expand=True).convert("RGB")
    assert difference(perfect(slope, scale=2, overlap=overlap, colour_fix=fix).image, enlarged(slope, 2)) <= 1


# ---- randomness ----------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_picture(restore):
    first, second, other = (restore(photo(), seed=seed, colour_fix="none").image for seed in (7, 7, 8))
    assert difference(first, second) == 0
    assert difference(first, other) > 0


# ---- colours -------------------------------------------------------------------------------------------------------


def test_a_tint_stays_without_a_colour_fix(perfect):
    image = perfect(photo(), tint=TINT, scale=2).image
    shift = np.asarray(image).astype(int) - np.asarray(enlarged(photo(), 2))
    assert set(map(tuple, shift.reshape(-1, 3))) == {TINT}


@pytest.mark.parametrize("fix", ["wavelet", "adain"])
def test_a_colour_fix_takes_a_tint_away(perfect, fix):
    image = perfect(photo(), tint=TINT, scale=2, colour_fix=fix).image
    assert difference(image, enlarged(photo(), 2)) <= 1  # rounding to 8 bits


def test_the_default_colour_fix_is_the_models(perfect):
    assert tiny().colour_fix == "wavelet"
    image = perfect(photo(), tint=TINT, scale=2, colour_fix=None).image
    assert difference(image, perfect(photo(), tint=TINT, scale=2, colour_fix="wavelet").image) == 0


def test_the_wavelet_fix_keeps_the_models_detail_on_the_photos_colours(perfect):
    def checkers(*shape: int) -> np.ndarray:
        return np.where(np.indices(shape).sum(axis=0) % 2, 8, -8)[..., None]

    image = perfect(photo(), tint=checkers(TILE, TILE) + TINT, scale=2, colour_fix="wavelet").image
    wanted = enlarged(photo(), 2) + checkers(86, 34)
    # Rounding, and a little more in the corners, where the border is repeated; measured 1.
    assert np.abs(np.asarray(image).astype(int) - wanted).max() <= 2


# ---- what is said --------------------------------------------------------------------------------------------------


def test_the_words_of_the_tiles_are_returned_without_those_of_the_transparency(perfect):
    # 3 x 1 tiles of 32 with a quarter of overlap
    result = perfect(photo("RGBA", size=(32, 16)), scale=2, alpha="model")
    assert result.texts == [f"Large blur, small noise. {n}" for n in range(3)]
    assert result.degradation == {"blur": "large", "noise": "small"}
    assert result.description == "0"
    assert result.remarks == []


def test_the_entropy_of_each_tile_lies_where_the_tile_lies(perfect):
    entropy = perfect(photo(size=(32, 16)), scale=2, overlap=0).entropy
    np.testing.assert_array_equal(entropy, np.repeat([[0.0, 1.0]], SIDE, axis=1).repeat(SIDE, axis=0))


def test_a_picture_opened_by_force_is_remarked(restore):
    result = restore(photo())
    assert result.remarks == ["the model did not open a picture itself in 8 of 8 tiles; it was forced"]


def test_a_picture_of_another_size_is_resized_and_remarked(perfect, monkeypatch):
    def larger(model: Any, lq_codes: np.ndarray, **_: Any) -> list[Answer]:
        model.seen = [np.full((2 * TILE, TILE, 3), 99, np.uint8)] * len(lq_codes)
        codes = np.zeros((2 * SIDE, SIDE), np.int32)
        return [Answer(codes, np.ones(codes.shape, np.float32), "", True, 1)] * len(lq_codes)

    monkeypatch.setattr(pure_jax.infer.pure, "generate", larger)
    result = perfect(photo(size=(32, 16)), scale=2, overlap=0)
    assert result.image.getextrema() == ((99, 99),) * 3
    assert result.entropy.shape == (SIDE, 2 * SIDE) and np.ptp(result.entropy) == 0
    assert result.remarks == ["the model chose another size in 2 of 2 tiles; they were resized"]


def test_nothing_unusual_gives_no_remark():
    assert _remarks([Answer(np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE)), "", True, 1)], SIDE) == []


# ---- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33])
def test_parts_are_small_equally_long_and_in_order(count):
    lengths = []

    def negate(part: np.ndarray) -> np.ndarray:
        lengths.append(len(part))
        return -part

    np.testing.assert_array_equal(_in_parts(negate, np.arange(count)), -np.arange(count))
    assert len(set(lengths)) == 1 and lengths[0] <= 16


@pytest.mark.parametrize("scale", [0, 0.99, -1, 16.01, 1e9, float("nan"), float("inf")])
def test_scales_out_of_range_are_refused(perfect, scale):
    with pytest.raises(PureError, match="the scale is"):
        perfect(photo(), scale=scale)


def test_results_over_100_million_pixels_are_refused():
    from pure_jax.infer.pictures.picture import from_image

    picture = from_image(Image.new("L", (1000, 1000)))
    assert output_size(picture, 10) == (10_000, 10_000)
    with pytest.raises(PureError, match="10010x10010 pixels, more than 100 million; choose a scale of at most 10.00"):
        output_size(picture, 10.01)


@pytest.mark.parametrize("size", [(3333, 1777), (16, 4_000_000), (10_000, 10_000)])
def test_the_scale_to_choose_instead_is_the_highest_that_works(size):
    picture = Picture(np.broadcast_to(np.uint8(0), (*size, 3)))
    with pytest.raises(PureError) as refusal:
        output_size(picture, 16)
    highest = float(str(refusal.value).split()[-1])
    output_size(picture, highest)
    with pytest.raises(PureError, match="choose"):
        output_size(picture, highest + 0.01)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"colour_fix": "sepia"}, "'sepia', but it must be one of none, wavelet, adain"),
        ({"alpha": "nearest"}, "'nearest', but it must be one of bicubic, model"),
        ({"overlap": -1}, "overlap -1"),
        ({"overlap": 17}, "overlap 17"),
    ],
)
def test_other_values_out_of_range_are_refused(perfect, options, complaint):
    with pytest.raises(PureError, match=complaint):
        perfect(photo(), **options)


def test_pictures_under_16_pixels_are_refused(perfect):
    with pytest.raises(PureError, match="15x40"):
        perfect(photo(size=(15, 40)))
