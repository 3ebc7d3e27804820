"""Scores in units (contexts) and cells (spans, depths, groups): means, resamples, permutations, groups.

A cell's mean is Σ w·s / Σ w over its rows. Which rows are drawn again depends on how many contexts there are
(as in `intervals`): whole contexts where there are at least 20, else rows inside each context and cell, which
tells about these contexts only.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcx.evaluation.statistics.intervals import LEAST_CONTEXTS, LEAST_ROWS, Estimate, Floats, exact, interval

__all__ = [
    "SLACK",
    "Block",
    "Floats",
    "Ints",
    "Table",
    "estimate_mean",
    "gap_of",
    "gap_test",
    "group_evidence",
    "no_gap_test",
    "numbered",
    "p_above",
    "permuted_means",
]


Ints = NDArray[np.int64]
DRAWN = 1 << 22
"""Drawn units held in memory at a time: a file of 100,000 rows would else take gigabytes for its interval."""
Block = tuple[int, int, Floats, Floats]
"""Context, cell, and the scores and weights of the rows that stand in both."""


def numbered(names: Sequence[Hashable]) -> tuple[Ints, int]:
    """Names as numbers in order of first appearance, and how many there are."""
    known: dict[Hashable, int] = {}
    found = np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
    return found, len(known)


@dataclass(frozen=True)
class Table:
    """Rows by context and cell. `strata` numbers groups of contexts each of which keeps its size when drawn."""

    units: Ints
    cells: Ints
    scores: Floats
    weights: Floats
    contexts: int
    width: int
    strata: Ints | None = None

    @classmethod
    def of(
        cls,
        units: Sequence[Hashable],
        cells: Sequence[int],
        scores: Sequence[float],
        width: int,
        weights: Sequence[float] | Floats | None = None,
    ) -> Table:
        """A table of rows: their contexts by name, cells from 0 to `width` - 1, scores and weights (default: 1).

        Raises ValueError for a score that is NaN or infinite: every mean and test would silently become one.
        """
        known, count = numbered(units)
        if not np.all(np.isfinite(np.asarray(scores, dtype=float))):
            raise ValueError("a score is NaN or infinite: rows that cannot be scored are left out")
        mass = np.ones(len(known)) if weights is None else np.asarray(weights, dtype=float)
        places = np.asarray(cells, dtype=np.int64)
        return cls(known, places, np.asarray(scores, dtype=float), mass, count, width)

    @cached_property
    def blocks(self) -> list[Block]:
        """The rows of each context in each cell."""
        place = self.units * self.width + self.cells
        order = np.argsort(place, kind="stable")
        edges = np.flatnonzero(np.diff(place[order])) + 1
        parts = np.split(order, edges) if len(order) else []
        return [
            (int(self.units[rows[0]]), int(self.cells[rows[0]]), self.scores[rows], self.weights[rows])
            for rows in parts
        ]

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
    def bounded(self) -> bool:
        """Whether all scores lie between 0 and 1."""
        return bool(len(self.scores)) and bool(self.scores.min() >= 0 and self.scores.max() <= 1)

    @cached_property
    def binary(self) -> bool:
        """Whether all scores are 0 or 1 and weigh the same in their cell."""
        sizes = np.bincount(self.cells, minlength=self.width)[self.cells]
        alike = np.allclose(self.weights * sizes, self.masses[self.cells])
        return bool(alike) and bool(np.all((self.scores == 0) | (self.scores == 1)))

    @cached_property
    def inside(self) -> bool:
        """Whether rows are drawn inside contexts, in place of whole contexts."""
        if self.contexts >= LEAST_CONTEXTS or not self.blocks:
            return False
        return self.contexts == 1 or float(np.median([len(s) for _, _, s, _ in self.blocks])) >= LEAST_ROWS

    @property
    def drawn(self) -> str:
        """What is drawn again, in words, as `Estimate.unit`."""
        return f"rows of {self.contexts} context{'s' * (self.contexts > 1)}" if self.inside else "contexts"

    def resample(self, trials: int, seed: int) -> Floats:
        """Means of all cells in each of `trials` resamples: [trials, width]."""
        rng = np.random.default_rng(seed)
        return self._rows(trials, rng) if self.inside else self._contexts(trials, rng)

    def _rows(self, trials: int, rng: np.random.Generator) -> Floats:
        tops, bottoms = np.zeros((trials, self.width)), np.zeros((trials, self.width))
        for _, cell, scores, weights in self.blocks:
            size, mass = len(scores), weights[0]
            if np.any(weights != mass):
                drawn = rng.integers(size, size=(trials, size))
                tops[:, cell] += (weights * scores)[drawn].sum(1)
                bottoms[:, cell] += weights[drawn].sum(1)
                continue
            bottoms[:, cell] += mass * size
            if np.all((scores == 0) | (scores == 1)):  # sums of drawn zeros and ones, without drawing each
                tops[:, cell] += mass * rng.binomial(size, scores.mean(), trials)
            else:
                tops[:, cell] += mass * scores[rng.integers(size, size=(trials, size))].sum(1)
        with np.errstate(invalid="ignore"):
            return tops / bottoms

    def _contexts(self, trials: int, rng: np.random.Generator) -> Floats:
        place, size = self.units * self.width + self.cells, self.contexts * self.width
        tops = np.bincount(place, self.weights * self.scores, size).reshape(self.contexts, self.width)
        bottoms = np.bincount(place, self.weights, size).reshape(self.contexts, self.width)
        strata = np.zeros(self.contexts, dtype=np.int64) if self.strata is None else self.strata
        top, bottom = np.zeros((trials, self.width)), np.zeros((trials, self.width))
        for stratum in range(int(strata.max()) + 1 if self.contexts else 0):
            members = np.flatnonzero(strata == stratum)
            step = max(1, DRAWN // len(members))
            for start in range(0, trials, step):
                times = _times(len(members), min(step, trials - start), rng)
                top[start : start + step] += times @ tops[members]
                bottom[start : start + step] += times @ bottoms[members]
        with np.errstate(invalid="ignore"):
            return top / bottom

    def intervals(self, found: Floats, level: float) -> list[list[float] | None]:
        """The interval of each cell, from its resampled means.

        Resamples of a handful of zeros and ones, each from a context of its own, take very few values: such a
        cell has the exact interval of a share.
        """
        rows = np.bincount(self.cells, minlength=self.width)
        held = np.unique(self.units * self.width + self.cells) % self.width
        contexts = np.bincount(held, minlength=self.width)
        ends: list[list[float] | None] = []
        for cell in range(self.width):
            units, strata = (rows[cell], contexts[cell]) if self.inside else (contexts[cell], 1)
            at = float(self.means[cell]) if self.bounded and rows[cell] else None
            pair: tuple[float, float] | None
            if 1 < rows[cell] == contexts[cell] < LEAST_CONTEXTS and self.binary:
                pair = exact(round((at or 0.0) * int(rows[cell])), int(rows[cell]), level)
            else:
                counted = int(rows[cell])
                pair = interval(found[:, cell], level, int(units), int(strata), at=at, rows=counted)
            ends.append(None if pair is None else list(pair))
        return ends

    def of_all(self, values: Floats, level: float, at: float | None = None) -> tuple[float, float] | None:
        """The interval of a number that follows from all cells, from its resampled values."""
        if self.inside:
            return interval(values, level, len(self.scores), len(self.blocks), at=at)
        strata = 1 if self.strata is None else int(self.strata.max()) + 1
        return interval(values, level, self.contexts, strata, at=at, rows=len(self.scores))


def _times(size: int, trials: int, rng: np.random.Generator) -> NDArray[Any]:
    """How often each of `size` units is drawn in each trial, when as many are drawn as there are."""
    drawn = rng.integers(size, size=(trials, size)) + np.arange(trials)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=trials * size).reshape(trials, size).astype(float)


SLACK = 1e-12
"""Differences below it are rounding."""
TIEBREAK = 1e-7
"""Weight of the spread of all cells where two gaps are equal: scores of 0 and 1 make many ties."""


def gap_of(means: Floats) -> Floats:
    """Best minus worst along the last axis, of cells that have rows."""
    return np.nanmax(means, axis=-1) - np.nanmin(means, axis=-1)


def p_above(observed: float, null: Floats) -> float:
    """The share of trials, the observed one among them, that reach the observed value: (1 + k) / (1 + trials)."""
    return float((1 + np.sum(null >= observed - SLACK)) / (1 + len(null)))


def permuted_means(table: Table, trials: int, rng: np.random.Generator) -> Floats:
    """Means of all cells, [trials, width], with the scores of each context dealt anew to its places.

    Where the scores of a context are zeros and ones, how many ones each cell receives is drawn from the
    multivariate hypergeometric distribution, which is the same thing.
    """
    tops = np.zeros((trials, table.width))
    order = np.lexsort((table.cells, table.units))
    bounds = np.searchsorted(table.units[order], np.arange(table.contexts + 1))
    for start, end in itertools.pairwise(bounds.tolist()):
        rows = order[start:end]
        scores, weights, cells = table.scores[rows], table.weights[rows], table.cells[rows]
        edges = np.flatnonzero(np.diff(cells, prepend=-1))
        if np.all((scores == 0) | (scores == 1)) and np.all(np.diff(weights)[np.diff(cells) == 0] == 0):
            sizes = np.diff(np.append(edges, len(rows)))
            ones = rng.multivariate_hypergeometric(sizes, int(scores.sum()), trials, method="marginals")
            tops[:, cells[edges]] += weights[edges] * ones
        else:
            dealt = rng.permuted(np.broadcast_to(scores, (trials, len(rows))), axis=1)
            tops[:, cells[edges]] += np.add.reduceat(dealt * weights, edges, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return tops / np.where(table.masses > 0, table.masses, np.nan)


def gap_test(means: Floats, null: Floats) -> dict[str, Any]:
    """The gap of `means` [width] against those of permuted scores [trials, width].

    `gap` is never negative and grows with noise alone: `null_mean` is what it would be on average, and
    `null_high` what 95% of such gaps stay below, if no place mattered. Equal gaps are told apart by the
    variance of the cells, so that p does not suffer from ties.
    """
    gap, gaps = float(gap_of(means)), gap_of(null)
    fine = gap + TIEBREAK * float(np.nanvar(means))
    return {
        "gap": gap,
        "null_mean": float(gaps.mean()),
        "null_high": float(np.quantile(gaps, 0.95)),
        "p": p_above(fine, gaps + TIEBREAK * np.nanvar(null, axis=-1)),
        "trials": len(null),
    }


def no_gap_test(gap: float | None = None) -> dict[str, Any]:
    """What stands for a test where there is nothing to test."""
    return {"gap": gap, "null_mean": None, "null_high": None, "p": None, "trials": 0}


def estimate_mean(
    scores: Sequence[float | None],
    contexts: Sequence[Hashable],
    *,
    level: float = 0.95,
    trials: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of the scores that are not None, with its interval; which rows are drawn: see `resampling`."""
    kept = [(context, score) for context, score in zip(contexts, scores, strict=True) if score is not None]
    if not kept:
        return Estimate(None, None, None, 0, 0, "contexts")
    table = Table.of([context for context, _ in kept], [0] * len(kept), [score for _, score in kept], 1)
    pair = table.intervals(table.resample(trials, seed), level)[0]
    low, high = pair or (None, None)
    return Estimate(float(table.means[0]), low, high, len(kept), table.contexts, table.drawn)


def group_evidence(
    rows: Sequence[tuple[Hashable, Hashable, float | None]],
    *,
    level: float = 0.95,
    trials: int = 2000,
    seed: int = 0,
) -> dict[Any, dict[str, Any]]:
    """`Estimate.as_dict()` of every group of `(group, context, score)` rows, in order of first appearance.

    A score of None does not count. Each group decides for itself whether it has enough contexts to draw them.
    """
    found: dict[Hashable, list[tuple[Hashable, float | None]]] = defaultdict(list)
    for group, context, score in rows:
        found[group].append((context, score))
    return {
        group: estimate_mean(
            [score for _, score in of],
            [context for context, _ in of],
            level=level,
            trials=trials,
            seed=seed,
        ).as_dict()
        for group, of in found.items()
    }
