"""What `--help` says: every option of every command has a text, positionals have names, None is no word to type."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

import pure_jax
from pure_jax.__main__ import COMMANDS, main


def classes_in(hint: Any) -> list[Any]:
    """The dataclasses that a field holds: their fields are options in its place."""
    return [hint] if is_dataclass(hint) else [cls for part in get_args(hint) for cls in classes_in(part)]


def documented_by(cls: Any) -> set[str]:
    """Fields that a string follows in the class's own text."""
    [body] = [node.body for node in ast.parse(textwrap.dedent(inspect.getsource(cls))).body]  # type: ignore[attr-defined]
    return {
        field.target.id  # type: ignore[attr-defined]
        for field, after in zip(body, body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }


def without_text(cls: Any) -> Iterator[str]:
    """Fields of a command, its bases', and those of the dataclasses in it, that no string follows."""
    documented = {name for base in cls.__mro__ if is_dataclass(base) for name in documented_by(base)}
    hints = get_type_hints(cls)
    for field in fields(cls):
        inner = classes_in(hints[field.name])
        for other in inner:
            yield from without_text(other)
        if not inner and field.name not in documented:
            yield f"{cls.__name__}.{field.name}"


def test_fields_without_a_text_are_found():
    @dataclass
    class Inner:
        a: int
        """Said."""
        b: int = 3

    @dataclass
    class Outer:
        c: str
        inner: Inner | None = None

    Outer.__annotations__["inner"] = Inner | None  # by name it could not be looked up from here
    assert list(without_text(Outer)) == ["Outer.c", "Inner.b"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_text(name):
    assert list(without_text(COMMANDS[name])) == []


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("restore", "IN [IN ...] [OUT]"),
        ("evaluate", "DIR"),
        ("degrade", "SRC DST"),
        ("tokenize", "PHOTOS RECORDS"),
        ("convert", "SRC DST"),
        ("quantize", "SRC DST"),
        ("compare", "A B"),
    ],
)
def test_positionals_have_names(capsys, command, names):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert capsys.readouterr().out.splitlines()[0].endswith(f"OPTIONS] {names}")


@pytest.mark.parametrize("option", ["--colour-fix", "--temperature", "--overlap"])
def test_none_is_not_a_value(capsys, option):
    with pytest.raises(SystemExit) as end:
        main(["restore", "photo.png", "--colour-fix", "none", option, "None"])
    said = capsys.readouterr()
    assert end.value.code == 2 and option in said.err


def test_the_version_is_the_packages(capsys):
    main(["--version"])
    assert capsys.readouterr() == (f"pure-jax {pure_jax.__version__}\n", "")
