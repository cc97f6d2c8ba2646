"""Inks become the colours that their profile says; scikit-image turns the profile's Lab colours into sRGB."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image
from skimage.color import lab2rgb

from pure_jax.infer.pictures.reading import decode

# Lab of no ink, and what each ink alone makes of it: nothing like cyan, magenta, yellow and black.
PAPER = (100.0, 0.0, 0.0)
INKS = [(50.0, 40.0, 30.0), (60.0, -40.0, 30.0), (45.0, 10.0, -35.0), (20.0, 0.0, 0.0)]


def cmyk_profile() -> bytes:
    """A profile of four inks, written by hand: a table of 8 bits with the 16 corners of the ink cube."""
    corners = []
    for place in np.ndindex(2, 2, 2, 2):
        used = [ink for ink, there in zip(INKS, place, strict=True) if there]
        light, a, b = np.mean(used, axis=0) if used else PAPER
        corners += [round(light * 2.55), round(a + 128), round(b + 128)]
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *[65_536 if i % 4 == 0 else 0 for i in range(9)])
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + bytes(corners) + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63_190, 65_536, 54_061)
    text = b"text\0\0\0\0by hand\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", 8) + b"by hand\0" + bytes(12 + 67)
    tags, places, body = [(b"desc", desc), (b"cprt", text), (b"wtpt", white), (b"A2B0", table)], b"", b""
    start = 128 + 4 + 12 * len(tags)
    for kind, data in tags:
        data += bytes(-len(data) % 4)
        places += kind + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63_190, 65_536, 54_061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + places + body


def cmyk_tiff(profile: bytes | None) -> bytes:
    """Five stripes: no ink, and each ink alone."""
    inks = np.zeros((20, 20, 4), np.uint8)
    for ink in range(4):
        inks[4 * (ink + 1) : 4 * (ink + 2), :, ink] = 255
    buffer = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(buffer, "TIFF", icc_profile=profile)
    return buffer.getvalue()


def test_inks_are_seen_through_their_profile():
    picture = decode(cmyk_tiff(cmyk_profile()), "the print").pictures[0]
    assert picture.remarks == () and picture.icc is None
    found = picture.rgb[2::4, 10].astype(float)
    expected = np.array([lab2rgb(np.array([[lab]]))[0, 0] for lab in (PAPER, *INKS)]) * 255
    assert np.abs(found - expected).max() < 12  # one step of the table's 8 bits is up to 3 levels; measured 8
    plain = decode(cmyk_tiff(None), "the print").pictures[0].rgb[2::4, 10].astype(float)
    assert np.abs(found - plain)[1:4].max(axis=1).min() > 60  # it is not the plain conversion


def test_inks_without_a_profile_are_approximate_and_a_remark():
    for profile in (None, b"no profile at all" * 20):
        picture = decode(cmyk_tiff(profile), "the print").pictures[0]
        assert picture.remarks == ("its CMYK colours have no profile that can be read, so they are approximate",)
        with Image.open(io.BytesIO(cmyk_tiff(profile))) as image:
            assert (picture.rgb == np.asarray(image.convert("RGB"))).all()
