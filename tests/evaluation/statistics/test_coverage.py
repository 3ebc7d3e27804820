"""How often intervals hold the truth: simulated models with known chances, over sets, spans, items and contexts.

Where rows of a few contexts stand for themselves, the truth is that of these contexts; else that of all contexts there
could be. Contexts with an effect of their own differ in difficulty (log-odds, standard deviation 0.8).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest

from lcx.evaluation.statistics.curves import u_contrast
from lcx.evaluation.statistics.intervals import Ends, Table, estimate_mean, rows_stand
from lcx.evaluation.statistics.paired import paired_difference

Floats = np.ndarray


def chances(level: float, effect: float, contexts: int, items: int, rng: np.random.Generator) -> Floats:
    """The chance of each item in each context: a U whose lowest point has the log-odds `level`."""
    bend = (2 * (np.arange(items) + 0.5) / items - 1) ** 2
    return 1 / (1 + np.exp(-(level + bend + effect * rng.standard_normal((contexts, 1)))))


def curve_held(
    sets: int, span: int, items: int, effect: float, level: float, trials: int, seed: int = 0
) -> dict[str, float]:
    """How often the intervals of spans, of their average and of the U-shape hold the truth; those that there are."""
    rng = np.random.default_rng(seed)
    width = -(-items // span)
    units, cells = np.repeat(np.arange(sets), items), np.tile(np.arange(items) // span, sets)
    sizes = np.bincount(cells[:items])
    weights = (1 / sizes)[cells]
    bend = np.zeros(width) if width < 3 else u_contrast(np.arange(width) * span + sizes / 2)
    every = chances(level, effect, 4000 if effect else 1, items, rng).mean(0)
    inside = rows_stand(units.tolist())
    held: dict[str, list[bool]] = defaultdict(list)
    for _ in range(trials):
        chance = chances(level, effect, sets, items, rng)
        scores = (rng.random(chance.shape) < chance).astype(float).ravel()
        table = Table(units, cells, scores, weights, sets, width, inside)
        truth = chance.mean(0) if table.inside else every
        spans = np.bincount(cells[:items], truth) / sizes
        for ends, value in zip(table.intervals(0.95), spans, strict=True):
            hold(held["span"], ends, value)
        hold(held["average"], table.interval(np.full(width, 1 / width), 0.95), spans.mean())
        if width >= 3:
            hold(held["u-shape"], table.interval(bend, 0.95), spans @ bend)
    return {name: float(np.mean(of)) for name, of in held.items() if of}


def hold(held: list[bool], ends: Ends, truth: float) -> None:
    if ends.low is not None and ends.high is not None:
        held.append(bool(ends.low - 1e-9 <= truth <= ends.high + 1e-9))


CASES = [(2, 5, 30), (3, 5, 10), (4, 5, 20), (1, 10, 60), (20, 5, 10)]


@pytest.mark.parametrize("effect", [0.0, 0.8])
@pytest.mark.parametrize(("sets", "span", "items"), CASES)
def test_intervals_of_small_curves_hold_the_truth(sets: int, span: int, items: int, effect: float) -> None:
    found = curve_held(sets, span, items, effect, 0.0, 200)
    assert all(0.90 <= share <= 0.995 for share in found.values()), found


def grid() -> Iterator[tuple[int, int, int]]:
    for sets in (1, 2, 3, 4, 6, 8, 12, 19, 20):
        for span, items in ((5, 10), (5, 20), (5, 30), (10, 60), (50, 200), (50, 800)):
            yield sets, span, items


@pytest.mark.parametrize("effect", [0.0, 0.8])
@pytest.mark.parametrize(
    ("sets", "span", "items"),
    # Every third of the grid, its corners among them, in the slow tier; all of it at night
    [
        pytest.param(*of, marks=getattr(pytest.mark, "nightly" if n % 3 else "slow"))
        for n, of in enumerate(grid())
    ],
)
def test_intervals_of_curves_hold_the_truth(sets: int, span: int, items: int, effect: float) -> None:
    """500 curves of chances from 0.38 to 0.62, and 500 from 0.73 to 0.88."""
    shares: dict[str, list[float]] = defaultdict(list)
    for level in (-0.5, 1.0):
        for name, share in curve_held(sets, span, items, effect, level, 500, seed=1).items():
            shares[name].append(share)
    for name, of in shares.items():
        assert 0.92 <= np.mean(of) <= 0.985, (name, of)


def mean_held(contexts: int, each: int, effect: float, trials: int, seed: int = 0) -> float | None:
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(contexts), each).tolist()
    held: list[bool] = []
    every = float(chances(0.3, effect, 20_000 if effect else 1, 1, rng).mean())
    for _ in range(trials):
        chance = chances(0.3, effect, contexts, 1, rng)
        scores = (rng.random((contexts, each)) < chance).astype(float).ravel()
        found = estimate_mean(scores.tolist(), names)
        truth = float(chance.mean()) if found.drawn != "contexts" else every
        hold(held, Ends(found.low, found.high), truth)
    return float(np.mean(held)) if held else None


GROUPS = [(6, 1), (6, 5), (12, 3), (24, 10), (60, 1)]
MORE = [(6, 7), (8, 1), (8, 4), (10, 1), (15, 7), (19, 7), (20, 1), (20, 40), (40, 5), (200, 1)]


@pytest.mark.parametrize(
    ("contexts", "each"), [*GROUPS, *(pytest.param(*of, marks=pytest.mark.slow) for of in MORE)]
)
def test_intervals_of_means_hold_the_truth(contexts: int, each: int) -> None:
    for effect in (0.0, 0.8):
        share = mean_held(contexts, each, effect, 300 if (contexts, each) in GROUPS else 1000)
        assert share is not None
        assert 0.915 <= share <= 0.985, (effect, share)


def moves_held(contexts: int, each: int, effect: float, shift: float, trials: int) -> tuple[float, float]:
    """How often the interval of a paired difference holds the truth, and p is at most 0.05."""
    rng = np.random.default_rng(4)
    names = np.repeat(np.arange(contexts), each).tolist()
    held: list[bool] = []
    found = 0
    for _ in range(trials):
        base = 0.8 * rng.standard_normal((contexts, each))
        lean = shift + effect * rng.standard_normal((contexts, 1))
        a, b = (1 / (1 + np.exp(-(base + side * lean))) for side in (-0.5, 0.5))
        moves = ((rng.random(b.shape) < b).astype(float) - (rng.random(a.shape) < a)).ravel()
        one = paired_difference(moves.tolist(), names, trials=199)
        conditional = one.conditional or not effect
        if conditional or not shift:
            hold(held, Ends(one.low, one.high), float((b - a).mean()) if conditional else 0.0)
        found += one.p <= 0.05
    return float(np.mean(held)) if held else float("nan"), found / trials


@pytest.mark.parametrize("trials", [150, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("contexts", "each"), [(2, 10), (4, 30), (8, 4), (24, 6), (60, 1)])
def test_intervals_of_differences_hold_the_truth(contexts: int, each: int, trials: int) -> None:
    room = 0.05 if trials < 1000 else 0.03
    for effect, shift in ((0.0, 0.0), (0.8, 0.0), (0.0, 0.6)):
        share, _ = moves_held(contexts, each, effect, shift, trials)
        assert 0.95 - room <= share <= 0.995, (effect, shift, share)
