"""What is always said beside a score: refusals, cut answers, and which data it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.text_metrics import refuses
from lcx.work.files import sha256_json

__all__ = ["count_rows", "data_digest", "no_rows"]


def count_rows(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """`refused`: predictions that begin as a refusal; `truncated`: those that ended at their length limit."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts["refused"] += row["pred"] is not None and refuses(row["pred"])
        counts["truncated"] += row.get("finish") == "length"
    return counts


def data_digest(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> str:
    """What two results must share to be of the same questions: a digest of the rows' references, in any order."""
    return sha256_json(sorted(sha256_json([row.get(name) for name in fields]) for row in rows))[:16]


def no_rows(task: str, where: str) -> UsageError:
    """The error for predictions without any row."""
    file = where.removesuffix("row").removesuffix(", ")
    return UsageError(f"there are no {task} predictions to score", why=f"In {file}." if file else "")
