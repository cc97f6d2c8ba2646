"""The `pure` command: what it writes and prints, and that a mistake ends in one sentence and leaves nothing behind."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pytest
from PIL import Image

import pure_jax
import pure_jax.infer.decoding.rows
import pure_jax.infer.metrics.perceptual
import pure_jax.infer.pure
from pure_jax.__main__ import COMMANDS, main
from pure_jax.infer.evaluate import METHODS
from tests.models import tiny_model

SAMPLE = (16, 20)  # (width, height): at scale 1 one tile of the tiny model


STAGES = ["load", "encode", "compile", "restore", "decode", "blend", "write"]
STAGE = re.compile(rf"pure: ({'|'.join(STAGES)})( [0-9]+ % of [0-9,]+)?( after [0-9:]+(, about [0-9:]+ left)?)?\n")


class Outcome(NamedTuple):
    status: int
    out: str
    err: str
    """Without the lines that tell how far the work is."""
    stages: list[str] = []


def observed(status: int | None, out: str, err: str) -> Outcome:
    return Outcome(status or 0, out, STAGE.sub("", err), [match[1] for match in STAGE.finditer(err)])


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model(num_layers=1, max_text_tokens=32)
    directory = tmp_path_factory.mktemp("models") / "tiny"
    pure_jax.save(directory, model.config, model.params, model.tokenizer.to_str(), "A random model for tests.\n")
    return directory


@pytest.fixture(scope="session")
def load_once() -> Callable[..., pure_jax.Model]:
    """A model that is loaded again is compiled again; the calls in this process share one."""
    return cache(pure_jax.load)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with photos in it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pixels = rng.integers(40, 210, (SAMPLE[1], SAMPLE[0], 4), dtype=np.uint8)
    Image.fromarray(pixels[..., :3]).save("photo.png")
    Image.fromarray(pixels).save("glass.png")
    return tmp_path


@pytest.fixture
def pure(folder, model_directory, load_once, monkeypatch, capsys) -> Callable[..., Outcome]:
    """Runs `pure restore ... --model the-tiny-model --scale 1` in this process, one tile at a time."""
    monkeypatch.setattr(pure_jax, "load", load_once)
    monkeypatch.setattr(pure_jax.infer.pure, "VQGAN_BATCH", 1)

    def run(*arguments: object) -> Outcome:
        defaults = {"--model": model_directory, "--scale": 1, "--batch": 1}
        more = [part for pair in defaults.items() if pair[0] not in arguments for part in pair]
        more.append("--unchecked")  # the tiny model's pictures have nothing to do with the photo
        monkeypatch.setattr(sys, "argv", ["pure", "restore", *map(str, [*arguments, *more])])
        try:
            main()
        except SystemExit as end:
            return observed(end.code, *capsys.readouterr())
        return observed(0, *capsys.readouterr())

    return run


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def assert_refused(outcome: Outcome, complaint: str) -> None:
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith("pure: error: ")
    assert outcome.err.count("\n") == 1 and outcome.err.endswith("\n")
    assert complaint in outcome.err


# ---- what it does --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")]
)
def test_the_suffix_chooses_the_format(pure, folder, name, format):
    outcome = pure("photo.png", name, "--scale", 1.5)
    assert (outcome.status, outcome.err) == (0, "")
    with Image.open(name) as image:
        assert (image.format, image.mode, image.size) == (format, "RGB", (24, 30))
    assert sorted(os.listdir()) == sorted(["glass.png", "photo.png", name])


def test_every_stage_is_named_where_there_is_no_terminal(pure):
    stages = pure("photo.png", "out.png").stages
    assert list(dict.fromkeys(stages)) == STAGES  # a slow one more than once


def test_the_reading_is_printed(pure):
    outcome = pure("photo.png", "out.png", "--text", "Large blur, small noise. A cat.")
    remark, degradation, description, written = outcome.out.splitlines()
    assert remark == "note: the model did not open a picture itself in 1 of 1 tiles; it was forced"
    assert degradation == "the model reads: large blur, small noise"
    assert description.startswith("the model says: A cat.")
    assert written == "out.png: 16x20"


def test_the_output_lies_beside_the_input_by_default(pure, folder):
    (folder / "album").mkdir()
    shutil.copy("photo.png", "album/my.photo.jpg")  # the content counts, not the name
    outcome = pure("album/my.photo.jpg")
    assert outcome.status == 0
    assert sorted(os.listdir("album")) == ["my.photo-restored.png", "my.photo.jpg"]
    assert "the model reads: no degradation" in outcome.out


def test_the_entropy_map_is_a_png_of_the_results_size(pure):
    assert pure("photo.png", "out.webp", "--entropy-map", "map.png", "--scale", 1.5).status == 0
    with Image.open("map.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (24, 30))
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 1  # the codes differ in their entropy


def test_the_seed_decides_the_file(pure):
    for name, seed in (("a.png", 5), ("b.png", 5), ("c.png", 6)):
        assert pure("photo.png", name, "--seed", seed).status == 0
    a, b, c = (Path(name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c


def test_transparency_and_orientation_reach_the_file(pure):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open("glass.png").save("turned.png", exif=exif)
    assert pure("turned.png", "out.png").status == 0
    with Image.open("out.png") as image:
        assert (image.mode, image.size) == ("RGBA", SAMPLE[::-1])


def test_existing_outputs_are_replaced_whole_where_that_is_wanted(pure):
    for name in ("out.png", "map.png"):
        Path(name).write_bytes(b"old")
    assert pure("photo.png", "out.png", "--entropy-map", "map.png", "--overwrite").status == 0
    for name in ("out.png", "map.png"):
        Image.open(name).load()


def test_the_model_restores_transparency_when_asked(pure):
    for name, way in (("a.png", "bicubic"), ("b.png", "model")):
        assert pure("glass.png", name, "--alpha", way).status == 0
    source, bicubic, model = (np.asarray(Image.open(name)) for name in ("glass.png", "a.png", "b.png"))
    assert (bicubic[..., 3] == source[..., 3]).all() and (model[..., 3] != source[..., 3]).any()  # at scale 1
    assert (bicubic[..., :3] == model[..., :3]).all()


def test_a_text_that_names_control_tokens_stays_text(pure):
    outcome = pure("photo.png", "out.png", "--text", "<eoss> IMGIMGAZ")
    assert outcome.status == 0
    # Spelled out in letters the name comes back; the token of that name would have been left out.
    assert "the model says: <eoss> IMGIMGAZ" in outcome.out


def test_json_is_one_object_and_nothing_else(pure):
    outcome = pure("photo.png", "out.webp", "--text", "Large blur, small noise. A cat.", "--scale", 1.5, "--json")
    found = json.loads(outcome.out)
    assert found.pop("description").startswith("A cat.")
    assert found.pop("remarks") == ["the model did not open a picture itself in 1 of 1 tiles; it was forced"]
    assert found == {
        "input": "photo.png",
        "output": "out.webp",
        "entropy_map": None,
        "width": 24,
        "height": 30,
        "scale": 1.5,
        "seed": 0,
        "degradation": {"blur": "large", "noise": "small"},
    }


@pytest.mark.parametrize("json_too", [False, True])
def test_quiet_prints_nothing_but_what_json_asks_for(pure, json_too):
    status, out, err, stages = pure("photo.png", "out.png", "--quiet", *["--json"] * json_too)
    assert (status, err, stages) == (0, "", [])
    assert json.loads(out)["output"] == "out.png" if json_too else out == ""


def test_the_pictures_of_a_folder_share_model_and_programs(pure, folder):
    import jax
    import jax.monitoring

    compiled: list[str] = []

    def heard(event: str, duration: float, **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    rng = np.random.default_rng(1)
    Path("in").mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png"):
        Image.fromarray(rng.integers(40, 210, (SAMPLE[1], SAMPLE[0], 3), dtype=np.uint8)).save(f"in/{name}")
    assert pure("in/a.png", "first/").status == 0  # whatever other tests have compiled
    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        outcome = pure("in", "out")
        assert outcome.status == 0 and outcome.stages.count("load") == 1 and compiled == []
        jax.jit(lambda x: x + 1)(np.float32(1))
        assert compiled != []  # the listener hears
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    assert Path("out/a.png").read_bytes() == Path("first/a.png").read_bytes()


# ---- bad pictures --------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A one-bit PNG file that claims a size, with next to no pixels in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def truncated_jpeg() -> bytes:
    Image.open("photo.png").resize((64, 64)).save("whole.jpg")
    content = Path("whole.jpg").read_bytes()
    Path("whole.jpg").unlink()
    return content[: len(content) * 2 // 3]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.png", lambda: b"", "'empty.png' is empty"),
        ("letter.png", lambda: b"Dear photograph,\nhow are you?\n", "'letter.png' is not a readable picture"),
        ("cut.jpg", truncated_jpeg, "'cut.jpg' is damaged or incomplete"),
        ("huge.png", lambda: png_header(30_000, 30_000), "'huge.png' has more than 100 million pixels"),
        ("small.png", lambda: png_header(15, 400), "15x400 pixels"),
    ],
)
def test_unusable_pictures_are_refused(pure, folder, name, content, complaint):
    Path(name).write_bytes(content())
    before = contents(folder)
    assert_refused(pure(name, "out.png"), complaint)
    assert contents(folder) == before


def test_a_missing_picture_and_a_directory_are_refused(pure, folder):
    before = contents(folder)
    assert_refused(pure("nowhere.png"), "'nowhere.png' does not exist")
    assert_refused(pure("."), "'.' is a directory")
    assert_refused(pure("/"), "'/' is a directory")
    assert_refused(pure("photo.png/inside.png"), "cannot be read")
    assert contents(folder) == before


# ---- bad outputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["photo.png", "nowhere/out.png"], "the directory of output 'nowhere/out.png' does not exist"),
        (["photo.png", "folder.png"], "output 'folder.png' is a directory"),
        (
            ["photo.png", "out.gif"],
            "'out.gif' needs a name that ends in .png, .jpg, .jpeg, .webp, .avif, .tif or .tiff",
        ),
        (["photo.png", "out"], "'out' needs a name"),
        (["glass.png", "out.jpg"], "'out.jpg' cannot hold transparency"),
        (["photo.png", "out.png", "--entropy-map", "map.jpg"], "'map.jpg' must be a .png file"),
        (["photo.png", "out.png", "--entropy-map", "nowhere/map.png"], "'nowhere/map.png' does not exist"),
        (["photo.png", "out.png", "--entropy-map", "./out.png"], "would replace the photo"),
        (["photo.png", "out.png", "--entropy-map", "photo.png"], "would replace the photo"),
        (["photo.png", "old.png"], "'old.png' exists already; choose another name, or replace it with --overwrite"),
        (["photo.png", "dangling.png"], "'dangling.png' exists already"),
        (["glass.png"], "'glass-restored.png' exists already"),
        (["photo.png", "out.png", "--entropy-map", "old.png"], "'old.png' exists already"),
        (["photo.png", "photo.png", "--overwrite"], "'photo.png' is the input, which would be lost"),
        (["photo.png", "link.png", "--overwrite"], "'link.png' is the input"),
        (["photo.png", "twin.png", "--overwrite"], "'twin.png' is the input"),
        (["photo.png", "out.png", "--entropy-map", "link.png", "--overwrite"], "would replace the photo"),
    ],
)
def test_unusable_outputs_are_refused_before_the_work(pure, folder, monkeypatch, arguments, complaint):
    monkeypatch.setattr(pure_jax, "load", lambda *_, **__: pytest.fail("the model was loaded first"))
    (folder / "folder.png").mkdir()
    for name in ("old.png", "glass-restored.png"):
        Path(name).write_bytes(b"old")
    Path("link.png").symlink_to("photo.png")
    Path("dangling.png").symlink_to("nowhere")
    os.link("photo.png", "twin.png")
    before = contents(folder)
    assert_refused(pure(*arguments), complaint)
    assert contents(folder) == before


def test_a_failure_to_write_leaves_the_old_file(pure, folder, monkeypatch):
    Path("out.png").write_bytes(b"old")
    before = contents(folder)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", read_only)
    outcome = pure("photo.png", "out.png", "--overwrite")
    assert_refused(outcome, "output 'out.png' cannot be written (Read-only file system)")
    assert contents(folder) == before


# ---- bad values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        *[("--temperature", value, "temperature is") for value in (-1, "nan", 11)],
        *[("--k-max", value, "k_max is") for value in (0, -5, "nan", 1e7)],
        *[("--guidance-scale", value, "guidance_scale is") for value in ("nan", -1, "inf", 1e6)],
        *[("--scale", value, "the scale is") for value in (0, -1, "nan", "inf", "-inf", 17, 64, 1e9)],
        *[("--seed", value, "the seed is") for value in (-1, 2**32, 2**64)],
        ("--window", 0, "the window is 0, but it must lie in 2"),
        *[("--batch", value, "the batch is") for value in (0, -1)],
        *[("--overlap", value, "overlap") for value in (-1, 17, 10**6)],
        ("--text", "word " * 50, "more than max_text_tokens (32)"),
        ("--text", "<|image|>", "contains <|image|>"),
    ],
)
def test_values_out_of_range_are_refused(pure, folder, option, value, complaint):
    before = contents(folder)
    assert_refused(pure("photo.png", "out.png", option, value), complaint)
    assert contents(folder) == before


def test_a_result_of_too_many_pixels_is_refused(pure, folder):
    Image.new("L", (1000, 400)).save("wide.png")
    before = contents(folder)
    assert_refused(pure("wide.png", "out.png", "--scale", 16), "16000x6400 pixels, more than 100 million")
    assert contents(folder) == before


@pytest.mark.parametrize(
    "arguments", [["--scale", "abc"], ["--colour-fix", "sepia"], ["--sharpen", "3"], ["--seed", "1.5"]]
)
def test_an_option_that_cannot_be_read_ends_with_status_2(pure, folder, arguments):
    before = contents(folder)
    outcome = pure("photo.png", "out.png", *arguments)
    assert outcome.status == 2
    assert arguments[0] in outcome.err and "Traceback" not in outcome.err
    assert contents(folder) == before


# ---- bad models ----------------------------------------------------------------------------------------------------


def without(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).unlink()


def cut(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:-100])


def configured(**values: object) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | values))

    return change


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (shutil.rmtree, "is not a model directory: there is no such directory"),
        (without("config.json"), "config.json is missing"),
        (without("tokenizer.json"), "tokenizer.json: No such file"),
        (without("vqgan.safetensors"), "vqgan.safetensors is missing"),
        (cut("config.json"), "config.json cannot be read as JSON"),
        (cut("tokenizer.json"), "tokenizer.json is not a tokenizer file"),
        (cut("transformer.safetensors"), "transformer.safetensors is broken"),
        (configured(colour="red"), "unknown field 'colour'"),
        (configured(tile_size=33), "tile_size 33"),
        (configured(colour_fix="sepia"), "'sepia'"),
    ],
)
def test_an_incomplete_model_directory_is_refused(pure, folder, model_directory, damage, complaint):
    shutil.copytree(model_directory, "model")
    damage(Path("model"))
    before = contents(folder)
    assert_refused(pure("photo.png", "out.png", "--model", "model"), complaint)
    assert contents(folder) == before


# ---- interruption --------------------------------------------------------------------------------------------------


def test_an_interruption_ends_with_status_130_and_leaves_nothing(pure, folder, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pure_jax.infer.decoding.rows, "decode_rows", interrupt)
    before = contents(folder)
    assert pure("photo.png", "out.png")[:3] == (130, "", "pure: interrupted; nothing was written\n")
    assert contents(folder) == before


def test_a_reader_of_the_help_that_has_gone_is_no_error(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        main(["restore", "--help"])


@pytest.mark.parametrize(
    ("options", "left"), [([], "nothing was written"), (["--save-images", "out"], "out holds the pictures that were")]
)
def test_an_interrupted_evaluation_says_what_is_there(monkeypatch, capsys, options, left):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["evaluate"], "run", interrupt)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "pairs", *options])
    assert end.value.code == 130 and capsys.readouterr().err.startswith(f"pure: interrupted; {left}")


@pytest.mark.parametrize("place", ["pure_jax.infer.decoding.rows.decode_rows", "os.fsync"])
def test_sigterm_ends_with_status_143_and_leaves_nothing(pure, folder, monkeypatch, place):
    def terminate(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(place, terminate)  # the second place is where the picture is half-written
    Path("out.png").write_bytes(b"old")
    before = contents(folder)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        outcome = pure("photo.png", "out.png", "--overwrite")
        assert outcome[:3] == (143, "", "pure: interrupted; nothing was written\n")
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN  # another one would not have stopped the tidying up
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert contents(folder) == before


def test_a_full_device_behind_the_output_is_one_sentence(pure, folder, monkeypatch):
    with open("/dev/full", "w") as device:
        monkeypatch.setattr(sys, "stdout", device)
        outcome = pure("photo.png", "out.png")
    assert_refused(outcome, "output 'standard output' cannot be written (No space left on device)")
    Image.open("out.png").load()


def test_a_reader_that_has_gone_is_no_error(pure, folder, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:  # which closes without an error only if nothing waits to be written to it
        monkeypatch.setattr(sys, "stdout", pipe)
        outcome = pure("photo.png", "out.png")
    assert (outcome.status, outcome.err) == (0, "")
    Image.open("out.png").load()


# ---- degradation and evaluation ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--csv", "old.csv"], "'old.csv' exists already; choose another name, or replace it with --overwrite"),
        (["--csv", "nowhere/new.csv"], "there is no directory nowhere"),
        (["--csv", "full", "--overwrite"], "'full' is a directory"),
        (["--save-images", "full"], "'full' exists already"),
    ],
)
def test_unusable_outputs_of_an_evaluation_are_refused_before_the_work(
    folder, monkeypatch, capsys, arguments, complaint
):
    monkeypatch.setattr(pure_jax, "load", lambda *_, **__: pytest.fail("the model was loaded first"))
    Path("old.csv").write_text("old")
    (folder / "full").mkdir()
    (folder / "full" / "a.png").write_bytes(b"old")
    before = contents(folder)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", ".", *arguments])
    assert_refused(observed(end.value.code, *capsys.readouterr()), complaint)
    assert contents(folder) == before


@pytest.fixture
def photos(folder) -> str:
    """A folder with one photo and one file that is none."""
    (folder / "photos").mkdir()
    Image.open("photo.png").resize((32, 32)).save("photos/a.png")
    (folder / "photos" / "broken.png").write_text("not a picture")
    return "photos"


def test_degrade_says_in_words_or_json_what_it_made(photos, capsys):
    main(["degrade", photos, "pairs", "--scale", "2"])
    assert capsys.readouterr().out == "pairs: 1 pairs\n"
    main(["degrade", photos, "more", "--scale", "2", "--json"])
    made = {"destination": "more", "pairs": 1, "scale": 2, "seed": 0, "preset": "real-esrgan"}
    assert json.loads(capsys.readouterr().out) == made


def test_quiet_degrade_is_silent_about_photos_that_it_skips(photos, capsys, caplog):
    main(["degrade", photos, "pairs", "--scale", "2"])
    assert "broken.png" in caplog.text and capsys.readouterr().out
    caplog.clear()
    with caplog.at_level(logging.WARNING, "pure_jax"):  # which puts the level back
        main(["degrade", photos, "more", "--scale", "2", "--quiet"])
    assert (caplog.text, *capsys.readouterr()) == ("", "", "")


def test_evaluate_says_in_a_table_or_json_what_it_measured(
    photos, model_directory, load_once, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(pure_jax, "load", lambda source, **precision: load_once(source))
    monkeypatch.setattr(pure_jax.infer.metrics.perceptual, "load_params", lambda: None)
    main(["degrade", photos, "pairs", "--scale", "2", "--quiet"])
    command = ["evaluate", "pairs", "--scale", "2", "--model", str(model_directory)]
    main([*command, "--csv", "rows.csv", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["pairs"], told["images"], told["scale"], told["seed"]) == ("pairs", 1, 2, 0)
    assert [row["method"] for row in told["rows"]] == list(told["means"]) == list(METHODS)
    assert [row["psnr_y"] for row in told["rows"]] == [means["psnr_y"] for means in told["means"].values()]
    assert all(row["niqe"] is None for row in told["rows"]) and told["skipped"] == []
    assert Path("rows.csv").is_file()
    main([*command, "--quiet"])
    assert capsys.readouterr() == ("", "")


# ---- as a program --------------------------------------------------------------------------------------------------


def program(folder: Path, *arguments: object, stdout: int | IO[str] = subprocess.PIPE) -> Outcome:
    command = [sys.executable, "-m", "pure_jax", *map(str, arguments)]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path}
    run = subprocess.run(command, cwd=folder, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True)
    return observed(run.returncode, run.stdout, run.stderr)


def test_the_program_restores_a_photo(folder, model_directory):
    outcome = program(folder, "restore", "photo.png", "--model", model_directory, "--scale", 1)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.splitlines()[-1] == "photo-restored.png: 16x20"
    assert Image.open(folder / "photo-restored.png").size == SAMPLE


def test_a_name_of_bytes_that_are_no_text_is_a_name(folder, model_directory, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "photo.png").rename(folder / name)
    outcome = program(folder, "restore", name, "--model", model_directory, "--scale", 1, "--report", "page.html")
    assert (outcome.status, outcome.err) == (0, "")
    assert (folder / os.fsdecode(b"caf\xe9-restored.png")).is_file()
    assert "caf\\udce9.png" in (folder / "page.html").read_text(encoding="utf-8")


def test_the_program_refuses_a_missing_photo(folder):
    assert_refused(program(folder, "restore", "nowhere.png"), "'nowhere.png' does not exist")


def test_the_program_ends_with_status_2_when_its_output_is_full(folder):
    with open("/dev/full", "w") as device:
        outcome = program(folder, "degrade", ".", "pairs", stdout=device)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "cannot be written (No space left on device)" in outcome.err


def test_the_program_names_its_subcommands(folder):
    outcome = program(folder, "--help")
    assert outcome.status == 0
    assert all(name in outcome.out for name in ("restore", "degrade", "evaluate"))
