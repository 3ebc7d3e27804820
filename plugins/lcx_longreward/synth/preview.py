"""What the synth step made, for a person: counts and numbers, and a few prompts with their answers as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from lcx.formatting import histogram, sparkline
from lcx.records import Bundle

EXAMPLES = 5
"""Prompts in the preview, each of another kind where there are as many."""
EXCERPT, ANSWER = 600, 400
BINS = 10


def summary(bundles: Iterable[Bundle]) -> dict[str, Any]:
    """Kinds of tasks, lengths of contexts and answers, and how far the answers to a prompt differ."""
    counts: Counter[str] = Counter()
    tokens, words, distinct, number = [], [], [], 0
    for bundle in bundles:
        number += 1
        counts[f"prompts of the kind {bundle.kind}"] += 1
        if "tokens" in bundle.meta:
            tokens.append(int(bundle.meta["tokens"]))
        texts = [branch.answer for branch in bundle.branches]
        words += [len(text.split()) for text in texts]
        distinct.append(len(set(texts)) / len(texts))
        counts["candidates"] += len(texts)
        counts["candidates cut at answer_tokens"] += sum("cut" in branch.meta for branch in bundle.branches)
    found: dict[str, Any] = {"counts": +counts, "contexts": number, "questions": number}
    if tokens:
        found["context_tokens"] = {"least": min(tokens), "mean": fmean(tokens), "most": max(tokens)}
    if words:
        found["answer_words"] = {"least": min(words), "mean": round(fmean(words), 1), "most": max(words)}
        found["different_answers"] = round(fmean(distinct), 3)
        found["answer_lengths"] = sparkline(histogram(words, BINS, 0, max(words) + 1))
    return found


def preview(bundles: Iterable[Bundle]) -> str:
    """A few prompts as Markdown: the task, the beginning and end of its context, and the first answers."""
    parts = ["# A look at the data", ""]
    seen: set[str] = set()
    later: list[Bundle] = []
    shown = 0
    for bundle in bundles:
        if bundle.kind in seen:
            if len(later) < EXAMPLES:
                later.append(bundle)
            continue
        seen.add(bundle.kind)
        parts += _example(bundle)
        shown += 1
        if shown == EXAMPLES:
            break
    for bundle in later[: EXAMPLES - shown]:
        parts += _example(bundle)
    return "\n".join(parts)


def _example(bundle: Bundle) -> list[str]:
    context = bundle.context or ""
    meta = bundle.meta
    size = f"{meta['tokens']:,} tokens" if "tokens" in meta else f"{len(context):,} characters"
    lines = [f"## {bundle.id} ({bundle.kind}; {size} of {meta.get('document', 'a document')})", ""]
    lines += [f"**Task:** {bundle.branches[0].question}", ""]
    if meta.get("reference"):
        lines += [f"**Reference:** {meta['reference']}", ""]
    shown = (
        context if len(context) <= EXCERPT else f"{context[: EXCERPT // 2]}\n…\n{context[-EXCERPT // 2 :]}"
    )
    fence = "```"
    while fence in shown:
        fence += "`"
    lines += [f"{fence}text", shown, fence, ""]
    texts = Counter(branch.answer for branch in bundle.branches)
    for text, times in texts.most_common(EXAMPLES):
        short = text if len(text) <= ANSWER else text[:ANSWER] + " …"
        lines.append(f"- {f'({times} times) ' if times > 1 else ''}{' '.join(short.split())}")
    if len(texts) > EXAMPLES:
        lines.append(f"- and {len(texts) - EXAMPLES} other answers")
    return [*lines, ""]
