"""Bootstrap intervals against enumeration, a normal limit, a plain loop and their own promise."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import numpy as np
import pytest

from lcx.evaluation.statistics.intervals import bootstrap, mean_interval


def quantile(values: list[float], share: float) -> float:
    """Linear between order statistics, written out."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def test_three_values_have_the_27_resamples_written_out() -> None:
    values = [0.0, 1.0, 5.0]
    means = [sum(drawn) / 3 for drawn in itertools.product(values, repeat=3)]
    low, high = bootstrap(np.array(values), np.ones(3), level=0.8, resamples=200_000, method="percentile")
    assert (low, high) == pytest.approx((quantile(means, 0.1), quantile(means, 0.9)), abs=1e-9)


def test_many_values_have_the_normal_interval() -> None:
    rng = random.Random(1)
    values = [rng.gauss(3, 2) for _ in range(4000)]
    half = 1.959964 * statistics.stdev(values) / math.sqrt(len(values))
    for method in ("bca", "percentile"):
        found = mean_interval(values, method=method, resamples=4000)  # type: ignore[arg-type]
        assert found.mean == pytest.approx(statistics.fmean(values))
        assert found.low == pytest.approx(found.mean - half, abs=0.05 * half)
        assert found.high == pytest.approx(found.mean + half, abs=0.05 * half)


def naive(values: list[float], weights: list[float], names: list[int], resamples: int) -> list[float]:
    """Draw contexts one by one with another generator, and average all rows of those drawn."""
    rng = random.Random(9)
    rows = {name: [i for i, other in enumerate(names) if other == name] for name in sorted(set(names))}
    known = sorted(rows)
    found = []
    for _ in range(resamples):
        top = bottom = 0.0
        for _ in rows:
            for i in rows[rng.choice(known)]:
                top += weights[i] * values[i]
                bottom += weights[i]
        found.append(top / bottom)
    return found


def naive_bca(values: list[float], weights: list[float], names: list[int], resamples: int) -> list[float]:
    """Efron and Tibshirani, equations 14.9 to 14.15, by loops."""
    found = naive(values, weights, names, resamples)
    rows = list(zip(values, weights, names, strict=True))

    def mean(left_out: int | None) -> float:
        kept = [(v, w) for v, w, name in rows if name != left_out]
        return sum(v * w for v, w in kept) / sum(w for _, w in kept)

    normal = statistics.NormalDist()
    shift = normal.inv_cdf(sum(value < mean(None) for value in found) / resamples)
    jack = [mean(name) for name in sorted(set(names))]
    middle = statistics.fmean(jack)
    bend = sum((middle - v) ** 3 for v in jack) / (6 * sum((middle - v) ** 2 for v in jack) ** 1.5)
    ends = []
    for z in (-1.959964, 1.959964):
        ends.append(quantile(found, normal.cdf(shift + (shift + z) / (1 - bend * (shift + z)))))
    return ends


def test_clusters_of_unequal_size_agree_with_a_plain_loop() -> None:
    rng = random.Random(3)
    values, weights, names = [], [], []
    for name in range(24):
        centre = rng.expovariate(0.3)
        for _ in range(rng.randint(1, 6)):
            values.append(centre + rng.gauss(0, 0.2))
            weights.append(float(rng.randint(1, 9)))
            names.append(name)
    found = mean_interval(values, names, weights=weights, resamples=20_000)
    assert found.unit == "contexts"
    assert found.contexts == 24
    low, high = naive_bca(values, weights, names, 4000)
    spread = high - low
    assert found.low == pytest.approx(low, abs=0.05 * spread)
    assert found.high == pytest.approx(high, abs=0.05 * spread)
    # Skewed values: the corrected interval reaches further up than the plain one.
    plain = mean_interval(values, names, weights=weights, method="percentile")
    assert found.high > plain.high  # type: ignore[operator]
    # As if all rows were independent, the interval would be much too narrow.
    rows = mean_interval(values, weights=weights)
    assert rows.high - rows.low < 0.75 * spread  # type: ignore[operator]


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_the_interval_holds_the_truth_as_often_as_it_says(method: str) -> None:
    rng = random.Random(5)
    held = 0
    trials = 400
    for trial in range(trials):
        values, names = [], []
        for name in range(40):
            shift = rng.gauss(0, 1)  # what rows of a context share
            values += [shift + rng.gauss(0, 1) for _ in range(3)]
            names += [name] * 3
        found = mean_interval(values, names, resamples=600, method=method, seed=trial)  # type: ignore[arg-type]
        held += found.low <= 0 <= found.high  # type: ignore[operator]
    assert 0.90 <= held / trials <= 0.98


def test_few_contexts_with_many_rows_are_taken_as_given() -> None:
    rng = random.Random(0)
    values = [name * 10 + rng.gauss(0, 1) for name in range(3) for _ in range(50)]
    names = [name for name in range(3) for _ in range(50)]
    found = mean_interval(values, names)
    assert found.unit == "rows of 3 contexts"
    within = math.sqrt(sum(statistics.variance(values[50 * k : 50 * k + 50]) for k in range(3)) / 3 / 150)
    assert found.high - found.low == pytest.approx(2 * 1.96 * within, rel=0.1)  # type: ignore[operator]
    assert mean_interval(values[:50], names[:50]).unit == "rows of 1 context"
    few = mean_interval(values[::10], names[::10])  # five rows a context: contexts are drawn
    assert few.unit == "contexts"
    assert few.high - few.low > 10  # type: ignore[operator]


def test_little_and_nothing() -> None:
    assert mean_interval([]).as_dict() == {
        "mean": None, "low": None, "high": None, "n": 0, "contexts": 0, "drawn": "rows",
    }  # fmt: skip
    one = mean_interval([2.0, None], ["a", "b"])
    assert (one.mean, one.low, one.high, one.n) == (2.0, None, None, 1)
    same = mean_interval([0.1] * 30)
    assert (same.mean, same.low, same.high) == pytest.approx((0.1, 0.1, 0.1))
    share = mean_interval([0.5, 1.0, 7.0], weights=[2, 2, 0])
    assert (share.mean, share.n) == (0.75, 2)
    with pytest.raises(ValueError, match="contexts"):
        mean_interval([1.0], ["a", "b"])


def test_equal_data_and_seed_give_equal_intervals() -> None:
    rng = random.Random(4)
    values = [rng.random() for _ in range(50)]
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)
