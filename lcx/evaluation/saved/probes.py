"""Scores of a probe's rows: which rows count, the curve or whatever the probe makes of them, and the evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.probes import Probe, Scored
from lcx.evaluation.saved.checking import check_probe_row
from lcx.evaluation.saved.counting import count_rows, data_digest, no_rows
from lcx.evaluation.statistics.curves import Compat, span_curve
from lcx.evaluation.text_metrics import contains

__all__ = ["score_probe"]

Row = Mapping[str, Any]


def score_probe(
    probe: Probe, rows: Sequence[Row], where: str, compat: str | None, *, span: int, positions: int | None
) -> tuple[dict[str, Any], list[float | None]]:
    """The scores of a probe's rows, and each row's own. Raises UsageError naming a row that lacks a field."""
    if compat not in (None, "film"):
        raise UsageError(
            f"there is no compat mode '{compat}' for {probe.name}", hint="Leave it out, or say 'film'."
        )
    mode: Compat | None = "film" if compat == "film" and probe.summarize is None else None
    checked = [check_probe_row(probe, row, f"{where} {number}") for number, row in enumerate(rows)]
    if not checked:
        raise no_rows(probe.name, where)
    counts = count_rows(checked)
    scored = _scored(probe, checked, mode, counts)
    if probe.summarize is None:
        found = _curve(scored, span, positions or 0, mode)
    else:
        found = {"n": sum(value is not None for _, value in scored), **probe.summarize(scored)}
    if "estimate" not in found:
        found["estimate"] = _estimate(scored)
    scores = {
        "task": probe.name,
        "view": probe.view,
        "n": found.pop("n"),
        "score": None if found["average"] is None else 100 * found["average"],
        "nulls": counts["nulls"],
        "skipped": counts["skipped"],
        "refused": counts["refused"],
        "truncated": counts["truncated"],
        "duplicates": counts["duplicates"],
        "compat": mode,
        "data": data_digest(checked, ("set_id", "position_id", *probe.row_fields, *probe.number_fields)),
        **_decoys(counts),
        **(_missing(checked) if probe.summarize is None else {}),
        **found,
    }
    return scores, [value for _, value in scored]


def _scored(probe: Probe, rows: Sequence[Row], compat: Compat | None, counts: Counter[str]) -> list[Scored]:
    """Every row with its score, or None where it does not count; why not goes into `counts`."""
    field = probe.key_field or ""
    again = _repeated(probe, rows)
    keys = Counter(
        (row["set_id"], row[field])
        for row, repeat in zip(rows, again, strict=True)
        if not repeat and row.get(field)
    )
    score = probe.compat if compat == "film" and probe.compat else probe.score
    scored: list[Scored] = []
    for row, repeat in zip(rows, again, strict=True):
        pred = row["pred"]
        value: float | None = None
        ambiguous = keys[row["set_id"], row.get(field)] > 1
        if repeat or row.get("skip") or ambiguous:
            counts["skipped"] += 1
            counts["duplicates"] += repeat or ambiguous
        elif pred is None:
            value = 0.0 if compat is None else None
        else:
            value = score(row)
            counts["skipped"] += value is None
        counts["nulls"] += pred is None and not (repeat or row.get("skip") or ambiguous)
        if value is not None and row.get("decoy"):
            decoys = [row["decoy"]] if isinstance(row["decoy"], str) else row["decoy"]
            counts["decoy_rows"] += 1
            counts["decoys"] += any(contains(pred or "", decoy, whole_words=True) for decoy in decoys)
        scored.append((row, value))
    return scored


def _repeated(probe: Probe, rows: Sequence[Row]) -> list[bool]:
    """Whether an earlier row answers the same item: its name, or else its place and all that the task needs."""
    fields = (*probe.row_fields, *probe.number_fields, *probe.list_fields, "length", "depth", "query")
    seen: set[Hashable] = set()
    found = []
    for row in rows:
        key: Hashable = row.get("item") or (
            row["set_id"],
            row["position_id"],
            *(repr(row.get(name)) for name in fields),
        )
        found.append(key in seen)
        seen.add(key)
    return found


def _missing(rows: Sequence[Row]) -> dict[str, Any]:
    """Places of a saved file that have no row, up to the last position of any set: a file that was cut has some.

    Files of lcx's own runs are not looked at: they say what was asked by the items they have.
    """
    if any(row.get("item") for row in rows):
        return {}
    places = {(row["set_id"], row["position_id"]) for row in rows}
    sets = sorted({number for number, _ in places})
    size = max(position for _, position in places) + 1
    missing = len(sets) * size - len(places)
    if not missing:
        return {"missing": 0}
    number, position = next(
        (number, position) for number in sets for position in range(size) if (number, position) not in places
    )
    return {"missing": missing, "first_missing": f"set {number}, position {position}"}


def _decoys(counts: Counter[str]) -> dict[str, Any]:
    rows = counts["decoy_rows"]
    return {"decoys": counts["decoys"] / rows, "decoy_rows": rows} if rows else {}


def _curve(scored: Sequence[Scored], span: int, positions: int, compat: Compat | None) -> dict[str, Any]:
    """The curve by position with its evidence; `positions` is the length of the context in items, or more."""
    from lcx.evaluation.statistics.curves import curve_evidence

    length = max(max(row["position_id"] for row, _ in scored) + 1, positions)
    kept = [(row, value) for row, value in scored if value is not None]
    kept.sort(
        key=lambda one: (one[0]["set_id"], one[0]["position_id"])
    )  # what is drawn is the same in any order
    places = [(row["set_id"], row["position_id"], value) for row, value in kept]
    contexts = [row.get("context") or row["set_id"] for row, _ in kept]
    curve = span_curve(places, width=span, positions=length, compat=compat)
    evidence = curve_evidence(places, width=span, positions=length, compat=compat, contexts=contexts)
    return {"n": sum(curve.counts), **curve.as_dict(), **evidence}


def _estimate(scored: Sequence[Scored]) -> dict[str, Any]:
    from lcx.evaluation.statistics.resampling import estimate_mean

    contexts = [row.get("context") or (row["set_id"], row.get("length")) for row, _ in scored]
    return estimate_mean([value for _, value in scored], contexts).as_dict()
