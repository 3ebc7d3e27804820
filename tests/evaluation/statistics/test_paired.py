"""Paired tests against exact ones of SciPy, and their level where answers about a context are alike."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lcx.evaluation.statistics.paired import holm, paired_difference, sign_flips


def test_few_differences_are_tested_by_all_patterns_of_signs() -> None:
    moves = [0.5, -0.25, 1.0, 0.125, 0.75]
    sums = [
        sum(s * m for s, m in zip(signs, moves, strict=True))
        for signs in itertools.product((1, -1), repeat=5)
    ]
    found = paired_difference(moves, range(5), most=None)
    assert found.mean == pytest.approx(sum(moves) / 5)
    assert found.p == sum(abs(s) >= sum(moves) - 1e-9 for s in sums) / 32
    flipped, every = sign_flips(np.array([*moves, 0.0]), 100, np.random.default_rng(0))
    assert every
    assert sorted(flipped) == pytest.approx(sorted(sums))


def test_zeros_and_ones_are_tested_as_mcnemar_does() -> None:
    stats = pytest.importorskip("scipy.stats")
    moves = [1.0] * 31 + [-1.0] * 15 + [0.0] * 200
    found = paired_difference(moves, [0] * len(moves), trials=40_000)
    assert found.p == pytest.approx(stats.binomtest(31, 46).pvalue, abs=0.004)
    assert (found.n, found.moved, found.drawn) == (246, 46, "rows of 1 context")
    assert found.conditional


def test_the_interval_and_p_of_contexts_are_near_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    names = np.repeat(np.arange(30), 8)
    moves = rng.normal(0.3, 0.8, 30)[names] + rng.normal(0, 0.2, 240)
    found = paired_difference(moves.tolist(), names.tolist(), most=None)
    student = stats.ttest_1samp([moves[names == n].mean() for n in range(30)], 0)
    low, high = student.confidence_interval()
    assert found.p == pytest.approx(student.pvalue, abs=0.01)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.12 * (high - low))
    assert (found.drawn, found.contexts) == ("contexts", 30)
    assert not found.conditional


def test_weights_count() -> None:
    moves, names = [1.0, 0.0, 0.0, -1.0], ["a", "a", "b", "b"]
    assert paired_difference(moves, names, [3.0, 1, 1, 1]).mean == pytest.approx(2 / 6)
    assert paired_difference(moves, names).mean == 0


def test_where_nothing_moved_the_interval_says_what_could_have_been_seen() -> None:
    found = paired_difference([0.0] * 50, [0] * 50)
    assert (found.mean, found.p) == (0, 1)
    assert found.high == pytest.approx(1 - 50 / (50 + 1.96**2), abs=1e-4)
    assert found.low == -found.high  # type: ignore[operator]
    assert paired_difference([0.0] * 50, [0] * 50, most=None).low is None
    assert paired_difference([1.0], ["a"]).low is None
    with pytest.raises(ValueError, match="no pair"):
        paired_difference([], [])


def test_where_all_moved_alike_the_interval_is_not_a_point() -> None:
    """Six items that all went from wrong to right say little; two say nothing."""
    found = paired_difference([1.0] * 6, range(6))
    seen = 6 / (6 + 1.96**2)  # of so many such items, all six are seen in 2.5% of cases
    assert (found.low, found.high) == (pytest.approx(2 * seen - 1, abs=1e-4), 1.0)
    assert paired_difference([1.0, 1.0], [0, 1]).lacking == "2 contexts"
    many = paired_difference([-0.5] * 400, [k % 40 for k in range(400)])
    assert many.low is not None
    assert many.high is not None
    assert -0.52 < many.low < -0.5 < many.high < -0.48
    assert paired_difference([1.0, 1.0], [0, 1], most=None).low is None


@pytest.mark.parametrize("contexts", [40, 24])
def test_equal_models_are_told_apart_at_the_level(contexts: int) -> None:
    """Which model is better differs by context, and neither is on the whole: 5% may be found."""
    rng = np.random.default_rng(2)
    names = np.repeat(np.arange(contexts), 6).tolist()
    found = wrong = held = 0
    trials = 800
    for trial in range(trials):
        lean = np.repeat(rng.choice([-0.25, 0.25], contexts), 6)
        a, b = (rng.random(len(names)) < 0.6 + side * lean for side in (1, -1))
        moves = (b.astype(float) - a).tolist()
        one = paired_difference(moves, names, trials=499, seed=trial)
        found += one.p <= 0.05
        held += one.low <= 0 <= one.high  # type: ignore[operator]
        wrong += paired_difference(moves, range(len(names)), trials=499, seed=trial).p <= 0.05
    assert 0.03 <= found / trials <= 0.07
    assert 0.93 <= held / trials <= 0.97
    assert wrong / trials > 0.1, "as if items were independent, too much would be found"


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
    # The second of 0.02, 0.021 would be 0.021; it may not fall below the first's 0.04.
    assert holm([0.02, 0.021]) == pytest.approx([0.04, 0.04])


def test_equal_items_and_seed_give_equal_findings() -> None:
    moves = np.random.default_rng(3).normal(0.1, 1, 60).tolist()
    assert paired_difference(moves, range(60)) == paired_difference(moves, range(60))
    assert paired_difference(moves, range(60)) != paired_difference(moves, range(60), seed=1)
