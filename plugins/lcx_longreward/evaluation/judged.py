"""The tasks that rate an answer against a reference: chat (1-10), qa (1-3) and summary (1-5)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from lcx.work.files import sha256_json
from lcx_longreward.evaluation.answers import Answer, counted
from lcx_longreward.evaluation.data import QA_SETS, SUMMARY_SETS, Item, digest_of
from lcx_longreward.evaluation.desk import Desk
from lcx_longreward.evaluation.ratings import CHAT, SCALES, Rater, load_prompts
from lcx_longreward.evaluation.results import Result, base_row, reasons, spread
from lcx_longreward.evaluation.reward import scoring
from lcx_longreward.judge import together

UNREADABLE = 0.5
"""What an unreadable rating of qa or summary counts in the published evaluation."""
GROUPS = {**QA_SETS, **SUMMARY_SETS}


def score_of(task: str, rating: float | None, compat: str | None = None) -> float | None:
    """A rating as the paper counts it: (r - 1) / 2 of qa, (r - 1) / 4 of summary, 0 to 1; chat's as it is, 1 to 10.

    Without a rating None, or 0.5 of qa and summary with `compat: longreward`.
    """
    low, high = SCALES[task]
    if rating is None:
        return UNREADABLE if compat == "longreward" and task != CHAT else None
    return rating if task == CHAT else (rating - low) / (high - low)


def open_rater(desk: Desk) -> Rater:
    """What asks the judge for ratings, by the settings of the score step's judge."""
    known = scoring(desk.settings)
    return Rater(
        exchange=desk.judge,
        prompts=load_prompts(known.prompts),
        language=known.language,
        attempts=known.attempts,
        temperature=known.temperature,
        retry_temperature=known.retry_temperature,
        seed=known.seed,
    )


def rate_all(
    desk: Desk, task: str, items: Sequence[Item], answers: Sequence[Answer]
) -> list[Mapping[str, Any]]:
    """Rating, analysis and why there is none, of every answer; from the journal where it has it."""
    units = [
        "" if answer.error else f"rated:{sha256_json([task, item.key, item.references, answer.text])[:32]}"
        for item, answer in zip(items, answers, strict=True)
    ]
    missing = {
        unit: (item, answer.text)
        for unit, item, answer in zip(units, items, answers, strict=True)
        if unit and unit not in desk.journal
    }
    failed: dict[str, dict[str, Any]] = {}
    if missing:
        desk.service.expect(len(missing))
        failed = desk.service.run(_rate_missing(desk, open_rater(desk), task, missing))
    return [
        (failed.get(unit) or desk.journal[unit])
        if unit
        else {"rating": None, "analysis": "", "why": answer.error}
        for unit, answer in zip(units, answers, strict=True)
    ]


async def _rate_missing(
    desk: Desk, rater: Rater, task: str, missing: Mapping[str, tuple[Item, str]]
) -> dict[str, dict[str, Any]]:
    """Rate what the journal lacks. Where no reply came at all, what failed is returned, to be asked again."""
    lanes = asyncio.Semaphore(desk.lanes)
    failed: dict[str, dict[str, Any]] = {}
    done = 0

    async def one(unit: str) -> None:
        nonlocal done
        item, text = missing[unit]
        async with lanes:
            reply = await rater.rate(task, item.question, item.references, text)
            found = {"unit": unit, "rating": reply.value, "analysis": reply.text, "why": reply.why}
            if reply.text:
                desk.journal.append(found)
            else:
                failed[unit] = found
        done += 1
        desk.ctx.pulse(f"    {task}: judged {done:,} of {len(missing):,}")

    await together(one(unit) for unit in missing)
    return failed


def judged_result(
    desk: Desk,
    task: str,
    items: Sequence[Item],
    answers: Sequence[Answer],
    rated: Sequence[Mapping[str, Any]],
) -> Result:
    """Mean score with its interval, by set and by the paper's columns, and what failed."""
    settings = desk.settings
    rows = []
    for item, answer, found in zip(items, answers, rated, strict=True):
        about = {"error": answer.error, "cut": answer.cut, "truncated": answer.short}
        # A question without an answer has no rating to be unreadable: compat leaves it out, too.
        score = None if answer.error else score_of(task, found["rating"], settings.compat)
        rows.append(
            base_row(item, 0, answer.text, about)
            | {
                "rating": found["rating"],
                "score": score,
                "analysis": found["analysis"],
                "failed": found["why"],
            }
        )
    scores = [row["score"] for row in rows]
    contexts = [row["context_id"] for row in rows]
    low, high = SCALES[task] if task == CHAT else (0.0, 1.0)
    total: dict[str, Any] = {
        "task": task,
        **desk.statistics.mean(scores, contexts).as_dict(),
        **_by(desk, items, scores, contexts),
        "empty": sum(not row["answer"] and not row["error"] for row in rows),
        "failed": reasons(row["failed"] for row in rows if row["failed"]),
        **counted(answers),
        **spread(scores, low, high, bins=18 if task == CHAT else 20),
        "compat": settings.compat,
        "data": digest_of(items),
    }
    return Result(task, total, rows)


def _by(
    desk: Desk, items: Sequence[Item], scores: Sequence[float | None], contexts: Sequence[str]
) -> dict[str, Any]:
    """Means by set, by the columns of the paper's table, and the mean of the sets, which all count alike."""
    sets = list(dict.fromkeys(item.dataset for item in items))
    if len(sets) < 2:
        return {}
    found: dict[str, Any] = {"sets": {}, "columns": {}}
    for name in sets:
        mine = [score if item.dataset == name else None for item, score in zip(items, scores, strict=True)]
        found["sets"][name] = desk.statistics.brief(mine, contexts)
    known = {name: numbers["n"] for name, numbers in found["sets"].items()}
    weights = [1 / known[item.dataset] if known[item.dataset] else 0.0 for item in items]
    for group in dict.fromkeys(GROUPS[name] for name in sets if name in GROUPS):
        part = [
            score if GROUPS.get(item.dataset) == group else None
            for item, score in zip(items, scores, strict=True)
        ]
        found["columns"][group] = desk.statistics.brief(part, contexts, weights)
    found["mean of sets"] = desk.statistics.brief(scores, contexts, weights)
    return found
