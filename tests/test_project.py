"""The house keeps its walls: which folder may import which, and what a bare import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# importer -> our other packages that it may import
ARROWS = {
    "pure_jax": set(),
    "convert": {"pure_jax"},
    "infer": {"pure_jax"},
    "train": {"pure_jax", "infer", "convert"},
}
# Slow to import, or of no use to someone who only wants the model library.
HEAVY = ["transformers", "torch", "orbax", "optax", "tyro", "scipy.signal"]


def imports(tree: ast.AST, *, lazy: bool) -> Iterator[tuple[str, int]]:
    """Top-level package and line of each absolute import; with lazy=False not of those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0], node.lineno
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, lazy=lazy)


def wrong_imports(package: str, file: Path) -> list[str]:
    # Two may look outward, and only when they run: the command line, and `load` when it meets a PyTorch model.
    lazy = (package, file.name) not in {("pure_jax", "cli.py"), ("pure_jax", "checkpoint.py")}
    forbidden = set(ARROWS) - ARROWS[package] - {package}
    found = imports(ast.parse(file.read_text(encoding="utf-8")), lazy=lazy)
    return [f"{file.relative_to(ROOT)}:{line} imports {name}" for name, line in found if name in forbidden]


@pytest.mark.parametrize("package", ARROWS)
def test_arrows_between_folders_hold(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    assert [wrong for file in files for wrong in wrong_imports(package, file)] == []


def test_the_scan_of_imports_sees_every_form():
    source = "import a.b, c\nfrom d.e import f\nfrom . import g\nif x:\n    import h\ndef i():\n    from j import k\n"
    tree = ast.parse(source)
    assert [name for name, _ in imports(tree, lazy=True)] == ["a", "c", "d", "h", "j"]
    assert [name for name, _ in imports(tree, lazy=False)] == ["a", "c", "d", "h"]


def test_the_packages_are_exactly_the_four_and_the_tests():
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if tracked.returncode:
        pytest.skip("needs a git checkout to tell the project's files from others")
    assert {Path(line).parts[0] for line in tracked.stdout.splitlines()} == {*ARROWS, "tests"}
    for package in ARROWS:
        assert (ROOT / package / "__init__.py").is_file()


def test_every_package_folder_is_installed():
    # A folder of modules without __init__.py would be left out of the wheel without a word.
    for package in ARROWS:
        folders = {file.parent for file in (ROOT / package).rglob("*.py")}
        assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("module", ["pure_jax", "pure_jax.vocabulary", "pure_jax.sequence"])
def test_importing_the_library_loads_nothing_heavy(module):
    program = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_the_command_line_starts_without_heavy_libraries_of_its_subcommands():
    heavy = ["transformers", "torch", "orbax"]
    program = f"import sys, pure_jax.cli; print(*[name for name in {heavy!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_the_extras_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]) >= {"cuda", "tpu", "train", "convert", "eval", "dev"}
    assert project["scripts"] == {"pure": "pure_jax.cli:main"}
    core = " ".join(project["dependencies"])
    assert "torch" not in core  # torch serves the converter, the evaluation and the tests only
