"""Rows of predictions as a run writes them: what was asked and answered, where the evidence lies, and the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lcx.evaluation.answer import Answer
from lcx.evaluation.encode import Job
from lcx.evaluation.offline import score_benchmark, score_probe
from lcx.evaluation.report.excerpts import excerpt
from lcx.evaluation.samples import ITEM, TaskData
from lcx.records import Branch

__all__ = ["make_row", "score_rows"]

OWN = ("set", "position", "gold", ITEM)
"""Fields of a branch's meta that a row has under another name, or in another form."""


def make_row(one: TaskData, job: Job, branch: Branch, answer: Answer | None) -> dict[str, Any]:
    """The row of one item. A context that was dropped is marked `skip`: what was never asked is no wrong answer."""
    meta = branch.meta
    gold = [tuple(span) for span in meta.get("gold") or ()]
    context = job.bundle.context or ""
    row: dict[str, Any] = {"item": meta[ITEM], "context": job.bundle.id}
    if "set" in meta:
        row |= {"set_id": meta["set"], "position_id": meta["position"]}
    row |= {key: value for key, value in meta.items() if key not in OWN}
    row |= {
        "pred": answer.text if answer is not None else None,
        "score": None,
        "finish": answer.finish if answer is not None else None,
        "question": branch.question,
    }
    if gold and context and "at" not in row:
        row["at"] = round(gold[0][0] / max(1, len(context)), 4)
    if context:
        row["excerpt"] = excerpt(context, gold)
    if answer is not None and answer.error:
        row["error"] = answer.error
    if job.encoded is None:
        row["skip"] = True
    return row


def score_rows(one: TaskData, jobs: Sequence[Job], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores of a task; each row is given its own score."""
    task, settings = one.task, one.settings
    positions = max((job.bundle.meta.get("items", 0) for job in jobs), default=0)
    if task.published:
        scored, values = score_benchmark(task, rows, "row", _compat(one))
    else:
        scored, values = score_probe(task, rows, "row", _compat(one), span=settings.span, positions=positions)
    for row, value in zip(rows, values, strict=True):
        row["score"] = value
    prefixes = [len(job.encoded.prefix) for job in jobs if job.encoded is not None]
    places = {} if task.published else {"positions": positions}
    aside = {reason: count for reason, count in one.counts.items() if count}
    return {
        "data": one.samples_hash,
        **scored,
        "material": one.samples_hash,
        "task": one.name,
        **places,
        "ambiguous": sum(job.bundle.meta.get("skipped", 0) for job in jobs),
        "contexts": len(jobs),
        "dropped": sum(job.encoded is None for job in jobs),
        "truncated": sum(job.cut > 0 for job in jobs),
        "unfinished": sum(row["finish"] == "length" for row in rows),
        "errors": sum(row["finish"] == "error" for row in rows),
        "context_tokens": round(sum(prefixes) / len(prefixes)) if prefixes else None,
        **({"set aside": aside} if aside else {}),
    }


def _compat(one: TaskData) -> Any:
    """The published arithmetic that was asked for, where this task has one."""
    mode = one.settings.compat
    if one.task.published:
        return mode if mode in one.task.compat else None
    return mode if mode == "film" and one.task.view == "curve" else None
