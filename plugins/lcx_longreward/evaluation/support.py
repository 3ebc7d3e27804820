"""The support task: which share of an answer's statements its context fully supports, in the manner of FactScore."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from lcx.work.files import sha256_json
from lcx_longreward.evaluation.answers import Answer, counted
from lcx_longreward.evaluation.data import Item, digest_of
from lcx_longreward.evaluation.desk import Desk
from lcx_longreward.evaluation.results import Result, base_row, reasons, spread
from lcx_longreward.evaluation.reward import full_shares, judged_rows, open_judge
from lcx_longreward.judge import Case, Judge, together

TASK = "support"
CALLS = 8
"""About how many calls an answer takes."""


def support_all(desk: Desk, items: Sequence[Item], answers: Sequence[Answer]) -> list[Mapping[str, Any]]:
    """The statements of every answer and their support, from the journal where it has them."""
    units = [
        "" if answer.error else f"support:{sha256_json([item.key, answer.text])[:32]}"
        for item, answer in zip(items, answers, strict=True)
    ]
    missing = {
        unit: (item, answer.text)
        for unit, item, answer in zip(units, items, answers, strict=True)
        if unit and unit not in desk.journal
    }
    failed: dict[str, Mapping[str, Any]] = {}
    if missing:
        desk.service.expect(CALLS * len(missing))
        judge = open_judge(desk)
        try:
            failed = desk.service.run(_judge_missing(desk, judge, missing))
        finally:
            judge.retriever.close()
    return [(failed.get(unit) or desk.journal[unit]["verdict"]) if unit else {} for unit in units]


async def _judge_missing(
    desk: Desk, judge: Judge, missing: Mapping[str, tuple[Item, str]]
) -> dict[str, Mapping[str, Any]]:
    """Judge what the journal lacks. Where a statement's support is not known, it is returned, to be asked again."""
    lanes = asyncio.Semaphore(desk.lanes)
    failed: dict[str, Mapping[str, Any]] = {}
    done = 0

    async def one(unit: str) -> None:
        nonlocal done
        item, text = missing[unit]
        async with lanes:
            judged = await judge.supported(Case(item.context, item.question, (text,)))
            [verdict] = judged.verdicts
            if verdict.settled:
                desk.journal.append({"unit": unit, "verdict": verdict.row()})
            else:
                failed[unit] = verdict.row()
        done += 1
        desk.ctx.pulse(f"    {TASK}: judged {done:,} of {len(missing):,}")

    await together(one(unit) for unit in missing)
    return failed


def support_result(
    desk: Desk, items: Sequence[Item], answers: Sequence[Answer], verdicts: Sequence[Mapping[str, Any]]
) -> Result:
    """The share of all statements that are fully supported, and how many an answer makes."""
    rows = []
    for item, answer, found in zip(items, answers, verdicts, strict=True):
        about = {"error": answer.error, "cut": answer.cut, "truncated": answer.short}
        failed = {"answer": answer.error} if answer.error else found["failed"]
        statements = found.get("statements")
        row = base_row(item, 0, answer.text, about) | {"statements": statements, "failed": failed}
        levels = [one.get("support") for one in statements or []]
        known = levels and not failed
        row["score"] = sum(level == 1 for level in levels) / len(levels) if known else None
        rows.append(row)
    known = judged_rows(rows)
    sizes = [float(len(row["statements"])) for row in known]
    contexts = [row["context_id"] for row in known]
    total: dict[str, Any] = {
        "task": TASK,
        **desk.statistics.mean(full_shares(known), contexts, sizes).as_dict(),
        "statements": desk.statistics.brief(sizes, contexts),
        "silent": sum(row["statements"] == [] for row in rows),
        "failed": reasons(f"{part}: {why}" for row in rows for part, why in row["failed"].items()),
        **counted(answers),
        **spread((row["score"] for row in rows), 0.0, 1.0),
        "data": digest_of(items),
    }
    return Result(TASK, total, rows)
