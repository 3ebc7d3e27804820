"""The gap and the interval of a result in a few words, for terminals, pictures and pages alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lcx.formatting import p_words

__all__ = ["VIEWS", "gap_words", "half_width", "view_of"]

VIEWS = ("curve", "grid", "lengths", "perplexity", "table")
"""The views that every renderer knows; a plugin's own are shown as plain numbers."""


def gap_words(scores: Mapping[str, Any], gap: str = "gap") -> str:
    """`gap 0.12, noise alone gives 0.08, p = 0.012`, as far as it is known."""
    found, test = scores.get("gap"), scores.get("gap_test") or {}
    parts = [] if found is None else [f"{gap} {found:.2f}"]
    if test.get("null_mean") is not None:
        parts.append(f"noise alone gives {test['null_mean']:.2f}")
    return ", ".join([*parts, *([p_words(test["p"])] if test.get("p") is not None else [])])


def half_width(scores: Mapping[str, Any]) -> float | None:
    """Half the interval of a task's mean; None where there is none."""
    estimate = scores.get("estimate") or {}
    low, high = estimate.get("low"), estimate.get("high")
    return None if low is None or high is None else (high - low) / 2


def view_of(models: Mapping[str, Mapping[str, Any]]) -> str:
    """The view of one task's results; those from before there were views are curves."""
    return next((str(scores.get("view", "curve")) for scores in models.values()), "curve")
