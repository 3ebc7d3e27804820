"""What a score step found, as rows, as numbers and as Markdown with small histograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lcx.formatting import bar_lines, histogram, sparkline
from lcx.records import Bundle
from lcx_logo.importance import classify
from lcx_logo.preview import BINS, summary

LEADS = 10
"""Bars of the histogram of leads, which run from -1 to 1."""


def score_row(bundle: Bundle) -> dict[str, Any]:
    """One example's scores: every chunk's importance and class, every answer's rating, and what was kept."""
    meta = bundle.meta
    critical = set(meta["critical"])
    names = bundle.plan if bundle.plan is not None else range(len(meta["scores"]))
    return {
        "id": bundle.id,
        "question": bundle.branches[0].question,
        "items": meta["items"],
        "threshold": meta["threshold"],
        "chunks": [
            {
                "chunk": name,
                "score": value,
                "class": "critical" if name in critical else classify(value, meta["threshold"]),
            }
            for name, value in zip(names, meta["scores"], strict=True)
        ],
        "answers": [
            {
                "role": branch.role,
                "from": branch.meta.get("from", ""),
                "rating": branch.meta.get("rating"),
                "reason": branch.meta.get("dropped", ""),
            }
            for branch in bundle.branches
        ],
        "kept": "dropped" not in meta,
        "reason": meta.get("dropped", ""),
    }


def tallies(bundles: Iterable[Bundle], candidates: Iterable[Bundle]) -> tuple[dict[str, Any], Counter[str]]:
    """Headline numbers and counts, importance and leads included."""
    candidates = list(candidates)
    metrics = summary(bundles, candidates)
    counts: Counter[str] = Counter(metrics.pop("counts"))
    shares, leads = distributions(candidates)
    for bundle in candidates:
        for chunk in score_row(bundle)["chunks"]:
            counts[f"chunks: {chunk['class']}"] += 1
    metrics["importance_0_to_1"] = sparkline(histogram(shares, BINS, 0, 1))
    metrics["leads_-1_to_1"] = sparkline(histogram(leads, LEADS, -1, 1))
    return metrics, counts


def distributions(candidates: Iterable[Bundle]) -> tuple[list[float], list[float]]:
    """Each chunk's share of its question's items, and the chosen rating less the best rejected one of each example."""
    shares, leads = [], []
    for bundle in candidates:
        items = len(bundle.meta["items"])
        shares += [value / items for value in bundle.meta["scores"] if items]
        ratings = [branch.meta.get("rating") for branch in bundle.branches]
        known = [rating for rating in ratings[1:] if rating is not None]
        if ratings[0] is not None and known:
            leads.append(ratings[0] - max(known))
    return shares, leads


def report(metrics: Mapping[str, Any], counts: Mapping[str, int], candidates: Iterable[Bundle]) -> str:
    """The score step's report as Markdown."""
    shares, leads = distributions(candidates)
    percent = [f"{100 * i // BINS}-{100 * (i + 1) // BINS}%" for i in range(BINS)]
    edges = [f"{-1 + 2 * i / LEADS:+.1f} to {-1 + 2 * (i + 1) / LEADS:+.1f}" for i in range(LEADS)]
    lines = [
        "# Scores",
        "",
        f"{metrics['contexts']:,} examples kept.",
        "",
        "## Importance: share of the question's items that a chunk holds",
        "",
        "```text",
        *bar_lines(percent, histogram(shares, BINS, 0, 1)),
        "```",
        "",
        "## Lead of the chosen answer over the best rejected one, as the judge rates them",
        "",
        "```text",
        *bar_lines(edges, histogram(leads, LEADS, -1, 1)),
        "```",
        "",
        "## Counts",
        "",
        *[f"- {name}: {number:,}" for name, number in sorted(counts.items())],
        "",
    ]
    return "\n".join(lines)
