"""Whether rewards follow length, and by how much the chosen answers are longer. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean


def pearson(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Linear correlation; None for fewer than two points, or where one side does not vary."""
    if len(xs) < 2:
        return None
    mean_x, mean_y = fmean(xs), fmean(ys)
    dx, dy = [x - mean_x for x in xs], [y - mean_y for y in ys]
    across = sqrt(sum(d * d for d in dx) * sum(d * d for d in dy))
    return sum(a * b for a, b in zip(dx, dy, strict=True)) / across if across > 0 else None


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Correlation of ranks; equal values share their mean rank."""
    return pearson(ranks(xs), ranks(ys))


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share their mean rank."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            found[place] = (start + 1 + end) / 2
        start = end
    return found


def length_bias(
    rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]], pairs: Sequence[tuple[int, int]]
) -> dict[str, float | int | None]:
    """How rewards go with lengths, over all answers and within each question (a mean over questions).

    `rewards` and `lengths` are lists by question of the scored answers, `pairs` the lengths of chosen and rejected
    answers.
    """
    flat_rewards = [value for some in rewards for value in some]
    flat_lengths = [float(value) for some in lengths for value in some]
    within = [
        found
        for some, sizes in zip(rewards, lengths, strict=True)
        if (found := spearman(some, [float(size) for size in sizes])) is not None
    ]
    chosen, rejected = fmean([a for a, _ in pairs] or [0]), fmean([b for _, b in pairs] or [0])
    return {
        "spearman": _rounded(spearman(flat_rewards, flat_lengths)),
        "pearson": _rounded(pearson(flat_rewards, flat_lengths)),
        "spearman_within_questions": _rounded(fmean(within)) if within else None,
        "chosen_tokens": _rounded(chosen) if pairs else None,
        "rejected_tokens": _rounded(rejected) if pairs else None,
        "chosen_longer_by": _rounded(chosen / rejected - 1) if pairs and rejected else None,
        "pairs_with_longer_chosen": _rounded(fmean(a > b for a, b in pairs)) if pairs else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
