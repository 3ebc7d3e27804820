"""Where the evidence goes: pairs are grouped by context, and their segments hidden at random places of a long one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from math import inf

from lcx.data.plans import draw, fill_plan, plan_rng, shuffle
from lcx.data.table import SegmentTable
from lcx.llm.questions import QA
from lcx.records import Branch, Bundle

PATIENCE = 64
"""Pairs that do not fit into a context's rest, after which no other is tried."""


def shares(mix: dict[str, float], examples: int) -> dict[str, int]:
    """`examples` cut by the shares of `mix`, to the unit (largest remainders take what is left)."""
    total = sum(mix.values())
    exact = {kind: examples * share / total for kind, share in mix.items()}
    counts = {kind: int(value) for kind, value in exact.items()}
    left = examples - sum(counts.values())
    for kind in sorted(exact, key=lambda k: (counts[k] - exact[k], k))[:left]:
        counts[kind] += 1
    return counts


def repeat(pairs: Sequence[QA], needed: int, seed: str) -> list[QA]:
    """`needed` pairs: each in turn, and in a new random order every time round."""
    taken: list[QA] = []
    turn = 0
    while pairs and len(taken) < needed:
        order = list(pairs)
        shuffle(random.Random(f"{seed}:turn:{turn}"), order)
        taken += order[: needed - len(taken)]
        turn += 1
    return taken


def group(
    pairs: Sequence[QA],
    size: int,
    marks: Callable[[int], Iterable[object]],
    *,
    tokens: Callable[[int], int] = lambda segment: 0,
    room: Callable[[int], float] = lambda number: inf,
) -> tuple[list[list[QA]], int]:
    """Pairs in groups of `size` that can share a context, and how many groups are smaller since no more fits in.

    No segment, and none of the `marks` of one, stands twice in a group: a pair that clashes waits for a later group.
    The evidence of group number n, of so many `tokens` a segment and one between two, stays within `room(n)`, but for
    a pair that needs more by itself. The last groups may be smaller.
    """
    groups: list[list[QA]] = []
    waiting: list[QA] = []
    next_one = 0  # of those that no group was tried with
    costs = {pair.segments: sum(map(tokens, pair.segments)) + len(pair.segments) for pair in pairs}
    least = min(costs.values(), default=0)
    tight = 0
    while True:
        current: list[QA] = []
        later: list[QA] = []
        used: set[object] = set()
        left = room(len(groups)) + 1  # no separator before the first segment
        coming = chain(waiting, (pairs[place] for place in range(next_one, len(pairs))))
        misses = taken = 0
        while len(current) < size and misses < PATIENCE and (not current or left >= least):
            pair = next(coming, None)
            if pair is None:
                break
            taken += 1
            full = bool(current) and costs[pair.segments] > left
            misses += full
            if not full and _claim(pair, used, marks):
                current.append(pair)
                left -= costs[pair.segments]
            else:
                later.append(pair)
        if not current:
            return groups, tight
        groups.append(current)
        next_one += max(0, taken - len(waiting))
        waiting = later + waiting[taken:]
        more = bool(waiting) or next_one < len(pairs)
        tight += len(current) < size and more and (misses > 0 or left < least)


def _claim(pair: QA, used: set[object], marks: Callable[[int], Iterable[object]]) -> bool:
    mine: set[object] = set(pair.segments)
    for segment in pair.segments:
        mine.update(marks(segment))
    if mine & used:
        return False
    used |= mine
    return True


def target_tokens(seed: int, number: int, length: tuple[int, int]) -> int:
    """How long a long context is to be, uniform over `length`: the first number that its random state gives."""
    return length[0] + draw(plan_rng(seed, number), length[1] - length[0] + 1)


def kind_of(pairs: Sequence[QA]) -> str:
    """`fine`, `integration`, or `mixed` where one context holds both."""
    kinds = {"fine" if len(pair.segments) == 1 else "integration" for pair in pairs}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def long_bundle(
    number: int,
    pairs: Sequence[QA],
    table: SegmentTable,
    *,
    length: tuple[int, int],
    seed: int,
) -> Bundle:
    """One long context: its length uniform over `length`, the pairs' segments shuffled in among random others.

    The random state follows from the seed and the bundle's number alone, so bundles can be made in any order.
    """
    rng = plan_rng(seed, number)
    target = length[0] + draw(rng, length[1] - length[0] + 1)  # as `target_tokens`
    gold = [segment for pair in pairs for segment in pair.segments]
    needed = sum(int(table.tokens[segment]) for segment in gold) + len(gold) - 1
    plan = fill_plan(rng, table, gold, max(target, needed))
    places = iter(plan.gold_places)
    branches = tuple(
        Branch(pair.question, pair.answer, gold=tuple(next(places) for _ in pair.segments)) for pair in pairs
    )
    meta = {"tokens": plan.tokens, "target": target}
    meta |= {name: True for name in ("exhausted", "own_document") if getattr(plan, name)}
    return Bundle(f"long-{number:07d}", branches, plan=plan.indices, kind=kind_of(pairs), meta=meta)


def short_bundle(number: int, pair: QA, table: SegmentTable, *, most_tokens: int, seed: int) -> Bundle:
    """The pair with its segment's own surroundings only: neighbours in the document, in order, no fillers."""
    rng = plan_rng(seed, f"short:{number}")
    segment = pair.segments[0]
    own = table.segments_of(table.document_of(segment))
    first, last = own.start, own.stop
    low, high = segment, segment + 1
    tokens = int(table.tokens[segment])
    while low > first or high < last:
        left = rng.random() < 0.5 if (low > first and high < last) else low > first
        step = int(table.tokens[low - 1] if left else table.tokens[high])
        if tokens + step > most_tokens:
            break
        low, high, tokens = (low - 1, high, tokens + step) if left else (low, high + 1, tokens + step)
    branch = Branch(pair.question, pair.answer, gold=(segment - low,))
    return Bundle(
        f"short-{number:07d}", (branch,), plan=tuple(range(low, high)), kind="short", meta={"tokens": tokens}
    )
