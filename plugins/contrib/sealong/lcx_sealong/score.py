"""The stage `score`: agreement of each answer with the others (minimum Bayes risk), and pairs."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from lcx.data.words import words
from lcx.errors import LcxError
from lcx.records import Branch, Bundle
from lcx.retrieval import open_retriever
from lcx.steps import StepResult, StepWork

Agree = Callable[[Sequence[str]], list[float]]
"""How much each of some answers agrees with the others, 0 to 1."""


def f1(one: str, other: str) -> float:
    """The F1 of the words of two answers, each as often as it stands there."""
    first, second = Counter(words(one)), Counter(words(other))
    shared = (first & second).total()
    return 2 * shared / (first.total() + second.total()) if shared else float(first == second)


def by_words(answers: Sequence[str]) -> list[float]:
    """The mean F1 with all others: what an answer is expected to score, where the others are the truth."""
    places = range(len(answers))
    return [
        fmean(f1(answers[place], answers[other]) for other in places if other != place) for place in places
    ]


def by_nearest(answers: Sequence[str], retriever: Any, near: int) -> list[float]:
    """The share of the others that have an answer among their `near` nearest."""
    found, count = retriever.index(answers), len(answers)
    votes: Counter[int] = Counter()
    for place, nearest in enumerate(found.top(answers, min(count, near + 1))):
        votes.update([one for one in nearest if one != place])
    return [votes[place] / (count - 1) for place in range(count)]


def pair(
    branches: Sequence[Branch], scores: Sequence[float], low: float, margin: float, rng: random.Random
) -> Any:
    """Chosen and rejected, or the reason why there is no pair. Of equal scores the earlier answer leads."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    best = order[0]
    lowest = order[-max(1, int(low * len(order))) :]
    worse = [place for place in lowest if branches[place].answer.strip() != branches[best].answer.strip()]
    if not worse:
        return "the answers are the same"
    worse = [place for place in worse if scores[best] - scores[place] >= margin]
    if not worse:
        return "no answer agrees less by the margin"
    drawn = rng.choice(worse)
    about = {"agreement": scores[best]}, {"agreement": scores[drawn]}
    return tuple(
        replace(branches[place], role=role, meta={**branches[place].meta, **meta})
        for place, role, meta in zip((best, drawn), ("chosen", "rejected"), about, strict=True)
    )


def score(work: StepWork[Any]) -> StepResult:
    """Write one pair for each question whose answers disagree; the others are counted with their reason."""
    settings, pairs, rows = work.settings, [], []
    agree: Agree = by_words
    if settings.similarity != "words":
        retriever = open_retriever(settings.similarity, settings.similarity_options, work.plugins)
        agree = lambda answers: by_nearest(answers, retriever, settings.near)  # noqa: E731
    for bundle in work.bundles():
        whole = [one for one in bundle.branches if one.answer.strip() and not one.meta.get("cut")]
        if len(whole) < settings.least:
            work.rejects.add(work.step.id, "too few whole answers", where=bundle.id, detail=f"{len(whole)}")
            continue
        scores = agree([one.answer for one in whole])
        rows.append({"id": bundle.id, "answers": [one.answer for one in whole], "agreement": scores})
        found = pair(
            whole, scores, settings.low, settings.margin, random.Random(f"{settings.seed}:{bundle.id}")
        )
        if isinstance(found, str):
            work.rejects.add(work.step.id, found, where=bundle.id)
            continue
        pairs.append(Bundle(bundle.id, found, context=bundle.context, kind=bundle.kind, meta=bundle.meta))
    work.write("scores", rows)
    if not pairs:
        raise LcxError(
            "no question has a pair", why=f"{dict(work.rejects.counts)}", hint="--set score.margin=0"
        )
    for shard in work.shards(len(pairs), fresh=True):
        shard.write(pairs[place] for place in shard.places)
    work.counts["pairs"] = len(pairs)
    lead = fmean(one.branches[0].meta["agreement"] - one.branches[1].meta["agreement"] for one in pairs)
    return work.done({"lead": lead}, extra={"similarity": settings.similarity})
