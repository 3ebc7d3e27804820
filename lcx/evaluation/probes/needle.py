"""Needle retrieval over a grid: facts hidden at several depths of contexts of several lengths, each asked for.

In style `natural` the context is text of the corpus and the needles are sentences with a number in them; all
depths of a length share one context, which is paid for once and asked once a needle. In style `bare` the context is
a list of records, and every record that is a fact is a needle. The records are those of whole documents in their
order, so that what a corpus put where stays there. Some lines may be stale: decoys, which have the key of another
record and a wrong value. They are never asked; a question about a record that has such a double carries the double's
value as `decoy`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lcx.errors import UsageError
from lcx.evaluation.probes.haystack import (
    Asked,
    Fact,
    Scene,
    Taken,
    build_haystacks,
    count_by_length,
    draw_keys,
    draw_numbers,
    grid_view,
)
from lcx.evaluation.probes.val import Record, records
from lcx.evaluation.statistics.grids import band, depth_points
from lcx.evaluation.task import GridOptions, Source, Task
from lcx.evaluation.text_metrics import contains
from lcx.records import Branch, Bundle, Document
from lcx.settings import setting

__all__ = ["NEEDLE", "Needle", "build_records", "draw_needles", "needle_samples"]

# ---- style bare: lists of records

POOL_LINES = 4
"""Lines gathered for each one needed: documents of few lines share keys, and a key counts once a context."""


def build_records(
    source: Source,
    options: GridOptions,
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
    lengths, seed = options.records, source.seed
    pool = _gather(source.documents, POOL_LINES * options.sets * max(lengths), options.sets)
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


# ---- style natural: facts in text

FACT = "The storage code of the {key} is {value}."
QUESTION = "What is the storage code of the {key}? Answer with the code alone."


@dataclass(frozen=True)
class Needle:
    """One fact: what it is called, its number and its depth."""

    key: str
    value: str
    depth: float

    @property
    def fact(self) -> Fact:
        return Fact(FACT.format(key=self.key, value=self.value), self.depth)

    def asked(self, fact: int) -> Asked:
        """The question for it; `fact` is the number of its fact in the context."""
        meta = {"query": self.key, "value": self.value, "depth": self.depth}
        return Asked(QUESTION.format(key=self.key), self.value, (fact,), meta)


class NeedleOptions(GridOptions):
    """Options of `needle`."""

    contexts: Literal["shared", "single"] = setting(
        "shared", description="shared: one context holds the needles of all depths; single: one a needle"
    )


def needle_samples(source: Source, options: NeedleOptions) -> list[Bundle]:
    """One bundle a length and set, with a question a depth; one a depth too where `contexts` is single.

    The same source and options give the same bundles. Raises UsageError where the corpus is too small,
    or a length too short for the needles.
    """
    if options.style == "bare":
        return build_records(source, options)

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        needles = draw_needles(taken, options.depths, seed)
        if options.contexts == "single":
            return [Scene((needle.fact,), (needle.asked(0),)) for needle in needles]
        facts = tuple(needle.fact for needle in needles)
        return [Scene(facts, tuple(needle.asked(number) for number, needle in enumerate(needles)))]

    return build_haystacks(
        "needle",
        source,
        options,
        draw,
        holds=f"{options.depths} needles",
        mend="depths lower, options.needle.contexts to single",
    )


def draw_needles(text: str | Taken, depths: int, seed: str) -> list[Needle]:
    """A needle a depth; no key and no number stands in the text, and no two are alike. Raises UsageError."""
    taken = Taken(text) if isinstance(text, str) else text
    rng = random.Random(f"lcx.needle.facts:{seed}")
    points = depth_points(depths)
    keys = draw_keys(taken, len(points), rng)
    if len(keys) < len(points):
        raise UsageError(
            f"needle has {len(keys)} names for {len(points)} needles",
            why="The corpus has the others in it.",
            hint="Set depths lower.",
        )
    return [Needle(*parts) for parts in zip(keys, draw_numbers(taken, rng), points, strict=False)]


def _found(row: Mapping[str, Any]) -> float:
    """1.0 where the value occurs in the prediction as a whole word; case counts."""
    return float(contains(row["pred"], row["value"], whole_words=True))


def count_grid(options: GridOptions) -> tuple[int, int] | None:
    """Contexts and questions of a grid of needles, where options tell them."""
    if options.style == "bare":
        return options.sets * len(options.records), options.sets * sum(options.records)
    return count_by_length(options, options.depths)


def _count(options: NeedleOptions) -> tuple[int, int] | None:
    found = count_grid(options)
    if found is None or options.style == "bare" or options.contexts == "shared":
        return found
    return found[1], found[1]


NEEDLE = Task(
    name="needle",
    summary="a fact hidden at every depth of contexts of several lengths -> its value",
    samples=needle_samples,
    options=NeedleOptions,
    score=_found,
    row_fields=("query", "value"),
    number_fields=("length", "depth"),
    summarize=grid_view,
    view="grid",
    count=_count,
)
