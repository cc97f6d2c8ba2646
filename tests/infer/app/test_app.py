"""The app: a photo's way through it, and the page in a real browser."""

from __future__ import annotations

import io
import json
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pure_jax
from pure_jax.errors import PureError
from pure_jax.infer.app.command import App
from pure_jax.infer.app.session import Seen, Sessions, Wishes
from pure_jax.infer.families import RESTORE_TILES
from pure_jax.infer.restore import Restorer
from pure_jax.infer.serve.listening import address, listen
from pure_jax.infer.uploads import Limits
from tests import toy
from tests.browser import SOON, chromium, soon


@pytest.fixture
def gate(monkeypatch) -> Iterator[SimpleNamespace]:
    """A family that shows its tiles half done, and is done when the gate is open."""
    gate = SimpleNamespace(open=threading.Event(), begun=threading.Event())
    gate.open.set()

    def restore_tiles(model, tiles, *, seed, batch, progress, first=0, sampling=None, text="", preview=None):
        gate.begun.set()
        if preview is not None:
            half = np.full((len(tiles), 16, 16, 3), 77, np.uint8)
            preview(np.arange(len(tiles)), 0.5, lambda: half)
        while not gate.open.wait(0.01):
            progress("restore", 1, 2)
        return toy.restore_tiles(model, tiles, seed=seed, batch=batch, progress=progress, sampling=sampling)

    with toy.registered():
        monkeypatch.setitem(RESTORE_TILES, "toy", restore_tiles)
        yield gate
        gate.open.set()


@pytest.fixture
def sessions(gate, tmp_path) -> Iterator[Sessions]:
    model: Any = toy.ToyModel(toy.ToyConfig(), toy.params(), None, "", np.float32)
    (tmp_path / "results").mkdir()
    sessions = Sessions(Restorer(model), Limits(places=2, bytes=100_000, pixels=10_000, photos=5), tmp_path / "results")
    yield sessions
    sessions.desk.close()


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "my photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)).save(path)
    return path


WISHES = Wishes(scale=2.0, seed=7)


def test_previews_come_first_and_a_page_and_a_file_in_the_end(sessions, gate, photo):
    gate.open.clear()
    seen: list[Seen] = []
    for now in sessions.restore("me", [photo], WISHES):
        seen.append(now)
        if now.preview is not None:
            assert now.preview.shape == (32, 40, 3) and (now.preview == 77).mean() > 0.9
            gate.open.set()
    last = seen[-1]
    assert sum(now.preview is not None for now in seen) == 1 and [now.over for now in seen].count(True) == 1
    assert last.said.startswith("done in ") and last.page is not None and "my photo.png" in last.page
    assert last.file is not None and last.file.name == "my photo-restored.png"
    expected = sessions.restorer.restore(photo, scale=2.0, seed=7).image
    assert np.array_equal(np.asarray(Image.open(last.file)), np.asarray(expected))
    assert sessions.jobs == {} and sessions.desk.held == 0


def run(sessions: Sessions, photos: list[Path], wishes: Wishes = WISHES, who: str = "me") -> Seen:
    return list(sessions.restore(who, photos, wishes))[-1]


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (Wishes(scale=16.0), "the result would have 320x256 pixels"),
        (Wishes(temperature=0.5), "temperature has no meaning for this model"),
        (Wishes(fast=True), "fast has no meaning"),
        (Wishes(blur="large"), "reading has no meaning"),
        (Wishes(fidelity=0.5), "fidelity has no meaning"),
        (Wishes(strength=2.0), "the strength is 2.0"),
        (Wishes(colour_fix="sepia"), "the colour fix is 'sepia'"),
    ],
)
def test_what_is_not_possible_is_said(sessions, photo, wishes, said):
    seen = run(sessions, [photo], wishes)
    assert seen.said.startswith("not possible: ") and said in seen.said and seen.page is seen.file is None


def test_bad_files_are_said_by_name_and_not_by_place(sessions, photo, tmp_path):
    assert run(sessions, []).said == "choose a photo first"
    assert run(sessions, [photo] * 6).said == "6 photos are more than 5 at a time; choose fewer"
    (tmp_path / "bad.png").write_bytes(photo.read_bytes()[:-40])
    assert run(sessions, [tmp_path / "bad.png"]).said.startswith("not possible: the upload is damaged")
    (tmp_path / "large.png").write_bytes(bytes(100_001))
    assert "large.png has more than 0.1 MB" in run(sessions, [tmp_path / "large.png"]).said
    assert sessions.desk.held == 0


def test_several_photos_come_as_an_archive_and_a_bad_one_stops_none(sessions, photo, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / photo.name
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 20, 3), np.uint8)).save(twin)
    seen = list(sessions.restore("me", [photo, tmp_path / "bad.png", twin], WISHES))
    last = seen[-1]
    assert last.said == "2 of 3 photos are restored, 1 could not be" and last.page is None and last.over
    assert [name for name, _ in last.rows] == ["my photo.png", "bad.png", "my photo.png"]
    assert last.rows[1][1].startswith("not possible: ") and last.rows[2][1].startswith("done in ")
    with zipfile.ZipFile(last.file) as archive:
        assert archive.namelist() == ["my photo-restored.png", "my photo-restored-2.png"]
        for name, source in zip(archive.namelist(), (photo, twin), strict=True):
            expected = sessions.restorer.restore(source, scale=2.0, seed=7).image
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(archive.read(name)))), np.asarray(expected))


def test_what_is_done_of_several_photos_is_kept_when_they_are_cancelled(sessions, photo, monkeypatch):
    own = sessions._work

    def work(*args):
        result = own(*args)
        sessions.cancel("me")
        return result

    monkeypatch.setattr(sessions, "_work", work)
    last = run(sessions, [photo] * 3)
    assert last.said == "cancelled; 1 of 3 photos are restored" and len(last.rows) == 1
    with zipfile.ZipFile(last.file) as archive:
        assert archive.namelist() == ["my photo-restored.png"]
    assert sessions.desk.held == 0


def test_strength_and_candidates_are_those_of_the_command(sessions, photo):
    seen = run(sessions, [photo], Wishes(scale=2.0, seed=7, strength=0.5, candidates=2))
    half = sessions.restorer.restore(photo, scale=2.0, seed=7, strength=0.5).image
    # The toy draws nothing, so the first of equal candidates is taken.
    assert np.array_equal(np.asarray(Image.open(seen.file)), np.asarray(half)) and "of 2 candidates" in seen.page


def test_options_of_the_family_are_those_that_were_set():
    assert Wishes().options() == {}
    told = Wishes(blur="large", description="A cat.", guidance="full", fast=True)
    assert told.options() == {"reading": {"blur": "large"}, "description": "A cat.", "guidance": "full", "fast": True}


def test_controls_that_are_left_as_they_are_are_no_wishes():
    pytest.importorskip("gradio", reason="needs the extra app")
    from pure_jax.infer.app.blocks import DEFAULT, _wishes

    own = {"fidelity": 0.5, "temperature": 0.8}
    left = vars(Wishes()) | own | dict.fromkeys(("colour_fix", "guidance", "blur", "noise"), DEFAULT)
    assert _wishes(left | {"text": None, "seed": None}, own) == Wishes()
    changed = {"temperature": 0.0, "seed": 7.0, "blur": "large", "fidelity": 1.0}
    assert _wishes(left | changed, own) == Wishes(**changed)
    with pytest.raises(PureError, match="the seed is -1"):
        _wishes(left | {"seed": -1}, own)


def test_cancelling_ends_it_and_frees_its_place(sessions, gate, photo):
    gate.open.clear()
    coming = sessions.restore("me", [photo], WISHES)
    next(coming)
    assert gate.begun.wait(SOON)
    sessions.cancel("somebody else")
    assert sessions.desk.held == 1
    sessions.cancel("me")
    assert list(coming)[-1] == Seen("cancelled", over=True)
    assert sessions.desk.held == 0


def test_whoever_leaves_gives_up_the_place(sessions, gate, photo):
    gate.open.clear()
    coming = sessions.restore("me", [photo], WISHES)
    next(coming)
    coming.close()
    soon(lambda: sessions.desk.held == 0)
    assert sessions.jobs == {}


def test_one_at_a_time_and_no_more_than_there_are_places(sessions, gate, photo):
    gate.open.clear()
    first, second = (sessions.restore(who, [photo], WISHES) for who in ("a", "b"))
    next(first)
    assert gate.begun.wait(SOON)
    assert "waiting, 1 ahead" in next(second).said
    assert run(sessions, [photo], who="c").said == "all places are taken; try again later"
    gate.open.set()
    assert list(first)[-1].page and list(second)[-1].page


def test_a_new_wish_of_the_same_page_takes_the_place_of_the_old_one(sessions, gate, photo):
    gate.open.clear()
    old = sessions.restore("me", [photo], WISHES)
    next(old)
    new = sessions.restore("me", [photo], WISHES)
    next(new)
    gate.open.set()
    assert list(new)[-1].page and list(old)[-1].said == "cancelled"


def test_a_bad_option_is_refused_before_the_model_is_loaded(monkeypatch):
    pytest.importorskip("gradio", reason="needs the extra app")
    monkeypatch.setattr(pure_jax, "load", None, raising=False)
    with pytest.raises(PureError, match="the limit of places is -1"):
        App(places=-1).run()
    with listen("127.0.0.1", 0) as taken, pytest.raises(PureError, match="choose another --port"):
        App(port=taken.getsockname()[1]).run()


# ---- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture
def page(sessions, tmp_path, monkeypatch) -> Iterator[str]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    pytest.importorskip("gradio", reason="needs the extra app")
    import uvicorn

    from pure_jax.infer.app.blocks import application

    with listen("127.0.0.1", 0) as listening:
        app = application(sessions, "toy", ["127.0.0.1"])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield address(listening)
        server.should_exit = True
        thread.join()


def test_a_page_of_another_site_reaches_it_under_no_name_of_its_own(page):
    with urllib.request.urlopen(page) as answer:
        assert answer.status == 200 and "text/html" in answer.headers["content-type"]
    asked = urllib.request.Request(page, headers={"Host": "example.org"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(asked)


@pytest.mark.slow
def test_a_photo_is_restored_in_a_browser(page, gate, photo, tmp_path, sessions):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with chromium(str(tmp_path / "downloads")) as browser:
        browser.get(page)

        def find(selector: str) -> Any:
            return soon(lambda: browser.find_elements("css selector", selector))[0]

        def said() -> str:
            return browser.execute_script("return document.querySelector('#said textarea').value")

        def choose(path: Path | str) -> None:
            for remove in browser.find_elements("css selector", "#photo button[aria-label*='Clear']"):
                remove.click()
            find("#photo input[type=file]").send_keys(str(path))
            soon(lambda: all(Path(own).stem in find("#photo").text for own in str(path).splitlines()))

        def click(name: str) -> None:
            soon(lambda: find(f"#{name}").is_displayed())
            find(f"#{name}").click()

        find("#go")
        choose(tmp_path / "bad.png")
        click("go")
        soon(lambda: "not a readable picture" in said())

        choose(photo)
        gate.open.clear()
        click("go")
        shown = find("#preview img")
        soon(lambda: shown.get_property("naturalWidth") == 80)  # at scale 4, half done
        click("stop")
        soon(lambda: said() == "cancelled")
        assert sessions.desk.held == 0

        gate.open.set()
        click("go")
        soon(lambda: said().startswith("done in"))
        frame = find("#report iframe")
        browser.switch_to.frame(frame)
        assert find("#after").get_property("naturalWidth") == 80
        browser.execute_script(
            "const e = document.getElementById('at'); e.value = 25; e.dispatchEvent(new Event('input'))"
        )
        assert "75%" in browser.execute_script("return getComputedStyle(document.getElementById('before')).clipPath")
        browser.switch_to.default_content()
        click("download")
        [file] = soon(lambda: list((tmp_path / "downloads").glob("*restored*.png")))
        expected = np.asarray(sessions.restorer.restore(photo, scale=4.0).image)
        soon(lambda: np.array_equal(np.asarray(Image.open(io.BytesIO(file.read_bytes()))), expected))
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
        own = (page, "data:", "blob:", "about:")
        assert [url for url in asked if not url.startswith(own)] == []  # nothing of another machine
        choose(f"{photo}\n{tmp_path / 'bad.png'}")
        click("go")
        soon(lambda: said() == "1 of 2 photos are restored, 1 could not be")
        assert ["my photo.png", "bad.png"] == [
            cell.text for cell in browser.find_elements("css selector", "#report th")
        ]
        gate.open.clear()
        click("go")
        soon(lambda: sessions.desk.held == 1)
        browser.get("about:blank")  # a closed page
        soon(lambda: sessions.desk.held == 0)
