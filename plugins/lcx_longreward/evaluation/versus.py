"""The versus task: which of two models answers better in each respect, asked in both orders."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from lcx.data.tokenizing import SpanTokenizer, open_span_tokenizer
from lcx.llm.judge import Judgement
from lcx.retrieval import Retriever, open_retriever
from lcx.work.files import sha256_json
from lcx_longreward.evaluation.answers import Answer, counted
from lcx_longreward.evaluation.data import Item, digest_of
from lcx_longreward.evaluation.desk import Desk
from lcx_longreward.evaluation.judged import open_rater
from lcx_longreward.evaluation.ratings import CRITERIA, Rater
from lcx_longreward.evaluation.results import Result, base_row, reasons
from lcx_longreward.evaluation.reward import scoring
from lcx_longreward.judge import cut, retriever_options, together
from lcx_longreward.settings import LongRewardScore

TASK = "versus"
WIN, TIE, LOSS = "win", "tie", "loss"
POINTS = {WIN: 1.0, TIE: 0.5, LOSS: 0.0}


def outcome(first: str | None, swapped: str | None) -> str | None:
    """From two verdicts: `first` with our answer as A, `swapped` with it as B.

    A win or loss counts only where both say so, else it is a tie; None where a verdict is not known.
    """
    if first is None or swapped is None:
        return None
    if (first, swapped) == ("A", "B"):
        return WIN
    return LOSS if (first, swapped) == ("B", "A") else TIE


def overall(outcomes: Mapping[str, str | None]) -> str | None:
    """Won in more respects than lost, or the other way, or a tie; None where a respect is not known."""
    if any(one is None for one in outcomes.values()):
        return None
    lead = sum(one == WIN for one in outcomes.values()) - sum(one == LOSS for one in outcomes.values())
    return WIN if lead > 0 else LOSS if lead < 0 else TIE


def compare_all(
    desk: Desk, items: Sequence[Item], mine: Sequence[Answer], others: Sequence[Answer]
) -> list[Mapping[str, Any]]:
    """The judge's verdicts on every question with two answers, from the journal where it has them."""
    units = [
        "" if a.error or b.error else f"versus:{sha256_json([item.key, a.text, b.text])[:32]}"
        for item, a, b in zip(items, mine, others, strict=True)
    ]
    missing = {
        unit: (item, a.text, b.text)
        for unit, item, a, b in zip(units, items, mine, others, strict=True)
        if unit and unit not in desk.journal
    }
    failed: dict[str, Mapping[str, Any]] = {}
    if missing:
        desk.service.expect(2 * len(CRITERIA) * len(missing))
        failed = desk.service.run(_compare_missing(desk, missing))
    return [(failed.get(unit) or desk.journal[unit]["verdicts"]) if unit else {} for unit in units]


async def _compare_missing(
    desk: Desk, missing: Mapping[str, tuple[Item, str, str]]
) -> dict[str, Mapping[str, Any]]:
    """Compare what the journal lacks. Where a verdict is not known, all are returned, to be asked again."""
    rater, known = open_rater(desk), scoring(desk.settings)
    retriever = open_retriever(known.retriever, retriever_options(known, desk.folder, desk.ctx))
    tokenizer = open_span_tokenizer(known.tokenizer)
    lanes = asyncio.Semaphore(desk.lanes)
    failed: dict[str, Mapping[str, Any]] = {}
    done = 0

    async def one(unit: str) -> None:
        nonlocal done
        item, a, b = missing[unit]
        async with lanes:
            find = partial(_passages, known, tokenizer, retriever, item, a, b)
            passages = await asyncio.to_thread(find) if retriever.waits else find()
            verdicts = await _compare(rater, item.question, passages, a, b)
            if any(verdict["why"] for verdict in verdicts.values()):
                failed[unit] = verdicts
            else:
                desk.journal.append({"unit": unit, "verdicts": verdicts})
        done += 1
        desk.ctx.pulse(f"    {TASK}: judged {done:,} of {len(missing):,}")

    with closing(retriever):
        await together(one(unit) for unit in missing)
    return failed


def _passages(
    known: LongRewardScore, tokenizer: SpanTokenizer, retriever: Retriever, item: Item, a: str, b: str
) -> list[str]:
    """The passages nearest to the question and to each of the answers, in the document's order."""
    if not item.context:
        return []
    passages = cut(item.context, tokenizer, known.chunk_tokens, known.extract_tokens)
    texts = passages.passages.texts
    found = retriever.index(texts).top([item.question, a, b], known.top_chunks)
    return [texts[place] for place in sorted({place for places in found for place in places})]


async def _compare(
    rater: Rater, question: str, passages: Sequence[str], a: str, b: str
) -> dict[str, dict[str, Any]]:
    """Both orders of every dimension."""

    async def one(dimension: str) -> dict[str, Any]:
        replies: list[Judgement[str]] = await together(
            [
                rater.compare(dimension, question, passages, a, b),
                rater.compare(dimension, question, passages, b, a),
            ]
        )
        first, swapped = replies
        why = first.why or swapped.why
        return {"first": first.value, "swapped": swapped.value, "why": why, "analysis": first.text}

    found = await together(one(dimension) for dimension in CRITERIA)
    return dict(zip(CRITERIA, found, strict=True))


def versus_result(
    desk: Desk,
    items: Sequence[Item],
    mine: Sequence[Answer],
    others: Sequence[Answer],
    verdicts: Sequence[Mapping[str, Any]],
) -> Result:
    """Shares of wins, ties and losses, overall and in each respect, with intervals."""
    rows = []
    for item, a, b, found in zip(items, mine, others, verdicts, strict=True):
        about = {"error": a.error or b.error, "other": b.text, "cut": a.cut, "truncated": a.short}
        by = {name: outcome(one["first"], one["swapped"]) for name, one in found.items()}
        failed = {name: one["why"] for name, one in found.items() if by[name] is None}
        row = base_row(item, 0, a.text, about) | {"overall": overall(by) if by else None, "outcomes": by}
        rows.append(
            row | {"failed": {"answer": about["error"]} if about["error"] else failed, "verdicts": found}
        )
    contexts = [row["context_id"] for row in rows]
    results = {"overall": [row["overall"] for row in rows]}
    results |= {name: [row["outcomes"].get(name) for row in rows] for name in CRITERIA}
    shares = {name: _shares(desk, found, contexts) for name, found in results.items()}
    points = [None if one is None else POINTS[one] for one in results["overall"]]
    moved = [
        one["first"] != {"A": "B", "B": "A"}.get(one["swapped"], one["swapped"])
        for found in verdicts
        for one in found.values()
        if one["first"] and one["swapped"]
    ]
    total: dict[str, Any] = {
        "task": TASK,
        **desk.statistics.mean(points, contexts).as_dict(),
        "against": desk.other.name if desk.other else "",
        "shares": shares,
        "changed by the order": sum(moved) / len(moved) if moved else None,
        "failed": reasons(f"{part}: {why}" for row in rows for part, why in row["failed"].items()),
        **counted(mine),
        "data": digest_of(items),
    }
    return Result(TASK, total, rows)


def _shares(desk: Desk, outcomes: Sequence[str | None], contexts: Sequence[str]) -> dict[str, Any]:
    return {
        name: desk.statistics.brief(
            [None if one is None else float(one == name) for one in outcomes], contexts
        )
        for name in (WIN, TIE, LOSS)
    }
