"""Imports run one way: between rooms by import-linter's contract (pyproject), inside rooms by a walk over the code."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]


def modules(root: Path, prefix: str = "") -> dict[str, Path]:
    """Every module below a folder by its dotted name; a package goes by its own name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        name = ".".join([prefix, *parts] if prefix else parts).removesuffix(".__init__")
        found[name] = path
    return found


def imports(tree: ast.AST, known: dict[str, Path]) -> set[str]:
    """What a module imports of `known`, lazily or not; what only a type checker reads does not count."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                found |= imports(other, known)
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        found |= imports(node, known)
    return found & known.keys()


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach one another (Tarjan's strongly connected components of two or more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part: list[str] = []
            while not part or part[-1] != node:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def graph_of(known: dict[str, Path]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = defaultdict(set)
    for name, path in known.items():
        graph[name] = imports(ast.parse(path.read_text(encoding="utf-8")), known) - {name}
    return graph


def test_no_module_imports_its_importers_not_even_lazily() -> None:
    known = modules(ROOT / "lcx", "lcx")
    for plugin in ("lcx_in2", "lcx_logo", "lcx_longreward"):
        known |= modules(ROOT / "plugins" / plugin, plugin)
    assert circles(graph_of(known)) == []


def test_the_contract_names_every_module() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [contract] = told["contracts"]
    layers = re.findall(r"[\w.]+", " ".join(contract["layers"]))
    rooms = {".".join(name.split(".")[:2]) for name in modules(ROOT / "lcx", "lcx")} - {"lcx"}
    assert rooms - set(layers) == set(), "a room outside the contract is checked by nobody"
    assert "ignore_imports" not in contract
    assert told["exclude_type_checking_imports"]


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from b import g\n")
    (tmp_path / "b.py").write_text("import c\n")
    (tmp_path / "c.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import d\nimport a\n"
    )
    (tmp_path / "d.py").write_text("import c\n")
    assert circles(graph_of(modules(tmp_path))) == [["a", "b", "c"]]


def defined_twice(path: Path) -> list[str]:
    """Functions, classes and constants that a module defines twice at its top: the second hides the first."""
    seen: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            seen.append(node.name)
        elif isinstance(node, ast.Assign):
            seen += [
                one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)
            ]
    return sorted({name for name in seen if seen.count(name) > 1})


def test_no_module_defines_a_name_twice(tmp_path: Path) -> None:
    known = [*(ROOT / "lcx").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    assert {str(path): names for path in known if (names := defined_twice(path))} == {}
    (tmp_path / "a.py").write_text("_A = 1\n_B, _A = 2, 3\n")
    assert defined_twice(tmp_path / "a.py") == ["_A"]
