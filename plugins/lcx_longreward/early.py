"""Exact early stopping: which answers can still become the chosen or a rejected one. Pure functions.

What makes it exact: an answer is left out only by answers whose rewards are final. A reward that is not known in full
may still come to nothing (a part can fail), so an unfinished answer excludes none, and only finished ones count
towards `least_scored`: as long as those are too few, every answer that can still be scored is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lcx_longreward.pairs import Rules, leads, normal


@dataclass(frozen=True)
class Standing:
    """What is known of one answer: its reward lies from `low` to `high`. Failed ones will have none."""

    low: float
    high: float
    done: bool = False
    failed: bool = False


def needed(standings: Sequence[Standing], texts: Sequence[str], rules: Rules) -> list[int]:
    """Places of the unfinished answers whose rewards may change the pair, in order. Empty: the pair is settled."""
    live = [place for place, one in enumerate(standings) if not one.failed]
    open_ones = [place for place in live if not standings[place].done]
    done = [place for place in live if standings[place].done]
    least = max(2, rules.least_scored)
    if not open_ones or len(live) < least or not _any_pair(standings, live, rules):
        return []
    if len(done) < least:
        return open_ones
    names = [normal(text) for text in texts]
    top = max(done, key=lambda place: (standings[place].low, -place))
    may_lead = [place for place in open_ones if not _above(standings, top, place)]
    ceiling = max(standings[place].high for place in [top, *may_lead])
    # A text that may become the chosen one rejects nothing, so it does not count among those below.
    leading = {names[place] for place in [top, *may_lead]}
    return [
        place
        for place in open_ones
        if place in may_lead or _may_be_rejected(place, standings, done, names, leading, ceiling, rules)
    ]


def first(standings: Sequence[Standing], places: Sequence[int], count: int) -> list[int]:
    """`count` of the needed answers to finish next: in turn the likeliest chosen and the likeliest rejected ones."""
    highest = sorted(places, key=lambda place: (-standings[place].high, place))
    lowest = sorted(places, key=lambda place: (standings[place].low, place))
    turns = dict.fromkeys(place for both in zip(highest, lowest, strict=True) for place in both)
    return sorted(list(turns)[:count])


def _any_pair(standings: Sequence[Standing], live: Sequence[int], rules: Rules) -> bool:
    """Whether two of the answers can end up far enough apart."""
    highest = max(standings[place].high for place in live)
    lowest = min(standings[place].low for place in live)
    return leads(highest, lowest, rules.margin)


def _above(standings: Sequence[Standing], top: int, place: int) -> bool:
    """Whether a finished answer is sure to be chosen before another."""
    best, high = standings[top].low, standings[place].high
    return best > high or (best == high and top < place)


def _may_be_rejected(
    place: int,
    standings: Sequence[Standing],
    done: Sequence[int],
    names: Sequence[str],
    leading: set[str],
    ceiling: float,
    rules: Rules,
) -> bool:
    low = standings[place].low
    if not leads(ceiling, low, rules.margin):
        return False
    below = {
        names[other]
        for other in done
        if names[other] not in leading
        and (standings[other].low < low or (standings[other].low == low and other < place))
    }
    return len(below) < rules.rejected
