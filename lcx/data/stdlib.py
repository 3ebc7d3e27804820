"""The running interpreter's standard library as texts: documentation and code, and a closed world of records.

The corpus `stdlib` is documentation as text and functions as code. The *catalogue* (`stdlib:records`) is the small
world that the `tiny` model lives in. An *entity* is one public top-level function or class whose name occurs once. A
*record* is one line of text about it, `* {name} {module} {word} x 9`: the value (the module) follows its key (the name)
directly, then come the first words of the docstring. A *deal* gives every entity a module at random, so the module in
a record has to be read there and cannot be remembered from elsewhere. Nothing here imports torch and nothing is cached
on disk; which entities there are depends on the interpreter only, never on a seed.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
import sys
import sysconfig
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lcx.errors import MissingError
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


MARKER = "*"
"""First word of every record line."""
STALE_MARKER = "~"
"""First word of a stale line: it looks like a record, and what it says holds no longer."""
STALE_LINES = 24
"""Stale lines of a document of 64, unless asked otherwise: three in five of the other lines have a stale double."""
WORDS_PER_RECORD = 9
"""Docstring words in a full record; a full record line has 3 + 9 = 12 words."""
MAX_MODULES = 64
MAX_DOC_WORDS = 500
"""Distinct docstring words in the whole catalogue; with 256 names and 64 modules the vocabulary stays under
900."""
MIN_ENTITIES = 64
"""Fewer than this and a context of distinct keys cannot be filled: the interpreter ships no sources."""

_NO_WORLD = frozenset(
    {"test", "tests", "idlelib", "site-packages", "dist-packages", "lib2to3", "turtledemo", "ensurepip"}
)
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class Entity:
    """One public function or class: `name` (unique), the `module` that defines it, its first docstring
    words."""

    name: str
    module: str
    words: tuple[str, ...]


def load_entities(
    limit: int = 256, *, max_modules: int = MAX_MODULES, root: Path | None = None
) -> list[Entity]:
    """Return up to `limit` entities over at most `max_modules` modules, always the same for one interpreter.

    `root` is a folder of Python sources, by default the running interpreter's standard library. Entities are
    taken in turn from the modules that have most of them, so that no module dominates. The first call parses
    the library (2-3 s); later calls in the process are free. Raises MissingError where there are no sources.
    """
    folder = Path(root) if root is not None else Path(sysconfig.get_paths()["stdlib"])
    found = _load(folder.resolve(), limit, max_modules)
    if not found or (root is None and len(found) < min(limit, MIN_ENTITIES)):
        raise MissingError(
            f"only {len(found)} documented functions in {folder}",
            why="The catalogue is made from the standard library's .py files.",
            hint="Use a Python installation that keeps its sources.",
        )
    return list(found)


def vocabulary(entities: Sequence[Entity]) -> list[str]:
    """All distinct words of the records and of every deal of `entities`, sorted, without the marker."""
    words: set[str] = set()
    for entity in entities:
        words.update((entity.name, entity.module), entity.words)
    return sorted(words)


def deal(entities: Sequence[Entity], seed: int | str) -> dict[str, str]:
    """Give every entity a module drawn at random from all modules present: name -> module.

    Draws are independent, so several entities of one context may hold the same module.
    """
    modules = sorted({entity.module for entity in entities})
    rng = random.Random(f"lcx.catalogue.deal:{seed}")
    return {entity.name: rng.choice(modules) for entity in entities}


def record_text(entity: Entity, module: str, words: int = WORDS_PER_RECORD, *, marker: str = MARKER) -> str:
    """The record line of `entity` under a deal that gave it `module`, with its first `words` docstring
    words."""
    return " ".join((marker, entity.name, module, *entity.words[:words]))


def catalogue_documents(
    n: int, seed: int, *, entities: Sequence[Entity] | None = None, records: int = 64
) -> Iterator[dict[str, Any]]:
    """Yield `n` documents of `records` lines, each with its own choice of entities and its own deal of
    modules.

    A document is `{"id", "text", "meta"}`; `text` is its record lines joined by a newline, and `meta["keys"]`
    and `meta["values"]` name the entity and the module of each line, in order.
    """
    pool = list(entities) if entities is not None else load_entities()
    if not 0 < records <= len(pool):
        raise ValueError(f"a catalogue needs 1 to {len(pool)} records of distinct entities, not {records}")
    for number in range(n):
        rng = random.Random(f"lcx.catalogue.document:{seed}:{number}")
        chosen = rng.sample(pool, records)
        modules = deal(pool, f"{seed}:{number}")
        values = [modules[entity.name] for entity in chosen]
        lines = [record_text(entity, value) for entity, value in zip(chosen, values, strict=True)]
        yield {
            "id": f"catalogue-{seed}-{number:04d}",
            "text": "\n".join(lines),
            "meta": {"kind": "catalogue", "seed": seed, "keys": [e.name for e in chosen], "values": values},
        }


def stale_documents(
    n: int,
    seed: int,
    *,
    entities: Sequence[Entity] | None = None,
    records: int = 64,
    stale: int = STALE_LINES,
) -> Iterator[dict[str, Any]]:
    """Yield `n` documents of `records` lines in random order, `stale` of which are decoys.

    A stale line begins with STALE_MARKER, and has the name and the words of a record of the same document but
    another module. Documents are as those of `catalogue_documents`; `meta["stale"]` has the numbers of the stale
    lines.
    """
    pool = list(entities) if entities is not None else load_entities()
    facts = records - stale
    if not 0 <= stale <= facts <= len(pool):
        raise ValueError(
            f"{stale} stale lines of {records} need as many records of distinct entities beside them"
        )
    all_modules = sorted({entity.module for entity in pool})
    for number in range(n):
        rng = random.Random(f"lcx.catalogue.stale:{seed}:{number}")
        chosen = rng.sample(pool, facts)
        modules = deal(pool, f"stale:{seed}:{number}")
        lines = [(MARKER, entity, modules[entity.name]) for entity in chosen]
        for entity in chosen[:stale]:
            others = [module for module in all_modules if module != modules[entity.name]]
            lines.append((STALE_MARKER, entity, rng.choice(others)))
        rng.shuffle(lines)
        yield {
            "id": f"stale-{seed}-{number:04d}",
            "text": "\n".join(record_text(entity, value, marker=marker) for marker, entity, value in lines),
            "meta": {
                "kind": "catalogue",
                "seed": seed,
                "keys": [entity.name for _, entity, _ in lines],
                "values": [value for _, _, value in lines],
                "stale": [place for place, (marker, _, _) in enumerate(lines) if marker == STALE_MARKER],
            },
        }


@lru_cache(maxsize=4)
def _load(root: Path, limit: int, max_modules: int) -> tuple[Entity, ...]:
    definitions = [found for path in _sources(root) for found in _definitions(path, _module_name(path, root))]
    names = Counter(name for name, _, _ in definitions)
    unique = [found for found in definitions if names[found[0]] == 1]
    # Keys and values must never occur as ordinary words: a key in a docstring would be a false match for a reader.
    reserved = {name for name, _, _ in unique} | {module for _, module, _ in unique}
    counts = Counter(word for _, _, words in unique for word in words if word not in reserved)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    known = {word for word, _ in ranked[:MAX_DOC_WORDS]}
    modules = {module for _, module, _ in unique}

    by_module: dict[str, list[Entity]] = defaultdict(list)
    for name, module, words in unique:
        kept = tuple(word for word in words if word in known)[:WORDS_PER_RECORD]
        if len(kept) == WORDS_PER_RECORD and name not in modules:
            by_module[module].append(Entity(name, module, kept))
    largest = sorted(by_module, key=lambda module: (-len(by_module[module]), module))[:max_modules]
    in_turn = zip_longest(*(by_module[module] for module in largest))
    return tuple([entity for turn in in_turn for entity in turn if entity is not None][:limit])


def _sources(root: Path) -> list[Path]:
    """Public modules of `root` and of its direct packages, in a fixed order."""
    paths = [*root.glob("*.py"), *root.glob("*/*.py")]
    relative = sorted(path.relative_to(root).as_posix() for path in paths)
    return [root / name for name in relative if _is_public(name)]


def _is_public(name: str) -> bool:
    parts = name.removesuffix(".py").removesuffix("/__init__").split("/")
    return not any(part in _NO_WORLD or part.startswith(("_", ".")) for part in parts)


def _module_name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix().removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _definitions(path: Path, module: str) -> list[tuple[str, str, list[str]]]:
    """(name, module, lower-case docstring words) of the public top-level definitions of one file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    nodes = [node for node in tree.body if isinstance(node, _DEFINITIONS) and not node.name.startswith("_")]
    return [(node.name, module, _WORD.findall((ast.get_docstring(node) or "").lower())) for node in nodes]
