"""What LOGO's steps made and found, for a person: counts, histograms, examples, scores; numbers and Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from lcx.data.table import SegmentTable
from lcx.data.tokens import Shown
from lcx.formatting import bar_lines, histogram, sparkline
from lcx.records import Branch, Bundle
from lcx_logo.importance import classify

EXAMPLES = 3
"""Examples of each kind in the preview."""
PARTS = 8
BINS = 10
LEADS = 10
"""Bars of the histogram of leads, which run from -1 to 1."""
EXCERPT = 700


def summary(bundles: Iterable[Bundle], candidates: Iterable[Bundle]) -> dict[str, Any]:
    """What is kept: contexts, lengths, where the evidence stands. What was made: ratings and reasons for dropping."""
    counts: Counter[str] = Counter()
    lengths, critical, rejected = [], [], []
    places = [0] * PARTS
    for bundle in bundles:
        counts[f"{bundle.kind} contexts"] += 1
        lengths.append(int(bundle.meta["tokens"]))
        critical.append(len(bundle.branches[0].gold))
        rejected.append(len(bundle.branches) - 1)
        counts["contexts filled from other documents"] += bool(bundle.meta.get("filled"))
        counts["contexts with critical chunks left out"] += "critical_left_out" in bundle.meta
        for branch in bundle.branches[1:]:
            counts[f"rejected answers from {_name(branch)} chunks"] += 1
        for gold in bundle.branches[0].gold:
            places[gold * PARTS // len(bundle.meta["scores"])] += 1
    ratings: dict[str, list[float]] = {}
    for bundle in candidates:
        if "dropped" in bundle.meta:
            counts[f"example dropped: {bundle.meta['dropped']}"] += 1
        for branch in bundle.branches:
            if "rating" in branch.meta:
                ratings.setdefault(_name(branch), []).append(branch.meta["rating"])
            if "dropped" in branch.meta:
                counts[f"rejected answer dropped: {branch.meta['dropped']}"] += 1
            counts["answers cut at answer_tokens"] += "cut" in branch.meta
    found: dict[str, Any] = {"counts": +counts, "contexts": len(lengths), "questions": len(lengths)}
    if lengths:
        found["rejected_answers"] = round(fmean(rejected), 2)
        found["critical_chunks"] = round(fmean(critical), 2)
        found["context_tokens"] = {"least": min(lengths), "mean": fmean(lengths), "most": max(lengths)}
        found["gold_by_eighth"] = [round(n / (sum(places) or 1), 4) for n in places]
        found["gold_places"] = sparkline(places)
    if ratings:
        found["rating"] = {name: round(fmean(values), 3) for name, values in sorted(ratings.items())}
        found["ratings_0_to_1"] = {
            name: sparkline(histogram(values, BINS, 0, 1)) for name, values in sorted(ratings.items())
        }
    return found


def _name(branch: Branch) -> str:
    return branch.role if branch.role == "chosen" else str(branch.meta.get("from", "unknown"))


def preview(bundles: Iterable[Bundle], table: SegmentTable, shown: Shown) -> str:
    """A few bundles as Markdown: the question, its context with importance scores, and the answers."""
    parts = ["# A look at the data", "", shown.note, ""]
    seen: Counter[str] = Counter()
    for bundle in bundles:
        if seen[bundle.kind] >= EXAMPLES:
            continue
        seen[bundle.kind] += 1
        parts += _example(bundle, table, shown)
        if seen.total() >= EXAMPLES * 3:
            break
    return "\n".join(parts)


def _example(bundle: Bundle, table: SegmentTable, shown: Shown) -> list[str]:
    plan, meta = bundle.plan or (), bundle.meta
    critical, source = set(meta["critical"]), set(meta["source"])
    lines = [
        f"## {bundle.id} ({bundle.kind}: {len(plan)} chunks, {meta['tokens']:,} tokens)",
        "",
        f"**Q:** {bundle.branches[0].question}",
        "",
        f"Looked for: {', '.join(f'`{item}`' for item in meta['items'])}; critical above {meta['threshold']:g}",
        "",
        "| place | chunk | document | score | |",
        "|---|---|---|---|---|",
    ]
    for place, (chunk, score) in enumerate(zip(plan, meta["scores"], strict=True), 1):
        what = "critical" if chunk in critical else "irrelevant"
        what += ", the question's source" if chunk in source else ""
        lines.append(
            f"| {place} | {chunk} | {table.document(table.document_of(chunk)).id} | {score} | {what} |"
        )
    lines.append("")
    if meta.get("reference"):
        lines += [f"**Reference:** {meta['reference']}", ""]
    for branch in bundle.branches:
        rating = f", rated {branch.meta['rating']:.2f}" if "rating" in branch.meta else ""
        lines += [
            f"**{branch.role.capitalize()}** ({_origin(branch, critical)}{rating}): {branch.answer}",
            "",
        ]
    for chunk in [c for c in plan if c in critical][:2]:
        lines += [f"Chunk {chunk}, critical:", "", *_quoted(table.text(chunk)), ""]
    marks = {place: "critical" for place, chunk in enumerate(plan) if chunk in critical}
    return lines + shown.context(table.texts(plan), marks)


def _origin(branch: Branch, critical: set[int]) -> str:
    chunks = branch.meta["chunks"]
    if branch.meta["from"] == "corpus":
        return "given by the corpus"
    right = sum(chunk in critical for chunk in chunks)
    return f"from {right} critical and {len(chunks) - right} irrelevant chunks"


def _quoted(text: str) -> Sequence[str]:
    """An excerpt as a fenced block; the fence is longer than any in the text."""
    shown = text if len(text) <= EXCERPT else text[:EXCERPT] + " …"
    fence = "```"
    while fence in shown:
        fence += "`"
    return [f"{fence}text", shown, fence]


# What a score step found


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
