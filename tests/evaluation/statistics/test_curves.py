"""Evidence on curves: intervals of spans, the gap and the U-shape, on curves whose answer is known."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from lcx.evaluation.statistics.curves import curve_evidence, span_curve, u_contrast

Places = list[tuple[int, int, float]]


def drawn(chance: list[float], sets: int, seed: int) -> Places:
    """Zeros and ones, right with the chance of each position."""
    rng = random.Random(seed)
    return [(s, p, float(rng.random() < c)) for s in range(sets) for p, c in enumerate(chance)]


@pytest.mark.parametrize(
    "centres", [range(3), range(4), range(16), [25, 75, 125, 160], [0.5, 1.5, 5.5, 6.5, 9]]
)
def test_the_contrast_sees_neither_level_nor_slope(centres: list[float]) -> None:
    weights = u_contrast(centres)
    places = np.array(list(centres), dtype=float)
    assert weights.sum() == pytest.approx(0, abs=1e-12)
    assert weights @ places == pytest.approx(0, abs=1e-10)
    assert weights[weights > 0].sum() == pytest.approx(1)
    assert weights[0] > 0 < weights[-1]
    assert weights @ (places - places.mean()) ** 2 > 0


def test_the_contrast_of_five_spans_by_hand() -> None:
    assert u_contrast(range(5)) == pytest.approx(np.array([2, -1, -2, -1, 2]) / 4)


def test_edges_minus_middle_is_read_in_points() -> None:
    # The contrast changes sign at 0.58 of the way from the middle to an end: this step is its own.
    curve = [0.9 if abs(n - 49.5) > 29 else 0.6 for n in range(100)]
    assert u_contrast(range(100)) @ np.array(curve) == pytest.approx(0.3, abs=1e-9)
    slope = [0.5 + n / 400 for n in range(100)]
    assert u_contrast(range(100)) @ np.array(slope) == pytest.approx(0, abs=1e-9)


def test_a_planted_u_is_found_and_a_flat_curve_is_not() -> None:
    edges = [0.95 if abs(p - 199.5) > 100 else 0.75 for p in range(400)]
    found = curve_evidence(drawn(edges, 4, 0), width=50)
    assert found["gap_test"]["p"] < 0.01
    assert found["gap_test"]["gap"] > found["gap_test"]["null_high"]
    shape = found["u_shape"]
    assert shape["p"] < 0.001
    assert 0.1 < shape["low"] < shape["coefficient"] < shape["high"] < 0.3
    flat = curve_evidence(drawn([0.85] * 400, 4, 1), width=50)
    assert flat["gap_test"]["p"] > 0.05
    # Best minus worst of a flat curve is what noise makes of it: about its own null, well above 0.
    assert flat["gap_test"]["gap"] == pytest.approx(flat["gap_test"]["null_mean"], abs=0.06)
    assert flat["gap_test"]["null_mean"] > 0.05
    assert flat["u_shape"]["low"] < 0 < flat["u_shape"]["high"]
    arch = curve_evidence([(s, p, 1 - score) for s, p, score in drawn(edges, 4, 0)], width=50)
    assert arch["u_shape"]["p"] > 0.99
    assert arch["u_shape"]["p_two_sided"] < 0.01


def test_intervals_are_those_of_a_plain_loop() -> None:
    places = drawn([0.9] * 50 + [0.6] * 50, 3, 2)
    found = curve_evidence(places, width=50)
    rng = random.Random(0)
    for span, (low, high) in enumerate(found["intervals"]):
        sets = [[score for s, p, score in places if s == number and p // 50 == span] for number in range(3)]
        means = sorted(
            statistics.fmean(statistics.fmean(rng.choices(scores, k=50)) for scores in sets)
            for _ in range(4000)
        )
        assert low == pytest.approx(means[100], abs=0.015)
        assert high == pytest.approx(means[-100], abs=0.015)
    assert found["estimate"]["drawn"] == "rows of 3 contexts"
    assert found["estimate"]["n"] == 300


def test_the_estimate_is_of_the_curves_average() -> None:
    """Spans weigh alike, however many rows they have; so do sets."""
    places = [
        row for row in drawn([0.9] * 60 + [0.2] * 60, 2, 3) if row[1] < 60 or row[0] == 0 or row[1] % 3 == 0
    ]
    found = curve_evidence(places, width=60)
    curve = span_curve(places, width=60)
    assert found["estimate"]["mean"] == curve.average
    assert found["gap_test"]["gap"] == pytest.approx(curve.gap)
    assert found["estimate"]["low"] < curve.average < found["estimate"]["high"]  # type: ignore[operator]


def test_many_sets_are_drawn_whole() -> None:
    rng = random.Random(4)
    places: Places = []
    for number in range(24):
        chance = rng.choice([0.1, 0.9])
        places += [(number, p, float(rng.random() < chance)) for p in range(40)]
    whole = curve_evidence(places, width=20)
    assert whole["estimate"]["drawn"] == "contexts"
    few = curve_evidence([row for row in places if row[0] < 19], width=20)
    assert few["estimate"]["drawn"] == "rows of 19 contexts"
    # Contexts differ much, rows inside them do not: only the former says what other contexts would give.
    wide, narrow = (np.ptp(one["intervals"][0]) for one in (whole, few))
    assert wide > 1.5 * narrow
    named = curve_evidence(places, width=20, contexts=["all"] * len(places))
    assert named["estimate"]["drawn"] == "rows of 1 context"


def test_film_leaves_out_the_last_position_of_each_span() -> None:
    places = [(0, p, float(p % 10 != 9)) for p in range(40)]
    film = curve_evidence(places, width=10, compat="film")
    assert film["estimate"]["mean"] == 1.0
    assert film["estimate"]["n"] == 36
    assert film["estimate"]["high"] == 1.0
    assert 0.8 < film["estimate"]["low"] < 1
    assert curve_evidence(places, width=10)["estimate"]["mean"] == pytest.approx(0.9)


def test_too_little_is_said_to_be_too_little() -> None:
    empty = curve_evidence([])
    assert empty["intervals"] == []
    assert (empty["estimate"]["mean"], empty["gap_test"]["p"], empty["u_shape"]["p"]) == (None, None, None)
    one = curve_evidence([(0, 120, 1.0)], width=50)
    assert one["intervals"] == [None, None, None]
    assert one["estimate"]["low"] is None
    assert one["gap_test"]["p"] is None
    two = curve_evidence(drawn([0.5] * 100, 2, 5), width=50)
    assert two["gap_test"]["p"] is not None
    assert two["u_shape"]["coefficient"] is None, "two spans have no middle"
    # A span without rows is left out of the gap and the shape.
    holes = curve_evidence(
        [row for row in drawn([0.5] * 200, 2, 6) if row[1] // 50 != 1], width=50, positions=300
    )
    assert [pair is None for pair in holes["intervals"]] == [False, True, False, False, True, True]
    assert holes["u_shape"]["coefficient"] is not None


def test_equal_rows_and_seed_give_equal_evidence() -> None:
    places = [(s, p, random.Random(s * 100 + p).random()) for s in range(3) for p in range(60)]
    assert curve_evidence(places, width=20) == curve_evidence(places, width=20)
    assert curve_evidence(places, width=20) != curve_evidence(places, width=20, seed=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_not_averaged(value: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        curve_evidence([(0, 0, 1.0), (0, 60, value)])
