"""The gap test and the U-shape test on simulated models: flat ones are rejected at their level, U-shapes are found.

VaL's size: 4 sets of 800 positions, spans of 50. With 199 permutations a trial p is exact: where nothing depends on
the place, p <= 0.05 in 5% of all trials.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lcx.evaluation.statistics.curves import curve_evidence, u_contrast
from lcx.evaluation.statistics.grids import grid_evidence
from lcx.evaluation.statistics.intervals import Table
from lcx.evaluation.statistics.permutation import gap_test, p_above, permuted_means

SETS, POSITIONS, SPAN = 4, 800, 50
SPANS = POSITIONS // SPAN
UNITS = np.repeat(np.arange(SETS), POSITIONS)
CELLS = np.tile(np.arange(POSITIONS), SETS) // SPAN
PLACE = 2 * (np.arange(POSITIONS) + 0.5) / POSITIONS - 1
"""From -1 at the start to 1 at the end."""

Model = Callable[[np.random.Generator], np.ndarray]


def rejected(model: Model, trials: int, seed: int = 1, permutations: int = 199) -> tuple[float, float]:
    """The share of trials with p <= 0.05, of the gap test and of the U-shape test."""
    rng = np.random.default_rng(seed)
    weights = u_contrast([(cell + 0.5) * SPAN for cell in range(SPANS)])
    gaps = shapes = 0
    for _ in range(trials):
        scores = model(rng).ravel().astype(float)
        table = Table(UNITS, CELLS, scores, np.ones(len(scores)), SETS, SPANS, True)
        null = permuted_means(table, permutations, rng)
        gaps += gap_test(table.means, null)["p"] <= 0.05
        shapes += p_above(float(table.means @ weights), null @ weights) <= 0.05
    return gaps / trials, shapes / trials


def alike(rng: np.random.Generator) -> np.ndarray:
    """Items of their own difficulty, in contexts of their own: answers about one context are correlated."""
    odds = 1.2 + rng.standard_normal((SETS, 1)) + 1.5 * rng.standard_normal((SETS, POSITIONS))
    return rng.random((SETS, POSITIONS)) < 1 / (1 + np.exp(-odds))


def test_what_is_calibrated_here_is_what_evaluations_report() -> None:
    """The functions below `curve_evidence` are called here, as thousands of curves would take long through it."""
    scores = alike(np.random.default_rng(0)).astype(float)
    places = [(s, p, float(scores[s, p])) for s in range(SETS) for p in range(POSITIONS)]
    found = curve_evidence(places, width=SPAN, trials=199)
    table = Table(UNITS, CELLS, scores.ravel(), np.ones(scores.size), SETS, SPANS, True)
    null = permuted_means(table, 199, np.random.default_rng([0, 1]))
    assert found["gap_test"] == pytest.approx(gap_test(table.means, null))
    weights = u_contrast([(cell + 0.5) * SPAN for cell in range(SPANS)])
    assert found["u_shape"]["p"] == p_above(float(table.means @ weights), null @ weights)


FLAT: dict[str, Model] = {
    "right in 85%": lambda rng: rng.random((SETS, POSITIONS)) < 0.85,
    "alike within a context": alike,
}
MORE: dict[str, Model] = {
    "sets of different difficulty": lambda rng: (
        rng.random((SETS, POSITIONS)) < np.array([[0.5], [0.7], [0.85], [0.97]])
    ),
    "right in 50%": lambda rng: rng.random((SETS, POSITIONS)) < 0.5,
    "right in 97%": lambda rng: rng.random((SETS, POSITIONS)) < 0.97,
}


TRIALS = [400, pytest.param(2000, marks=pytest.mark.slow)]


def room(trials: int) -> float:
    """Two standard deviations of the share of rejections in so many trials at the level of 5%."""
    return 2 * (0.05 * 0.95 / trials) ** 0.5


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("model", FLAT.values(), ids=list(FLAT))
def test_flat_models_are_rejected_at_the_level(model: Model, trials: int) -> None:
    gap, shape = rejected(model, trials)
    assert gap == pytest.approx(0.05, abs=room(trials))
    assert shape == pytest.approx(0.05, abs=room(trials))


@pytest.mark.nightly  # the slow tier has the models of FLAT at 2,000 trials
@pytest.mark.parametrize("model", MORE.values(), ids=list(MORE))
def test_other_flat_models_are_rejected_at_the_level(model: Model) -> None:
    gap, shape = rejected(model, 4000, seed=2)
    assert 0.04 <= gap <= 0.06
    assert 0.04 <= shape <= 0.06


@pytest.mark.nightly
def test_fractional_scores_are_rejected_at_the_level() -> None:
    """Scores such as F1 take the slow way, in which every score is dealt."""
    gap, shape = rejected(lambda rng: rng.beta(0.5, 0.3, (SETS, POSITIONS)), 2000, permutations=99)
    assert 0.04 <= gap <= 0.06
    assert 0.04 <= shape <= 0.06


@pytest.mark.parametrize("middle", [0.5, 0.7, 0.85])
def test_edges_of_a_tenth_above_the_middle_are_found(middle: float) -> None:
    """The outer quarters are right 0.1 more often than the middle half."""
    chance = middle + 0.1 * (np.abs(PLACE) > 0.5)
    gap, shape = rejected(lambda rng: rng.random((SETS, POSITIONS)) < chance, 250)
    assert gap > 0.8
    assert shape > 0.95


def test_a_smooth_bend_of_a_tenth_is_found() -> None:
    """A parabola from 0.85 to 0.95 at the very ends. Nearer to 0.5 only the U-shape test is sure of it."""
    gap, shape = rejected(lambda rng: rng.random((SETS, POSITIONS)) < 0.85 + 0.1 * PLACE**2, 250)
    assert gap > 0.8
    assert shape > 0.95
    gap, shape = rejected(lambda rng: rng.random((SETS, POSITIONS)) < 0.5 + 0.1 * PLACE**2, 250)
    assert gap < 0.8
    assert shape > 0.85


@pytest.mark.parametrize("trials", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_flat_grids_of_correlated_answers_are_rejected_at_the_level(trials: int) -> None:
    """4 lengths x 5 depths x 6 contexts, of their own difficulty each; all depths of a context in it."""
    rng = np.random.default_rng(3)
    cells = depths = 0
    for _ in range(trials):
        chance = rng.beta(2, 1, (4, 6))
        right = rng.random((4, 6, 5)) < chance[:, :, None]
        rows = [
            (length, depth / 4, f"{length}:{context}", float(right[length, context, depth]))
            for length in range(4)
            for context in range(6)
            for depth in range(5)
        ]
        found = grid_evidence(rows, trials=99, seed=int(rng.integers(1 << 30)))
        cells += found["gap_test"]["p"] <= 0.05
        depths += found["depth_test"]["p"] <= 0.05
    assert cells / trials == pytest.approx(0.05, abs=1.2 * room(trials))
    assert depths / trials == pytest.approx(0.05, abs=1.2 * room(trials))
