"""Resamples of contexts and of rows inside them, against loops that draw one row at a time."""

from __future__ import annotations

import random
import statistics
import tracemalloc

import numpy as np
import pytest

from lcx.evaluation.statistics.resampling import Table, estimate_mean, group_evidence


def rows_of(contexts: int, each: int, seed: int) -> tuple[list[int], list[float]]:
    """Scores that are alike within a context."""
    rng = random.Random(seed)
    names, scores = [], []
    for name in range(contexts):
        centre = rng.random()
        names += [name] * each
        scores += [centre + rng.gauss(0, 0.1) for _ in range(each)]
    return names, scores


def test_what_is_drawn_depends_on_how_many_contexts_there_are() -> None:
    for contexts, each, said in (
        (20, 5, "contexts"),
        (19, 40, "rows of 19 contexts"),
        (4, 8, "rows of 4 contexts"),
        (4, 7, "contexts"),
        (1, 3, "rows of 1 context"),
    ):
        names, scores = rows_of(contexts, each, 0)
        assert Table.of(names, [0] * len(names), scores, 1).drawn == said


def test_drawn_contexts_vary_as_a_loop_says() -> None:
    names, scores = rows_of(30, 4, 1)
    found = Table.of(names, [0] * len(names), scores, 1).resample(20_000, 0)[:, 0]
    by_name = {name: [s for n, s in zip(names, scores, strict=True) if n == name] for name in set(names)}
    rng = random.Random(2)
    loop = []
    for _ in range(4000):
        drawn = [score for _ in by_name for score in by_name[rng.randrange(30)]]
        loop.append(statistics.fmean(drawn))
    assert found.mean() == pytest.approx(statistics.fmean(loop), abs=0.004)
    assert found.std() == pytest.approx(statistics.stdev(loop), rel=0.05)


@pytest.mark.parametrize("binary", [True, False])
def test_rows_inside_contexts_vary_as_their_variance_says(binary: bool) -> None:
    rng = random.Random(3)
    names = [name for name in range(3) for _ in range(50)]
    chance = [0.2, 0.5, 0.9]
    scores = [float(rng.random() < chance[n]) if binary else chance[n] + rng.random() for n in names]
    table = Table.of(names, [0] * 150, scores, 1)
    found = table.resample(20_000, 0)[:, 0]
    within = [scores[50 * k : 50 * k + 50] for k in range(3)]
    wanted = (sum(statistics.pvariance(part) / 50 for part in within) / 9) ** 0.5
    assert found.mean() == pytest.approx(statistics.fmean(scores), abs=0.002)
    assert found.std() == pytest.approx(wanted, rel=0.02)


def test_cells_weigh_rows_and_unknown_cells_stay_unknown() -> None:
    table = Table.of(["a", "a", "b"], [0, 0, 2], [1.0, 0.0, 1.0], 3, weights=[3.0, 1.0, 1.0])
    assert table.means[0] == pytest.approx(0.75)
    assert np.isnan(table.means[1])
    assert table.means[2] == 1.0
    assert table.intervals(table.resample(100, 0), 0.95)[1:] == [None, None]


def test_groups_decide_each_for_itself() -> None:
    rows: list[tuple[str, object, float | None]] = [("many", k, float(k % 2)) for k in range(40)]
    rows += [("few", k % 2, float(k % 3 == 0)) for k in range(40)]
    rows += [("right", k, 1.0) for k in range(25)] + [("right", 99, None), ("none", 0, None)]
    found = group_evidence(rows)
    assert list(found) == ["many", "few", "right", "none"]
    assert found["many"]["drawn"] == "contexts"
    assert found["few"]["drawn"] == "rows of 2 contexts"
    assert (found["right"]["n"], found["right"]["mean"], found["right"]["high"]) == (25, 1.0, 1.0)
    assert found["right"]["low"] == pytest.approx(0.025 ** (1 / 25))
    assert found["none"]["mean"] is None
    assert found == group_evidence(rows)
    fine = [("fine", k, k**0.5 / 7) for k in range(40)]
    assert group_evidence(fine) != group_evidence(fine, seed=1)


def test_a_handful_of_contexts_has_the_exact_interval_of_a_share() -> None:
    found = estimate_mean([1.0, 1.0, 1.0, 0.0], "abcd")
    assert (found.low, found.high) == pytest.approx(
        (0.194120, 0.993690), abs=1e-5
    )  # Clopper-Pearson of 3 in 4


def test_many_rows_have_scipys_interval() -> None:
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(6).beta(2, 1, 300)
    found = estimate_mean(scores.tolist(), range(300), trials=20_000)
    wanted = stats.bootstrap(
        (scores,), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.0015)


def coverage(contexts: int, each: int, trials: int, seed: int) -> float:
    """How often the interval holds the mean of all contexts there could be. Scores of a context are alike."""
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(contexts), each).tolist()
    held = 0
    for trial in range(trials):
        # Shares of a context's right answers have the mean 2/3, and a standard deviation of 0.18.
        chance = rng.beta(4, 2, contexts)
        scores = (rng.random((contexts, each)) < chance[:, None]).astype(float).ravel().tolist()
        found = estimate_mean(scores, names, seed=trial, trials=1000)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 2 / 3 <= found.high
    return held / trials


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    assert 0.935 <= coverage(24, 10, 1500, seed=1) <= 0.965


@pytest.mark.slow
@pytest.mark.parametrize(("contexts", "each"), [(20, 5), (20, 40), (40, 10), (200, 1)])
def test_intervals_of_other_designs_hold_the_truth(contexts: int, each: int) -> None:
    assert 0.935 <= coverage(contexts, each, 3000, seed=2) <= 0.965


def test_many_contexts_are_not_drawn_all_at_once() -> None:
    """Files of tens of thousands of rows, each about a context of its own, took gigabytes."""
    scores = np.random.default_rng(0).random(20_000)
    tracemalloc.start()
    try:
        found = estimate_mean(scores.tolist(), range(20_000), trials=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * float(scores.std()) / 20_000**0.5, rel=0.1)
