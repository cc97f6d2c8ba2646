"""The house keeps its walls: which folder may import which, and what a bare import may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# folder -> the other folders that it may import
ROOMS: dict[str, set[str]] = {
    "pure_jax": set(),
    "convert": {"pure_jax"},
    "infer": {"pure_jax"},
    "train": {"pure_jax", "infer", "convert"},
}
# The face, which hands on names of all rooms when they are asked for, and the composer of the command line.
COMPOSERS = {"pure_jax", "pure_jax.__main__"}
# Slow to import, or of no use to someone who only wants the model library.
HEAVY = ["transformers", "torch", "orbax", "optax", "tyro", "scipy.signal"]
HEAVY_FOR_HELP = ["jax", "flax", "transformers", "torch", "orbax", "optax", "scipy", "PIL", "numpy"]


def name_of(file: Path) -> str:
    """The name that a file of the four folders is imported by: "pure_jax.infer.restore", "pure_jax" for __init__.py."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in ("pure_jax", *parts[parts[0] == "pure_jax" :]) if part != "__init__")


def names_in(source: str) -> Iterator[str]:
    """What a file imports, anywhere in it: inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_in(source: str, modules: Iterable[str]) -> set[str]:
    """Those of `modules` that a file imports; `from a import b` is a.b where that is a module, else a."""
    found = {name if name in modules else name.rpartition(".")[0] for name in names_in(source)}
    return found & set(modules)


FILES = {name_of(file): file for room in ROOMS for file in (ROOT / room).rglob("*.py")}


@cache
def graph() -> dict[str, set[str]]:
    """Which of the project's modules each imports."""
    return {name: modules_in(file.read_text(encoding="utf-8"), FILES) for name, file in FILES.items()}


def room_of(module: str) -> str:
    part = f"{module}.".split(".")[1]
    return part if part in ROOMS else "pure_jax"


def test_arrows_between_folders_hold():
    assert set(map(room_of, FILES)) == set(ROOMS)
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if room_of(other) not in {room_of(name), *ROOMS[room_of(name)]} and name not in COMPOSERS
    ]
    assert wrong == []


def test_nobody_imports_the_composer():
    importers = {name for name, others in graph().items() if "pure_jax.__main__" in others}
    assert importers == {"pure_jax.train.__main__"}  # the same command by another name


def test_no_module_imports_itself_through_others():
    assert circles(graph()) == []


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = set(graph[start])
        while waiting:
            seen |= waiting
            waiting = {after for name in waiting for after in graph[name]} - seen
        return seen

    ahead = {name: reached(name) for name in graph}
    groups = [{name} | {o for o in ahead[name] if name in ahead[o]} for name in graph if name in ahead[name]]
    return [group for i, group in enumerate(groups) if group not in groups[:i]]


def test_the_scan_of_imports_sees_every_form():
    source = "import a.b, c\nfrom d.e import f\nif x:\n    import h\ndef i():\n    from j import k, l\n"
    assert modules_in(source, ["a.b", "c", "d.e", "d", "h", "j", "j.k", "x"]) == {"a.b", "c", "d.e", "h", "j", "j.k"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}) == [{"b", "c"}, {"e"}]


def test_the_packages_are_exactly_the_four_and_the_tests():
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if tracked.returncode:
        pytest.skip("needs a git checkout to tell the project's files from others")
    assert {Path(line).parts[0] for line in tracked.stdout.splitlines()} == {*ROOMS, "tests"}
    for package in ROOMS:
        assert (ROOT / package / "__init__.py").is_file()


def test_every_package_folder_is_installed():
    # A folder of modules without __init__.py would be left out of the wheel without a word.
    for package in ROOMS:
        folders = {file.parent for file in (ROOT / package).rglob("*.py")}
        assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("module", ["pure_jax", "pure_jax.vocabulary", "pure_jax.sequence"])
def test_importing_the_library_loads_nothing_heavy(module):
    program = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_the_command_line_starts_without_the_libraries_of_its_subcommands():
    program = f"import sys, pure_jax.__main__; print(*[name for name in {HEAVY_FOR_HELP!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_the_rooms_are_importable_through_links():
    for room in set(ROOMS) - {"pure_jax"}:
        assert (ROOT / "pure_jax" / room).is_symlink()
        assert (ROOT / "pure_jax" / room).readlink() == Path("..") / room


def test_the_extras_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]) >= {"cuda", "tpu", "train", "convert", "eval", "photos", "dev"}
    assert project["scripts"] == {"pure": "pure_jax.__main__:main"}
    imported = {name.split(".")[0] for file in FILES.values() for name in names_in(file.read_text(encoding="utf-8"))}
    for extra in ("train", "convert", "eval"):
        assert {name.replace("-", "_") for name in project["optional-dependencies"][extra]} <= imported
    core = " ".join(project["dependencies"])
    assert "torch" not in core  # torch serves the converter, the evaluation and the tests only


def test_what_is_installed_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [
        re.split(r"[\[<>=]", name)[0]
        for name in [
            *project["dependencies"],
            *(name for extra in ("convert", "eval", "photos", "train", "serve", "app") for name in extras[extra]),
        ]
    ]
    modules = {{"orbax-checkpoint": "orbax", "pillow": "PIL"}.get(name, name.replace("-", "_")) for name in wanted}
    files = [*FILES.values(), *(ROOT / "tests").rglob("*.py")]
    imported = {name.partition(".")[0] for file in files for name in names_in(file.read_text(encoding="utf-8"))}
    assert modules - imported == set()
    # A new one is to be looked at here.
    assert set(extras) == {"cuda", "tpu", "aot", "train", "convert", "eval", "photos", "serve", "app", "docs", "dev"}


def test_no_file_has_the_marks_of_an_unfinished_merge():
    for folder in ("pure_jax", "convert", "infer", "train", "tests", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md"):
                lines = path.read_text(encoding="utf-8").splitlines()
                assert not [line for line in lines if line.startswith(("<" * 7 + " ", ">" * 7 + " "))], path
