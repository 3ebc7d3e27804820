"""Pairs of items: by name, by place, by number; what is left out, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from lcx.evaluation.compare import NotComparable, load_rows, pair_rows
from lcx.evaluation.scores import load_result
from tests.compared import curve, write_result


def rows(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"item": f"c{n // 4}#{n}", "context": f"c{n // 4}", "score": n / count, **fields}
        for n in range(count)
    ]


def test_a_list_names_an_item_as_well() -> None:
    """Such as [set, number], in files of others."""
    a = [{"item": [0, n], "score": 0.5} for n in range(3)]
    found = pair_rows(a, a[::-1])
    assert (found.by, len(found.pairs)) == ("item", 3)


def test_items_pair_in_any_order() -> None:
    a, b = rows(12), rows(12)
    random.Random(0).shuffle(b)
    found = pair_rows(a, b)
    assert [(pair.a, pair.b) for pair in found.pairs] == [(n / 12, n / 12) for n in range(12)]
    assert len({pair.context for pair in found.pairs}) == 3
    assert (found.only_a, found.only_b, found.changed, found.by) == (0, 0, 0, "item")


def test_items_of_one_result_only_are_counted() -> None:
    found = pair_rows(rows(12)[:10], rows(12)[4:])
    assert (len(found.pairs), found.only_a, found.only_b) == (6, 4, 2)
    unscored = [{**row, "score": None} if n < 3 else row for n, row in enumerate(rows(12))]
    assert pair_rows(rows(12), unscored).unscored == 3


def test_named_items_that_were_asked_otherwise_are_left_out() -> None:
    a, b = rows(4, answers=["x"]), rows(4, answers=["x"])
    b[1]["answers"] = ["y"]
    found = pair_rows(a, b)
    assert (len(found.pairs), found.changed) == (3, 1)
    with pytest.raises(NotComparable, match="asked different things"):
        pair_rows(a, rows(4, answers=["z"]))


def test_rows_of_old_pair_by_place_where_all_were_asked_alike() -> None:
    old, new = ([{**row, "score": 1.0} for row in curve(1, 1, 0, bare=bare)[1]] for bare in (True, False))
    found = pair_rows(old, new)
    assert (len(found.pairs), found.by) == (800, "set and position")
    assert len({pair.context for pair in found.pairs}) == 4
    old[7]["query"] = old[7]["id"] = "another"
    with pytest.raises(NotComparable, match="1 of 800 places have another question"):
        pair_rows(old, new)


def test_rows_without_names_pair_by_number_if_there_are_as_many() -> None:
    a = [{"pred": "x", "answers": [str(n)], "score": 1.0} for n in range(5)]
    assert pair_rows(a, a).by == "row number"
    with pytest.raises(NotComparable, match="5 and 4"):
        pair_rows(a, a[:4])
    with pytest.raises(NotComparable, match="different things"):
        pair_rows(a, a[::-1])


def test_samples_of_an_item_count_by_their_mean() -> None:
    a = [{"id": "q", "context_id": "d", "score": score} for score in (1.0, 0.0, None)]
    [pair] = pair_rows(a, [{"id": "q", "context_id": "d", "score": 0.25}]).pairs
    assert (pair.a, pair.b, pair.context) == (0.5, 0.25, "d")


def test_nothing_in_common() -> None:
    with pytest.raises(NotComparable, match="share no item"):
        pair_rows(rows(3), [{**row, "item": f"other {row['item']}"} for row in rows(3)])
    with pytest.raises(NotComparable, match="no item has a score in both"):
        pair_rows(rows(3), [{**row, "score": None} for row in rows(3)])


def test_rows_are_read_and_scored_where_they_have_no_score(tmp_path: Path) -> None:
    scores, bare = curve(1.0, 0.0, 0, bare=True)
    bare[0]["pred"] = None
    found = load_result(write_result(tmp_path / "m", {"val:database": (scores, bare)}))
    read = load_rows(found, "val:database")
    assert [row["score"] for row in read[:3]] == [0.0, 1.0, 1.0]
    assert sum(row["score"] for row in read) == 399
    _, scored = curve(1.0, 0.0, 0)
    kept = load_result(write_result(tmp_path / "n", {"val:database": (scores, scored)}))
    assert load_rows(kept, "val:database")[0]["score"] == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no predictions-mine.jsonl"),
        ("", "is empty"),
        ("{not json", "line 1: not JSON"),
        ('{"item": "a", "rating": 3}\n', "no scores"),
    ],
)
def test_files_that_cannot_be_compared_say_why(tmp_path: Path, text: str | None, words: str) -> None:
    found = load_result(write_result(tmp_path / "m", {"mine": ({}, None)}))
    if text is not None:
        (tmp_path / "m" / "predictions-mine.jsonl").write_text(text)
    with pytest.raises(NotComparable, match=words):
        load_rows(found, "mine")


def test_rewards_and_other_numbers_count_as_scores(tmp_path: Path) -> None:
    given = [{"id": "a", "reward": 7.5, "answer": "x"}, {"id": "b", "reward": None, "answer": "y"}]
    found = load_result(write_result(tmp_path / "m", {"reward": ({}, given)}))
    assert [row["score"] for row in load_rows(found, "reward")] == [7.5, None]
