"""Trained tiny models that outlive a test session, under a name that changes whenever what makes them does.

A session's LCX_CACHE is empty, so that no test meets another's leavings; a tiny model would be trained anew in every
session and in every worker. `TinyStore` keeps them in pytest's cache folder (or in $LCX_TEST_CACHE) and copies them
into a session's cache: a copy, so that no test can spoil the store. What checks training itself passes a folder of its
own to the curriculum and never comes here.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
MAKER = "load_or_train_base"
"""The function that trains a base into a folder, or finds it there. Its module is looked up: modules move."""
HARMLESS = {"errors", "files", "storage", "quiet", "logs", "paths", "records"}
"""Last names of modules that the training imports and that alter no number of it."""


class TinyStore:
    """Folders of trained models under `place`, one store for each state of the sources."""

    def __init__(self, place: Path) -> None:
        self.folder = place / f"lcx-tiny-{sources_hash()}"

    def ensure(self, name: str, seed: int, cache: Path) -> Path:
        """The folder, in the session's cache, of a model that is trained where the store has none.

        One worker trains while the others wait for it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{name}-{seed}.lock"):
            make = getattr(importlib.import_module(maker_module()), MAKER)
            kept = Path(make(seed, self.folder, name=name))
        place = cache / "tiny" / kept.name
        self._copy(kept, place)
        return place

    @staticmethod
    def _copy(model: Path, place: Path) -> None:
        if not place.is_dir():
            shutil.copytree(model, place)


def maker_module() -> str:
    """The name of the module that defines `MAKER`."""
    found = [path for path in (ROOT / "lcx").rglob("*.py") if f"\ndef {MAKER}(" in path.read_text("utf-8")]
    assert len(found) == 1, f"{MAKER} is defined in {found}"
    return ".".join(found[0].relative_to(ROOT).with_suffix("").parts)


def training_modules() -> list[str]:
    """Every module of lcx whose code can alter a tiny model: what its training imports, directly or not."""
    waiting, found = [maker_module()], set()
    while waiting:
        module = waiting.pop()
        if module in found or module.rsplit(".", 1)[-1] in HARMLESS:
            continue
        found.add(module)
        waiting += imported(ast.parse(source_file(module).read_text("utf-8")))
    return sorted(found)


def sources_hash() -> str:
    """Changes with the code behind the tiny models, comments and docstrings apart, and with the libraries below it."""
    parts = [platform.python_version(), version("torch"), version("transformers"), version("tokenizers")]
    for module in training_modules():
        tree = ast.parse(source_file(module).read_text("utf-8"))
        parts += [module, ast.unparse(without_docstrings(tree))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def source_file(module: str) -> Path:
    """Where a module of lcx lies."""
    place = ROOT.joinpath(*module.split("."))
    return place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of lcx that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "lcx")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lcx":
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in names if source_file(name).is_file()]
            yield from modules or [node.module]


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The module without strings that stand as statements."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
            ] or [ast.Pass()]
    return tree
