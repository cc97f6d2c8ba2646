"""`pure restore` of folders, with the toy family's model: what is written, what is skipped, what never is replaced."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from pure_jax.__main__ import main
from pure_jax.errors import PureError
from pure_jax.files import directory_sha256
from pure_jax.infer.folders import books
from pure_jax.infer.folders.books import open_books
from tests.toy_restore import toy_command

RNG = np.random.default_rng(0)


class Outcome(NamedTuple):
    status: int
    out: str
    err: str
    """Without the names of stages."""
    loads: int


def save(name: str, mode: str = "RGB", **options: Any) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (16, 20, 4), dtype=np.uint8)).convert(mode).save(path, **options)
    return path


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a folder `in` of six pictures, one of them broken, and a model."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    save("in/a.jpg")
    save("in/a.png")
    save("in/sub/glass.webp", "RGBA", lossless=True)
    save("in/sub/grey.tif", "L")
    save("in/sub/palette.gif", "P")
    Path("in/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return tmp_path


@pytest.fixture
def pure(album: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Runs `pure restore ... --model model --scale 2`."""
    with toy_command() as loaded:

        def run(*arguments: object) -> Outcome:
            before, status = len(loaded), 0
            defaults = {"--model": "model", "--scale": 2}
            more = [part for pair in defaults.items() if pair[0] not in arguments for part in pair]
            try:
                main(["restore", *map(str, [*arguments, *more])])
            except SystemExit as end:
                status = int(end.code or 0)
            out, err = capsys.readouterr()
            told = [line for line in err.splitlines(keepends=True) if len(line.split()) > 2]
            return Outcome(status, out, "".join(told), len(loaded) - before)

        yield run


def files(folder: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def results(folder: str) -> dict[str, bytes]:
    return {name: content for name, content in files(folder).items() if not name.endswith(".jsonl")}


def records(folder: str, book: str = "report") -> dict[str, Any]:
    lines = [json.loads(line) for line in Path(folder, f"{book}.jsonl").read_text().splitlines()]
    return {line["input" if book.startswith("report") else "name"]: line for line in lines}


# ---- what is written -----------------------------------------------------------------------------------------------

NAMES = ["a.jpg.png", "a.png.png", "sub/glass.png", "sub/grey.png", "sub/palette.png"]


def test_a_folder_is_restored_with_all_below_it_and_a_broken_picture_passed_over(pure):
    before = files("in")
    outcome = pure("in", "out")
    assert outcome.status == 1 and outcome.loads == 1
    assert outcome.err.startswith("pure: 'in/broken.jpg' is ") and outcome.err.count("\n") == 1
    assert outcome.out == "out: 5 restored, 0 done already, 1 failed; see out/report.jsonl\n"
    assert sorted(results("out")) == NAMES and files("in") == before
    modes = {name: Image.open(f"out/{name}").mode for name in NAMES}
    assert modes == dict(zip(NAMES, ["RGB", "RGB", "RGBA", "L", "RGB"], strict=True))
    assert {Image.open(f"out/{name}").size for name in NAMES} == {(40, 32)}


def test_a_picture_of_a_folder_is_the_same_as_alone(pure):
    pure("in", "out", "--seed", 3)
    assert pure("in/sub/glass.webp", "alone.png", "--seed", 3).status == 0
    assert Path("alone.png").read_bytes() == Path("out/sub/glass.png").read_bytes()


def test_the_report_says_what_became_of_each(pure):
    pure("in", "out", "--seed", 3)
    report = records("out")
    assert list(report) == ["a.jpg", "a.png", "broken.jpg", "sub/glass.webp", "sub/grey.tif", "sub/palette.gif"]
    glass = report["sub/glass.webp"]
    assert glass.pop("seconds") >= 0 and glass.pop("finished").endswith("+00:00") and glass.pop("version")
    assert glass == {
        "input": "sub/glass.webp",
        "source": "in/sub/glass.webp",
        "output": "sub/glass.png",
        "status": "restored",
        "width": 40,
        "height": 32,
        "frames": 1,
        "scale": 2.0,
        "seed": 3,
        "settings": {"scale": 2.0, "seed": 3},
        "degradation": None,
        "description": "",
        "warnings": ["seed 3"],  # what the toy remarks
    }
    assert report["broken.jpg"]["status"] == "failed" and "broken.jpg" in report["broken.jpg"]["error"]


def test_the_manifest_has_the_digests_of_what_is_done(pure):
    from hashlib import sha256

    pure("in", "out")
    manifest = records("out", "manifest")
    assert "broken.jpg" not in manifest
    assert manifest["a.jpg"] == {
        "name": "a.jpg",
        "input_sha256": sha256(Path("in/a.jpg").read_bytes()).hexdigest(),
        "output": "a.jpg.png",
        "output_sha256": sha256(Path("out/a.jpg.png").read_bytes()).hexdigest(),
        "model_sha256": directory_sha256(Path("model")),
        "settings": {"scale": 2.0},
    }


def test_json_counts_and_names_failures(pure):
    save("in/note.png").rename("in/note.txt")
    found = json.loads(pure("in", "out", "--json").out)
    assert list(found.pop("failed")) == ["broken.jpg"]
    assert found == {"output": "out", "report": "out/report.jsonl", "restored": 5, "skipped": 0, "ignored": 1}


def test_several_inputs_and_patterns(pure):
    assert pure("in/a.png", "in/sub", "out").status == 0
    assert sorted(results("out")) == ["a.png", "sub/glass.png", "sub/grey.png", "sub/palette.png"]
    assert pure("in/**/*.[tw]*", "found").status == 0
    assert sorted(results("found")) == ["sub/glass.png", "sub/grey.png"]


def test_the_format_and_quality_of_a_folders_results(pure):
    assert pure("in/a.png", "in/sub/grey.tif", "small", "--format", "jpg", "--quality", 20).status == 0
    assert pure("in/a.png", "in/sub/grey.tif", "large", "--format", "jpg").status == 0
    small, large = results("small"), results("large")
    assert sorted(small) == sorted(large) == ["a.jpg", "grey.jpg"]
    assert all(len(small[name]) < len(large[name]) for name in small)


def test_what_a_format_cannot_hold_is_that_pictures_failure(pure):
    outcome = pure("in/a.png", "in/sub/glass.webp", "out", "--format", "jpg")
    assert outcome.status == 1 and "'in/sub/glass.webp': " in outcome.err and "transparency" in outcome.err
    assert list(results("out")) == ["a.jpg"]


def test_a_photo_that_gets_too_large_is_told_the_largest_scale(pure):
    Image.new("L", (3000, 2000)).save("in/wide.png")
    outcome = pure("in/a.png", "in/wide.png", "out", "--scale", 8)
    assert outcome.status == 1 and "choose a scale of at most 4.08" in outcome.err


# ---- what is done already ------------------------------------------------------------------------------------------


def test_what_is_done_is_left_alone_and_no_model_loaded_for_it(pure):
    Path("in/broken.jpg").unlink()
    pure("in", "out")
    before, stamps = files("out"), {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    outcome = pure("in", "out")
    assert (outcome.status, outcome.loads, outcome.err) == (0, 0, "")
    assert "0 restored, 5 done already" in outcome.out
    assert files("out") == before and all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert pure("in", "out", "--overwrite").loads == 0  # it would come out the same


def test_new_and_missing_pictures_are_all_that_is_restored(pure):
    pure("in", "out")
    whole = results("out")
    os.remove("out/a.png.png")
    save("in/new.bmp")
    outcome = pure("in", "out")
    assert "2 restored, 4 done already" in outcome.out
    assert {name: content for name, content in results("out").items() if name != "new.png"} == whole


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda: save("in/sub/grey.tif", "L"), "made from another version of this picture"),
        (lambda: Path("model/config.json").write_text("{ }"), "made by another model"),
        (lambda: None, "made with other settings"),
        (lambda: Path("out/grey.png").write_bytes(b"edited by hand"), "exists already; replace it"),
    ],
    ids=["input", "model", "settings", "result"],
)
def test_what_would_come_out_otherwise_is_replaced_only_when_asked(pure, change, complaint):
    more = ["--seed", 7] if complaint.endswith("settings") else []
    pure("in/sub/grey.tif", "out/")
    change()
    before = files("out")
    outcome = pure("in/sub/grey.tif", "out/", *more)
    assert outcome.status == 1 and outcome.loads == 0 and complaint in outcome.err
    assert results("out") == {name: content for name, content in before.items() if name.endswith(".png")}
    assert pure("in/sub/grey.tif", "out/", *more, "--overwrite").status == 0
    assert pure("in/sub/grey.tif", "out/", *more).loads == 0


def test_a_strangers_file_is_not_replaced(pure):
    save("out/a.jpg.png")
    before = Path("out/a.jpg.png").read_bytes()
    outcome = pure("in", "out")
    assert "4 restored" in outcome.out and "2 failed" in outcome.out
    assert Path("out/a.jpg.png").read_bytes() == before


def test_books_that_were_cut_short_or_come_from_elsewhere_do_no_harm(pure):
    Path("in/broken.jpg").unlink()
    pure("in", "out")
    whole = files("out")
    with Path("out/manifest.jsonl").open("ab") as book:
        book.write(b'{"name": "x.png", "fields": "of another version"}\n[1, 2]\nnull\n')
        for output in (b'"../../a.png"', b'"/a.png"', b"7"):
            line = b'{"name": "new.bmp", "input_sha256": "", "settings": {}, "model_sha256": "", "output_sha256": "",'
            book.write(line + b' "output": ' + output + b"}\n")
        book.write(b'{"name": "a.j')
    assert pure("in", "out").loads == 0
    save("in/new.bmp")
    assert pure("in", "out").status == 0
    assert files("out")["new.png"] and records("out", "manifest")["new.bmp"]["output"] == "new.png"
    for name in ("new.png", "report.jsonl"):
        os.remove(f"out/{name}")
        whole.pop(name, None)
    del whole["manifest.jsonl"]
    assert {name: content for name, content in files("out").items() if name != "manifest.jsonl"} == whole


# ---- where results may lie -----------------------------------------------------------------------------------------


def test_a_folder_may_be_restored_into_itself_when_asked(pure):
    before = files("in")
    assert "lies in the input" in pure("in", "in").err and files("in") == before
    assert "5 restored" in pure("in", "in", "--allow-inside").out
    after = files("in")
    assert {name: after[name] for name in before} == before  # no original is touched
    assert "0 restored, 5 done already, 1 failed" in pure("in", "in", "--allow-inside").out  # and no result is an input
    assert {name: after[name] for name in results("in")} == results("in")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["in"], "'in' is a directory"),
        (["in", "model/config.json"], "is a file"),
        (["nowhere", "in", "out"], "'nowhere' does not exist"),
        (["in", "out", "--shard", "3/2"], "must be i/n"),
        (["in", "out", "--shard", "cluster"], "found neither SLURM's"),
        (["in", "out", "--entropy-map", "map.png"], "--entropy-map has no meaning"),
        (["in", "out", "--quality", "50"], "--quality has no meaning"),
        (["in", "out", "--format", "jpg", "--quality", "101"], "the quality is 101"),
        (["in", "out", "--scale", "2", "--width", "99"], "give --scale or --width, not both"),
        (["in", "out", "--long-side", "0"], "--long-side is 0"),
        (["in", "x" * 300], "cannot be read (File name too long)"),
        (["x" * 300, "out"], "cannot be read (File name too long)"),
        (["x" * 300, "in", "out"], "does not exist"),
        (["in", "model/config.json/out"], "Not a directory"),
        (["in", "out", "--model", "nowhere"], "nowhere is not a model directory"),
        (["in/a.png", "b.png", "--shard", "1/2"], "--shard has no meaning"),
        (["in/a.png", "b.png", "--format", "jpg"], "--format has no meaning"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(pure, arguments, complaint):
    before = files(".")
    outcome = pure(*arguments)
    assert (outcome.status, outcome.out, outcome.loads) == (2, "", 0)
    assert outcome.err.startswith("pure: error: ") and outcome.err.count("\n") == 1 and complaint in outcome.err
    assert files(".") == before and not Path("out").exists()


def test_an_option_out_of_range_ends_the_run_at_the_first_picture(pure):
    outcome = pure("in", "out", "--overlap", 99)
    assert outcome.status == 2 and outcome.err.startswith("pure: error: tile overlap 99")
    assert results("out") == {}


def test_two_runs_in_one_folder_are_refused(pure):
    with open_books(Path("out"), None):
        outcome = pure("in", "out")
    assert outcome.status == 2 and "written by another run" in outcome.err


# ---- shards --------------------------------------------------------------------------------------------------------


def test_shards_together_are_the_whole(pure):
    for i in range(8):
        save(f"in/more{i}.png")
    pure("in", "whole")
    outcomes = [pure("in", "parts", "--shard", f"{i}/3") for i in (1, 2, 3)]
    assert sum(outcome.status for outcome in outcomes) == 1  # one has the broken picture
    assert results("parts") == results("whole")
    done = [records("parts", f"manifest-{i}-of-3") for i in (1, 2, 3)]
    assert sum(map(len, done)) == len(records("whole", "manifest")) == 13
    assert "0 restored, 13 done already" in pure("in", "parts").out  # one run knows what all shards did


# ---- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(pure, monkeypatch, number):
    pure("in", "whole")

    def full(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("pure_jax.infer.folders.run.encode", full)
        outcome = pure("in", "out")
    assert outcome.status == 2 and os.strerror(number) in outcome.err and results("out") == {}
    assert pure("in", "out").status == 1
    assert results("out") == results("whole")


def test_a_picture_that_goes_while_others_are_restored_is_one_failure(pure, monkeypatch):
    from pure_jax.infer.folders import run

    def gone(path: Path) -> bytes:
        Path("in/a.png").unlink(missing_ok=True)
        return read_file(path)

    read_file = run.read_file
    monkeypatch.setattr(run, "read_file", gone)
    outcome = pure("in", "out", "--json")
    assert outcome.status == 1 and "'in/a.png' does not exist" in outcome.err
    assert sorted(json.loads(outcome.out)["failed"]) == ["a.png", "broken.jpg"]
    assert sorted(results("out")) == sorted({*NAMES} - {"a.png.png"})


def test_an_output_folder_that_goes_ends_the_run(pure, monkeypatch):
    from pure_jax.infer.folders import run

    def removing(path: Path) -> bytes:
        shutil.rmtree("out", ignore_errors=True)
        return read_file(path)

    read_file = run.read_file
    monkeypatch.setattr(run, "read_file", removing)
    outcome = pure("in", "out")
    assert outcome.status == 2 and "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1].startswith("pure: error: output 'out' cannot be written")


def test_a_name_that_is_too_long_is_that_pictures_failure(pure):
    name = "x" * 251
    save(f"in/{name}.bmp")
    save(f"in/{name}.png")  # two of one stem, so that the suffix is added
    outcome = pure("in", "out")
    assert outcome.status == 1 and "5 restored" in outcome.out and "3 failed" in outcome.out


def test_decoders_log_nothing_of_a_damaged_file(pure, caplog):
    data = save("in/odd.tif").read_bytes()
    place = data.index(b"\x15\x01\x03\x00\x01\x00\x00\x00\x03")  # samples per pixel: 3
    Path("in/odd.tif").write_bytes(data[: place + 8] + b"\x63" + data[place + 9 :])
    assert "in/odd.tif" in pure("in", "out").err
    assert caplog.records == []


def test_strange_files_stop_nothing(pure):
    os.symlink("loop.png", "in/loop.png")
    os.symlink("nowhere", "in/dangling.png")
    os.mkfifo("in/pipe.png")
    Path("in/folder.png").mkdir()
    Path("in/empty.png").touch()
    save("in/two\nlines \U0001f41f.png")
    Image.new("RGB", (8, 8)).save("in/tiny.png")
    Image.new("1", (30_000, 3000)).save("in/bomb.png")
    Path("in/eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    intact = Path("in/a.png").read_bytes()
    Path("in/crc.png").write_bytes(intact[:29] + bytes([intact[29] ^ 1]) + intact[30:])
    outcome = pure("in", "out", "--json")
    assert outcome.status == 1
    assert sorted(json.loads(outcome.out)["failed"]) == [
        "bomb.png", "broken.jpg", "crc.png", "dangling.png", "empty.png", "eps.png", "loop.png", "pipe.png", "tiny.png"
    ]  # fmt: skip
    assert sorted(results("out")) == sorted([*NAMES, "two\nlines \U0001f41f.png"])
    assert outcome.err.count("\n") == 9


def test_any_failure_of_a_picture_is_written_down(pure, monkeypatch):
    from pure_jax.infer.folders import run

    def strange(data: bytes, name: str, **_: object) -> None:
        raise ZeroDivisionError("a strange file")

    pure("in/a.png", "out/")
    monkeypatch.setattr(run, "decode", strange)
    outcome = pure("in/a.jpg", "in/a.png", "out")
    assert outcome.status == 1 and outcome.err == "pure: 'in/a.jpg': a strange file (ZeroDivisionError)\n"


def test_captions_are_each_pictures_own(pure):
    Path("captions.jsonl").write_text('{"image_path": "a.png", "long_caption": "A cat."}\n')
    outcome = pure("in/a.png", "in/sub", "out", "--captions", "captions.jsonl")
    assert outcome.status == 1  # the toy knows no text, and three pictures have no caption
    assert "has no caption for 'glass'" in outcome.err and "text has no meaning" in outcome.err
    Path("captions.jsonl").write_text("no JSON")
    assert pure("in", "other", "--captions", "captions.jsonl").status == 2 and not Path("other").exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_thousand_pictures_need_no_more_memory_than_two_hundred(pure):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").exists():
        pytest.skip("reads this process's memory from /proc")
    for name in ("in/a.jpg", "in/a.png", "in/sub/glass.webp", "in/sub/grey.tif", "in/sub/palette.gif"):
        content = Path(name).read_bytes()
        for i in range(200):
            path = Path(f"many{i // 40}", f"{Path(name).stem}{i}{Path(name).suffix}")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content[: len(content) // 3] if i % 20 == 0 else content)
    assert "190 restored, 0 done already, 10 failed" in pure("many0", "out").out
    before = resident()
    outcome = pure("many1", "many2", "many3", "many4", "out", "--json")
    found = json.loads(outcome.out)
    assert (found["restored"], found["skipped"], len(found["failed"])) == (760, 0, 40)
    assert len(list(Path("out").rglob("*.png"))) == 950 and len(records("out")) == 1000
    assert resident() - before < 64 << 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_whole_results_and_books_in_order(pure, monkeypatch, number):
    append = books._append
    # Where the tests run in the background, SIGINT is ignored from the beginning.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt_at_the_third(file: Path, record: dict[str, Any]) -> None:
        append(file, record)
        if len(list(Path("out").rglob("*.png"))) == 2:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(books, "_append", interrupt_at_the_third)
        try:
            outcome = pure("in", "out")
        finally:
            signal.signal(signal.SIGINT, former)
    assert outcome.status == 128 + number
    assert "out holds what was restored until then; the same command goes on" in outcome.err
    assert sorted(results("out")) == NAMES[:2]
    pure("in", "out")
    pure("in", "whole")
    assert results("out") == results("whole") and files("out")["manifest.jsonl"] == files("whole")["manifest.jsonl"]


def test_a_digest_of_a_model_sees_every_file_but_its_card(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"1")
    first = directory_sha256(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert directory_sha256(tmp_path) == first
    (tmp_path / "sub" / "w.bin").rename(tmp_path / "w.bin")
    moved = directory_sha256(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"2")
    assert len({first, moved, directory_sha256(tmp_path)}) == 3


def test_a_link_in_place_of_a_result_never_leads_to_an_original(pure):
    before = files("in")
    Path("out").mkdir()
    os.symlink("../in/a.png", "out/a.png.png")
    assert pure("in", "out", "--overwrite").status == 1
    assert files("in") == before and not Path("out/a.png.png").is_symlink()


def test_the_books_refuse_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PureError, match="cannot be written"), open_books(tmp_path / "file" / "out", None):
        pass
