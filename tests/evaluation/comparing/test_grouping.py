"""Groups of a task and the weights with which their means are the task's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lcx.evaluation.compare import Group, Pair, groups_of, is_short
from lcx.evaluation.statistics.curves import span_curve
from lcx.evaluation.statistics.grids import grid


def pairs_of(rows: list[dict[str, Any]]) -> list[Pair]:
    return [Pair(n, row.get("score", 0.0), 0.0, "c", row) for n, row in enumerate(rows)]


def mean(group: Group, pairs: list[Pair]) -> float:
    return float(np.average([pairs[place].a for place in group.places], weights=group.weights))


def test_spans_and_their_mean_are_the_curves() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"set_id": s, "position_id": p, "score": float(rng.random())}
        for s in range(3)
        for p in range(130)
        if s == 0 or p % (s + 2)
    ]
    pairs = pairs_of(rows)
    whole, *spans = groups_of("val:code", {"view": "curve", "span": 50}, pairs)
    curve = span_curve([(r["set_id"], r["position_id"], r["score"]) for r in rows], width=50)
    assert mean(whole, pairs) == pytest.approx(curve.average)
    assert [mean(span, pairs) for span in spans] == pytest.approx(list(curve.spans))
    assert [span.name for span in spans] == ["0-49", "50-99", "100-149"]
    assert {span.kind for span in spans} == {"span"}


def test_lengths_and_depths_and_their_mean_are_the_grids() -> None:
    rng = np.random.default_rng(1)
    rows = [
        {"length": x, "depth": y, "score": float(rng.random())}
        for x in (4096, 16384)
        for y in (0.0, 0.25, 1.0)
        for _ in range(int(rng.integers(1, 5)))
    ]
    pairs = pairs_of(rows)
    whole, *groups = groups_of("needle", {"view": "grid"}, pairs)
    found = grid([(r["length"], r["depth"], r["score"]) for r in rows])
    assert mean(whole, pairs) == pytest.approx(found["average"])
    assert [mean(group, pairs) for group in groups] == pytest.approx(
        [*found["by_length"], *found["by_depth"]]
    )
    assert [f"{g.kind} {g.name}" for g in groups] == [
        "length 4,096", "length 16,384", "depth 0%", "depth 25%", "depth 100%",
    ]  # fmt: skip


def test_every_length_weighs_alike_where_that_is_the_view() -> None:
    rows = [{"length": 100, "score": 1.0}] * 3 + [{"length": 200, "score": 0.0}]
    pairs = pairs_of(rows)
    whole, *groups = groups_of("multihop", {"view": "lengths"}, pairs)
    assert mean(whole, pairs) == 0.5
    assert [group.name for group in groups] == ["100", "200"]


def test_tables_break_down_by_their_fields() -> None:
    rows = [{"length": n * 700, "difficulty": ("easy", "hard")[n % 2], "domain": "law"} for n in range(16)]
    groups = groups_of("longbench_v2", {"view": "table"}, pairs_of(rows))
    assert [f"{g.kind} {g.name} {len(g.places)}" for g in groups] == [
        "task longbench_v2 16", "length 0-4k 6", "length 4-8k 6", "length 8k+ 4",
        "difficulty easy 8", "difficulty hard 8",
    ]  # fmt: skip
    only = groups_of("longbench_v2", {"view": "table", "by": {"difficulty": {}}}, pairs_of(rows))
    assert {group.kind for group in only} == {"task", "difficulty"}
    words = [{"length": word} for word in ("short", "long", "short")]
    assert [group.name for group in groups_of("x", {"view": "table"}, pairs_of(words))] == [
        "x",
        "long",
        "short",
    ]
    assert len(groups_of("reward", {}, pairs_of([{"id": "a"}, {"id": "b"}]))) == 1


def test_a_curve_without_numbers_for_places_is_compared_as_a_whole() -> None:
    rows = [{"set_id": ["a"], "position_id": place, "score": 1.0} for place in ("first", "second")]
    assert [group.kind for group in groups_of("x", {"view": "curve"}, pairs_of(rows))] == ["task"]
    rows = [{"set_id": ["a"], "position_id": place, "score": 1.0} for place in (0.0, 60.0)]
    assert [group.name for group in groups_of("x", {"view": "curve"}, pairs_of(rows))] == [
        "x",
        "0-49",
        "50-99",
    ]


def test_short_tasks() -> None:
    for task in ("csqa", "gsm8k", "lm-eval:hellaswag", "short:mmlu"):
        assert is_short(task)
    for task in ("val:code", "longbench:qasper", "needle", "shortest"):
        assert not is_short(task)
