"""What gets installed: everything once, under the one name pure_jax, whatever else a user calls his own files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("convert", "infer", "train")
USE = """
import train, infer, convert
import pure_jax
from pure_jax.train import loop
from pure_jax.infer import restore
from pure_jax.convert import opening
assert train.MINE and infer.MINE and convert.MINE
assert pure_jax.Restorer is restore.Restorer and pure_jax.load is opening.load
print(pure_jax.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's files, so that building leaves nothing here."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("needs a git checkout to tell the project's files from others")
    copy = tmp_path_factory.mktemp("checkout")
    for name in listed.stdout.splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():  # else it is deleted, but not yet committed
            shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def wheel_of(source: Path, out: Path) -> zipfile.ZipFile:
    """The wheel that pip builds from a directory."""
    options = ["--no-deps", "--no-build-isolation", "--quiet"]
    run("-m", "pip", "wheel", *options, "--wheel-dir", out, source, cwd=source)
    [wheel] = out.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("setuptools")
    return wheel_of(checkout, tmp_path_factory.mktemp("wheel"))


def expected(checkout: Path) -> list[str]:
    """Every module and asset of the checkout by its name in the wheel."""
    files = [file for name in ("pure_jax", *FOLDERS) for file in (checkout / name).rglob("*.py")]
    files += [file for file in (checkout / "pure_jax" / "assets").rglob("*") if file.is_file()]
    names = [file.relative_to(checkout) for file in files]
    return sorted(str(name if name.parts[0] == "pure_jax" else Path("pure_jax", name)) for name in names)


def content(wheel: zipfile.ZipFile) -> list[str]:
    return sorted(name for name in wheel.namelist() if ".dist-info/" not in name)


@pytest.mark.slow
def test_the_wheel_holds_every_file_once_under_one_name(checkout, wheel):
    names = wheel.namelist()
    assert content(wheel) == expected(checkout)
    assert "pure_jax/train/loop.py" in names and "pure_jax/assets/demo/config.json" in names
    assert max(Counter(names).values()) == 1


@pytest.mark.slow
def test_the_source_archive_makes_the_same_wheel(checkout, tmp_path):
    pytest.importorskip("setuptools")
    program = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    run("-c", program, tmp_path, cwd=checkout)
    [archive] = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    (tmp_path / "wheel").mkdir()
    assert content(wheel_of(unpacked, tmp_path / "wheel")) == expected(checkout)


@pytest.mark.parametrize("installed", ["checkout", pytest.param("wheel", marks=pytest.mark.slow)])
def test_a_users_own_files_of_the_same_names_do_no_harm(installed, tmp_path, request):
    script = tmp_path / "script"
    script.mkdir()
    for name in FOLDERS:
        (script / f"{name}.py").write_text("MINE = True\n")
    place = ROOT
    if installed == "wheel":
        place = tmp_path / "site"
        request.getfixturevalue("wheel").extractall(place)
    # The script's directory comes first, as it does for `python script.py`; an installation comes behind.
    (script / "use.py").write_text(f"import sys\nsys.path.insert(1, {str(place)!r})\n{USE}")
    assert run("use.py", cwd=script).strip() == str(place / "pure_jax" / "__init__.py")


@pytest.mark.slow
def test_the_containers_recipe_names_extras_that_there_are_and_copies_what_is_installed(checkout, tmp_path):
    pytest.importorskip("setuptools")
    recipe = (checkout / "Dockerfile").read_text()
    extras = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [always] = re.findall(r"/src\[([a-z,]+)\$", recipe)
    chosen = re.findall(r"EXTRA=([a-z]+)", recipe)
    assert len(chosen) == 2 and {*always.split(","), *chosen} <= extras.keys()
    kept = [line[1:] for line in (checkout / ".dockerignore").read_text().splitlines() if line.startswith("!")]

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) == checkout and name not in kept]

    shutil.copytree(checkout, tmp_path / "src", symlinks=True, ignore=left_out)
    (tmp_path / "wheel").mkdir()
    assert content(wheel_of(tmp_path / "src", tmp_path / "wheel")) == expected(checkout)


def test_python_m_train_is_pure_train():
    usages = [run("-m", *names, "--help", cwd=ROOT) for names in (["train"], ["pure_jax", "train"])]
    assert usages[0] == usages[1] and usages[0].startswith("usage: pure train")
