"""Permuted scores against every arrangement written out, and against SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lcx.evaluation.statistics.intervals import Table
from lcx.evaluation.statistics.permutation import gap_of, gap_test, p_above, permuted_means


def arrangements(scores: list[float], cells: list[int], width: int) -> np.ndarray:
    """The means of all cells for every order of the scores of one context."""
    found = []
    for order in itertools.permutations(scores):
        parts = [[s for s, c in zip(order, cells, strict=True) if c == cell] for cell in range(width)]
        found.append([sum(part) / len(part) for part in parts])
    return np.array(found)


@pytest.mark.parametrize("scores", [[1.0, 0, 0, 1, 1, 0, 1], [0.1, 0.9, 0.35, 0.2, 0.8, 0.4, 0.65]])
def test_the_null_is_that_of_all_arrangements(scores: list[float]) -> None:
    cells = [0, 0, 0, 1, 1, 2, 2]
    every = arrangements(scores, cells, 3)
    table = Table.of(["one"] * 7, cells, scores, 3)
    drawn = permuted_means(table, 40_000, np.random.default_rng(0))
    assert drawn.mean(0) == pytest.approx(every.mean(0), abs=0.01)
    assert np.cov(drawn.T) == pytest.approx(np.cov(every.T), abs=0.004)
    found = gap_test(table.means, drawn)
    fine = gap_of(every) + 1e-7 * every.var(axis=1)
    own = gap_of(table.means) + 1e-7 * table.means.var()
    assert found["p"] == pytest.approx(np.mean(fine >= own - 1e-12), abs=0.01)
    assert found["null_mean"] == pytest.approx(gap_of(every).mean(), abs=0.005)


def test_scores_stay_in_their_context() -> None:
    """A set that is always right and one that is always wrong leave nothing to permute."""
    table = Table.of(["a"] * 4 + ["b"] * 2, [0, 0, 1, 1, 0, 0], [1.0] * 4 + [0.0] * 2, 2)
    null = permuted_means(table, 50, np.random.default_rng(0))
    assert null == pytest.approx(np.broadcast_to([0.5, 1.0], (50, 2)))
    found = gap_test(table.means, null)
    assert (found["gap"], found["null_mean"], found["null_high"], found["p"]) == (0.5, 0.5, 0.5, 1.0)


def test_p_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(4)
    scores = rng.random(60) + np.repeat([0.13, 0.0, 0.05], 20)
    cells = np.repeat([0, 1, 2], 20)
    table = Table.of(["one"] * 60, cells.tolist(), scores.tolist(), 3)
    ours = gap_test(table.means, permuted_means(table, 9999, np.random.default_rng(1)))

    def gap(values: np.ndarray) -> float:
        means = [values[cells == cell].mean() for cell in range(3)]
        return max(means) - min(means)

    theirs = stats.permutation_test(
        (scores,), gap, permutation_type="pairings", n_resamples=9999, alternative="greater", rng=2
    )
    assert 0.005 < theirs.pvalue < 0.3
    assert ours["gap"] == pytest.approx(theirs.statistic)
    assert ours["p"] == pytest.approx(theirs.pvalue, abs=0.012)
    assert ours["null_mean"] == pytest.approx(theirs.null_distribution.mean(), rel=0.02)


def test_p_counts_the_observed_one_too() -> None:
    assert p_above(5.0, np.arange(4.0)) == 1 / 5
    assert p_above(2.0, np.arange(4.0)) == 3 / 5
    assert p_above(-1.0, np.arange(4.0)) == 1.0
