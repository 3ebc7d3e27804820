"""Perplexity by position: how well a model predicts the tokens of long texts, the further it has read."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.statistics.grids import default_lengths
from lcx.evaluation.task import LengthOptions, Source, Task, TextSample
from lcx.settings import setting

__all__ = ["PERPLEXITY", "bucket_edges", "sums_between", "text_samples"]

SEPARATOR = "\n\n"
POOL_FACTOR = 2
"""Short documents are gathered for so many times the texts needed, to have some to choose from."""
LONG_TOKEN = 8
"""Characters of a long document that are tokenised for each token needed; all of it where those are too few."""


def bucket_edges(lengths: Sequence[int], buckets: int) -> tuple[int, ...]:
    """Edges of `buckets` equal buckets up to the longest length, with every length among them; from 0."""
    longest = max(lengths)
    even = {round(longest * number / buckets) for number in range(buckets + 1)}
    return tuple(sorted({0, longest, *even, *lengths}))


class PerplexityOptions(LengthOptions):
    """Options of `perplexity`."""

    buckets: int = setting(32, ge=1, description="points of the curve")


def text_samples(source: Source, options: PerplexityOptions) -> list[TextSample]:
    """Up to `sets` texts of as many tokens as the longest length, the opening token included.

    A document that is long enough is a text by itself (its start). Where there are too few, shorter ones are
    joined whole, in random order, an empty line between them, and the last is cut; no document is used twice.
    `meta` says how many documents a text has. Raises UsageError where there is not enough for one text.
    """
    if source.tokenize is None:
        raise UsageError("perplexity counts tokens: it needs a tokenizer")
    lengths = options.lengths or default_lengths(source.window)
    need = max(lengths) - len(source.opening)
    if need < 2:
        raise UsageError(f"perplexity needs texts of at least two tokens, not {max(lengths)}")
    whole: list[tuple[int, ...]] = []
    short: list[tuple[int, ...]] = []
    held = 0
    for document in source.documents:
        ids = _first_tokens(document.text.strip(), need, source.tokenize)
        if len(ids) == need:
            whole.append(ids)
        elif ids and held < POOL_FACTOR * options.sets * need:
            short.append(ids)
            held += len(ids)
        if len(whole) == options.sets or held >= POOL_FACTOR * options.sets * need:
            break
    separator = tuple(source.tokenize(SEPARATOR))
    random.Random(f"lcx.perplexity:{source.seed}").shuffle(short)
    texts = [(ids, 1) for ids in whole]
    joined: list[int] = []
    count = 0
    for ids in short:
        if len(texts) == options.sets:
            break
        joined += [*(separator if joined else ()), *ids]
        count += 1
        if len(joined) >= need:
            texts.append((tuple(joined[:need]), count))
            joined, count = [], 0
    if not texts:
        raise UsageError(
            f"perplexity needs {max(lengths)} tokens a text, but the corpus gives {held}",
            hint="Set lengths lower, use a larger corpus, or leave the task out.",
        )
    edges = bucket_edges(lengths, options.buckets)
    meta = {"edges": list(edges), "lengths": sorted(set(lengths)), "buckets": options.buckets}
    return [
        TextSample(
            f"perplexity:{source.seed}:{n}", (*source.opening, *ids), {**meta, "documents": documents_in}
        )
        for n, (ids, documents_in) in enumerate(texts)
    ]


def _first_tokens(text: str, need: int, tokenize: Callable[[str], Sequence[int]]) -> tuple[int, ...]:
    """At most `need` tokens of a text. Of a very long one only a part is tokenised."""
    start = text[: LONG_TOKEN * need + 64]
    ids = tokenize(start)
    if len(ids) <= need and len(start) < len(text):
        ids = tokenize(text)
    return tuple(ids[:need])


def sums_between(logprobs: Sequence[float], edges: Sequence[int]) -> tuple[list[float], list[int]]:
    """Sums of −log p, and counts, between neighbouring edges: logprobs [T-1] of the tokens at places 1 to T-1.

    The token at place 0 has no probability: nothing stands before it. Edges beyond the text count nothing.
    """
    sums, counts = [], []
    for start, end in itertools.pairwise(edges):
        part = logprobs[max(0, start - 1) : max(0, end - 1)]
        sums.append(-math.fsum(part))
        counts.append(len(part))
    return sums, counts


def _measure(model: Any, text: TextSample, on_done: Callable[[int], None]) -> dict[str, Any]:
    from lcx.modeling.logprobs import text_logprobs

    found = text_logprobs(model, text.ids, on_done=on_done)
    sums, counts = sums_between(found.double().tolist(), text.meta["edges"])
    return {"sums": sums, "counts": counts}


def _summarize(texts: Sequence[TextSample], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean −log p of all texts' tokens by bucket, and perplexity of the first tokens up to each length."""
    if not texts:
        return {"n": 0, "texts": 0, "nll": None, "perplexity": None, "lengths": [], "at_length": []}
    meta = texts[0].meta
    fine, lengths, longest = meta["edges"], meta["lengths"], max(meta["lengths"])
    sums = [math.fsum(column) for column in zip(*(one["sums"] for one in results), strict=True)]
    counts = [sum(column) for column in zip(*(one["counts"] for one in results), strict=True)]

    def mean(start: int, end: int) -> tuple[float | None, int]:
        inside = [n for n, edge in enumerate(fine[:-1]) if start <= edge < end]
        count = sum(counts[n] for n in inside)
        return (math.fsum(sums[n] for n in inside) / count if count else None), count

    edges = sorted({round(longest * n / meta["buckets"]) for n in range(meta["buckets"] + 1)})
    buckets = [mean(start, end) for start, end in itertools.pairwise(edges)]
    whole, n = mean(0, longest)
    at_length = []
    for length in lengths:
        nll, count = mean(0, length)
        # A text that was cut to the model's window says nothing about longer ones.
        at_length.append(_exp(nll) if count == (length - 1) * len(texts) else None)
    digest = hashlib.sha256(json.dumps([text.ids for text in texts]).encode())
    return {
        "n": n,
        "texts": len(texts),
        "documents": sum(text.meta["documents"] for text in texts),
        "joined": sum(text.meta["documents"] > 1 for text in texts),
        "content": digest.hexdigest()[:16],
        "nll": whole,
        "perplexity": _exp(whole),
        "lengths": lengths,
        "at_length": at_length,
        "edges": edges,
        "curve": [value for value, _ in buckets],
        "counts": [count for _, count in buckets],
    }


def _exp(nll: float | None) -> float | None:
    return None if nll is None else math.exp(min(nll, 700.0))


PERPLEXITY = Task(
    name="perplexity",
    summary="how well long texts are predicted, by position in them",
    samples=text_samples,
    options=PerplexityOptions,
    view="perplexity",
    count=lambda options: (options.sets, 0),
    measure=_measure,
    summarize_texts=_summarize,
)
