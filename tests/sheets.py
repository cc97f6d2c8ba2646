"""Makes docs/pictures: what each option of `pure restore` does to one corner of the demo's sample.

    python -m tests.sheets                # all; minutes on a CPU
    python -m tests.sheets fidelity       # some
    python -m tests.sheets before-after   # the README's picture, of the whole sample

A sheet shows the photo enlarged by bicubic interpolation, the usual result, and one more for each row of SHEETS.
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

from pure_jax.__main__ import main
from pure_jax.checkpoint import demo_directory

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
BEFORE_AFTER = "before-after"
CORNER = (62, 40, 110, 88)
"""Of the sample, in pixels: left, top, right, bottom."""
SCALE = 4
HEADING = 14
"""Pixels above each picture."""

SHEETS: dict[str, list[str]] = {
    "guidance": ["--guidance perception", "--guidance understanding", "--guidance none"],
    "told": ["--blur small --noise small", "--blur large --noise large", "--one-description"],
    "fidelity": ["--fidelity 0", "--fidelity 0.75", "--fidelity 1"],
    "drawn": ["--temperature 0", "--temperature 0.7", "--k-max 256"],
    "strength": ["--strength 0.3", "--strength 0.6"],
    "colour-fix": ["--colour-fix none", "--colour-fix adain", "--colour-fix adain+wavelet", "--colour-fix lab"],
    "seed": ["--seed 1", "--seed 2", "--candidates 4"],
    "model": ["--model demo-nsarm", "--model demo-nsarm --temperature 0.5"],
    "ways": ["--fast", "--weights int8 --cache int8", "--overlap 0"],
}


@cache
def restored(options: str, box: tuple[int, int, int, int] | None = CORNER) -> Image.Image:
    """By the command line itself. box: a part of the sample; None is all of it."""
    with tempfile.TemporaryDirectory() as folder:
        photo, result = Path(folder, "photo.png"), Path(folder, "result.png")
        with Image.open(demo_directory() / "sample.png") as sample:
            corner = sample.convert("RGB").crop(box)
        corner.save(photo)
        if options == "bicubic":
            return corner.resize((SCALE * corner.width, SCALE * corner.height), Image.Resampling.BICUBIC)
        main(["restore", str(photo), str(result), "--scale", str(SCALE), "--quiet", *options.split()])
        with Image.open(result) as image:
            return image.copy()


def sheet(rows: list[str]) -> Image.Image:
    """Pictures side by side, each under its options."""
    shown = [("bicubic", restored("bicubic")), ("pure restore", restored("")), *((row, restored(row)) for row in rows)]
    width, height = shown[0][1].size
    whole = Image.new("RGB", (len(shown) * (width + 4) - 4, height + HEADING), "white")
    pen = ImageDraw.Draw(whole)
    for place, (heading, image) in enumerate(shown):
        left = place * (width + 4)
        pen.text((left + 2, 1), heading, fill="black")
        whole.paste(image, (left, HEADING))
    return whole


def before_after() -> Image.Image:
    """The sample, enlarged and restored, side by side."""
    before, after = restored("bicubic", None), restored("", None)
    whole = Image.new("RGB", (before.width + 8 + after.width, before.height), "white")
    whole.paste(before, (0, 0))
    whole.paste(after, (before.width + 8, 0))
    return whole


if __name__ == "__main__":
    for name in sys.argv[1:] or [*SHEETS, BEFORE_AFTER]:
        if name == BEFORE_AFTER:
            before_after().save(demo_directory() / f"{name}.jpg", quality=90)
        else:
            sheet(SHEETS[name]).save(PICTURES / f"{name}.jpg", quality=88)
        print(name, flush=True)
