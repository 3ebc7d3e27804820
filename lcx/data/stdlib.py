"""The running interpreter's standard library as a corpus: documentation as text, functions as code."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from lcx.records import Document

MIN_TEXT = 400
"""Shortest documentation, in characters, that is worth a document."""
MIN_LINES = 6
"""Shortest function, in lines, that is worth a document."""
FIRST_FUNCTIONS = 3

_SKIPPED = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__"}
)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def stdlib_documents(root: Path | None = None) -> Iterator[Document]:
    """Documentation (kind text) and function sources (kind code) by turns, always in the same order.

    Modules come in the order of a hash of their names, so that the first N documents are a sample of the
    whole library. `root` is a folder of Python sources, by default the running interpreter's.
    """
    folder = Path(root) if root is not None else Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(_modules(folder), key=lambda item: _shuffled(item[0]))
    texts = _texts(modules, topics=root is None)
    codes = _codes(modules)
    streams = [texts, codes]
    while streams:
        for stream in list(streams):
            document = next(stream, None)
            if document is None:
                streams.remove(stream)
            else:
                yield document


def stdlib_fingerprint() -> str:
    """What the stdlib corpus depends on: the interpreter's name and exact version."""
    return f"{sys.implementation.name}-{'.'.join(map(str, sys.version_info[:3]))}"


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        # config-* and the generated _sysconfigdata differ between builds of one version.
        if _SKIPPED.intersection(parts) or parts[0].startswith(("config-", "_sysconfigdata")):
            continue
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _shuffled(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _parse(path: Path) -> tuple[ast.Module, str] | None:
    try:
        source = path.read_text(encoding="utf-8")
        return ast.parse(source), source
    except (OSError, SyntaxError, ValueError):
        return None  # lib2to3-like fixtures and old encodings: not the corpus's business


def _texts(modules: list[tuple[str, Path]], topics: bool) -> Iterator[Document]:
    entries: dict[str, Path | str] = dict(modules)
    if topics:
        try:
            from pydoc_data import topics as pages

            entries.update({f"topics/{name}": text for name, text in pages.topics.items()})
        except ImportError:  # a slimmed interpreter
            pass
    for name in sorted(entries, key=_shuffled):
        entry = entries[name]
        text = entry if isinstance(entry, str) else _documentation(name, entry)
        if len(text) >= MIN_TEXT:
            yield Document(f"stdlib/{name}", text, {"kind": "text", "source": name})


def _documentation(name: str, path: Path) -> str:
    parsed = _parse(path)
    if parsed is None:
        return ""
    parts = []

    def visit(node: ast.AST, title: str) -> None:
        text = ast.get_docstring(node) if isinstance(node, (ast.Module, *_DEFINITIONS)) else None
        if text:
            parts.append(f"{title}\n\n{text.strip()}")
        for child in ast.iter_child_nodes(node):
            if isinstance(child, _DEFINITIONS):
                visit(child, f"{title}.{child.name}")

    visit(parsed[0], name)
    return "\n\n".join(parts)


def _codes(modules: list[tuple[str, Path]]) -> Iterator[Document]:
    seen: set[str] = set()
    # A few functions of every module first, the rest of them in a second round: no module fills the start.
    for turn in (slice(0, FIRST_FUNCTIONS), slice(FIRST_FUNCTIONS, None)):
        for name, path in modules:
            parsed = _parse(path)
            if parsed is None:
                continue
            for title, text in list(_functions(parsed[0], parsed[1], name))[turn]:
                digest = _shuffled(text)
                if digest not in seen:
                    seen.add(digest)
                    yield Document(f"stdlib/{title}()", text, {"kind": "code", "source": name})


def _functions(tree: ast.Module, source: str, name: str) -> Iterator[tuple[str, str]]:
    """(dotted name, dedented source) of every function and method that is long enough."""
    lines = source.split("\n")

    def visit(node: ast.AST, title: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                yield from visit(child, f"{title}.{child.name}")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                end = child.end_lineno or child.lineno
                if end - child.lineno + 1 >= MIN_LINES:
                    text = textwrap.dedent("\n".join(lines[child.lineno - 1 : end]))
                    yield f"{title}.{child.name}", text

    yield from visit(tree, name)
