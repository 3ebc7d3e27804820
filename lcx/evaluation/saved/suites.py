"""Scores of a suite's rows: which of them count, by what arithmetic, and the means by length, difficulty and domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.probes import Suite
from lcx.evaluation.saved.checking import check_suite_row, row_id
from lcx.evaluation.saved.counting import count_rows, data_digest, no_rows

__all__ = ["length_bucket", "score_suite"]

Row = Mapping[str, Any]

BUCKETS = ((4000, "0-4k"), (8000, "4-8k"))
LONGEST = "8k+"
ORDER = {
    name: place
    for names in (("0-4k", "4-8k", LONGEST), ("short", "medium", "long"), ("easy", "hard"))
    for place, name in enumerate(names)
}


def score_suite(
    suite: Suite, rows: Sequence[Row], where: str, compat: str | None
) -> tuple[dict[str, Any], list[float | None]]:
    """The scores of a suite's rows, and each row's own. Raises UsageError naming a row that lacks a field.

    Of several rows with one id the first counts. A null prediction scores 0, or is left out with `film`.
    """
    if compat is not None and compat not in suite.compat:
        modes = " or ".join(f"'{mode}'" for mode in suite.compat)
        raise UsageError(
            f"there is no compat mode '{compat}' for {suite.name}",
            hint=f"Leave it out, or say {modes}." if modes else "Leave it out.",
        )
    checked = [check_suite_row(suite, row, f"{where} {number}") for number, row in enumerate(rows)]
    if not checked:
        raise no_rows(suite.name, where)
    counts = count_rows(checked)
    values = _values(suite, checked, compat, counts)
    known = [value for value in values if value is not None]
    average = sum(known) / len(known) if known else None
    score = None if average is None else 100 * average
    if compat is not None and suite.digits is not None and known:
        score = round(100 * sum(known) / len(known), suite.digits)
    contexts = [_context(suite, row, number) for number, row in enumerate(checked)]
    scores = {
        "task": suite.name,
        "view": suite.view,
        "n": len(known),
        "score": score,
        "average": average,
        "nulls": counts["nulls"],
        "skipped": counts["skipped"],
        "refused": counts["refused"],
        "truncated": counts["truncated"],
        "duplicates": counts["duplicates"],
        "compat": compat,
        **suite.info,
        "data": data_digest(checked, suite.row_fields),
        **_evidence(suite, checked, values, contexts),
    }
    return scores, values


def _values(
    suite: Suite, rows: Sequence[Row], compat: str | None, counts: Counter[str]
) -> list[float | None]:
    """The score of every row, None where it does not count; why not goes into `counts`."""
    score = suite.compat[compat] if compat is not None else suite.score
    seen: set[str] = set()
    values: list[float | None] = []
    for row in rows:
        name = row_id(row)
        value: float | None = None
        if name is not None and name in seen:
            counts["duplicates"] += 1
        elif row.get("skip"):
            counts["skipped"] += 1
        elif row["pred"] is None:
            counts["nulls"] += 1
            value = None if compat == "film" else 0.0
        else:
            value = score(row)
            counts["skipped"] += value is None
        if name is not None:
            seen.add(name)
        values.append(value)
    return values


def _context(suite: Suite, row: Row, number: int) -> Hashable:
    """What names a row's context. Files of others do not say which rows share one: each then stands for itself."""
    return number if suite.shots else row.get("context") or number


def _evidence(
    suite: Suite, rows: Sequence[Row], values: Sequence[float | None], contexts: Sequence[Hashable]
) -> dict[str, Any]:
    """The mean with its interval, and those of each group."""
    from lcx.evaluation.statistics.resampling import estimate_mean, group_evidence

    by = {}
    for field in suite.groups:
        known = [
            (_group(row[field]), context, value)
            for row, context, value in zip(rows, contexts, values, strict=True)
            if row.get(field) is not None
        ]
        if known:
            found = group_evidence(known)
            by[field] = {name: found[name] for name in sorted(found, key=lambda n: (ORDER.get(n, 9), n))}
    return {"estimate": estimate_mean(values, contexts).as_dict(), **({"by": by} if by else {})}


def _group(value: Any) -> str:
    return value if isinstance(value, str) else length_bucket(value)


def length_bucket(length: float) -> str:
    """The band of LongBench-E that a length (words, or Chinese characters) falls into."""
    return next((name for limit, name in BUCKETS if length < limit), LONGEST)
