"""What a report holds: models in order, tasks that were asked alike, answers paired, never more than its room."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import MissingError
from lcx.evaluation.compare import row_names
from lcx.evaluation.scores import find_results, label_results
from lcx.evaluation.show import page_data
from lcx.evaluation.show.page_data import choose, clean, collect, read_predictions, reference
from lcx.storage import read_json, write_json, write_lines, write_text
from tests.evaluation.report.report_data import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "mine", trials=50)


def test_the_untrained_model_comes_first_whatever_was_made_first(run: Path) -> None:
    newer = run / "eval" / "base-7b" / "scores.json"
    os.utime(newer, ns=(10**18 * 3, 10**18 * 3))
    for folder in (run, run / "eval"):
        results = find_results(folder)
        assert [one.name for one in results] == ["base-7b", "train"]
        assert label_results(results) == {"base-7b": "before", "train": "after"}
    alone = find_results(run / "eval" / "train")
    assert label_results(alone) == {"train": "train"}


def test_two_models_that_the_run_did_not_train_keep_their_names(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "a")):
        write_json(tmp_path / name / "scores.json", {"tasks": {}})
        os.utime(tmp_path / name / "scores.json", ns=(number, number))
    results = find_results(tmp_path)
    assert label_results(results) == {"b": "b", "a": "a"}, "the oldest first"


def test_all_steps_of_a_run_are_found(tmp_path: Path) -> None:
    for place in ("judged", "eval/base", "later/base"):
        write_json(tmp_path / place / "scores.json", {"tasks": {}})
    assert [
        one.folder.relative_to(tmp_path).as_posix()
        for one in sorted(find_results(tmp_path), key=lambda one: str(one.folder))
    ] == [
        "eval/base",
        "judged",
        "later/base",
    ]
    assert [one.step for one in find_results(tmp_path, "eval")] == ["eval"]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingError, match="no results"):
            find_results(place)


def test_a_damaged_result_is_no_regression(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "scores.json").write_text('{"tasks": ')
    with pytest.raises(MissingError, match="not valid JSON") as bad:
        find_results(tmp_path)
    assert bad.value.exit_code == 4  # 1 is what --fail-on-regression ends with


def test_tasks_have_both_models_their_change_and_paired_answers(run: Path) -> None:
    found = collect(find_results(run), "mine")
    assert [model["label"] for model in found["models"]] == ["before", "after"]
    tasks = {task["name"]: task for task in found["tasks"]}
    assert len(tasks) == 10
    curve = tasks["val:database"]
    assert [round(one.average, 2) for one in curve["results"]] == [0.6, 0.96]
    change = curve["change"]
    assert change["verdict"] == "better"
    assert change["mean"] == pytest.approx(
        curve["results"][1].average - curve["results"][0].average, abs=1e-9
    )
    assert change["low"] < change["mean"] < change["high"]
    assert {part["kind"] for part in change["parts"]} == {"span"}
    item = curve["items"][0]
    rows = [
        read_predictions(run / "eval" / name / "predictions-val-database.jsonl")
        for name in ("base-7b", "train")
    ]
    place = item["s"] * 80 + item["p"]
    assert item["y"] == [of[place]["pred"] for of in rows]
    assert item["v"] == [of[place]["score"] for of in rows]
    assert item["x"] == rows[0][place]["excerpt"]
    assert item["g"].startswith(rows[0][place]["label"])
    assert tasks["perplexity"]["items"] == []


def test_results_of_other_questions_are_tasks_of_their_own(tmp_path: Path) -> None:
    for step, corpus in (("eval", "plain"), ("stale", "stale")):
        for model in ("base", "tuned"):
            task = {"view": "curve", "spans": [0.5, 0.6], "average": 0.55, "gap": 0.1, "n": 2, "span": 1}
            write_json(
                tmp_path / step / model / "scores.json", {"corpus": corpus, "tasks": {"val:code": task}}
            )
    found = collect(find_results(tmp_path), "x")
    assert [task["title"] for task in found["tasks"]] == ["val:code (eval)", "val:code (stale)"]
    assert all(None not in task["results"] for task in found["tasks"])


def test_older_results_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    """Without intervals, tests, scores of rows, excerpts; and with a view that nobody knows."""
    old = {"spans": [0.9, 0.2, 0.8], "average": 0.63, "gap": 0.7, "n": 3, "span": 1, "positions": 3}
    tasks = {
        "val:database": old,
        "mine:own": {"view": "own", "mean": 3.0},
        "reward": {"mean": 8.0, "scale": [0, 10]},
    }
    write_json(tmp_path / "m" / "scores.json", {"model": "m", "tasks": tasks})
    rows = [
        {"set_id": 0, "position_id": n, "id": f"k{n}", "label": "ab", "description": "other", "pred": pred}
        for n, pred in enumerate(("ab", "cd", None))
    ]
    write_lines(tmp_path / "m" / "predictions-val-database.jsonl", rows)
    found = {task["name"]: task for task in collect(find_results(tmp_path), "x")["tasks"]}
    assert [item["v"] for item in found["val:database"]["items"]] == [[1.0], [0.0], [0.0]]
    assert found["val:database"]["view"] == "curve"
    assert found["mine:own"]["view"] == found["reward"]["view"] == "other"


def test_a_page_holds_no_more_answers_than_it_has_room_for(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "MOST_BYTES", 150_000)
    tasks = collect(find_results(run), "mine")["tasks"]
    size = sum(len(json.dumps(task["items"])) for task in tasks)
    assert size < 180_000
    assert all(task["kept"]["kept"] == len(task["items"]) for task in tasks)
    assert max(task["kept"]["kept"] for task in tasks) < page_data.MOST_ITEMS


def test_wrong_answers_are_kept_first_and_evenly() -> None:
    items = [{"p": n, "v": [float(n % 10 != 0)]} for n in range(2000)]
    kept, counts = choose(items, 100)
    assert counts == {"all": 2000, "kept": 100, "wrong": 200, "kept_wrong": 75}
    places = [item["p"] for item in kept]
    assert places == sorted(places)
    assert sum(place % 10 == 0 for place in places) == 75
    for part in range(4):
        assert 15 <= sum(500 * part <= place < 500 * part + 500 for place in places) <= 35
    assert choose(items[:50], 100)[0] == items[:50]
    only_wrong = [{"v": [0.0]}] * 300
    assert choose(only_wrong, 100)[1]["kept_wrong"] == 100
    few_wrong = [{"v": [float(n > 4)]} for n in range(300)]
    assert choose(few_wrong, 100)[1] == {"all": 300, "kept": 100, "wrong": 5, "kept_wrong": 5}


def test_texts_are_made_fit_to_be_shown() -> None:
    assert clean("a\x00b\x1b[1m\tc\r\nd\ud800", 99) == "a␀b␛[1m\tc\nd?"
    long = clean("x" * 5000, 300)
    assert len(long) < 310
    assert " […] " in long
    assert clean(None, 5) == ""


def test_what_names_a_question_and_its_answer() -> None:
    first = {"item": 0, "set_id": 0, "position_id": 0}
    assert row_names([[first], [{**first, "item": "a#1"}]]) == ("item", [["0"], ['"a#1"']])
    one = {"set_id": 0, "position_id": 3, "length": 16, "id": "name"}
    by, [[a, b], [c]] = row_names([[one, {**one, "length": 32}], [{**one, "id": "other"}]])
    assert by == "set and position"
    assert a == c != b
    assert row_names([[{"id": "x"}], [one]]) == ("id", [['"x"'], ['"name"']])
    assert row_names([[{"id": "x"}], [{"pred": "x"}]]) == ("row number", [[0], [0]])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"answers": ["a", "b"]}, "a\nor: b"),
        ({"value": "7"}, "7"),
        ({"label": "l", "description": "d"}, "l\nor: d"),
        ({}, ""),
    ]
    for row, text in cases:
        assert reference(row) == text


def test_broken_lines_do_not_stop_a_report(tmp_path: Path) -> None:
    write_text(tmp_path / "p.jsonl", '{"pred": "a", "score": 1}\nnot json\n[1]\n{"pred": "b"}\n')
    rows = read_predictions(tmp_path / "p.jsonl", lambda row: row["missing"])
    assert [row["score"] for row in rows] == [1, None]
    assert read_predictions(tmp_path / "absent.jsonl") == []


def test_the_run_is_read_and_not_written(run: Path) -> None:
    before = read_json(run / "manifest.json")
    collect(find_results(run), "mine")
    assert read_json(run / "manifest.json") == before
