"""Perplexity of two models on the same texts: pairs of stretches of text, from what the journals hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lcx.evaluation.comparing.grouping import Group
from lcx.evaluation.comparing.pairing import NotComparable, Pair, Pairing
from lcx.evaluation.found_results import Result
from lcx.evaluation.probes.perplexity import bucket_edges

__all__ = ["is_reading", "pair_texts", "text_groups"]

JOURNAL = "journal.jsonl"


def is_reading(scores: Mapping[str, Any]) -> bool:
    """Whether a task read texts instead of asking."""
    return str(scores.get("view")) == "perplexity"


def pair_texts(a: Result, b: Result, task: str) -> Pairing:
    """Mean −log p of each stretch of each text under both models; `row` has its text, first token and tokens.

    Raises NotComparable where the texts, or their tokens, are not the same.
    """
    first, second = a.scores["tasks"][task], b.scores["tasks"][task]
    if not first.get("content") or first.get("content") != second.get("content"):
        raise NotComparable("they read other texts, or the same texts as other tokens")
    texts_a, texts_b = _read(a, task), _read(b, task)
    shared = [text for text in texts_a if text in texts_b]
    edges = bucket_edges(first["lengths"], len(first["edges"]) - 1)
    pairs = []
    for text in shared:
        (sums_a, counts_a), (sums_b, counts_b) = texts_a[text], texts_b[text]
        if counts_a != counts_b or len(counts_a) != len(edges) - 1:
            raise NotComparable(f"the text {text} was read in other stretches")
        for place, (start, count) in enumerate(zip(edges, counts_a, strict=False)):
            if count:
                row = {"text": text, "start": start, "tokens": count}
                pairs.append(Pair((text, place), sums_a[place] / count, sums_b[place] / count, text, row))
    if not pairs:
        raise NotComparable("they share no text that was read")
    return Pairing(tuple(pairs), len(texts_a) - len(shared), len(texts_b) - len(shared), 0, 0, "text")


def text_groups(task: str, scores: Mapping[str, Any], pairs: Sequence[Pair]) -> list[Group]:
    """All tokens, and the first ones up to each length; a stretch weighs as its tokens."""
    tokens = [float(pair.row["tokens"]) for pair in pairs]
    found = [Group("task", task, tuple(range(len(pairs))), tuple(tokens))]
    lengths = list(scores["lengths"])
    if len(lengths) > 1:
        for length in lengths:
            places = tuple(place for place, pair in enumerate(pairs) if pair.row["start"] < length)
            found.append(
                Group("length", f"first {length:,}", places, tuple(tokens[place] for place in places))
            )
    return found


def _read(result: Result, task: str) -> dict[str, tuple[list[float], list[int]]]:
    """Sums of −log p and counts of every text that a model read, by its name."""
    path = result.folder / JOURNAL
    if not path.is_file():
        raise NotComparable(f"there is no {JOURNAL} in {result.folder}, which has the numbers of each text")
    found: dict[str, tuple[list[float], list[int]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line that a kill tore
        held = entry.get("result") if isinstance(entry, Mapping) else None
        if isinstance(held, Mapping) and {"sums", "counts"} <= set(held):
            *owner, name = str(entry.get("unit")).split(" ", 1)  # older journals do not name the task
            if owner in ([], [task]) and all(math.isfinite(value) for value in held["sums"]):
                found[name] = (list(held["sums"]), list(held["counts"]))
    tokens = sum(sum(counts) for _, counts in found.values())
    if tokens != result.scores["tasks"][task].get("n"):
        raise NotComparable(f"{path} does not have the texts of the result")
    return found
