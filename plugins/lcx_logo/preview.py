"""What a synth step made, for a person: counts and histograms, and a few examples as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from lcx.data.table import SegmentTable
from lcx.formatting import histogram, sparkline
from lcx.records import Branch, Bundle

EXAMPLES = 3
"""Examples of each kind in the preview."""
PARTS = 8
BINS = 10
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


def preview(bundles: Iterable[Bundle], table: SegmentTable) -> str:
    """A few bundles as Markdown: the question, its context with importance scores, and the answers."""
    parts = ["# A look at the data", ""]
    seen: Counter[str] = Counter()
    for bundle in bundles:
        if seen[bundle.kind] >= EXAMPLES:
            continue
        seen[bundle.kind] += 1
        parts += _example(bundle, table)
        if seen.total() >= EXAMPLES * 3:
            break
    return "\n".join(parts)


def _example(bundle: Bundle, table: SegmentTable) -> list[str]:
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
    return lines


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
