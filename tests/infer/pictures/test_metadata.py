"""What a photo says about itself, on its way from one file into another; tifffile is the independent reader of EXIF."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pure_jax.infer.pictures.picture import Picture, from_image
from pure_jax.infer.pictures.reading import Frames, decode
from pure_jax.infer.pictures.writing import lost_by
from tests.pictures import encoded

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
SUFFIXES = [".png", ".jpg", ".webp", ".avif", ".tif"]
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
    b' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:e="http://ns.adobe.com/exif/1.0/"'
    b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" e:GPSLatitude="48,12.5N" dc:format="image/x">'
    b"<e:GPSLongitude>16,22.1E</e:GPSLongitude><dc:title>Vienna, &lt;old&gt;</dc:title></rdf:Description></rdf:RDF>"
    b'</x:xmpmeta><?xpacket end="w"?>'
)


def camera_jpeg() -> bytes:
    """A JPEG as a telephone writes it: turned, with camera, exposure, maker's note, place, and an XMP packet."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F], exif[0x0110], exif[0x8298] = "Maker", "Model 1", "(c) somebody"
    exif[0x0100] = 9999  # the width of another file
    exif[0x8769] = {0x829A: (1, 250), 0x9003: "2024:05:06 07:08:09", 0x927C: b"secret note", 0xA002: 24, 0xA003: 20}
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 30.0), 3: "E", 4: (16.0, 22.0, 6.0)}
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", exif=exif, xmp=XMP)
    return buffer.getvalue()


def copy(data: bytes, suffix: str, **options: Any) -> bytes:
    """The photo decoded and encoded anew."""
    return encoded(suffix, decode(data, "the photo", **options))


def exif_of(data: bytes) -> dict[str, Any]:
    """The EXIF block as tifffile reads it, from the bytes that the file holds."""
    start = 0 if data[:4] in (b"II*\0", b"MM\0*") else -1
    for mark in (b"II*\0", b"MM\0*"):
        start = data.find(mark) if start < 0 else start
    assert start >= 0, "there is no EXIF block"
    with tifffile.TiffFile(io.BytesIO(data[start:])) as file:
        return {tag.name: tag.value for tag in file.pages[0].aspage().tags}


def xmp_of(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"]
        return packet if isinstance(packet, bytes) else packet.encode()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_camera_exposure_and_rights_travel_on_and_the_place_does_not(suffix):
    found = exif_of(copy(camera_jpeg(), suffix))
    assert (found["Make"], found["Model"], found["Copyright"]) == ("Maker", "Model 1", "(c) somebody")
    exposure = found["ExifTag"]
    assert exposure["ExposureTime"] == (1, 250) and exposure["DateTimeOriginal"] == "2024:05:06 07:08:09"
    assert not {"MakerNote", "PixelXDimension", "PixelYDimension"} & exposure.keys()
    assert "GPSTag" not in found and found.get("Orientation", 1) == 1 and found.get("ImageWidth") != 9999


def test_a_tiff_of_16_bits_has_the_camera_and_the_rights():
    picture = decode(camera_jpeg(), "the photo").pictures[0]
    fine = dataclasses.replace(picture, fine=picture.rgb.astype(np.uint16) * 257)
    found = exif_of(encoded(".tif", Frames([fine])))
    assert found["BitsPerSample"] == (16, 16, 16)
    assert (found["Make"], found["Model"], found["Copyright"]) == ("Maker", "Model 1", "(c) somebody")
    found = exif_of(encoded(".png", Frames([fine])))
    assert found["ExifTag"]["ExposureTime"] == (1, 250)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_place_travels_on_when_it_is_asked_for(suffix):
    data = copy(camera_jpeg(), suffix, keep_gps=True)
    place = exif_of(data)["GPSTag"]
    assert (place["GPSLatitudeRef"], place["GPSLongitudeRef"]) == ("N", "E")
    assert b"48,12.5N" in xmp_of(data) and b"16,22.1E" in xmp_of(data)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_xmp_travels_on_without_place_and_orientation(suffix):
    data = copy(camera_jpeg(), suffix)
    packet = xmp_of(data)
    assert b"Vienna, &lt;old&gt;" in packet and b"image/x" in packet
    assert b"Orientation" not in packet and b"GPS" not in packet and b"48,12" not in data


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_copy_is_upright_once_and_for_all(suffix):
    once = decode(camera_jpeg(), "the photo").pictures[0]
    assert once.rgb.shape == (24, 20, 3)
    again = decode(copy(camera_jpeg(), suffix), "the copy").pictures[0]
    assert again.rgb.shape == (24, 20, 3)
    third = decode(encoded(".png", Frames([again])), "the copy").pictures[0]
    assert (third.rgb == again.rgb).all() and third.exif is not None


def test_a_photo_that_says_nothing_stays_silent():
    picture = from_image(Image.fromarray(PIXELS))
    assert (picture.exif, picture.xmp, picture.remarks) == (None, None, ())


@pytest.mark.parametrize(
    "packet",
    [
        b"<x:xmpmeta",
        b"\xff\xfe\x00",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>',
        b"<x>" + b"a" * (1 << 20) + b"</x>",
    ],
    ids=["cut short", "no text", "entities", "too large"],
)
def test_a_damaged_xmp_packet_is_left_out_with_a_remark(packet):
    image = Image.fromarray(PIXELS)
    image.info["xmp"] = packet
    picture = from_image(image)
    assert picture.xmp is None and picture.remarks == ("its XMP packet is damaged and was left out",)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_a_damaged_exif_block_is_left_out_with_a_remark(exif):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", exif=exif)
    picture = decode(buffer.getvalue(), "the photo").pictures[0]
    assert picture.exif is None and picture.remarks == ("its EXIF block is damaged and was left out",)


@pytest.mark.parametrize("profile", [b"garbage" * 50, bytes(16) + b"CMYK" + bytes(108)])
def test_a_profile_that_does_not_fit_is_left_out_with_a_remark(profile):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", icc_profile=profile)
    picture = decode(buffer.getvalue(), "the photo").pictures[0]
    assert picture.icc is None
    assert picture.remarks == ("its colour profile is damaged or of other channels, and was left out",)


def test_a_png_with_a_profile_that_pillow_refuses_is_read_without_it():
    buffer = io.BytesIO()
    profile = bytes(16) + b"RGB " + np.random.default_rng(0).bytes(2 << 20)
    Image.fromarray(PIXELS).save(buffer, "PNG", icc_profile=profile)
    picture = decode(buffer.getvalue(), "the photo").pictures[0]
    np.testing.assert_array_equal(picture.rgb, PIXELS)
    assert picture.icc is None and picture.remarks == ("its colour profile of more than 1 MiB was left out",)


@pytest.mark.parametrize("deep", [False, True])
def test_a_profile_that_png_readers_refuse_is_left_out_of_png_with_a_remark(deep):
    profile = bytes(16) + b"RGB " + np.random.default_rng(0).bytes(2 << 20)
    fine = PIXELS.astype(np.uint16) * 257 if deep else None
    picture = Picture(PIXELS, icc=profile, fine=fine)
    assert lost_by(".png", picture)[0].startswith("its colour profile of 2.1 MB was left out")
    assert decode(encoded(".png", Frames([picture])), "the copy").pictures[0].icc is None
    assert lost_by(".tif", picture) == [] == lost_by(".png", dataclasses.replace(picture, icc=profile[:1000]))
    assert decode(encoded(".tif", Frames([picture])), "the copy").pictures[0].icc == profile


def test_what_is_too_long_for_a_jpeg_is_left_out_of_it():
    picture = decode(camera_jpeg(), "the photo").pictures[0]
    long = dataclasses.replace(picture, exif=picture.exif + bytes(70_000), xmp=b"<x>" + b"a" * 70_000 + b"</x>")
    again = decode(encoded(".jpg", Frames([long])), "the copy").pictures[0]
    assert (again.exif, again.xmp, again.remarks) == (None, None, ())
    again = decode(encoded(".webp", Frames([long])), "the copy").pictures[0]
    assert again.exif is not None and again.xmp == long.xmp


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_profile_travels_on(suffix):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", icc_profile=profile)
    with Image.open(io.BytesIO(copy(buffer.getvalue(), suffix))) as image:
        assert image.info["icc_profile"] == profile
