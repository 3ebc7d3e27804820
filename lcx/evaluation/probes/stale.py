"""The newest record wins: several versions of one fact, of which only the latest holds, wherever it stands.

In style `natural` each key has `versions` facts, told apart by a revision number or a date; the newest stands at
the depth that the grid asks for, its older doubles anywhere before or after it, so that neither the first nor
the last mention is right by itself. In style `bare` the records of a corpus with stale doubles serve
(`stdlib:stale`). The older values are decoys.
"""

from __future__ import annotations

import datetime
import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

from lcx.evaluation.probes.haystack import (
    Asked,
    Fact,
    Scene,
    Taken,
    build_haystacks,
    count_by_length,
    draw_numbers,
    grid_view,
    misled,
    scattered,
    some_keys,
)
from lcx.evaluation.probes.needle import NEEDLE, build_records
from lcx.evaluation.statistics.grids import depth_points
from lcx.evaluation.task import GridOptions, Scored, Source, Task
from lcx.records import Bundle
from lcx.settings import setting

__all__ = ["STALE"]

FACTS = {
    "revision": "According to revision {stamp} of the register, the storage code of the {key} is {value}.",
    "date": "As of {stamp}, the storage code of the {key} is {value}.",
}
QUESTIONS = {
    "revision": "The context gives the storage code of the {key} according to several revisions of the register. Which "
    "code does the newest revision give, the one with the highest number? Answer with the code alone.",
    "date": "The context gives the storage code of the {key} as of several dates. What is the code as of the latest of "
    "these dates? Answer with the code alone.",
}
# fmt: off
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")
# fmt: on
DAYS = 3650


class StaleOptions(GridOptions):
    """Options of `stale`."""

    versions: int = setting(3, ge=2, le=64, description="versions of each fact, the newest among them")
    stamp: Literal["revision", "date"] = setting("revision", description="what tells them apart")


def _samples(source: Source, options: StaleOptions) -> list[Bundle]:
    name = "stale"
    if options.style == "bare":
        return build_records(source, options, name=name, doubled=True)
    versions, stamp = options.versions, options.stamp
    points = depth_points(options.depths)

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        rng = random.Random(f"lcx.{name}:{seed}")
        keys = some_keys(name, taken, len(points), rng, "depths lower")
        numbers = draw_numbers(taken, rng)
        old = iter(scattered(len(points) * (versions - 1), rng))
        facts: list[Fact] = []
        asked: list[Asked] = []
        for key, depth in zip(keys, points, strict=True):
            values = list(itertools.islice(numbers, versions))
            stamps = _stamps(stamp, versions, rng)
            depths = [*itertools.islice(old, versions - 1), depth]
            gold = len(facts) + versions - 1
            facts += [
                Fact(FACTS[stamp].format(key=key, stamp=at, value=value), place)
                for at, value, place in zip(stamps, values, depths, strict=True)
            ]
            before = sum(place < depth for place in depths[:-1])
            order = "last" if before == versions - 1 else "between" if before else "first"
            meta = {"query": key, "value": values[-1], "depth": depth, "order": order, "decoy": values[:-1]}
            asked.append(Asked(QUESTIONS[stamp].format(key=key), values[-1], (gold,), meta))
        return [Scene(tuple(facts), tuple(asked))]

    return build_haystacks(
        name,
        source,
        options,
        draw,
        holds=f"{len(points) * versions} facts",
        mend="the options versions or depths lower",
    )


def _stamps(stamp: str, versions: int, rng: random.Random) -> list[str]:
    """Revision numbers or dates from the oldest to the newest, each key's own."""
    if stamp == "revision":
        return [str(number) for number in sorted(rng.sample(range(1, 100), versions))]
    start = datetime.date(2012, 1, 1)
    days = [start + datetime.timedelta(days=day) for day in sorted(rng.sample(range(DAYS), versions))]
    return [f"{day.day} {MONTHS[day.month - 1]} {day.year}" for day in days]


def _summary(scored: Sequence[Scored]) -> dict[str, Any]:
    """The grid by the newest version's depth, `misled` (an old value named and not the newest), and `by_order`.

    `by_order` is the accuracy where the newest is the first, between, or the last of its versions in the text.
    """
    orders: dict[str, list[float]] = defaultdict(list)
    for row, score in scored:
        if score is not None and row.get("order"):
            orders[str(row["order"])].append(score)
    by_order = {
        order: {"n": len(found), "mean": sum(found) / len(found)} for order, found in sorted(orders.items())
    }
    return {**grid_view(scored), "misled": misled(scored), **({"by_order": by_order} if by_order else {})}


STALE = Task(
    name="stale",
    summary="several versions of a fact, the newest at every depth -> the newest value",
    samples=_samples,
    options=StaleOptions,
    score=NEEDLE.score,
    row_fields=("query", "value"),
    number_fields=("length", "depth"),
    summarize=_summary,
    view="grid",
    count=lambda options: None if options.style == "bare" else count_by_length(options, options.depths),
)
