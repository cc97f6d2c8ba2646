"""`pure restore` from standard input and to standard output, with the toy family's model."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pure_jax.__main__ import main
from tests.toy_restore import toy_command

Run = Callable[..., tuple[int, bytes, str]]


class Input(io.TextIOWrapper):
    """Standard input with these bytes in it."""

    def __init__(self, data: bytes, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data))
        self.isatty = lambda: terminal  # type: ignore[method-assign]


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A PNG file; it lies in the current directory, too."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return Path("photo.png").read_bytes()


@pytest.fixture
def pure(photo: bytes, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any) -> Iterator[Run]:
    """Runs `pure restore ... --scale 2`: exit status, standard output, the last line of standard error."""
    Path("model").mkdir()
    with toy_command():

        def run(*arguments: str, given: bytes = b"", terminal: bool = False) -> tuple[int, bytes, str]:
            monkeypatch.setattr(sys, "stdin", Input(given, terminal))
            status = 0
            try:
                main(["restore", *arguments, "--model", "model", "--scale", "2"])
            except SystemExit as end:
                status = int(end.code or 0)
            out, err = capsysbinary.readouterr()
            return status, out, (err.decode().splitlines() or [""])[-1]

        yield run


def test_a_photo_goes_through(pure, photo):
    assert pure("photo.png", "named.png")[0] == 0
    status, out, last = pure("-", "-", given=photo)
    assert (status, out, last) == (0, Path("named.png").read_bytes(), "standard output: 40x32")
    assert pure("-", given=photo)[1] == out  # standard output follows from standard input
    assert pure("photo.png", "-", "--quiet")[1:] == (out, "")
    assert pure("-", "again.png", given=photo)[0] == 0 and Path("again.png").read_bytes() == out


def test_the_format_of_standard_output(pure, photo):
    for name, format in (("webp", "WEBP"), ("jpg", "JPEG"), ("tif", "TIFF")):
        with Image.open(io.BytesIO(pure("-", "-", "--format", name, given=photo)[1])) as image:
            assert (image.format, image.size) == (format, (40, 32))


@pytest.mark.parametrize(
    ("arguments", "options", "complaint"),
    [
        (["-", "out.png"], {}, "standard input is empty"),
        (["-", "out.png"], {"given": b"x", "terminal": True}, "standard input is a terminal"),
        (["-", "out.png"], {"given": b"Dear photo"}, "standard input is not a readable picture"),
        (["photo.png", "-", "--json"], {}, "cannot both go to standard output"),
        (["photo.png", "-", "--quality", "3"], {}, "--quality has no meaning"),
        (["-", "photo.png", "out"], {}, "take one photo each"),
    ],
)
def test_mistakes_are_one_sentence(pure, arguments, options, complaint):
    status, out, last = pure(*arguments, **options)
    assert (status, out) == (2, b"") and last.startswith("pure: error: ") and complaint in last
    assert sorted(path.name for path in Path().iterdir()) == ["model", "photo.png"]


def test_a_picture_is_not_written_to_a_terminal(pure, monkeypatch, capsysbinary):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert pure("photo.png", "-")[2] == (
        "pure: error: standard output is a terminal; redirect it, or name a file for the picture"
    )
