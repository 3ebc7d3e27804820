"""Which chunks are critical to a question, what each answer is generated from, and the context all are trained on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lcx.data.plans import Twins, draw, plan_rng, shuffle
from lcx.data.table import SegmentTable
from lcx.llm.prompts import thought_meta
from lcx.records import Branch, Bundle
from lcx_logo.importance import Extractor, Item, classify, score

if TYPE_CHECKING:
    from lcx_logo.answers import Answer
    from lcx_logo.filter import Verdict

CHOSEN, REJECTED = "chosen", "rejected"
CRITICAL, IRRELEVANT, MIXTURE = "critical", "irrelevant", "mixture"
PATIENCE = 50
"""Useless draws in a row after which other documents count as used up."""

NO_ITEM = "the question has no entity or content word"
NO_CRITICAL = "no chunk of its document holds enough of the question"
NO_IRRELEVANT = "no irrelevant chunk to answer wrongly from"


@dataclass(frozen=True)
class Asked:
    """A question, the reference answer if there is one, its document, and the chunks that it was written from."""

    question: str
    reference: str | None
    document: int
    source: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """`corpus` for a row's own question, `written` or `joint` for one written from one or several chunks."""
        return "corpus" if not self.source else "written" if len(self.source) == 1 else "joint"


@dataclass(frozen=True)
class Reading:
    """The chunks that one answer is generated from, in reading order; `what` is critical, irrelevant or mixture."""

    what: str
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One example before its answers: chunk numbers, all in the segment table.

    `plan` is the shared training context, `readings` are the chosen answer's chunks and then each rejected one's.
    `scores` has the importance of every chunk in them.
    """

    number: int
    asked: Asked
    items: tuple[Item, ...]
    threshold: float
    scores: dict[int, int]
    critical: tuple[int, ...]
    plan: tuple[int, ...]
    readings: tuple[Reading, ...]
    left_out: int = 0
    """Critical chunks beyond the context's size."""
    undefined: int = 0
    """Chunks of the document at the threshold, used for nothing."""


@dataclass(frozen=True)
class Rules:
    """What `build_case` needs to know of the settings."""

    chunks: int
    rejected: int
    threshold: float | Literal["auto"]
    fill: bool
    context_tokens: int | None
    read_tokens: int | None
    seed: int


def build_case(
    number: int, asked: Asked, table: SegmentTable, extractor: Extractor, rules: Rules
) -> Case | str:
    """The chunks of one example, or the reason why there can be none.

    Random draws follow from the seed and the number alone. Critical are the chunks of the question's document with
    more of its items than the threshold, and always those that it was written from; at most `chunks` of them, the best
    ones. Irrelevant chunks come from the document, then from others.
    """
    items = extractor.question(asked.question)
    threshold = extractor.threshold(items) if rules.threshold == "auto" else rules.threshold
    if not items and (threshold <= 0 or not asked.source):
        return NO_ITEM
    rng = plan_rng(rules.seed, f"logo:{number}")
    scores: dict[int, int] = {}

    def kind(chunk: int) -> str:
        if chunk not in scores:
            scores[chunk] = score(items, extractor.chunk(table.text(chunk)))
        return classify(scores[chunk], threshold)

    own = table.segments_of(asked.document)
    kinds = {chunk: kind(chunk) for chunk in own}
    found = [chunk for chunk in own if chunk in asked.source or kinds[chunk] == CRITICAL]
    if not found:
        return NO_CRITICAL
    ranked = sorted(found, key=lambda chunk: (chunk not in asked.source, -scores[chunk], chunk))
    critical = _within(table, ranked[: rules.chunks], rules.context_tokens)
    twins = Twins(table, critical)
    irrelevant = [
        chunk
        for chunk in own
        if kinds[chunk] == IRRELEVANT and chunk not in asked.source and chunk not in twins
    ]
    pool = _Pool(rng, table, kind, asked.document, critical, irrelevant, rules.fill)

    first = pool.draw(rules.chunks)
    if not first:
        return NO_IRRELEVANT
    plan = _within(table, [*critical, *first[: rules.chunks - len(critical)]], rules.context_tokens)
    readings = [Reading(CRITICAL, _arranged(rng, table, _within(table, critical, rules.read_tokens)))]
    for turn in range(rules.rejected):
        kept = _withheld(rng, critical, asked.source) if turn % 2 else []
        others = first if turn == 0 else pool.draw(rules.chunks - len(kept))
        read = _within(table, [*kept, *others], rules.read_tokens)
        what = MIXTURE if set(kept) & set(read) else IRRELEVANT
        readings.append(Reading(what, _arranged(rng, table, read)))
    used = {chunk for reading in readings for chunk in reading.chunks} | set(plan)
    return Case(
        number,
        asked,
        items,
        threshold,
        {chunk: scores[chunk] for chunk in sorted(used)},
        tuple(sorted(critical)),
        _arranged(rng, table, plan),
        tuple(readings),
        left_out=len(found) - len(critical),
        undefined=sum(what == "undefined" for what in kinds.values()),
    )


def _withheld(rng: random.Random, critical: Sequence[int], source: Sequence[int]) -> list[int]:
    """The critical chunks that a mixture keeps: half of them, rounded down, those of the source last.

    So a mixture lacks what the question was written from, as far as it can, and an only critical chunk always.
    """
    known = [chunk for chunk in critical if chunk in source]
    others = [chunk for chunk in critical if chunk not in source]
    shuffle(rng, known)
    shuffle(rng, others)
    return [*others, *known][: len(critical) // 2]


def _within(table: SegmentTable, chunks: Sequence[int], most: int | None) -> list[int]:
    """The chunks, from the first on, that fit into so many tokens with a separator between them; at least one."""
    kept: list[int] = []
    total = 0
    for chunk in chunks:
        total += int(table.tokens[chunk]) + bool(kept)
        if most is not None and total > most and kept:
            break
        kept.append(chunk)
    return kept


def _arranged(rng: random.Random, table: SegmentTable, chunks: Sequence[int]) -> tuple[int, ...]:
    """Chunks of one document side by side in its own order; the documents in random order."""
    documents = sorted({table.document_of(chunk) for chunk in chunks})
    shuffle(rng, documents)
    place = {document: number for number, document in enumerate(documents)}
    return tuple(sorted(chunks, key=lambda chunk: (place[table.document_of(chunk)], chunk)))


class _Pool:
    """Draws of irrelevant chunks: random ones of the question's document, then of others.

    Another document's chunk never has the key of a chunk that is there already: a question by that key would be
    ambiguous. What stands twice in the question's own document is that document's affair.
    """

    def __init__(
        self,
        rng: random.Random,
        table: SegmentTable,
        kind: Callable[[int], str],
        document: int,
        critical: Sequence[int],
        own: Sequence[int],
        fill: bool,
    ) -> None:
        self.rng, self.table, self.kind, self.document = rng, table, kind, document
        self.own, self.fill = list(own), fill
        self.keys = self._keys(critical)
        self.twins = Twins(table, critical)

    def draw(self, count: int) -> list[int]:
        """Up to `count` irrelevant chunks, independent of earlier draws."""
        taken = list(self.own)
        shuffle(self.rng, taken)
        del taken[count:]
        keys = self.keys | self._keys(taken)
        misses = 0
        while self.fill and len(taken) < count and misses < PATIENCE:
            chunk = draw(self.rng, len(self.table))
            misses += 1
            free = self.table.document_of(chunk) != self.document and chunk not in taken
            free = free and not self._keys([chunk]) & keys and chunk not in self.twins
            if free and self.kind(chunk) == IRRELEVANT:
                taken.append(chunk)
                keys |= self._keys([chunk])
                misses = 0
        return taken

    def _keys(self, chunks: Sequence[int]) -> set[int]:
        return {int(self.table.key_ids[chunk]) for chunk in chunks} - {-1}


# Examples as bundles, with all that they came from


def candidate(case: Case, answers: Sequence[Answer], verdict: Verdict, table: SegmentTable) -> Bundle:
    """An example with all its answers, dropped or not: `meta["dropped"]` says why, of the whole and of a branch."""
    gold = tuple(place for place, chunk in enumerate(case.plan) if chunk in case.critical)
    reasons = ["", *verdict.rejected]
    branches = tuple(
        Branch(
            case.asked.question,
            answer.text,
            REJECTED if place else CHOSEN,
            gold,
            _branch_meta(case, answer, reasons[place]),
        )
        for place, answer in enumerate(answers)
    )
    meta: dict[str, Any] = {
        "tokens": sum(int(table.tokens[chunk]) for chunk in case.plan) + len(case.plan) - 1,
        "document": table.document(case.asked.document).id,
        "source": list(case.asked.source),
        "reference": case.asked.reference,
        "items": [" ".join(item) for item in case.items],
        "threshold": case.threshold,
        "scores": [case.scores[chunk] for chunk in case.plan],
        "critical": list(case.critical),
        "filled": sum(table.document_of(chunk) != case.asked.document for chunk in case.plan),
        "undefined": case.undefined,
    }
    if case.left_out:
        meta["critical_left_out"] = case.left_out
    if verdict.reason:
        meta["dropped"] = verdict.reason
    return Bundle(f"logo-{case.number:07d}", branches, plan=case.plan, kind=case.asked.kind, meta=meta)


def _branch_meta(case: Case, answer: Answer, reason: str) -> dict[str, Any]:
    meta: dict[str, Any] = {"from": answer.what, "chunks": list(answer.chunks)}
    meta["scores"] = [case.scores.get(chunk) for chunk in answer.chunks]
    if answer.rating is not None:
        meta["rating"] = round(answer.rating, 4)
    meta |= {name: True for name in ("cut",) if answer.cut}
    if answer.error:
        meta["error"] = answer.error
    meta |= thought_meta(answer.text, answer.raw)
    if reason:
        meta["dropped"] = reason
    return meta


def kept(bundle: Bundle) -> Bundle | None:
    """The bundle that is trained on: the chosen answer and the rejected ones that stay; None where it is dropped."""
    if "dropped" in bundle.meta:
        return None
    branches = tuple(branch for branch in bundle.branches if "dropped" not in branch.meta)
    return Bundle(bundle.id, branches, bundle.plan, bundle.context, bundle.kind, bundle.meta)


def dropped_row(bundle: Bundle) -> dict[str, Any] | None:
    """What was dropped of an example and why, with all its answers; None where nothing was."""
    if "dropped" not in bundle.meta and all("dropped" not in branch.meta for branch in bundle.branches):
        return None
    return {
        "id": bundle.id,
        "kept": "dropped" not in bundle.meta,
        "reason": bundle.meta.get("dropped", ""),
        "question": bundle.branches[0].question,
        "reference": bundle.meta.get("reference"),
        "answers": [
            {
                "role": branch.role,
                "from": branch.meta.get("from", ""),
                "rating": branch.meta.get("rating"),
                "reason": branch.meta.get("dropped", ""),
                "error": branch.meta.get("error", ""),
                "answer": branch.answer,
                **({"raw": branch.meta["raw"]} if "raw" in branch.meta else {}),
            }
            for branch in bundle.branches
        ],
    }
