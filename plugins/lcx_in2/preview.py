"""What a synth step made, for a person: counts and histograms, and a few examples as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lcx.data.table import SegmentTable
from lcx.formatting import sparkline
from lcx.records import Bundle

EXAMPLES = 3
PARTS = 8


def summary(bundles: Sequence[Bundle], table: SegmentTable) -> dict[str, Any]:
    """Contexts, questions, lengths, and where the evidence stands: shares of eight equal parts of the context."""
    kinds: Counter[str] = Counter()
    places = [0] * PARTS
    lengths: list[int] = []
    unfilled = own = questions = 0
    for bundle in bundles:
        kinds[f"{bundle.kind} contexts"] += 1
        questions += len(bundle.branches)
        unfilled += bool(bundle.meta.get("exhausted"))
        own += bool(bundle.meta.get("own_document"))
        if bundle.plan is None or bundle.kind == "short":
            continue
        lengths.append(int(bundle.meta["tokens"]))
        for branch in bundle.branches:
            for gold in branch.gold:
                places[gold * PARTS // len(bundle.plan)] += 1
    total = sum(places) or 1
    counts = dict(kinds) | {"questions": questions}
    if unfilled:
        counts["contexts the corpus could not fill"] = unfilled
    if own:
        counts["contexts filled from the evidence's own document"] = own
    found: dict[str, Any] = {"counts": counts, "contexts": len(bundles), "questions": questions}
    if lengths:
        found["context_tokens"] = {
            "least": min(lengths),
            "mean": sum(lengths) / len(lengths),
            "most": max(lengths),
        }
        found["gold_by_eighth"] = [round(n / total, 4) for n in places]
        found["gold_places"] = sparkline(places)
    return found


def preview(bundles: Sequence[Bundle], table: SegmentTable) -> str:
    """A few bundles as Markdown: each question and answer with its evidence, and where that stands."""
    parts = ["# A look at the data", ""]
    seen: Counter[str] = Counter()
    for bundle in bundles:
        if seen[bundle.kind] >= EXAMPLES:
            continue
        seen[bundle.kind] += 1
        parts += _example(bundle, table)
        if sum(seen.values()) >= EXAMPLES * 3:
            break
    return "\n".join(parts)


def _example(bundle: Bundle, table: SegmentTable) -> list[str]:
    plan = bundle.plan or ()
    size = f"{len(plan)} segments, {bundle.meta.get('tokens', 0):,} tokens" if plan else "no context"
    lines = [f"## {bundle.id} ({bundle.kind}: {size})", ""]
    for branch in bundle.branches[:EXAMPLES]:
        lines += [f"**Q:** {branch.question}", "", f"**A:** {branch.answer}", ""]
        for gold in branch.gold:
            text = table.text(plan[gold])
            source = table.document(table.document_of(plan[gold])).id
            lines += [
                f"Evidence: segment {gold + 1} of {len(plan)}, from `{source}`",
                "",
                "```text",
                text,
                "```",
                "",
            ]
    if len(bundle.branches) > EXAMPLES:
        lines += [f"… and {len(bundle.branches) - EXAMPLES} more questions on this context", ""]
    return lines
