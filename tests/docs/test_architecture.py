"""docs/architecture.md is true: its files exist, its rooms are the contract's in the same order, its walks name what is
there.
"""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.docs.test_docs import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PLACE = re.compile(r"`((?:lcx|plugins|tests|benchmarks|recipes|docs)/[\w/.-]*)`")
NAMES = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)?)`")
SAID = re.compile(r"`([\w/]+\.py)`(?:\s*\(([^)]*)\)|:((?:,?\s*`[\w.]+`)+))")
"""A file, and what is said of it: in brackets, or names after a colon."""
WALK = re.compile(r"^\*\*(.+?)\*\*\s*\((\d+)( classes)?\):(.*?)(?=\n\n)", re.M | re.S)


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, f"the page has no section '{title}'"
    return found[1]


def defined(path: Path) -> set[str]:
    """The names that a module defines or imports, at its top or in a function; methods as `Class.method` and alone."""
    return set(_defined(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def _classes() -> set[str]:
    """The names of all classes of the code."""
    files = [path for room in ("lcx", "plugins") for path in (ROOT / room).rglob("*.py")]
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in files)
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _defined(tree: ast.Module) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.append(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
            found += [f"{node.name}.{name}" for name in inner]
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [alias.asname or alias.name for alias in node.names]
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return found


def rooms() -> list[list[str]]:
    """The modules and packages of each line of the contract, from the top to the bottom."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [contract] = settings["contracts"]
    return [[name.strip() for name in line.split("|")] for line in contract["layers"]]


def place_of(module: str) -> str:
    """A room's folder or file, as the page writes it."""
    path = ROOT / ("" if module.startswith("lcx.") else "plugins") / module.replace(".", "/")
    found = path if path.is_dir() else path.with_suffix(".py")
    return str(found.relative_to(ROOT)) + ("/" if found.is_dir() else "")


def test_every_file_of_the_page_exists() -> None:
    places = PLACE.findall(PAGE)
    assert len(places) > 50
    assert [place for place in dict.fromkeys(places) if not (ROOT / place).exists()] == []


def test_the_rooms_are_the_contracts_from_the_top_to_the_bottom() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", section("Rooms"), re.M)
    order = {place: number for number, row in enumerate(rows) for place in PLACE.findall(row)}
    lines = [[place_of(module) for module in line] for line in rooms()]
    assert [place for line in lines for place in line if place not in order] == []
    last = -1
    for line in lines:
        numbers = [order[place] for place in line]
        assert min(numbers) >= last, f"{line} stands above what it may import"
        last = max(numbers)


def test_every_module_of_lcx_has_a_room() -> None:
    named = {place for line in rooms() for place in map(place_of, line)}
    parts = [
        path for path in sorted((ROOT / "lcx").iterdir()) if not path.name.startswith(("__init__", "__py"))
    ]
    places = [f"lcx/{path.name}{'/' if path.is_dir() else ''}" for path in parts]
    assert [place for place in places if place.endswith((".py", "/")) and place not in named] == []


def test_names_that_are_said_of_a_file_are_in_it() -> None:
    seen = 0
    for file, inside, listed in SAID.findall(PAGE):
        names = [name for name in NAMES.findall(inside or listed) if not name.endswith((".py", ".sqlite"))]
        missing = [name for name in names if name not in defined(ROOT / file)]
        assert not missing, f"{file} has no {', '.join(missing)}"
        seen += len(names)
    assert seen >= 12


@pytest.mark.parametrize("walk", WALK.findall(PAGE), ids=lambda walk: walk[0][:30])
def test_a_walk_counts_what_it_lists(walk: tuple[str, str, str, str]) -> None:
    title, number, classes, text = walk
    if classes:
        listed = [name for name in dict.fromkeys(NAMES.findall(text)) if name[0].isupper()]
        assert [name for name in listed if name not in _classes()] == []
    else:
        listed = [place for place in dict.fromkeys(PLACE.findall(text)) if place.endswith(".py")]
    assert len(listed) == int(number), title


def test_there_are_walks() -> None:
    assert len(WALK.findall(PAGE)) >= 3
