"""The tree of errors: one code per check, each raised somewhere, each telling what to do."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import fuseline
from fuseline import errors
from fuseline.errors import FuselineError

PACKAGE = Path(fuseline.__file__).parent


def descendants(kind: type[FuselineError]) -> Iterator[type[FuselineError]]:
    for below in kind.__subclasses__():
        yield below
        yield from descendants(below)


ALL: list[type[FuselineError]] = [FuselineError, *descendants(FuselineError)]
FAMILIES = FuselineError.__subclasses__()


@functools.cache
def raised_names() -> frozenset[str]:
    """Return every name that is called in the package, or handed to a call that may raise it."""
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node.func) not in {"isinstance", "issubclass"}:
                handed = [*node.args, *(keyword.value for keyword in node.keywords)]
                names |= {_name(part) for part in [node.func, *handed]}
    return frozenset(names)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_each_code_stands_for_one_check() -> None:
    counted = Counter(kind.code for kind in ALL)
    assert {code: number for code, number in counted.items() if number > 1} == {}
    assert all("code" in vars(kind) for kind in ALL), "a code is never inherited"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_explains_itself(kind: type[FuselineError]) -> None:
    assert re.fullmatch(r"E_[A-Z0-9]+(_[A-Z0-9]+)*", kind.code)
    assert kind.__doc__
    assert kind.__doc__.split("\n", maxsplit=1)[0].endswith(".")
    assert len(kind.hint) > 10
    assert kind.hint.endswith(".")


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_tells_its_evidence_to_people_and_machines(kind: type[FuselineError]) -> None:
    error = kind("what was found", device="dev-1", counter=7)
    assert str(error) == "what was found"
    text = error.diagnostics()
    assert text.startswith(f"{kind.code}: what was found\n")
    assert "\n  device: dev-1\n  counter: 7\n" in text
    assert text.endswith(f"next: {kind.hint}")
    assert error.as_dict() == {
        "code": kind.code,
        "message": "what was found",
        "evidence": {"device": "dev-1", "counter": 7},
        "hint": kind.hint,
    }


@pytest.mark.parametrize(
    "kind",
    [kind for kind in ALL if kind not in {FuselineError, *FAMILIES}],
    ids=lambda kind: kind.__name__,
)
def test_an_error_is_raised_somewhere(kind: type[FuselineError]) -> None:
    assert kind.__name__ in raised_names()


def test_the_tree_is_the_one_in_the_docstring() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted(family.__name__ for family in FAMILIES)
    assert all(family.__base__ is FuselineError for family in FAMILIES)
    defined = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined == set(ALL), "errors are defined in one place"
