"""What a probe makes of its scored rows: a grid of length by depth, or accuracy by length, each with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from lcx.evaluation.probes import Scored
from lcx.evaluation.statistics.grids import grid, grid_evidence, lengths_evidence
from lcx.evaluation.statistics.resampling import group_evidence
from lcx.evaluation.text_metrics import contains

__all__ = ["context_of", "found_share", "grid_view", "lengths_view", "misled"]


def context_of(row: Mapping[str, Any]) -> Hashable:
    """What names the context of a row: its bundle, else set and length (files of others)."""
    return row.get("context") or (row.get("set_id"), row.get("length"))


def grid_view(scored: Sequence[Scored]) -> dict[str, Any]:
    """Cells by length and depth with intervals, and the gap against noise."""
    rows = [(row["length"], row["depth"], score) for row, score in scored]
    known = [(row["length"], row["depth"], context_of(row), score) for row, score in scored]
    found = grid(rows)
    return {"unit": _unit(scored), **found, **grid_evidence(known, found["lengths"], found["depths"])}


def lengths_view(scored: Sequence[Scored]) -> dict[str, Any]:
    """Accuracy by length with intervals; each length weighs the same in `average`, `gap` is best minus worst."""
    known = [(row["length"], context_of(row), score) for row, score in scored]
    groups = group_evidence(known)
    lengths = sorted(groups)
    estimates = [groups[length] for length in lengths]
    values = [estimate["mean"] for estimate in estimates]
    filled = [value for value in values if value is not None]
    return {
        "unit": _unit(scored),
        "lengths": lengths,
        "values": values,
        "counts": [estimate["n"] for estimate in estimates],
        "average": sum(filled) / len(filled) if filled else None,
        "gap": max(filled) - min(filled) if filled else None,
        **lengths_evidence(known),
    }


def found_share(row: Mapping[str, Any]) -> float:
    """Share of the row's `answers` that its prediction has as whole words; case does not count."""
    pred = row["pred"].casefold()
    found = [contains(pred, answer.casefold(), whole_words=True) for answer in row["answers"]]
    return sum(found) / len(found) if found else 0.0


def misled(scored: Sequence[Scored]) -> float | None:
    """Share of rows with a decoy whose prediction names one and not the answer; None where no row has one."""
    rows = [(row, score) for row, score in scored if row.get("decoy") and score is not None]
    wrong = 0
    for row, score in rows:
        decoys = [row["decoy"]] if isinstance(row["decoy"], str) else row["decoy"]
        pred = (row["pred"] or "").casefold()
        wrong += score < 1 and any(contains(pred, decoy.casefold(), whole_words=True) for decoy in decoys)
    return wrong / len(rows) if rows else None


def _unit(scored: Sequence[Scored]) -> str:
    return str(min((row.get("unit", "tokens") for row, _ in scored), default="tokens"))
