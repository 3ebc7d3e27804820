"""Examples as bundles with all they came from, and as rows for a person to look up why something was dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lcx.data.table import SegmentTable
from lcx.records import Branch, Bundle
from lcx_logo.answers import Answer
from lcx_logo.chunks import Case
from lcx_logo.filter import Verdict

CHOSEN, REJECTED = "chosen", "rejected"


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
            }
            for branch in bundle.branches
        ],
    }
