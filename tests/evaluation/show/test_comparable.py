"""`lcx compare`, the picture, the terminal and the report say the same of what may be compared, and of what differs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lcx.evaluation.compare import compare
from lcx.evaluation.scores import comparable, find_results, find_sides, overlay
from lcx.evaluation.show import png
from lcx.evaluation.show.page import page_of
from lcx.evaluation.show.page_data import collect
from tests.compared import write_result

TASK = "needle"


def write(folder: Path, name: str, made: int, about: dict[str, Any], **scores: Any) -> None:
    """A grid of two lengths; rows of other seeds have other questions."""
    seed = 0 if "material" in scores else about.get("seed", 0)
    rows = [
        {"item": f"{n}", "context": str(n), "set_id": n, "position_id": 0, "length": length, "depth": 0.5}
        | {"query": "q", "value": str(100 * (seed if n else 0) + n), "score": float(made)}
        for n, length in enumerate([1024, 2048] * 4)
    ]
    cells = {"cells": [[float(made)], [float(made)]], "lengths": [1024, 2048], "depths": [0.5]}
    found = {"view": "grid", **cells, "average": float(made), "gap": 0.0, "n": 8, "contexts": 8, "data": "d"}
    found["worst"] = {"score": float(made), "length": 1024, "depth": 0.5}
    place = write_result(folder / "eval" / name, {TASK: ({**found, **scores}, rows)}, corpus="c", **about)
    os.utime(place / "scores.json", (made + 1, made + 1))


PROMPT: dict[str, Any] = {"max_new_tokens": 8, "chat_template": {"name": "a", "hash": "1"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, bool]] = {
    "nothing": ({}, {}, "", False),
    "chat template": (
        {"chat_template": {"name": "b", "hash": "2"}},
        {},
        "another chat template: a and b",
        False,
    ),
    "prompt": ({}, {"prompt": PROMPT | {"max_new_tokens": 9}}, "the prompts differ (max_new_tokens)", False),
    "chat template in another folder": (
        {},
        {"prompt": PROMPT | {"chat_template": {"name": "b", "hash": "1"}}},
        "",
        False,
    ),
    "data": ({}, {"data": "e"}, "the data differ", False),
    "seed": ({"seed": 1}, {}, "another seed: 0 and 1", True),
    "lengths": ({}, {"lengths": [1024, 4096]}, "other lengths: [1024, 2048] and [1024, 4096]", True),
    "contexts": ({}, {"contexts": 4}, "other contexts: 8 and 4", True),
    "seed, the same questions": ({"seed": 1}, {"material": "m"}, "", False),
}


@pytest.mark.parametrize("case", CASES)
def test_all_who_compare_agree(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about, scores, words, apart = CASES[case]
    first = {"chat_template": {"name": "a", "hash": "1"}}
    write(
        tmp_path,
        "old",
        0,
        first,
        prompt=PROMPT,
        **({"material": "m"} if "same" in case else {}),
    )
    write(tmp_path, "new", 1, first | about, **{"prompt": PROMPT} | scores)
    old, new = find_results(tmp_path)
    differences = comparable(old.scores, new.scores, TASK)
    assert [one.questions for one in differences] == ([apart] if words else [])
    assert all(words in str(one) for one in differences)

    shown, notes = overlay(tmp_path / "eval")
    assert list(shown[TASK]) == (["new"] if apart else ["old", "new"])
    drawn: list[Any] = []
    monkeypatch.setattr(png, "rows_png", lambda path, rows, **options: drawn.append((rows, options)))
    png.run_picture(tmp_path / "eval")
    [(rows, options)] = drawn
    assert len(rows[0]) == (1 if apart else 2)

    page = collect([old, new], "t")
    assert len(page["tasks"]) == (2 if apart else 1)
    compared = compare(*find_sides([str(tmp_path)])).notes
    told = [*notes, options["note"], *compared, *([] if apart else page["notes"])]
    if words:
        kinds = [notes, [options["note"]], compared, *([] if apart else [page["notes"]])]
        for kind in kinds:
            assert any(words in note for note in kind), kind
        if not apart:
            assert words in page_of([old, new], "t")
    else:
        assert not any(told)


def test_row_numbers_are_names_too(tmp_path: Path) -> None:
    """An item that is called 0 is an item, in the page as in the comparison."""
    for number, name in enumerate(("a", "b")):
        rows = [{"item": n, "answers": [str(n)], "score": float(number == n)} for n in (0, 1)]
        rows = rows[::-1] if number else rows
        write_result(tmp_path / "eval" / name, {"mine": ({"view": "table", "average": 0.5}, rows)})
        os.utime(tmp_path / "eval" / name / "scores.json", (number, number))
    [task] = collect(find_results(tmp_path), "t")["tasks"]
    assert sorted(json.dumps(item["v"]) for item in task["items"]) == ["[0.0, 1.0]", "[1.0, 0.0]"]
