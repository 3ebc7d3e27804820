"""VaL Probing (various long-context): what a model finds at every position of a context, three ways.

`val:document` goes both ways (an inner phrase -> its whole sentence), `val:code` backward (a line -> the
function it stands in) and `val:database` forward (an id -> its label or description). Any corpus serves: see
`items`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate, islice
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.probes import Probe, ProbeOptions, Style
from lcx.evaluation.probing import items
from lcx.evaluation.probing.items import Item
from lcx.evaluation.text_metrics import document_recall, label_or_description, name_found
from lcx.records import Branch, Bundle, Document

__all__ = ["CODE", "DATABASE", "DOCUMENT", "build_contexts"]

Source = Callable[[Document, random.Random], Iterator[Item]]
POOL_FACTOR = 3
"""Items gathered for each one needed: enough to sample from without reading all of a web-sized corpus."""
MOST_VERSIONS = 16
"""Items kept of one key (a catalogue deals the same key a new value in each document)."""

_QUESTIONS = {
    "val:document": 'Which sentence in the context has the words "{query}" in it? Write all of it.',
    "val:code": "Which function in the context contains this line? Answer with the function's name.\n{query}",
    "val:database": "What are the label and the description of the entry with id {query}?",
}


def build_contexts(
    task: str, source: Source, documents: Iterable[Document], options: ProbeOptions, seed: int
) -> list[Bundle]:
    """One bundle a set: its items joined by newlines, and a query for every item that can be asked about.

    An item is passed over, and counted in the bundle's `meta["skipped"]`, where each of its queries also
    occurs elsewhere in the context. The same documents, options and seed give the same bundles. Raises
    UsageError where the corpus has too few items.
    """
    if options.size < 1 or options.sets < 1:
        raise UsageError(f"{task}: sizes and sets are at least 1, not {options.size} and {options.sets}")
    if options.context_tokens is not None and options.count_tokens is None:
        raise UsageError(f"{task}: context_tokens needs a tokenizer to count them with")
    pool = _gather(task, source, documents, options, seed)
    orders = []
    for number in range(options.sets):
        rng = random.Random(f"lcx.{task}.set:{seed}:{number}")
        orders.append(_draw(task, pool, rng, options))
    if options.context_tokens is None:
        found, size = len(pool), options.size
        if found < size:
            raise _too_few(
                task, f"{size} items a context", f"{found}", f"sizes.{task}={found}" if found else ""
            )
    else:
        # Every set has the same number of items, so that a position means the same in each.
        size = min(len(order) for order in orders)
    return [_bundle(task, number, order[:size], options.style, seed) for number, order in enumerate(orders)]


def _gather(
    task: str, source: Source, documents: Iterable[Document], options: ProbeOptions, seed: int
) -> dict[str, list[Item]]:
    """Items by key, until there are several times as many as the sets need."""
    rng = random.Random(f"lcx.{task}.pool:{seed}")
    pool: dict[str, list[Item]] = {}
    need: float = (
        POOL_FACTOR * options.sets * options.size if options.context_tokens is None else float("inf")
    )
    seen = 0
    for document in documents:
        for item in source(document, rng):
            if not item.queries:
                continue
            seen += 1
            versions = pool.setdefault(item.key, [])
            if len(versions) < MOST_VERSIONS:
                versions.append(item)
        if need == float("inf") and options.context_tokens and options.count_tokens and len(pool) >= 64:
            sample = [versions[0].text for versions in islice(pool.values(), 64)]
            per_item = max(1.0, options.count_tokens("\n".join(sample)) / len(sample))
            need = POOL_FACTOR * options.sets * options.context_tokens / per_item
        # A closed world such as the catalogue deals the same keys anew for ever: enough items will do there.
        enough = len(pool) if options.context_tokens is not None or len(pool) < options.size else seen
        if enough >= need:
            break
    return pool


def _draw(task: str, pool: Mapping[str, list[Item]], rng: random.Random, options: ProbeOptions) -> list[Item]:
    """One set's items in order: `size` of them, or as many as fit in `context_tokens`."""
    keys = list(pool)
    rng.shuffle(keys)
    if options.context_tokens is None:
        return [rng.choice(pool[key]) for key in keys[: options.size]]
    assert options.count_tokens is not None
    chosen: list[Item] = []
    used = 0
    for key in keys:
        item = rng.choice(pool[key])
        # One more for the newline; the sum of the parts may differ from the whole by a token here and there.
        used += options.count_tokens(item.text) + 1
        if used > options.context_tokens:
            return chosen
        chosen.append(item)
    raise _too_few(task, f"{options.context_tokens} tokens a context", f"{used}", f"context_tokens={used}")


def _too_few(task: str, needed: str, found: str, mend: str) -> UsageError:
    instead = f"Set {mend}, use a larger corpus, " if mend else "Use another corpus "
    return UsageError(
        f"{task} needs {needed}, but the corpus gives {found}",
        why="Items of one key count once, and only what suits the task counts: see `lcx.evaluation.probing.items`.",
        hint=f"{instead}or leave the task out.",
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


def _build(task: str, source: Source) -> Callable[[Iterable[Document], ProbeOptions, int], list[Bundle]]:
    def build(documents: Iterable[Document], options: ProbeOptions, seed: int) -> list[Bundle]:
        return build_contexts(task, source, documents, options, seed)

    return build


def _whole(row: Mapping[str, Any]) -> bool:
    return row.get("match") == "word"


def _document(row: Mapping[str, Any]) -> float:
    return document_recall(row["answer"], row["pred"])


def _code(row: Mapping[str, Any]) -> float:
    return name_found(row["name"], row["pred"], whole_words=_whole(row))


def _database(row: Mapping[str, Any]) -> float:
    return label_or_description(row["label"], row["description"], row["pred"], whole_words=_whole(row))


def _published(score: Callable[[Mapping[str, Any]], float]) -> Callable[[Mapping[str, Any]], float]:
    """The same score with mere substrings, as the published metric has it."""
    return lambda row: score({**row, "match": ""})


DOCUMENT = Probe(
    name="val:document",
    summary="an inner phrase -> its whole sentence, to both sides (recall of words)",
    build=_build("val:document", items.sentences),
    score=_document,
    row_fields=("answer",),
    aliases={"sentence": "answer"},
    key_field="query",
)

CODE = Probe(
    name="val:code",
    summary="a line of code -> the name of its function, which stands before it",
    build=_build("val:code", items.functions),
    score=_code,
    row_fields=("name",),
    aliases={"function": "name"},
    key_field="query",
    compat=_published(_code),
)

DATABASE = Probe(
    name="val:database",
    summary="an id -> its label or description, which stand after it",
    build=_build("val:database", items.entities),
    score=_database,
    row_fields=("id", "label", "description"),
    key_field="id",
    compat=_published(_database),
)
