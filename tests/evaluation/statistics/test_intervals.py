"""Which units an interval comes from, and its ends against SciPy's of the same units and what is too little."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from lcx.evaluation.statistics.intervals import (
    Table,
    cell_intervals,
    estimate_mean,
    group_evidence,
    share_interval,
    student_quantile,
)


@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    [  # from printed tables
        (0.975, 1, 12.706), (0.975, 5, 2.571), (0.95, 5, 2.015), (0.975, 120, 1.980), (0.025, 10, -2.228),
    ],
)  # fmt: skip
def test_students_quantiles_are_those_of_the_tables(share: float, freedom: int, value: float) -> None:
    assert student_quantile(share, freedom) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize(
    ("contexts", "each", "said"),
    [
        (20, 5, "contexts"),
        (19, 40, "rows of 19 contexts"),
        (4, 8, "rows of 4 contexts"),
        (4, 7, "contexts"),
        (1, 3, "rows of 1 context"),
    ],
)
def test_units_depend_on_contexts_and_on_their_rows(contexts: int, each: int, said: str) -> None:
    """Rows are counted by context: in cells of two rows they stand for themselves as in cells of twenty."""
    names = np.repeat(np.arange(contexts), each).tolist()
    for width in (1, 4):
        cells = [number % width for number in range(len(names))]
        assert Table.of(names, cells, [float(n % 2) for n in range(len(names))], width).drawn == said


def test_rows_of_a_context_each_have_wilsons_interval() -> None:
    stats = pytest.importorskip("scipy.stats")
    for ones, rows in ((0, 8), (8, 8), (50, 300), (200, 200)):
        found = estimate_mean([1.0] * ones + [0.0] * (rows - ones), range(rows))
        wanted = stats.binomtest(ones, rows).proportion_ci(0.95, method="wilson")
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-3)
    few = estimate_mean([1.0, 0.0] * 4, range(8))  # half of eight varies as half of seven would
    assert (few.low, few.high) == pytest.approx(share_interval(0.5, 7, 1.959964))
    assert share_interval(0.25, 40, 1.96)[0] == pytest.approx(0.1418, abs=1e-4)


def test_contexts_of_several_rows_have_students_interval() -> None:
    """Values without bounds: a t interval of the contexts' means, where all have as many rows."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    names = np.repeat(np.arange(30), 4)
    values = 5 + rng.normal(0, 2, 30)[names] + rng.normal(0, 0.2, 120)
    found = estimate_mean(values.tolist(), names.tolist())
    means = [values[names == n].mean() for n in range(30)]
    wanted = stats.ttest_1samp(means, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    shares = estimate_mean((values / 20).clip(0, 1).tolist(), names.tolist())
    assert (shares.low, shares.high) == pytest.approx((wanted.low / 20, wanted.high / 20), abs=0.004)


def test_contexts_that_differ_widen_an_interval_only_where_they_are_its_units() -> None:
    rng = random.Random(4)
    names = [name for name in range(24) for _ in range(40)]
    chance = [rng.choice([0.1, 0.9]) for _ in range(24)]
    scores = [float(rng.random() < chance[name]) for name in names]
    many, few = estimate_mean(scores, names), estimate_mean(scores[: 19 * 40], names[: 19 * 40])
    assert (many.drawn, few.drawn) == ("contexts", "rows of 19 contexts")
    assert many.high - many.low > 4 * (few.high - few.low)  # type: ignore[operator]
    parts = [statistics.pvariance(scores[40 * k : 40 * k + 40]) / 39 for k in range(19)]
    assert few.high - few.low == pytest.approx(2 * 1.96 * sum(parts) ** 0.5 / 19, rel=0.02)  # type: ignore[operator]


def test_weights_are_those_of_parts_of_wholes() -> None:
    share = estimate_mean([0.5, 1.0, 7.0], "abc", weights=[2, 2, 0])
    assert (share.mean, share.n, share.lacking) == (0.75, 2, "2 contexts")
    table = Table.of(["a", "a", "b"], [0, 0, 2], [1.0, 0.0, 1.0], 3, weights=[3.0, 1.0, 1.0])
    assert table.means == pytest.approx([0.75, np.nan, 1.0], nan_ok=True)
    assert table.known.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("contexts", "each", "lacking"),
    [(3, 4, "3 contexts"), (5, 1, "5 contexts"), (6, 1, ""), (1, 5, "5 rows"), (1, 6, ""), (2, 8, "")],
)
def test_fewer_than_six_units_have_no_interval(contexts: int, each: int, lacking: str) -> None:
    names = np.repeat(np.arange(contexts), each).tolist()
    scores = [float(n % 3 == 0) for n in range(len(names))]
    found = estimate_mean(scores, names)
    assert (found.low is None, found.lacking) == (bool(lacking), lacking)
    assert ("lacking" in found.as_dict()) == bool(lacking)


def test_cells_say_together_what_they_are_lacking() -> None:
    cells = [0] * 8 + [1] * 5 + [2] * 2
    found = cell_intervals(Table.of([0] * 15, cells, [1.0, 0.0, 1.0] * 5, 4).intervals(0.95))
    assert [pair is None for pair in found["intervals"]] == [False, True, True, True]
    assert found["lacking"] == "2-5 rows"


def test_values_without_bounds_that_are_all_alike_say_so() -> None:
    found = estimate_mean([7.0] * 30, range(30))
    assert (found.mean, found.low, found.lacking) == (7.0, None, "30 contexts, all alike")


def test_a_scale_of_its_own_is_a_share_of_it() -> None:
    shares, points = [0.1, 0.9, 0.4, 1.0, 0.7, 0.2, 0.8], range(7)
    one, ten = estimate_mean(shares, points), estimate_mean([10 * s for s in shares], points, scale=(0, 10))
    assert (ten.mean, ten.low, ten.high) == pytest.approx((10 * one.mean, 10 * one.low, 10 * one.high))  # type: ignore[operator]
    assert estimate_mean([0.01] * 7, points, scale=None).low is None
    moves = estimate_mean([0.0, 0.2, 0.0, 0.0, 0.0, 0.0], range(6), scale=None)
    assert moves.low is not None
    assert moves.low < 0


def test_groups_decide_each_for_itself() -> None:
    rows: list[tuple[str, object, float | None]] = [("many", k, float(k % 2)) for k in range(40)]
    rows += [("few", k % 2, float(k % 3 == 0)) for k in range(40)]
    rows += [("right", k, 1.0) for k in range(25)] + [("right", 99, None), ("none", 0, None)]
    found = group_evidence(rows)
    assert list(found) == ["many", "few", "right", "none"]
    assert found["many"]["drawn"] == "contexts"
    assert found["few"]["drawn"] == "rows of 2 contexts"
    assert (found["right"]["n"], found["right"]["mean"], found["right"]["high"]) == (25, 1.0, 1.0)
    assert found["right"]["low"] == pytest.approx(25 / (25 + 1.96**2), abs=1e-4)
    assert found["none"]["mean"] is None


def test_some_contexts_always_right_and_others_never_leave_room() -> None:
    """No row differs from its context's mean, which does not make the mean known."""
    found = estimate_mean([1.0] * 16 + [0.0] * 8, [0] * 8 + [1] * 8 + [2] * 8)
    assert found.high - found.low > 0.15  # type: ignore[operator]
