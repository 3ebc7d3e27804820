"""The needle grid in style `bare`: contexts are lists of records, and every record that is a fact is asked for.

The records are those of whole documents in their order, so that what a corpus put where stays there. Some of
its lines may be stale: decoys, which have the key of another record and a wrong value. They are never asked;
a question about a record that has such a double carries the double's value as `decoy`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

from lcx.errors import UsageError
from lcx.evaluation.probes import ProbeOptions
from lcx.evaluation.probing.items import Record, records
from lcx.evaluation.statistics.grids import band
from lcx.records import Branch, Bundle, Document

__all__ = ["build_records"]

DEFAULT_RECORDS = (16, 32, 64)
POOL_LINES = 4
"""Lines gathered for each one needed: documents of few lines share keys, and a key counts once a context."""


def build_records(
    documents: Iterable[Document],
    options: ProbeOptions,
    seed: int,
    *,
    name: str = "needle",
    doubled: bool = False,
) -> list[Bundle]:
    """One bundle a length and set, with a question for every record that one line alone answers.

    `options.records` are the lengths in records, and a record's depth is the middle of the one of
    `options.depths` bands that it stands in. No two sets of a length share a document. With `doubled` only
    records that have a stale double in their context are asked for. Raises UsageError where the corpus has no
    records (or no stale ones), or too few documents. `name` is the probe's.
    """
    lengths = options.records or DEFAULT_RECORDS
    pool = _gather(documents, POOL_LINES * options.sets * max(lengths), options.sets)
    if not pool:
        raise UsageError(
            f"{name} in style bare needs a corpus of records, and this one has none",
            why="A document is a list of records where its meta has the key of every line.",
            hint="Set corpus to stdlib:records, or style to natural.",
        )
    if doubled and not any(record.stale for found in pool for record in found):
        raise UsageError(
            f"{name} in style bare needs a corpus of records with stale doubles, and this one has none",
            why="A document's meta names the lines that are `stale`.",
            hint="Set corpus to stdlib:stale, or style to natural.",
        )
    order = random.Random(f"lcx.needle.records:{seed}").sample(pool, len(pool))
    return [
        _bundle(name, number, lines, options.depths, seed, doubled)
        for length in lengths
        for number, lines in enumerate(_contexts(name, order, length, options.sets))
    ]


def _gather(documents: Iterable[Document], lines: int, least: int) -> list[list[Record]]:
    """The records of documents until there are so many lines in at least so many documents."""
    pool: list[list[Record]] = []
    held = 0
    for document in documents:
        found = list(records(document))
        if found:
            pool.append(found)
            held += len(found)
        if held >= lines and len(pool) >= least:
            break
    return pool


def _contexts(name: str, pool: Sequence[Sequence[Record]], length: int, sets: int) -> list[list[Record]]:
    """`sets` contexts of `length` records: a document from its start, and further ones where it is too short."""
    contexts: list[list[Record]] = []
    chosen: list[Record] = []
    used: set[str] = set()
    for document in pool:
        new = [record for record in document if record.key not in used]
        used.update(record.key for record in new)
        chosen += new[: length - len(chosen)]
        if len(chosen) == length:
            contexts.append(chosen)
            chosen, used = [], set()
            if len(contexts) == sets:
                return contexts
    raise UsageError(
        f"{name} needs {sets} contexts of {length} records, but the corpus gives {len(contexts)}",
        why=f"{len(pool)} documents were read, and no two contexts share one.",
        hint="Set records or sets lower, or use a corpus of more documents (stdlib:records:COUNT@SEED).",
    )


def _bundle(name: str, number: int, lines: Sequence[Record], depths: int, seed: int, doubled: bool) -> Bundle:
    length = len(lines)
    words = [set(record.line.split()) for record in lines]
    starts = [0, *itertools.accumulate(len(record.line) + 1 for record in lines)]
    branches = []
    asked = 0
    for position, record in enumerate(lines):
        doubles = [other for other in lines if other.stale and other.key == record.key]
        decoys = sorted({other.value for other in doubles} - {record.value})
        if record.stale or (doubled and not decoys):
            continue
        asked += 1
        # The key may stand in this line and in its stale doubles, nowhere else.
        if sum(record.key in line for line in words) != 1 + len(doubles):
            continue
        meta = {
            "set": number,
            "position": position,
            "query": record.key,
            "value": record.value,
            "length": length,
            "depth": band(position, length, depths),
            "unit": "records",
            "gold": [[starts[position], starts[position] + len(record.line)]],
        }
        if decoys:
            meta["decoy"] = decoys[0] if len(decoys) == 1 else decoys
        branches.append(Branch(record.key, f"{record.key} {record.value}", "query", meta=meta))
    if not branches:
        raise UsageError(
            f"{name}: no record of set {number} with {length} records has one answer only"
            + (" and a stale double" if doubled else "")
        )
    meta = {
        "set": number,
        "length": length,
        "items": length,
        "skipped": asked - len(branches),
        "style": "bare",
        "setting": "records",
    }
    context = "\n".join(record.line for record in lines)
    return Bundle(f"{name}:{seed}:{number}:{length}", tuple(branches), context=context, kind=name, meta=meta)
