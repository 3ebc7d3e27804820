"""Tests of gaps: best minus worst of several places, against what the same scores give when they are dealt anew."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from lcx.evaluation.statistics.intervals import Floats, Table

__all__ = ["SLACK", "gap_of", "gap_test", "no_gap_test", "p_above", "permuted_means"]


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
