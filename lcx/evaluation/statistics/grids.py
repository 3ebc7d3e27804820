"""Accuracy by length of the context and depth in it: cells, their means, and what the grid is worth.

What may be exchanged where nothing mattered depends on what shares a context:

| null hypothesis | what is dealt anew | key |
|---|---|---|
| neither length nor depth matters | contexts over lengths, and the scores inside each over its depths | `gap_test` |
| depth does not; length may | the scores inside each context, or inside a length if contexts have one | `depth_test` |

Questions of one context are alike, so their scores stay together: contexts change places only with others that
have as many questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from lcx.evaluation.statistics.intervals import NOTHING, Floats, Ints, Table, cell_intervals, numbered
from lcx.evaluation.statistics.permutation import gap_test, no_gap_test, permuted_means

__all__ = ["band", "default_lengths", "depth_points", "grid", "grid_evidence", "lengths_evidence"]


DEFAULT_WINDOW = 8192
"""Length of the longest context where a model's configuration names no window."""
LENGTHS = 4
SHORTEST = 64


def default_lengths(window: int | None) -> tuple[int, ...]:
    """Up to four powers of two, the largest of which the window still holds."""
    top = 1 << (max(1, window or DEFAULT_WINDOW).bit_length() - 1)
    return tuple(length for k in range(LENGTHS - 1, -1, -1) if (length := top >> k) >= SHORTEST) or (top,)


def depth_points(count: int) -> tuple[float, ...]:
    """`count` depths evenly from 0 (the start of the context) to 1 (its end); a single one is the middle."""
    if count < 1:
        raise ValueError(f"a grid has at least one depth, not {count}")
    return (0.5,) if count == 1 else tuple(round(number / (count - 1), 4) for number in range(count))


def band(position: int, items: int, bands: int) -> float:
    """The middle of the band, of so many equal ones, that item `position` of a context of `items` stands in."""
    return round((position * bands // items + 0.5) / bands, 4)


def grid(
    rows: Iterable[tuple[int, float, float | None]],
    lengths: Sequence[int] = (),
    depths: Sequence[float] = (),
) -> dict[str, Any]:
    """The grid of `(length, depth, score)` rows; a score of None makes the cell known but does not count.

    `cells[i][j]` is the mean score at `lengths[i]` and `depths[j]`, None where no row counts, and `counts`
    the rows that did. `by_length`, `by_depth` and `average` are means of cells, so that each cell weighs the
    same; `gap` is the difference between the best cell and the worst, which `worst` names.
    """
    known = list(rows)
    xs = sorted({length for length, _, _ in known} | set(lengths))
    ys = sorted({depth for _, depth, _ in known} | set(depths))
    found: dict[tuple[int, float], list[float]] = defaultdict(list)
    for length, depth, score in known:
        if score is not None:
            found[length, depth].append(score)
    cells = [[_mean(found[x, y]) for y in ys] for x in xs]
    filled = [(score, x, y) for x, row in zip(xs, cells, strict=True) for y, score in _pairs(ys, row)]
    worst = min(filled, default=None)
    return {
        "lengths": xs,
        "depths": ys,
        "cells": cells,
        "counts": [[len(found[x, y]) for y in ys] for x in xs],
        "by_length": [_mean([score for _, score in _pairs(ys, row)]) for row in cells],
        "by_depth": [_mean([s for s in column if s is not None]) for column in zip(*cells, strict=True)],
        "average": _mean([score for score, _, _ in filled]),
        "gap": max(filled)[0] - min(filled)[0] if filled else None,
        "worst": None if worst is None else {"score": worst[0], "length": worst[1], "depth": worst[2]},
    }


def _pairs(ys: Sequence[float], row: Sequence[float | None]) -> list[tuple[float, float]]:
    return [(y, score) for y, score in zip(ys, row, strict=True) if score is not None]


def _mean(scores: Sequence[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None


Row = tuple[int, float, Hashable, float | None]


def grid_evidence(
    rows: Sequence[Row],
    lengths: Sequence[int] = (),
    depths: Sequence[float] = (),
    *,
    level: float = 0.95,
    trials: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evidence on the grid of `(length, depth, context, score)` rows; a score of None does not count.

    `intervals[i][j]` is [low, high] of the cell at the i-th length and j-th depth (those of `grid`), None where
    there is too little to tell, and then `lacking` says what such cells have; `estimate` is the mean of the cells.
    `gap_test` is of best minus worst cell where neither length nor depth matters; `depth_test` of best minus worst
    depth, each the mean over lengths, where depth does not.
    """
    xs = sorted({row[0] for row in rows} | set(lengths))
    ys = sorted({row[1] for row in rows} | set(depths))
    kept = [(x, y, context, score) for x, y, context, score in rows if score is not None]
    if not kept:
        return {
            "intervals": [[None] * len(ys) for _ in xs],
            "estimate": NOTHING.as_dict(),
            "gap_test": no_gap_test(),
            "depth_test": no_gap_test(),
        }
    column = {y: j for j, y in enumerate(ys)}
    line = {x: i for i, x in enumerate(xs)}
    cells = [line[x] * len(ys) + column[y] for x, y, _, _ in kept]
    names = [(x, context) for x, _, context, _ in kept]  # a context has one length
    table = Table.of(names, cells, [score for *_, score in kept], len(xs) * len(ys))
    found = cell_intervals(table.intervals(level))
    intervals = found.pop("intervals")
    return {
        "intervals": [intervals[i * len(ys) : (i + 1) * len(ys)] for i in range(len(xs))],
        **found,
        "estimate": table.average(level).as_dict(),
        "gap_test": _gap_test(table, trials, np.random.default_rng([seed, 1])),
        "depth_test": _depth_test(
            table, _lengths_of(names), len(xs), trials, np.random.default_rng([seed, 2])
        ),
    }


def lengths_evidence(
    rows: Sequence[tuple[int, Hashable, float | None]],
    *,
    level: float = 0.95,
    trials: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """`intervals` by length (shortest first), `estimate` of their mean, and `gap_test` of `(length, context, score)`
    rows: a grid of one depth.
    """
    found = grid_evidence([(x, 0.0, c, s) for x, c, s in rows], level=level, trials=trials, seed=seed)
    found["intervals"] = [pair for line in found["intervals"] for pair in line]
    del found["depth_test"]
    return found


def _lengths_of(names: Sequence[tuple[int, Hashable]]) -> Ints:
    """For each context, in order of first appearance, the number of its length."""
    numbers, _ = numbered([x for x, _ in dict.fromkeys(names)])
    return numbers


def _gap_test(table: Table, trials: int, rng: np.random.Generator) -> dict[str, Any]:
    """Best minus worst cell, against contexts and scores dealt anew."""
    known = table.known
    if len(known) < 2:
        return no_gap_test(0.0)
    rows = np.argsort(table.units, kind="stable")
    parts = np.split(rows, np.flatnonzero(np.diff(table.units[rows])) + 1)
    alike: dict[int, list[Ints]] = defaultdict(list)
    for part in parts:
        alike[len(part)].append(part)
    tops = np.zeros((trials, table.width))
    for size, contexts in alike.items():
        places = np.stack(contexts)  # [contexts, size]
        scores = table.scores[places]
        dealt = np.broadcast_to(np.arange(len(contexts)), (trials, len(contexts)))
        moved = scores[rng.permuted(dealt, axis=1)]  # [trials, contexts, size]
        if size > 1:
            moved = rng.permuted(moved, axis=2)
        tops += _sums(moved.reshape(trials, -1), table.cells[places].ravel(), table.width)
    return gap_test(table.means[known], (tops / np.where(table.masses > 0, table.masses, np.nan))[:, known])


def _sums(scores: Floats, cells: Ints, width: int) -> Floats:
    """Sums of the columns of `scores` by cell: [trials, width]."""
    order = np.argsort(cells, kind="stable")
    edges = np.flatnonzero(np.diff(cells[order], prepend=-1))
    found = np.zeros((len(scores), width))
    found[:, cells[order][edges]] = np.add.reduceat(scores[:, order], edges, axis=1)
    return found


def _depth_test(
    table: Table, length_of: Ints, lengths: int, trials: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Best minus worst depth, against scores dealt anew inside contexts, or lengths where contexts have one each."""
    if table.contexts == len(table.units):
        units, count = length_of[table.units], int(length_of.max()) + 1
        table = Table(units, table.cells, table.scores, table.weights, count, table.width, True)

    def by_depth(means: Floats) -> Floats:
        shaped = means.reshape(*means.shape[:-1], lengths, -1)
        held = ~np.isnan(shaped)
        with np.errstate(invalid="ignore"):
            return np.where(held, shaped, 0).sum(-2) / held.sum(-2)

    seen = by_depth(table.means)
    known = ~np.isnan(seen)
    if known.sum() < 2:
        return no_gap_test(0.0)
    return gap_test(seen[known], by_depth(permuted_means(table, trials, rng))[:, known])
