"""VaL Probing (various long-context): what a model finds at every position of a context, three ways.

`val:document` goes both ways (an inner phrase -> its whole sentence), `val:code` backward (a line -> the function it
stands in) and `val:database` forward (an id -> its label or description). Contexts are made of sentences, functions
and entities of any corpus. A document whose `meta` has `keys` is a list of records, one a line, which hold their key,
a value and more words; `stale` in it are the numbers of lines that are decoys and no facts. Each of the three kinds
of item can be taken from records too, so that a closed world such as the catalogue serves them all.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.task import ProbeOptions, Source, Style, Task
from lcx.evaluation.text_metrics import document_recall, label_or_description, name_found
from lcx.records import Branch, Bundle, Document
from lcx.settings import setting

__all__ = [
    "CODE",
    "DATABASE",
    "DOCUMENT",
    "Item",
    "Record",
    "build_contexts",
    "entities",
    "functions",
    "records",
    "sentences",
]

# ---- items of a corpus


@dataclass(frozen=True)
class Item:
    """One entry of a context. No two items of a context share a `key`.

    `queries` are the texts that could be asked about, best first; one that also occurs elsewhere in the
    context is passed over. `value` is what answers them, and `fields` is what scoring needs.
    """

    text: str
    key: str
    queries: tuple[str, ...]
    value: str
    fields: dict[str, Any] = field(default_factory=dict)


def _is_code(document: Document) -> bool:
    return document.meta.get("kind") == "code"


@dataclass(frozen=True)
class Record:
    """One line of a list of records. A `stale` one has a key that another line has too, and a wrong value."""

    line: str
    key: str
    value: str
    rest: str
    stale: bool = False


def records(document: Document) -> Iterator[Record]:
    """The records of a document in order; lines without their key are passed over."""
    lines = document.text.split("\n")
    keys = document.meta.get("keys") or ()
    values = document.meta.get("values") or (None,) * len(keys)
    stale = frozenset(document.meta.get("stale") or ())
    for number, (line, key, value) in enumerate(zip(lines, keys, values, strict=False)):
        words = line.split()
        if key not in words:
            continue
        after = words[words.index(key) + 1 :]
        if after:
            yield Record(line.strip(), key, value or after[0], " ".join(after[1:]), number in stale)


def _records(document: Document) -> Iterator[tuple[str, str, str, str]]:
    """(line, key, value, rest) of each record that is a fact."""
    for record in records(document):
        if not record.stale:
            yield record.line, record.key, record.value, record.rest


def _phrases(words: list[str], rng: random.Random, tries: int = 6) -> tuple[str, ...]:
    """Random runs of 4 to 6 inner words; fewer where there are fewer."""
    inner = words[1:-1]
    if not inner:
        return ()
    found = []
    for _ in range(tries):
        length = min(rng.randint(4, 6), len(inner))
        start = rng.randint(0, len(inner) - length)
        found.append(" ".join(inner[start : start + length]))
    return tuple(dict.fromkeys(found))


# ---- sentences

_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")
MIN_WORDS, MAX_WORDS = 8, 60


def _split_sentences(text: str) -> Iterator[list[str]]:
    """The words of each plausible sentence: 8 to 60 words, ending in a full stop, within one paragraph."""
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in _END.split(" ".join(paragraph.split())):
            words = sentence.split()
            if MIN_WORDS <= len(words) <= MAX_WORDS and sentence[-1] in ".!?" and sentence[0].isalnum():
                yield words


def sentences(document: Document, rng: random.Random) -> Iterator[Item]:
    """Sentences of a text, or lines of records; the query is an inner phrase, the value the whole."""
    if document.meta.get("keys"):
        for line, key, _, _ in _records(document):
            yield Item(line, key, _phrases(line.split(), rng), line, {"answer": line})
    elif not _is_code(document):
        for words in _split_sentences(document.text):
            text = " ".join(words)
            yield Item(text, text.lower(), _phrases(words, rng), text, {"answer": text})


# ---- functions

MAX_FUNCTION = 135
"""Characters of a function in a probe: so the published 800 of them fill about 32K tokens, and no more."""
MAX_BODY = 3
MIN_LINE = 12
"""Body lines shorter than this (`return x`) are hardly ever unique and make poor questions."""

_BRACES = re.compile(
    r"^[ \t]*(?:(?:pub|public|private|protected|static|final|async|export|default|inline|virtual)[ \t]+)*"
    r"(?:(?:fn|func|function)[ \t]+(?:\([^()\n]*\)[ \t]*)?|[\w:<>,*&\[\]]{1,200}[ \t*&]{1,80})"
    r"(?P<name>[A-Za-z_]\w*)[ \t]*(?:<[^>\n]*>)?\([^;{}\n]*\)[^;{}()\n]*\{[ \t]*$",
    re.MULTILINE,
)
_NOT_NAMES = frozenset(
    {"if", "for", "while", "switch", "catch", "return", "else", "new", "throw", "sizeof", "match"}
)


def functions(document: Document, rng: random.Random) -> Iterator[Item]:
    """Functions of a code document (head and up to three lines of body), or lines of records.

    The query is a line of the body (of a record: a phrase after its value), the value is the function's name.
    """
    if document.meta.get("keys"):
        for line, key, _, rest in _records(document):
            yield Item(line, key, _phrases(["", *rest.split(), ""], rng), key, {"name": key, "match": "word"})
        return
    if not _is_code(document):
        return
    for name, head, body in _python(document.text) or _braces(document.text):
        lines = [line.strip() for line in body]
        # A line that has the name in it would give the answer away to a model that only repeats the question.
        asked = [line for line in lines if _is_question(line, name)]
        rng.shuffle(asked)
        if asked:
            text = "\n".join([head, *(line.rstrip() for line in body)])
            if len(text) > MAX_FUNCTION:
                continue
            yield Item(text, name, tuple(dict.fromkeys(asked)), name, {"name": name, "match": "word"})


def _is_question(line: str, name: str) -> bool:
    comment = line.startswith(("#", "//", "/*", "*"))
    return len(line) >= MIN_LINE and not comment and not re.search(rf"\b{re.escape(name)}\b", line)


def _python(text: str) -> list[tuple[str, str, list[str]]]:
    """(name, head line, body lines) of the functions of Python source; none where it does not parse."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    lines = text.splitlines()
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("__"):
            continue
        first = node.body[0]
        if ast.get_docstring(node, clean=False) is not None:
            if len(node.body) == 1:
                continue
            first = node.body[1]
        if first.lineno == node.lineno:
            continue
        indent = len(lines[node.lineno - 1]) - len(lines[node.lineno - 1].lstrip())
        body = [line for line in lines[first.lineno - 1 : node.end_lineno] if line.strip()][:MAX_BODY]
        head = " ".join(line.strip() for line in lines[node.lineno - 1 : _head_end(node, lines)])
        found.append(
            (node.name, head, [line[min(indent, len(line) - len(line.lstrip())) :] for line in body])
        )
    return found


def _head_end(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Line number (1-based) on which the head of a function ends, be it spread over several lines."""
    for number in range(node.lineno, node.body[0].lineno):
        if lines[number - 1].split("#")[0].rstrip().endswith(":"):
            return number
    return node.lineno


def _braces(text: str) -> list[tuple[str, str, list[str]]]:
    """(name, head line, body lines) of functions in a language with braces, as far as a pattern can tell."""
    found = []
    for match in _BRACES.finditer(text):
        name = match["name"]
        first = match[0].split(None, 1)[0]
        if name in _NOT_NAMES or first in _NOT_NAMES:
            continue
        head, body = match[0].strip(), []
        outer = len(match[0]) - len(match[0].lstrip())
        for line in _lines_from(text, match.end() + 1):
            if len(line) - len(line.lstrip()) <= outer and line.strip().startswith("}"):
                break
            if line.strip():
                body.append(line)
            if len(body) == MAX_BODY:
                break
        found.append((name, head, body))
    return found


def _lines_from(text: str, place: int) -> Iterator[str]:
    """The lines of a text from a place on, without a copy of all that follows."""
    while 0 < place <= len(text):
        end = text.find("\n", place)
        yield text[place : end if end >= 0 else None]
        place = end + 1


# ---- entities

LABEL_WORDS, DESCRIPTION_WORDS = 4, 8


def entities(document: Document, rng: random.Random) -> Iterator[Item]:
    """Entities (id, label, description): the query is the id, the value the label.

    A record's key is its id, its value the label, and its other words the description. In ordinary text the
    first words of a passage are the label, the next ones the description, and the id is a number made from
    them, always the same for the same passage.
    """
    if document.meta.get("keys"):
        for line, key, value, rest in _records(document):
            yield Item(line, key, (key,), value, _entity(key, value, rest) | {"match": "word"})
        return
    if _is_code(document):
        return
    for words in _split_sentences(document.text):
        label = " ".join(words[:LABEL_WORDS]).strip(".,;:")
        description = " ".join(words[LABEL_WORDS : LABEL_WORDS + DESCRIPTION_WORDS]).strip(".,;:!?")
        number = int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:8], "big")
        name = f"Q{10_000_000 + number % 90_000_000}"
        yield Item(
            f"{name} | {label} | {description}", name, (name,), label, _entity(name, label, description)
        )


def _entity(name: str, label: str, description: str) -> dict[str, Any]:
    return {"id": name, "label": label, "description": description}


# ---- contexts of items

ItemsOf = Callable[[Document, random.Random], Iterator[Item]]
SIZE = 800
"""Items a context in the published probes, about 32K tokens each."""
POOL_FACTOR = 3
"""Items gathered for each one needed: enough to sample from without reading all of a web-sized corpus."""
MOST_VERSIONS = 16
"""Items kept of one key (a catalogue deals the same key a new value in each document)."""

NEEDS = {
    "val:document": (f"sentences of {MIN_WORDS} to {MAX_WORDS} words", "prose, or stdlib"),
    "val:code": (
        f"functions of at most {MAX_FUNCTION} characters with a line of {MIN_LINE} or more",
        "source code, or stdlib",
    ),
    "val:database": (
        f"entries, which it makes of sentences of {MIN_WORDS} to {MAX_WORDS} words",
        "prose, or stdlib",
    ),
}
"""What each task asks about, and which corpus has it."""
KINDS = {
    "text": ("text", "texts"),
    "code": ("file of code", "files of code"),
    "records": ("list of records", "lists of records"),
}
"""Kinds of documents, one and several of them."""

_QUESTIONS = {
    "val:document": 'Which sentence in the context has the words "{query}" in it? Write all of it.',
    "val:code": "Which function in the context contains this line? Answer with the function's name.\n{query}",
    "val:database": "What are the label and the description of the entry with id {query}?",
}


class ValOptions(ProbeOptions):
    """Options of the three probes."""

    size: int = setting(SIZE, ge=1, description="items a context; 800, 800 and 750 as published")
    context_tokens: int | None = setting(
        None, ge=64, description="length of a context in tokens, in place of size"
    )


class DatabaseOptions(ValOptions):
    """Options of `val:database`."""

    size: int = setting(750, ge=1, description="items a context; 750 as published")


def build_contexts(task: str, items_of: ItemsOf, source: Source, options: ValOptions) -> list[Bundle]:
    """One bundle a set: its items joined by newlines, and a query for every item that can be asked about.

    An item is passed over, and counted in the bundle's `meta["skipped"]`, where each of its queries also
    occurs elsewhere in the context. The same source and options give the same bundles. Raises
    UsageError where the corpus has too few items.
    """
    if options.context_tokens is not None and source.tokenize is None:
        raise UsageError(f"{task}: context_tokens needs a tokenizer to count them with")
    seed = source.seed
    kinds: Counter[str] = Counter()
    source = replace(source, documents=_told(source.documents, kinds))
    pool = _gather(task, items_of, source, options)
    orders = []
    for number in range(options.sets):
        rng = random.Random(f"lcx.{task}.set:{seed}:{number}")
        orders.append(_draw(task, pool, rng, source, options, kinds))
    if options.context_tokens is None:
        found, size = len(pool), options.size
        if found < size:
            mend = f"options.{task}.size={found}" if found else ""
            raise _too_few(task, f"{size} items a context", found, mend, kinds)
    else:
        # Every set has the same number of items, so that a position means the same in each.
        size = min(len(order) for order in orders)
    return [_bundle(task, number, order[:size], options.style, seed) for number, order in enumerate(orders)]


def _gather(task: str, items_of: ItemsOf, source: Source, options: ValOptions) -> dict[str, list[Item]]:
    """Items by key, until there are several times as many as the sets need."""
    rng = random.Random(f"lcx.{task}.pool:{source.seed}")
    pool: dict[str, list[Item]] = {}
    need: float = (
        POOL_FACTOR * options.sets * options.size if options.context_tokens is None else float("inf")
    )
    seen = 0
    for document in source.documents:
        for item in items_of(document, rng):
            if not item.queries:
                continue
            seen += 1
            versions = pool.setdefault(item.key, [])
            if len(versions) < MOST_VERSIONS:
                versions.append(item)
        if need == float("inf") and options.context_tokens and source.tokenize and len(pool) >= 64:
            sample = [versions[0].text for versions in islice(pool.values(), 64)]
            per_item = max(1.0, source.count_tokens("\n".join(sample)) / len(sample))
            need = POOL_FACTOR * options.sets * options.context_tokens / per_item
        # A closed world such as the catalogue deals the same keys anew for ever: enough items will do there.
        enough = len(pool) if options.context_tokens is not None or len(pool) < options.size else seen
        if enough >= need:
            break
    return pool


def _draw(
    task: str,
    pool: Mapping[str, list[Item]],
    rng: random.Random,
    source: Source,
    options: ValOptions,
    kinds: Counter[str],
) -> list[Item]:
    """One set's items in order: `size` of them, or as many as fit in `context_tokens`."""
    keys = list(pool)
    rng.shuffle(keys)
    if options.context_tokens is None:
        return [rng.choice(pool[key]) for key in keys[: options.size]]
    chosen: list[Item] = []
    used = 0
    for key in keys:
        item = rng.choice(pool[key])
        # One more for the newline; the sum of the parts may differ from the whole by a token here and there.
        used += source.count_tokens(item.text) + 1
        if used > options.context_tokens:
            return chosen
        chosen.append(item)
    mend = f"context_tokens={used}" if used else ""
    raise _too_few(task, f"{options.context_tokens} tokens a context", used, mend, kinds)


def _told(documents: Iterable[Document], kinds: Counter[str]) -> Iterator[Document]:
    """The documents, each counted by its kind."""
    for document in documents:
        kinds["records" if document.meta.get("keys") else "code" if _is_code(document) else "text"] += 1
        yield document


def _too_few(task: str, needed: str, found: int, mend: str, kinds: Counter[str]) -> UsageError:
    """The error for a corpus that has too little of what a task asks about, or nothing of it."""
    of, suits = NEEDS[task]
    has = (
        ", ".join(f"{count:,} {KINDS[kind][count > 1]}" for kind, count in kinds.most_common())
        or "no document"
    )
    another = f"Use a corpus of {suits} (--corpus)"
    return UsageError(
        f"{task} needs {needed}, but the corpus gives {found}",
        why=f"It asks about {of}, each once; the corpus has {has}{'' if found else ', and none of that'}.",
        hint=f"Set {mend}, use a larger corpus, or leave the task out."
        if mend
        else f"{another}, or leave the task out.",
    )


def _bundle(task: str, number: int, chosen: list[Item], style: Style, seed: int) -> Bundle:
    context = "\n".join(item.text for item in chosen)
    # Case tells an id or a line of code from another, but not one phrase of a sentence from another.
    fold = str.casefold if task == "val:document" else str
    searched = fold(context)
    branches = []
    starts = [0, *accumulate(len(item.text) + 1 for item in chosen)]
    for position, item in enumerate(chosen):
        query = next((query for query in item.queries if _once(searched, fold(query))), None)
        if query is None:
            continue
        gold = [[starts[position], starts[position] + len(item.text)]]
        meta = {"set": number, "position": position, "query": query, **item.fields, "gold": gold}
        branches.append(
            Branch(_question(task, query, style), _answer(item, query, style), "query", meta=meta)
        )
    if not branches:
        raise UsageError(f"{task}: no item of set {number} has a question with only one answer")
    meta = {"set": number, "items": len(chosen), "skipped": len(chosen) - len(branches), "style": style}
    return Bundle(f"{task}:{seed}:{number}", tuple(branches), context=context, kind=task, meta=meta)


def _once(context: str, query: str) -> bool:
    """Whether `query` occurs exactly once; a single word may also be part of longer words elsewhere."""
    first = context.find(query)
    if first < 0:
        return False
    again = context.find(query, first + 1)
    if again < 0:
        return True
    if " " in query:
        return False
    # A single word: an id may be the beginning of another id.
    place = context.find(query)
    seen = 0
    while place >= 0 and seen < 2:
        around = context[max(0, place - 1) : place] + context[place + len(query) : place + len(query) + 1]
        seen += not any(letter.isalnum() or letter == "_" for letter in around)
        place = context.find(query, place + 1)
    return seen == 1


def _question(task: str, query: str, style: Style) -> str:
    return query if style == "bare" else _QUESTIONS[task].format(query=query)


def _answer(item: Item, query: str, style: Style) -> str:
    if style == "bare":
        return f"{query} {item.value}"
    description = item.fields.get("description")
    return f"{item.value}: {description}" if description else item.value


# ---- the three tasks


def _samples(task: str, items_of: ItemsOf) -> Callable[[Source, ValOptions], list[Bundle]]:
    return lambda source, options: build_contexts(task, items_of, source, options)


def _count(options: ValOptions) -> tuple[int, int] | None:
    return None if options.context_tokens is not None else (options.sets, options.sets * options.size)


def _whole(row: Mapping[str, Any]) -> bool:
    return row.get("match") == "word"


def _document(row: Mapping[str, Any]) -> float:
    return document_recall(row["answer"], row["pred"])


def _code(row: Mapping[str, Any]) -> float:
    return name_found(row["name"], row["pred"], whole_words=_whole(row))


def _database(row: Mapping[str, Any]) -> float:
    return label_or_description(row["label"], row["description"], row["pred"], whole_words=_whole(row))


def _code_as_published(row: Mapping[str, Any]) -> float:
    """Mere substrings, as the published metric has it, which takes full stops off the name first."""
    return float(row["name"].strip(".") in row["pred"])


def _database_as_published(row: Mapping[str, Any]) -> float:
    """The same for label and description in small letters; one that is empty counts as found."""
    pred = row["pred"].lower()
    return float(any(row[part].strip(".").lower() in pred for part in ("label", "description")))


DOCUMENT = Task(
    name="val:document",
    summary="an inner phrase -> its whole sentence, to both sides (recall of words)",
    samples=_samples("val:document", sentences),
    options=ValOptions,
    count=_count,
    score=_document,
    row_fields=("answer",),
    aliases={"sentence": "answer"},
    key_field="query",
)

CODE = Task(
    name="val:code",
    summary="a line of code -> the name of its function, which stands before it",
    samples=_samples("val:code", functions),
    options=ValOptions,
    count=_count,
    score=_code,
    row_fields=("name",),
    aliases={"function": "name"},
    key_field="query",
    compat={"film": _code_as_published},
)

DATABASE = Task(
    name="val:database",
    summary="an id -> its label or description, which stand after it",
    samples=_samples("val:database", entities),
    options=DatabaseOptions,
    count=_count,
    score=_database,
    row_fields=("id", "label", "description"),
    key_field="id",
    compat={"film": _database_as_published},
)
