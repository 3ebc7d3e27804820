"""Evidence on grids: what is exchanged, against every exchange written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lcx.evaluation.statistics.grids import grid, grid_evidence, lengths_evidence

Rows = list[tuple[int, float, object, float | None]]


def full(scores: dict[tuple[int, int], list[float]]) -> Rows:
    """Rows of contexts named by (length, number), whose scores go by depth."""
    return [
        (length, depth / 10, f"{length}:{number}", score)
        for (length, number), line in scores.items()
        for depth, score in enumerate(line)
    ]


def gap_of_cells(rows: Rows) -> float:
    return grid([(x, y, s) for x, y, _, s in rows])["gap"]


def fine_gap_of_cells(rows: Rows) -> float:
    """Equal gaps told apart by the variance of the cells, as the test does."""
    cells = grid([(x, y, s) for x, y, _, s in rows])["cells"]
    return gap_of_cells(rows) + 1e-7 * float(np.var(cells))


def gap_of_depths(rows: Rows) -> float:
    by_depth = grid([(x, y, s) for x, y, _, s in rows])["by_depth"]
    return max(by_depth) - min(by_depth)


SCORES = {(100, 0): [0.9, 0.1, 0.5], (100, 1): [0.8, 0.35, 0.55], (200, 0): [0.7, 0.05, 0.2]}


def test_contexts_change_places_and_scores_inside_them() -> None:
    """3! exchanges of contexts times 3! orders in each of the three."""
    rows = full(SCORES)
    found = grid_evidence(rows, trials=20_000)
    gaps, fine = [], []
    for places in itertools.permutations(SCORES):
        for orders in itertools.product(list(itertools.permutations(range(3))), repeat=3):
            moved = {
                to: [SCORES[source][k] for k in order]
                for source, to, order in zip(SCORES, places, orders, strict=True)
            }
            gaps.append(gap_of_cells(full(moved)))
            fine.append(fine_gap_of_cells(full(moved)))
    test = found["gap_test"]
    assert test["gap"] == pytest.approx(gap_of_cells(rows))
    assert test["null_mean"] == pytest.approx(np.mean(gaps), abs=0.005)
    assert test["p"] == pytest.approx(np.mean(np.array(fine) >= fine_gap_of_cells(rows) - 1e-12), abs=0.02)


def test_depth_is_tested_inside_contexts() -> None:
    rows = full(SCORES)
    gaps = []
    for orders in itertools.product(list(itertools.permutations(range(3))), repeat=3):
        moved = {
            name: [line[k] for k in order] for (name, line), order in zip(SCORES.items(), orders, strict=True)
        }
        gaps.append(gap_of_depths(full(moved)))
    test = grid_evidence(rows, trials=20_000)["depth_test"]
    assert test["gap"] == pytest.approx(gap_of_depths(rows))
    assert test["null_mean"] == pytest.approx(np.mean(gaps), abs=0.005)
    assert test["p"] == pytest.approx(np.mean(np.array(gaps) >= test["gap"] - 1e-9), abs=0.02)


def test_contexts_of_one_question_are_exchanged_within_their_length() -> None:
    """Length matters and depth does not: only the test of all cells may say so."""
    rows: Rows = [
        (length, depth / 4, f"{length}:{depth}:{number}", float(length == 1 or (number + depth) % 4 == 0))
        for length in (1, 2)
        for depth in range(5)
        for number in range(8)
    ]
    found = grid_evidence(rows)
    assert found["gap_test"]["p"] < 0.03
    assert found["depth_test"]["p"] > 0.5


def test_intervals_lie_as_the_cells_do() -> None:
    rng = np.random.default_rng(0)
    rows: Rows = [
        (length, depth, f"{length}:{number}", float(rng.random() < 0.9 - 0.4 * (depth == 0.5)))
        for length in (100, 200)
        for number in range(30)
        for depth in (0.0, 0.5, 1.0)
    ]
    rows.append((100, 0.0, "unscored", None))
    found = grid_evidence(rows, lengths=[400])
    whole = grid([(x, y, s) for x, y, _, s in rows], lengths=[400])
    assert found["estimate"]["mean"] == pytest.approx(whole["average"])
    assert found["estimate"]["drawn"] == "contexts"
    assert found["estimate"]["contexts"] == 60
    for line, pairs in zip(whole["cells"], found["intervals"], strict=True):
        for cell, pair in zip(line, pairs, strict=True):
            assert (cell is None) == (pair is None)
            assert pair is None or pair[0] <= cell <= pair[1]
    assert found["depth_test"]["p"] < 0.01


def test_cells_of_a_few_contexts_have_no_interval() -> None:
    rows: Rows = [(8, d, f"c{n}", float(n > 0)) for d in (0.0, 1.0) for n in range(4)]
    found = grid_evidence(rows)
    assert found["intervals"] == [[None, None]]
    assert (found["lacking"], found["estimate"]["lacking"]) == ("4 contexts", "4 contexts")
    assert found["depth_test"]["p"] == 1.0


def test_lengths_are_a_grid_of_one_depth() -> None:
    rng = np.random.default_rng(5)
    rows = [
        (length, f"{length}:{n % 30}", float(rng.random() < right))
        for length, right, count in ((400, 0.3, 40), (100, 0.95, 80), (200, 0.9, 60))
        for n in range(count)
    ]
    found = lengths_evidence(rows)
    means = [np.mean([s for x, _, s in rows if x == length]) for length in (100, 200, 400)]
    assert found["estimate"]["mean"] == pytest.approx(np.mean(means)), "each length weighs alike"
    assert all(low < mean < high for mean, (low, high) in zip(means, found["intervals"], strict=True))
    assert found["gap_test"]["gap"] == pytest.approx(max(means) - min(means))
    assert found["gap_test"]["p"] < 0.01


def test_little_and_nothing() -> None:
    assert grid_evidence([])["intervals"] == []
    none = grid_evidence([(8, 0.5, "c", None)])
    assert none["intervals"] == [[None]]
    assert none["estimate"]["mean"] is None
    one = grid_evidence([(8, 0.5, "c", 1.0)])
    assert (one["intervals"], one["gap_test"]["p"], one["depth_test"]["p"]) == ([[None]], None, None)
