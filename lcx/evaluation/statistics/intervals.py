"""Rows by context and cell, means of cells, and intervals of every number that is a sum of such means.

Answers about one context are alike, so what counts is how many contexts there are, not how many answers. Which of
both an interval is drawn from is decided once for a whole table:

| contexts | rows in each (median) | an interval comes from | `drawn` |
|---|---|---|---|
| at least 20 | any | differences between contexts | `contexts` |
| fewer | at least 8 | differences between rows inside them: it holds for these contexts only | `rows of N contexts` |
| fewer | fewer | differences between contexts | `contexts` |

Fewer than 6 of these units under a number say too little: it has no interval, and `lacking` says what there was.

The variance is that of a sum over independent units (HC2: each unit's deviation is enlarged for having drawn its own
mean towards itself), with Student's t where it is estimated, and of a row of 0 or 1 the variance follows from the mean.
A share's interval is Wilson's of as many independent rows as would vary as much, so it never leaves 0 to 1, and is none
too narrow where all or nearly all answers are right. tests/evaluation/statistics/test_coverage.py simulates what it
promises.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcx.formatting import several

__all__ = [
    "LEAST_CONTEXTS",
    "LEAST_ROWS",
    "LEAST_UNITS",
    "Ends",
    "Estimate",
    "Floats",
    "Ints",
    "Table",
    "brief",
    "cell_intervals",
    "estimate_mean",
    "group_evidence",
    "numbered",
    "rows_stand",
    "share_interval",
    "student_quantile",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_CONTEXTS = 20
"""With fewer contexts than these, they say little about others: rows inside them vary where there are enough."""
LEAST_ROWS = 8
"""Rows that a context has, by the median, where rows stand for themselves."""
LEAST_UNITS = 6
"""Contexts or rows under a number below which their differences say next to nothing."""
MOST_ALIKE = 3.0
"""As how many independent rows one may count: of contexts always right or never it would be infinitely many."""


def student_quantile(share: float, freedom: float) -> float:
    """The value that Student's t with so many degrees of freedom stays below with probability `share`."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def share_interval(share: float, rows: float, reach: float) -> tuple[float, float]:
    """Wilson's interval of a share of so many independent rows; `reach` in standard deviations (1.96 for 95%)."""
    square = reach * reach
    middle = (share + square / (2 * rows)) / (1 + square / rows)
    half = reach * math.sqrt(share * (1 - share) / rows + square / (4 * rows * rows)) / (1 + square / rows)
    return (0.0 if share <= 0 else middle - half), (1.0 if share >= 1 else middle + half)


def numbered(names: Sequence[Hashable]) -> tuple[Ints, int]:
    """Names as numbers in order of first appearance, and how many there are."""
    known: dict[Hashable, int] = {}
    found = np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
    return found, len(known)


def rows_stand(contexts: Sequence[Hashable]) -> bool:
    """Whether rows of these contexts stand for themselves: there are few contexts, with several rows in each."""
    sizes = list(Counter(contexts).values())
    return 0 < len(sizes) < LEAST_CONTEXTS and (len(sizes) == 1 or median(sizes) >= LEAST_ROWS)


@dataclass(frozen=True)
class Ends:
    """Both ends of an interval; None where there is none, and then `lacking` says what it would be drawn from."""

    low: float | None = None
    high: float | None = None
    lacking: str = ""

    @property
    def pair(self) -> list[float] | None:
        return None if self.low is None or self.high is None else [self.low, self.high]


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. `low` and `high` are None where there is too little to tell; `n` counts rows.

    `drawn` says which units the interval is drawn from, `lacking` what there was where they do not suffice.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    contexts: int
    drawn: str
    lacking: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them; `lacking` only where there is no interval."""
        found = dict(vars(self))
        return found if self.lacking else {key: found[key] for key in found if key != "lacking"}


NOTHING = Estimate(None, None, None, 0, 0, "contexts")


@dataclass(frozen=True)
class Table:
    """Rows by context and cell. A cell's mean is Σ w·s / Σ w over its rows.

    `inside` says whether rows inside contexts stand for themselves, in place of whole contexts (`rows_stand`).
    """

    units: Ints
    cells: Ints
    scores: Floats
    weights: Floats
    contexts: int
    width: int
    inside: bool

    @classmethod
    def of(
        cls,
        units: Sequence[Hashable],
        cells: Sequence[int],
        scores: Sequence[float],
        width: int,
        weights: Sequence[float] | Floats | None = None,
        inside: bool | None = None,
    ) -> Table:
        """A table of rows: their contexts by name, cells from 0 to `width` - 1, scores and weights (default: 1).

        `inside` is for rows that are a part of a larger table, which decides for all its parts.
        Raises ValueError for a score that is NaN or infinite: every mean and test would silently become one.
        """
        known, count = numbered(units)
        if not np.all(np.isfinite(np.asarray(scores, dtype=float))):
            raise ValueError("a score is NaN or infinite: rows that cannot be scored are left out")
        mass = np.ones(len(known)) if weights is None else np.asarray(weights, dtype=float)
        places = np.asarray(cells, dtype=np.int64)
        rows = rows_stand(units) if inside is None else inside
        return cls(known, places, np.asarray(scores, dtype=float), mass, count, width, rows)

    @cached_property
    def masses(self) -> Floats:
        """Σ w of each cell."""
        return np.bincount(self.cells, self.weights, self.width).astype(float)

    @cached_property
    def means(self) -> Floats:
        """The mean of each cell; NaN where it has no row."""
        with np.errstate(invalid="ignore"):
            return np.bincount(self.cells, self.weights * self.scores, self.width) / self.masses

    @cached_property
    def known(self) -> Ints:
        """The cells that have rows."""
        return np.flatnonzero(self.masses > 0)

    @cached_property
    def bounded(self) -> bool:
        """Whether all scores lie between 0 and 1."""
        return bool(len(self.scores)) and bool(self.scores.min() >= 0 and self.scores.max() <= 1)

    @cached_property
    def binary(self) -> bool:
        """Whether all scores are 0 or 1."""
        return bool(np.all((self.scores == 0) | (self.scores == 1)))

    @property
    def drawn(self) -> str:
        """What an interval is drawn from, in words, as `Estimate.drawn`."""
        return f"rows of {several(self.contexts, 'context')}" if self.inside else "contexts"

    @cached_property
    def _order(self) -> tuple[Ints, Ints]:
        """Rows sorted by cell, and where each cell begins among them."""
        order = np.argsort(self.cells, kind="stable")
        return order, np.searchsorted(self.cells[order], np.arange(self.width + 1))

    def _rows_of(self, over: Floats) -> Ints:
        order, starts = self._order
        used = np.flatnonzero(over)
        return order[starts[used[0]] : starts[used[0] + 1]] if len(used) == 1 else order

    def intervals(self, level: float) -> list[Ends]:
        """The interval of each cell."""
        one = np.eye(self.width)
        return [self.interval(one[cell], level) for cell in range(self.width)]

    def average(self, level: float) -> Estimate:
        """The mean of the cells that have rows, each of the same weight."""
        if not len(self.known):
            return NOTHING
        over = np.bincount(self.known, minlength=self.width) / len(self.known)
        ends = self.interval(over, level)
        mean = float(self.means[self.known].mean())
        return Estimate(mean, ends.low, ends.high, len(self.units), self.contexts, self.drawn, ends.lacking)

    def interval(self, over: Floats, level: float, *, share: bool = True, room: float = 0.0) -> Ends:
        """The interval of Σ `over` · means: a share's where scores are of 0 to 1 and `over` weighs cells for a mean.

        `room` is the square of a move that one more row could have made: differences most of which are 0 would else
        vary too little.
        """
        rows = self._rows_of(over)
        units, cells, scores = self.units[rows], self.cells[rows], self.scores[rows]
        mass = np.where(self.masses > 0, self.masses, 1.0)
        pulls = over[cells] * self.weights[rows] / mass[cells]
        units, cells, scores, pulls = (part[pulls != 0] for part in (units, cells, scores, pulls))
        counted = int(np.count_nonzero(np.bincount(units)))
        alone = counted == len(units)  # one row a context: rows are the contexts
        what = "row" if self.inside else "context"
        count = len(units) if self.inside else counted
        if count < LEAST_UNITS:
            return Ends(lacking=several(count, what))
        value = float((pulls * scores).sum())
        size = float(np.abs(pulls).sum() ** 2 / (pulls * pulls).sum())  # so many rows of equal weight
        if self.inside or alone:
            variance, freedom = _among_rows(units * self.width + cells, (cells, units), scores, pulls)
        else:
            variance, freedom = _among_contexts(units, cells, self.width, scores, pulls)
        tail = (1 + level) / 2
        reach = normal = NormalDist().inv_cdf(tail)
        if not (self.binary and (self.inside or alone)):
            reach = student_quantile(tail, max(1.0, freedom))
        if share and self.bounded and bool(np.all(over >= 0)):
            value = min(1.0, max(0.0, value))
            alike = value * (1 - value)
            if alike < 1e-12:
                return Ends(*share_interval(float(round(value)), size, normal))
            as_rows = alike / variance * (normal / reach) ** 2 if variance > 0 else math.inf
            if self.binary or variance == 0:
                as_rows = min(as_rows, MOST_ALIKE * size)
            return Ends(*share_interval(value, as_rows, normal))
        half = reach * math.sqrt(variance + room / size**2)
        if half == 0:
            return Ends(lacking=f"{several(count, what)}, all alike")
        return Ends(value - half, value + half)


def cell_intervals(found: Sequence[Ends]) -> dict[str, Any]:
    """`intervals` of cells in their order, and, where some have none, what these are `lacking`: `2-5 rows`."""
    short = [one.lacking for one in found if one.lacking and not one.lacking.startswith("0 ")]
    words = sorted(set(short), key=lambda text: (len(text), text))
    lacking = words[0] if len(words) == 1 else f"{words[0].split()[0]}-{words[-1]}" if words else ""
    return {"intervals": [one.pair for one in found], **({"lacking": lacking} if lacking else {})}


def _among_rows(blocks: Ints, coarser: Sequence[Ints], scores: Floats, pulls: Floats) -> tuple[float, float]:
    """The variance of Σ pulls · scores from rows around the mean of their block, and its degrees of freedom.

    Where most blocks have a single row, rows stand around the means of the `coarser` groups: that counts differences
    between blocks as noise, and makes no interval too narrow.
    """
    size = len(scores)
    for groups in (blocks, *coarser, np.zeros(size, dtype=np.int64)):
        counts = np.bincount(groups)
        held = int(np.count_nonzero(counts))
        if 2 * held <= size:
            break
    of = counts[groups]
    off = scores - np.bincount(groups, scores)[groups] / of
    enlarged = np.where(of > 1, of / np.maximum(of - 1, 1), 0.0)
    return float((pulls * pulls * off * off * enlarged).sum()), float(size - held)


def _among_contexts(
    units: Ints, cells: Ints, width: int, scores: Floats, pulls: Floats
) -> tuple[float, float]:
    """The variance of Σ pulls · scores from sums over contexts, and its degrees of freedom.

    Scores stand around the mean of their cell; around that of all where cells have a context each.
    """
    strength = np.abs(pulls)
    for around in (cells, np.zeros(len(cells), dtype=np.int64)):
        mean = np.bincount(around, strength * scores) / np.maximum(np.bincount(around, strength), 1e-300)
        block = units * width + around
        masses = np.bincount(block, strength)
        place = np.flatnonzero(masses)
        unit, cell, mass = place // width, place % width, masses[place]
        held = mass / np.bincount(cell, mass)[cell]  # the part of a cell that is this context's own
        off = np.bincount(block, pulls * (scores - mean[around]))[place]
        free = held < 1 - 1e-9
        off = np.where(free, off / np.sqrt(np.where(free, 1 - held, 1.0)), 0.0)
        sums, whole = np.bincount(unit, off), np.bincount(unit, mass)
        parts = np.bincount(unit, mass * held)
        freedom = float((1 - parts[whole > 0] / whole[whole > 0]).sum())
        if freedom >= LEAST_UNITS - 1.5:
            break
    return float(sums @ sums), freedom


def estimate_mean(
    scores: Sequence[float | None],
    contexts: Sequence[Hashable],
    *,
    weights: Sequence[float] | None = None,
    level: float = 0.95,
    scale: tuple[float, float] | None = (0.0, 1.0),
) -> Estimate:
    """The mean of the scores that are not None, with its interval. `scale` is from where to where scores can go.

    With `weights` it is Σ w·s / Σ w, which is also how a share of counted things is given (s = part / whole,
    w = whole); rows of weight 0 do not count.
    """
    mass = [1.0] * len(scores) if weights is None else list(weights)
    kept = [
        (context, score, weight)
        for context, score, weight in zip(contexts, scores, mass, strict=True)
        if score is not None and weight > 0
    ]
    if not kept:
        return NOTHING
    names, values, of = zip(*kept, strict=True)
    low, high = scale or (0.0, 1.0)
    table = Table.of(names, [0] * len(kept), [(value - low) / (high - low) for value in values], 1, of)
    ends = table.interval(np.ones(1), level, share=scale is not None)
    first, last = (None if end is None else low + end * (high - low) for end in (ends.low, ends.high))
    mean = low + float(table.means[0]) * (high - low)
    return Estimate(mean, first, last, len(kept), table.contexts, table.drawn, ends.lacking)


def brief(
    scores: Sequence[float | None],
    contexts: Sequence[Hashable],
    weights: Sequence[float] | None = None,
    scale: tuple[float, float] | None = (0.0, 1.0),
) -> dict[str, Any]:
    """`estimate_mean` as a result has it of a part: mean, low, high, n."""
    found = estimate_mean(scores, contexts, weights=weights, scale=scale)
    return {name: getattr(found, name) for name in ("mean", "low", "high", "n")}


def group_evidence(
    rows: Sequence[tuple[Hashable, Hashable, float | None]], *, level: float = 0.95
) -> dict[Any, dict[str, Any]]:
    """`Estimate.as_dict()` of every group of `(group, context, score)` rows, in order of first appearance.

    A score of None does not count. Each group decides for itself whether it has enough contexts.
    """
    found: dict[Hashable, list[tuple[Hashable, float | None]]] = defaultdict(list)
    for group, context, score in rows:
        found[group].append((context, score))
    return {
        group: estimate_mean(
            [score for _, score in of], [context for context, _ in of], level=level
        ).as_dict()
        for group, of in found.items()
    }
