"""What shows a restoration: two pictures in one, and a page that needs nothing else, in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.__main__ import main
from pure_jax.errors import PureError
from pure_jax.infer.facts import facts_of
from pure_jax.infer.pictures.heatmap import entropy_heatmap
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.pictures.reading import as_picture
from pure_jax.infer.restore import Restoration
from pure_jax.infer.seeing import page as module
from pure_jax.infer.seeing.outputs import Shown
from pure_jax.infer.seeing.page import page
from pure_jax.infer.seeing.side_by_side import GAP, side_by_side
from tests.browser import chromium
from tests.models import tiny_model

MOST = 6.0
SETTINGS = {"seed": 7, "k max": None, "text": "<script>alert(1)</script> & $width"}


def picture(mode: str = "RGB") -> Picture:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    return as_picture(np.random.default_rng(0).integers(1, 255, (20, 30, *channels), np.uint8))


def result(mode: str = "RGB") -> Restoration:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(1).integers(1, 255, (40, 60, *channels), np.uint8)
    entropy = np.linspace(0, MOST, 150, dtype=np.float32).reshape(10, 15)
    return Restoration(as_picture(pixels), {"blur": "large", "noise": "small"}, "A <b>cat</b>.", entropy, [], ["a & b"])


def told() -> dict[str, Any]:
    return facts_of(result(), scale=2.0, seed=7, seconds={"encode": 1.25, "restore": 2.5})


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_both_are_in_one_picture(mode):
    made = side_by_side(picture(mode), result(mode))
    assert (made.mode, made.size) == (mode, (60 + GAP + 60, 40))
    pixels = np.asarray(made)
    assert np.array_equal(pixels[:, 60 + GAP :], np.asarray(result(mode).image))
    if mode != "RGBA":  # whose colours and transparency are enlarged each by itself
        source = Image.fromarray(picture().rgb if mode == "RGB" else picture(mode).rgb[..., 0])
        assert np.array_equal(pixels[:, :60], np.asarray(source.resize((60, 40), Image.Resampling.BICUBIC)))
    assert (pixels[:, 60 : 60 + GAP] == 255).all()


class Reader(HTMLParser):
    """Pictures by id, table cells, and whatever would ask for another file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: dict[str, Image.Image] = {}
        self.texts: list[str] = []
        self.links: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.scripts += tag == "script"
        if tag == "img":
            kind, _, data = values["src"].partition(";base64,")
            image = Image.open(io.BytesIO(base64.b64decode(data)))
            assert kind == f"data:image/{image.format.lower()}"
            self.pictures[values["id"]] = image
        elif "src" in values or "href" in values:
            self.links.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_has_all_and_asks_for_nothing():
    text = page("my <photo>.png", picture(), result(), MOST, told(), SETTINGS)
    found = Reader(text)
    assert (found.links, found.scripts) == ([], 1)
    assert not re.search(r"https?://|@import|url\((?!\"')", text)
    assert np.array_equal(np.asarray(found.pictures["after"]), np.asarray(result().image))
    expected = Image.fromarray(picture().rgb).resize((60, 40), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(found.pictures["before"]), np.asarray(expected))
    heatmap = entropy_heatmap(result().entropy, MOST, (15, 10))
    assert np.array_equal(np.asarray(found.pictures["entropy"]), np.asarray(heatmap))
    for shown in ("my <photo>.png", "large blur, small noise", "A <b>cat</b>.", "1.25 s", "3.75 s", SETTINGS["text"]):
        assert shown in found.texts
    assert "a & b" in found.texts and "k max" not in found.texts and "seed" in found.texts


def test_large_pictures_are_put_in_as_jpeg_unless_they_are_transparent(monkeypatch):
    monkeypatch.setattr(module, "LOSSLESS_PIXELS", 100)
    found = Reader(page("a", picture(), result(), MOST, told(), {}))
    assert (found.pictures["after"].format, found.pictures["after"].size) == ("JPEG", (60, 40))
    found = Reader(page("a", picture("RGBA"), result("RGBA"), MOST, told(), {}))
    assert found.pictures["after"].format == found.pictures["before"].format == "PNG"


def test_a_browser_shows_it(tmp_path):
    (tmp_path / "report.html").write_text(page("a", picture(), result(), MOST, told(), SETTINGS), encoding="utf-8")
    with chromium() as browser:
        browser.get((tmp_path / "report.html").as_uri())

        def style(name: str, of: str) -> str:
            return browser.execute_script(
                "return getComputedStyle(document.getElementById(arguments[0]))[arguments[1]]", name, of
            )

        def move(name: str, value: int) -> None:
            browser.execute_script(
                "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
                "e.dispatchEvent(new Event('input'))",
                name, value,
            )  # fmt: skip

        for name in ("before", "after", "entropy"):
            assert browser.execute_script("return document.getElementById(arguments[0]).naturalWidth > 0", name)
        assert "50%" in style("before", "clipPath") and style("entropy", "opacity") == "0"
        move("at", 20)
        move("shade", 60)
        assert "80%" in style("before", "clipPath") and style("entropy", "opacity") == "0.6"
        near = style("near-after", "backgroundSize"), style("near-after", "backgroundPosition")
        move("zoom", 8)
        assert near[0] == "240px 160px" and style("near-after", "backgroundSize") == "480px 320px"
        box = browser.execute_script("return document.getElementById('stage').getBoundingClientRect().toJSON()")
        browser.execute_script(
            "document.getElementById('stage').dispatchEvent(new PointerEvent('pointerdown',"
            "{clientX: arguments[0], clientY: arguments[1], bubbles: true, cancelable: true}))",
            box["x"] + 0.75 * box["width"], box["y"] + 5,
        )  # fmt: skip
        assert "25%" in style("before", "clipPath")
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


# ---- pure restore --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model(num_layers=1)
    directory = tmp_path_factory.mktemp("models") / "tiny"
    pure_jax.save(directory, model.config, model.params, model.tokenizer.to_str(), "A random model for tests.\n")
    return directory


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture().rgb).save("photo.png")
    return tmp_path


def test_the_command_writes_both(folder, model_directory, capsys):
    words = ["restore", "photo.png", "out.png", "--model", str(model_directory), "--scale", "1", "--seed", "7"]
    main([*words, "--side-by-side", "both.png", "--report", "report.html", "--text", "Large blur, small noise."])
    both, out = np.asarray(Image.open("both.png")), np.asarray(Image.open("out.png"))
    assert np.array_equal(both[:, -30:], out) and np.array_equal(both[:, :30], picture().rgb)
    found = Reader(Path("report.html").read_text(encoding="utf-8"))
    assert np.array_equal(np.asarray(found.pictures["after"]), out)
    assert {"large blur, small noise", "seed", "7", "restore", "load"} <= set(found.texts)
    assert not {"report", "overwrite"} & set(found.texts)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--report", "report.txt"], "the report 'report.txt' must be a .html file"),
        (["--report", "there.html"], "'there.html' exists already"),
        (["--report", "photo.png"], "'photo.png' is the name of two files"),
        (["--side-by-side", "out.png"], "'out.png' is the name of two files"),
        (["--side-by-side", "a.png", "--report", "a.png"], "'a.png' is the name of two files"),
        (["--side-by-side", "both.gif"], "output 'both.gif' needs a name that ends in"),
        (["--side-by-side", "nowhere/both.png"], "does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(folder, monkeypatch, capsys, words, complaint):
    monkeypatch.setattr(pure_jax, "load", None, raising=False)
    (folder / "there.html").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["restore", "photo.png", "out.png", *words])
    assert end.value.code == 2 and complaint in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["photo.png", "there.html"]


def test_a_jpeg_cannot_hold_both_if_one_is_transparent(folder):
    with pytest.raises(PureError, match="cannot hold transparency"):
        Shown(folder / "both.jpg").check([], picture("RGBA"), (60, 40), False)
