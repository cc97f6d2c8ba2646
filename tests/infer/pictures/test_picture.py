"""Facts about reading and writing picture files; Pillow's own conversions and hand-made bytes are the oracles."""

import errno
import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from pure_jax.errors import PureError
from pure_jax.infer.pictures import writing
from pure_jax.infer.pictures.picture import Picture, from_image, to_image
from pure_jax.infer.pictures.reading import as_picture, read_picture
from pure_jax.infer.pictures.writing import check_output, write_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 24), dtype=np.uint8)


def photo_like(height: int = 200, width: int = 240) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x, y, (x + y) / 2], axis=-1)
    return Image.fromarray((smooth * 0.9 + RNG.integers(0, 20, (height, width, 1))).astype(np.uint8))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand, independent of Pillow's encoder. `rows` includes the filter byte of each row."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def refused(path: Path) -> str:
    """The message of a refusal: one line that names the file."""
    with pytest.raises(PureError) as caught:
        read_picture(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


# --- what holds a photo ---


def test_a_path_an_image_an_array_and_a_picture_are_the_same_photo(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(RGB).save(path)
    kinds = [path, str(path), Image.open(path), RGB, RGB[::-1][::-1], Picture(RGB)]
    assert all((as_picture(photo).rgb == RGB).all() for photo in kinds)


def test_arrays_may_be_grey_or_have_alpha() -> None:
    assert as_picture(GREY).grey and (as_picture(GREY).rgb == GREY[..., None]).all()
    picture = as_picture(np.dstack([RGB, GREY]))
    assert picture.alpha is not None and (picture.alpha == GREY).all() and (picture.rgb == RGB).all()


@pytest.mark.parametrize(
    ("photo", "found"),
    [
        (RGB / 255, "float64 [20, 24, 3]"),
        (RGB.astype(np.uint16), "uint16 [20, 24, 3]"),
        (RGB[None], "uint8 [1, 20, 24, 3]"),
        (RGB[..., :2], "uint8 [20, 24, 2]"),
        (RGB[:, :0], "uint8 [20, 0, 3]"),
        (RGB.tolist(), "of type list"),
        (None, "of type NoneType"),
    ],
)
def test_what_is_no_photo_is_refused_in_one_sentence(photo: Any, found: str) -> None:
    with pytest.raises(PureError) as refusal:
        as_picture(photo)
    message = str(refusal.value)
    assert message.startswith("a photo must be a path, a PIL image, or an array of uint8") and message.endswith(found)


# --- reading: colour modes ---


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_lossless_rgb_files_are_read_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
    picture = read_picture(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(picture.rgb, RGB)
    assert picture.rgb.dtype == np.uint8
    assert (picture.alpha, picture.grey, picture.icc) == (None, False, None)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif"])
def test_other_formats_give_the_pixels_pillow_decodes(tmp_path: Path, suffix: str) -> None:
    photo_like().save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        np.testing.assert_array_equal(read_picture(tmp_path / f"a.{suffix}").rgb, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L"])
def test_one_channel_sources_are_grey(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(GREY).convert(mode)
    source.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.grey and picture.alpha is None
    np.testing.assert_array_equal(picture.rgb, np.repeat(np.asarray(source.convert("L"))[..., None], 3, axis=-1))


@pytest.mark.parametrize(("mode", "grey"), [("LA", True), ("RGBA", False)])
def test_alpha_is_kept_beside_untouched_colours(tmp_path: Path, mode: str, grey: bool) -> None:
    source = Image.fromarray(GREY if grey else RGB)
    source.putalpha(Image.fromarray(GREY))
    assert source.mode == mode
    source.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.grey is grey and picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, GREY)
    np.testing.assert_array_equal(picture.rgb, np.repeat(GREY[..., None], 3, -1) if grey else RGB)


def test_an_opaque_alpha_channel_counts_as_none_and_a_clear_one_does_not() -> None:
    image = Image.fromarray(RGB)
    image.putalpha(255)
    assert from_image(image).alpha is None
    image.putalpha(0)
    clear = from_image(image)
    assert clear.alpha is not None and not clear.alpha.any()
    np.testing.assert_array_equal(clear.rgb, RGB)


def test_palette_colours_and_their_transparency_are_resolved(tmp_path: Path) -> None:
    indices = RNG.integers(0, 3, (20, 24), dtype=np.uint8)
    colours = np.array([[255, 0, 0], [0, 128, 7], [3, 4, 250]], np.uint8)
    rows = b"".join(b"\0" + bytes(row) for row in indices)
    extra = png_chunk(b"PLTE", colours.tobytes()) + png_chunk(b"tRNS", bytes([255, 0, 77]))
    (tmp_path / "a.png").write_bytes(png(24, 20, 8, 3, rows, extra))
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.rgb, colours[indices])
    assert picture.alpha is not None and not picture.grey
    np.testing.assert_array_equal(picture.alpha, np.array([255, 0, 77], np.uint8)[indices])


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_to_8_bits_with_rounding(tmp_path: Path, suffix: str) -> None:
    samples = RNG.integers(0, 65_536, (20, 24)).astype(np.uint16)
    samples[0, :4] = 0, 65_535, 128, 129  # 257 is one level: 128 rounds down, 129 up
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5\n24 20\n65535\n" + samples.astype(">u2").tobytes())
    else:
        Image.fromarray(samples).save(path)
    picture = read_picture(path)
    assert picture.grey
    np.testing.assert_array_equal(picture.rgb[..., 0], np.rint(samples / 257).astype(np.uint8))


def test_the_transparent_level_of_16_bit_grey_is_matched_exactly(tmp_path: Path) -> None:
    samples = np.full((20, 24), 1000, np.uint16)
    samples[3, 5] = 1001  # the same 8-bit level as 1000
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    extra = png_chunk(b"tRNS", struct.pack(">H", 1001))
    (tmp_path / "a.png").write_bytes(png(24, 20, 16, 0, rows, extra))
    alpha = read_picture(tmp_path / "a.png").alpha
    assert alpha is not None
    np.testing.assert_array_equal(alpha, np.where(samples == 1001, 0, 255))


def test_16_bit_colour_keeps_its_high_bytes(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).astype(">u2").tobytes() for row in RGB.reshape(20, 72))
    (tmp_path / "a.png").write_bytes(png(24, 20, 16, 2, rows))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").rgb, RGB)


def test_cmyk_becomes_rgb_and_leaves_its_profile_behind(tmp_path: Path) -> None:
    source = photo_like().convert("CMYK")
    source.save(tmp_path / "a.jpg", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 108)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "CMYK"
        expected = np.asarray(image.convert("RGB"))
    picture = read_picture(tmp_path / "a.jpg")
    np.testing.assert_array_equal(picture.rgb, expected)
    assert picture.icc is None


@pytest.mark.parametrize("mode", ["F", "LAB", "La"])
def test_uncommon_kinds_of_samples_are_refused(mode: str) -> None:
    with pytest.raises(PureError, match="the picture has"):
        from_image(Image.new(mode, (20, 20)))


def test_32_bit_samples_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 70_000, np.int32)).save(tmp_path / "a.tif")
    assert "32-bit" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_an_animation_or_a_document_the_first_frame_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("#ff0000", "#0000ff")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    picture = read_picture(tmp_path / f"a.{suffix}")
    assert (picture.rgb == [255, 0, 0]).all()


# --- reading: metadata ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo_like(40, 60).save(tmp_path / f"a.{suffix}", exif=exif)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    picture = read_picture(tmp_path / f"a.{suffix}")
    assert picture.rgb.shape == ((60, 40, 3) if orientation >= 5 else (40, 60, 3))
    np.testing.assert_array_equal(picture.rgb, expected)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_broken_exif_is_ignored_without_a_warning(tmp_path: Path, exif: bytes) -> None:
    photo_like(40, 60).save(tmp_path / "a.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        assert read_picture(tmp_path / "a.jpg").rgb.shape == (40, 60, 3)
    assert not remarks


@pytest.mark.parametrize(("grey", "space"), [(False, b"RGB "), (True, b"GRAY")])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_fitting_colour_profile_survives_reading_and_writing(
    tmp_path: Path, suffix: str, grey: bool, space: bytes
) -> None:
    profile = b"\0" * 16 + space + bytes(range(100))
    Image.fromarray(GREY if grey else RGB).save(tmp_path / "a.png", icc_profile=profile)
    picture = read_picture(tmp_path / "a.png")
    assert picture.icc == profile
    write_image(tmp_path / f"b.{suffix}", to_image(picture))
    with Image.open(tmp_path / f"b.{suffix}") as written:
        assert written.info["icc_profile"] == profile


def test_a_profile_for_other_channels_is_dropped() -> None:
    image = Image.fromarray(GREY)
    image.info["icc_profile"] = b"\0" * 16 + b"RGB " + b"\0" * 108
    assert from_image(image).icc is None


# --- reading: refusals ---


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere.png")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert "empty" in refused(tmp_path / "empty.png")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refused(tmp_path / "pipe.png")
    assert "not a regular file" in refused(Path("/dev/zero"))


def test_a_symlink_loop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    refused(tmp_path / "loop.png")


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 300 + ".png"))


def test_a_name_with_a_line_break_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(PureError) as caught:
        read_picture(tmp_path / "two\nlines.png")
    assert "\n" not in str(caught.value)


def test_a_file_without_read_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")

    def deny(*_: object, **__: object) -> None:  # the superuser may read everything, so chmod proves nothing
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert "Permission denied" in refused(tmp_path / "a.png")


@pytest.mark.parametrize(
    "content",
    [
        b"dear diary, today I took a photo\n" * 10,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n",
        b"%PDF-1.4\n",
        b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
        b"<svg xmlns='http://www.w3.org/2000/svg' width='20' height='20'/>",
    ],
    ids=["text", "eps", "pdf", "fits", "svg"],
)
def test_what_is_not_an_allowed_picture_format_is_refused_whatever_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert "not a readable picture" in refused(tmp_path / "a.png")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [("jpg", {}), ("jpg", {"progressive": True}), ("png", {}), ("webp", {}), ("bmp", {}), ("tif", {}), ("ppm", {})],
    ids=["jpeg", "progressive", "png", "webp", "bmp", "tiff", "ppm"],
)
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, options: dict, share: float) -> None:
    buffer = io.BytesIO()
    photo_like().save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix), **options)
    (tmp_path / f"a.{suffix}").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    refused(tmp_path / f"a.{suffix}")


def test_a_png_with_any_changed_byte_is_refused_or_reads_unchanged(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "png")
    path = tmp_path / "a.png"
    refusals = 0
    for position in RNG.integers(0, len(buffer.getvalue()), 100):
        changed = bytearray(buffer.getvalue())
        changed[position] ^= int(RNG.integers(1, 256))
        path.write_bytes(changed)
        try:
            np.testing.assert_array_equal(read_picture(path).rgb, RGB)
        except PureError:
            refusals += 1
    assert refusals > 90


def test_a_wrong_checksum_over_intact_pixels_is_refused(tmp_path: Path) -> None:
    whole = png(24, 20, 8, 2, b"".join(b"\0" + bytes(row) for row in RGB.reshape(20, 72)))
    checksum = whole.index(b"IEND") - 5  # last byte of the checksum of the pixel data
    (tmp_path / "a.png").write_bytes(whole[:checksum] + bytes([whole[checksum] ^ 1]) + whole[checksum + 1 :])
    assert "damaged" in refused(tmp_path / "a.png")


def test_a_compressed_text_bomb_is_refused(tmp_path: Path) -> None:
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 80_000_000))
    (tmp_path / "a.png").write_bytes(png(24, 20, 8, 0, b"\0" * 25 * 20, text))
    refused(tmp_path / "a.png")
    # The same in profiles is passed over with them.
    profiles = png_chunk(b"iCCP", b"ICC\0\0" + zlib.compress(b"a" * 80_000_000)) * 2000
    (tmp_path / "a.png").write_bytes(png(24, 20, 8, 0, b"\0" * 25 * 20, profiles))
    assert read_picture(tmp_path / "a.png").icc is None
    (tmp_path / "a.png").write_bytes(png(24, 20, 8, 0, b"\0" * 25 * 20, profiles + text))
    refused(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(30_000, 30_000), (12_000, 12_000), (10_001, 10_000)])
def test_huge_pictures_are_refused_from_the_header_without_warnings(tmp_path: Path, size: tuple[int, int]) -> None:
    # The pixel data are absent: a reader that tried to decode would call the file damaged instead.
    (tmp_path / "bomb.png").write_bytes(png(*size, 1, 0, b""))
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        assert "100 million pixels" in refused(tmp_path / "bomb.png")
    assert not remarks


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (15, 100), (100, 15), (7, 5000)])
def test_pictures_below_16_pixels_a_side_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "small.png")
    assert f"{size[0]}x{size[1]}" in refused(tmp_path / "small.png")


def test_16_by_16_pixels_are_enough() -> None:
    assert from_image(Image.new("RGB", (16, 16))).rgb.shape == (16, 16, 3)


# --- to_image ---


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_to_image_undoes_from_image(mode: str) -> None:
    source = Image.fromarray(GREY if mode.startswith("L") else RGB)
    if mode.endswith("A"):
        source.putalpha(Image.fromarray(GREY))
    result = to_image(from_image(source))
    assert result.mode == mode
    np.testing.assert_array_equal(np.asarray(result), np.asarray(source))


# --- writing ---


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg", "a.webp"])
def test_pictures_are_written_in_the_format_of_the_suffix(tmp_path: Path, name: str) -> None:
    source = photo_like()
    write_image(tmp_path / name, source)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with Image.open(tmp_path / name) as written:
        expected = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}[name.lower().split(".")[1]]
        assert written.format == expected
        error = np.abs(np.asarray(written, float) - np.asarray(source, float)).mean()
    # Mean error in levels measured on this noise: JPEG 1.6, WebP 1.1; doubled.
    assert error <= {"PNG": 0.0, "JPEG": 3.2, "WEBP": 2.3}[expected]


def test_jpeg_keeps_full_chroma_resolution(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", photo_like())
    with Image.open(tmp_path / "a.jpg") as written:
        assert [component[1:3] for component in written.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


def test_written_files_have_the_permissions_of_ordinary_files(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    write_image(tmp_path / "a.png", photo_like())
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "a.png")}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.gif", "ends in"), ("a", "ends in"), ("nowhere/a.png", "does not exist"), ("taken.png", "is a directory")],
)
def test_bad_output_names_are_refused_before_work_starts(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(PureError, match=message):
        check_output(tmp_path / name, has_alpha=False)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg"])
def test_jpeg_is_refused_for_transparent_pictures(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(PureError, match=r"\.png or \.webp"):
        check_output(tmp_path / f"a.{suffix}", has_alpha=True)
    with pytest.raises(PureError, match=r"\.png or \.webp"):
        write_image(tmp_path / f"a.{suffix}", to_image(Picture(RGB, alpha=GREY)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "side"), [("a.webp", 16_384), ("a.jpg", 65_501)])
def test_sizes_that_a_format_cannot_hold_are_refused(tmp_path: Path, name: str, side: int) -> None:
    check_output(tmp_path / name, has_alpha=False, size=(16, side - 1))
    with pytest.raises(PureError, match=r"write \.png"):
        check_output(tmp_path / name, has_alpha=False, size=(16, side))


def test_the_largest_webp_and_jpeg_allowed_are_really_written(tmp_path: Path) -> None:
    write_image(tmp_path / "a.webp", Image.new("RGB", (16_383, 16)))
    write_image(tmp_path / "a.jpg", Image.new("L", (65_500, 16)))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where nobody can write")
def test_an_unwritable_directory_is_refused_before_work_starts() -> None:
    with pytest.raises(PureError, match="cannot be written"):
        check_output("/proc/a.png", has_alpha=False)


def test_a_write_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").touch(mode=0o400)
    monkeypatch.setattr(writing.os, "access", lambda path, _: not Path(path).stat().st_mode & 0o200 == 0)
    with pytest.raises(PureError, match="write-protected"):
        check_output(tmp_path / "a.png", has_alpha=False)


def test_check_output_leaves_an_existing_file_and_its_directory_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"precious")
    check_output(tmp_path / "a.png", has_alpha=True)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_of_writing_keeps_the_old_file_and_no_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    (tmp_path / "a.png").write_bytes(b"precious")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(writing.os, "fsync", fail)
    with pytest.raises(PureError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write_image(tmp_path / "a.png", photo_like())
    assert isinstance(error, KeyboardInterrupt) or "No space left" in str(caught.value)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]
