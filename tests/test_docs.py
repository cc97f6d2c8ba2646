"""What the documents show works: their programs run, and so do their commands, in a folder with stand-ins for files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pure_jax
import pure_jax.infer.pure
from pure_jax.__main__ import COMMANDS, main
from pure_jax.infer.command import Restore
from pure_jax.train.command import Train
from tests.models import tiny_model
from tests.sheets import SHEETS
from tests.upstream import write_model

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("docs/*.md"))]
DOCUMENTS += ["convert/README.md"]
PHOTO = (20, 16)  # (width, height)


def blocks(document: str, language: str) -> list[tuple[str, str]]:
    """(heading above, text) of every block of code in a language."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found, heading = [], document
    for title, kind, body in re.findall(r"^#+ ([^\n]*)$|^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        heading = title or heading
        if kind == language:
            found.append((heading, body))
    return found


def commands(block: str) -> list[list[str]]:
    """The words of each command, without comments; && and line ends part them, variables are filled in."""
    variables: dict[str, str] = {}
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&", line.strip("()") if line.startswith("(") else line):
            words = shlex.split(command, comments=True)
            if len(words) == 1 and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                name, _, value = words[0].partition("=")
                variables[f"${name}"] = value
            elif words:
                found.append([variables.get(word, word) for word in words])
    return found


def of(document: str, language: str) -> list[Any]:
    """The blocks as parameters of a test; those that compare with PyTorch take long."""
    slow = pytest.mark.slow
    return [
        pytest.param(body, id=f"{document}: {heading} {i}", marks=slow if "pure compare" in body else ())
        for i, (heading, body) in enumerate(blocks(document, language))
    ]


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the documents speak of, as small as can be."""
    folder = tmp_path_factory.mktemp("stand-ins")
    noise = np.random.default_rng(0).integers(40, 210, (8, 8, 3), np.uint8)
    large = Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC)
    large.resize(PHOTO).save(folder / "photo.jpg")
    (folder / "photos").mkdir()
    rows = []
    for name, split in (("a", "train"), ("b", "val")):
        large.resize((256, 256)).save(folder / "photos" / f"{name}.jpg")
        rows.append(f'{{"file": "{name}.jpg", "caption": "A photo.", "split": "{split}"}}\n')
    (folder / "photos" / "captions.jsonl").write_text("".join(rows))
    for kind, size in (("lq", PHOTO), ("gt", (4 * PHOTO[0], 4 * PHOTO[1]))):
        (folder / "pairs" / kind).mkdir(parents=True)
        large.resize(size).save(folder / "pairs" / kind / "a.png")
    (folder / "pure_jax").symlink_to(ROOT / "pure_jax")  # commands name the sample in it
    write_model(folder / "PURE-7B")
    (folder / "PURE-7B" / "vq_ds8_c2i.pt").rename(folder / "vq_ds8_c2i.pt")
    return folder


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[..., Any]]:
    """`load`, `load_transformer` and `load_vqgan`, with a random model in the place of the embedded one."""
    model = tiny_model(num_layers=1, max_text_tokens=32)
    directory = tmp_path_factory.mktemp("models") / "tiny"
    pure_jax.save(directory, model.config, model.params, model.tokenizer.to_str(), "A random model for tests.\n")

    def stand_in(load: Callable[..., Any]) -> Callable[..., Any]:
        return cache(lambda source=None, *args, **options: load(source or directory, *args, **options))

    return {name: stand_in(getattr(pure_jax, name)) for name in ("load", "load_transformer", "load_vqgan")}


@pytest.fixture
def folder(tmp_path, stand_ins, small_models, monkeypatch) -> Path:
    """The current directory: stand-ins, and small models without being asked."""
    shutil.copytree(stand_ins, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name, load in small_models.items():
        monkeypatch.setattr(pure_jax, name, load, raising=False)
    monkeypatch.setattr(pure_jax.infer.pure, "VQGAN_BATCH", 1)
    return tmp_path


# ---- programs ------------------------------------------------------------------------------------------------------

SETUP, *RECIPES = blocks("docs/recipes.md", "python")


def test_there_are_ten_recipes():
    assert len(RECIPES) == 10


@pytest.mark.parametrize("recipe", [body for _, body in RECIPES], ids=[title for title, _ in RECIPES])
def test_a_recipe_runs(folder, recipe):
    program = SETUP[1] + recipe
    exec(compile(program, "docs/recipes.md", "exec"), {"__name__": "recipe"})


@pytest.mark.parametrize("program", [body for _, body in blocks("docs/decoding.md", "python")])
def test_a_program_about_decoding_runs(folder, program, monkeypatch):
    monkeypatch.setitem(pure_jax.infer.decoding.rules.RULES, "lenient", None)  # what the program puts there goes again
    exec(compile(program, "docs/decoding.md", "exec"), {"__name__": "program"})


def test_the_programs_of_the_readme_run(folder):
    program = "".join(body for _, body in blocks("README.md", "python"))
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    assert Image.open("restored.png").size == (4 * PHOTO[0], 4 * PHOTO[1])


# ---- commands ------------------------------------------------------------------------------------------------------


def extras(requirement: str) -> set[str]:
    """ ".[eval,dev]" -> {"eval", "dev"}"""
    return set(filter(None, requirement.partition("[")[2].rstrip("]").split(",")))


@pytest.mark.parametrize("block", of("README.md", "sh"))
def test_the_commands_of_the_readme_run(folder, monkeypatch, block):
    """Training takes hours: those commands, and what follows them, are only understood."""
    training = any(words[:2] == ["pure", "train"] for words in commands(block))
    for words in commands(block):
        if words[0] == "pure":
            understand(monkeypatch, words) if training else main(words[1:])
            if words[1] == "convert":
                with_small_tiles(folder / words[3])
        elif words[0] in ("mkdir", "cp"):
            subprocess.run(words, check=True)
        else:
            assert words[0] in ("make", "pip")  # see below


def with_small_tiles(directory: Path) -> None:
    """A full tile of the original's is 4,160 tokens, too many for a test; a directory for PyTorch stays as it is."""
    values = json.loads((directory / "config.json").read_text())
    if "tile_size" in values:
        (directory / "config.json").write_text(json.dumps(values | {"tile_size": 32}))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_is_understood(monkeypatch, document):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for _, block in blocks(document, "sh"):
        for words in commands(block):
            if words[0] == "pure":
                understand(monkeypatch, words)
            elif words[0] == "make":
                assert words[1] in targets
            elif words[:2] == ["pip", "install"]:
                assert extras(words[2]) <= known.keys()


def understand(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """Parse a command without doing it."""
    ran = []
    with monkeypatch.context() as patch:
        for command in (*COMMANDS.values(), Train):
            patch.setattr(command, "run", lambda self: ran.append(self))
        main(words[1:])
    assert len(ran) == 1


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_that_a_document_names_are_there(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"pytest ([\w/.]+)", text)
    named += re.findall(r"`((?:pure_jax|tests|infer|train|convert|docs)/[\w/.]+)`", text)
    for name in (name for name in named if "NAME" not in name):  # a place to fill in
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / document).parent / name).exists(), name


def test_nothing_names_a_place_that_a_stranger_does_not_have():
    for document in DOCUMENTS:
        assert re.findall(r"\.\./shared|/tmp/|/home/", (ROOT / document).read_text(encoding="utf-8")) == []


def test_make_demo_works_again_and_again(folder):
    [command] = re.findall(r"^\t\$\(BIN\)/pure (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for _ in range(2):
        main(shlex.split(command.replace("pure_jax/assets/demo/sample.png", "photo.jpg")))
    assert Image.open("demo.png").size == (4 * PHOTO[0], 4 * PHOTO[1])


def test_the_notebook_runs(folder):
    """Its cells one after the other, as a kernel would, on a part of the demo's sample."""
    notebook = json.loads((ROOT / "docs" / "notebooks" / "restore.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        assert cell["cell_type"] == "markdown" or cell["outputs"] == []  # what was shown somewhere else is not kept
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["restored"].image.size == (128, 128)
    assert names["codes"].shape == names["restored"].entropy.shape and np.isfinite(names["logits"]).all()


def test_every_sheet_is_there_shown_and_made_by_options_that_are_understood(monkeypatch):
    shown = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
    files = {file.stem for file in (ROOT / "docs" / "pictures").glob("*.jpg")}
    assert SHEETS.keys() == files == set(re.findall(r"\(pictures/([\w-]+)\.jpg\)", shown))
    asked: list[Restore] = []
    monkeypatch.setattr(Restore, "run", lambda self: asked.append(self))
    for options in (options for sheet in SHEETS.values() for options in sheet):
        main(["restore", "a.png", "b.png", *options.split()])
    assert len(asked) == sum(map(len, SHEETS.values()))
