"""Files of predictions: the command, the modes, and that no torch is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.tasks import score_predictions

QA = {"pred": "red", "answers": ["red"], "length": 3000}


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


# ---- the command


def test_one_json_object_with_the_rows_scores(cli: Any, tmp_path: Path) -> None:
    rows = [
        QA,
        {**QA, "pred": None},
        {**QA, "pred": "I'm sorry, I cannot", "finish": "length", "length": 9000},
        {**QA, "pred": "red blue"},
    ]
    path = lines(tmp_path / "p.jsonl", rows)
    ran = cli("eval", "--task", "longbench:qasper", "--predictions", str(path), "--json", "--rows")
    assert ran.code == 0, ran.err
    made = ran.json
    assert made["rows"] == [1.0, 0.0, 0.0, pytest.approx(2 / 3)]
    assert made["task"] == "longbench:qasper"
    assert (made["n"], made["nulls"], made["refused"], made["truncated"]) == (4, 1, 1, 1)
    assert made["score"] == pytest.approx(100 * (1 + 2 / 3) / 4)
    assert made["by"]["length"]["0-4k"]["n"] == 3
    assert made["by"]["length"]["8k+"]["mean"] == 0.0
    assert "rows" not in cli("eval", "--task", "longbench:qasper", "-p", str(path), "--json").json


def test_the_text_fits_80_columns_and_says_what_was_counted(cli: Any, tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [QA, {**QA, "pred": None}])
    ran = cli("eval", "--task", "longbench:qasper", "--predictions", str(path))
    assert ran.code == 0, ran.err
    assert max(map(len, ran.out.splitlines())) <= 80
    for word in ("50.00", "nulls", "refused", "duplicates", "length 0-4k", "200 rows"):
        assert word in ran.out
    assert "answers were cut" not in ran.out
    cut = lines(tmp_path / "cut.jsonl", [{**QA, "finish": "length"}] * 3)
    said = cli("eval", "--task", "longbench:qasper", "--predictions", str(cut)).out
    assert "3 answers were cut at their length limit: ask with a larger max_new_tokens." in said


def test_a_folder_gives_the_means_of_categories(cli: Any, tmp_path: Path) -> None:
    lines(tmp_path / "qasper.jsonl", [QA])
    lines(tmp_path / "hotpotqa.jsonl", [{**QA, "pred": "no"}])
    lines(tmp_path / "2wikimqa.jsonl", [QA])
    lines(tmp_path / "other.jsonl", [{"x": 1}])
    said = cli("eval", "--task", "longbench", "--predictions", str(tmp_path)).out
    assert "qasper: The published set has 200 rows: this is not a score of all of it." in said
    ran = cli("eval", "--task", "longbench", "--predictions", str(tmp_path), "--json")
    made = ran.json
    assert list(made["tasks"]) == ["longbench:qasper", "longbench:hotpotqa", "longbench:2wikimqa"]
    assert made["categories"] == {
        "single-doc": {"score": 100.0, "sets": 1, "of": 4},
        "multi-doc": {"score": 50.0, "sets": 2, "of": 4},
    }
    assert made["average"] == pytest.approx(200 / 3)
    assert made["category_average"] == 75.0
    assert len(made["absent"]) == 18
    text = cli("eval", "--task", "longbench", "--predictions", str(tmp_path)).out
    assert "1 of 4" in text
    assert max(map(len, text.splitlines())) <= 80
    one = cli("eval", "--task", "longbench:multi-doc", "--predictions", str(tmp_path), "--json").json
    assert list(one["tasks"]) == ["longbench:hotpotqa", "longbench:2wikimqa"]


def test_files_of_longbench_e_are_not_taken_for_the_others(cli: Any, tmp_path: Path) -> None:
    lines(tmp_path / "qasper_e.jsonl", [QA])
    made = cli("eval", "--task", "longbench_e", "--predictions", str(tmp_path), "--json").json
    assert list(made["tasks"]) == ["longbench_e:qasper"]
    assert made["of"] == 13
    assert cli("eval", "--task", "longbench", "--predictions", str(tmp_path)).code == 2


@pytest.mark.parametrize(
    ("task", "row", "score"),
    [
        ("longbench_e:qasper", QA, 100.0),
        (
            "longbench_v2",
            {"pred": "The correct answer is (B)", "answers": ["B"], "length": "short", "difficulty": "easy"},
            100.0,
        ),
        ("longbench_v2", {"pred": "B", "answer": "C", "domain": "Law"}, 0.0),
        ("csqa", {"pred": "The answer is B", "answer": "q", "candidates": ["p", "q"]}, 100.0),
        ("gsm8k", {"pred": "The answer is $1,000.", "answer": "1000"}, 100.0),
        ("gsm8k", {"pred": "The answer is 18.", "answer": "9 * 2 = <<9*2=18>>18\n#### 18"}, 100.0),
        (
            "longbench:trec",
            {"pred": "Food\nDate", "answers": ["Food"], "all_classes": ["Food", "Date"]},
            100.0,
        ),
        (
            "needle",
            {
                "pred": "7",
                "query": "k",
                "value": "7",
                "length": 10,
                "depth": 0,
                "set_id": 0,
                "position_id": 0,
            },
            100.0,
        ),
    ],
)
def test_each_kind_of_task(cli: Any, tmp_path: Path, task: str, row: dict[str, Any], score: float) -> None:
    ran = cli(
        "eval",
        "--task",
        task,
        "--predictions",
        str(lines(tmp_path / "p.jsonl", [row, row | {"x": 1}])),
        "--json",
    )
    assert ran.code == 0, ran.err
    assert ran.json["score"] == score
    assert {"n", "nulls", "skipped", "refused", "truncated", "duplicates", "compat", "estimate"} <= set(
        ran.json
    )


def test_film_reads_short_tasks_its_own_way() -> None:
    row = {"pred": "Certainly: q", "answer": "q", "candidates": ["p", "q", "r"]}
    assert score_predictions("csqa", [row])["score"] == 100.0
    assert score_predictions("csqa", [row], "film")["score"] == 0.0  # the C of "Certainly"
    plain = {"pred": "It comes to 18", "answer": "18"}
    assert score_predictions("gsm8k", [plain])["score"] == 100.0
    assert score_predictions("gsm8k", [plain], "film")["score"] == 0.0


def test_longbench_v2_by_length_and_difficulty() -> None:
    rows = [
        {"pred": pred, "answers": ["A"], "length": length, "difficulty": difficulty, "domain": "Law"}
        for pred, length, difficulty in [
            ("A", "short", "easy"),
            ("B", "short", "hard"),
            ("A", "long", "hard"),
            (None, "medium", "hard"),
            ("I like (A)", "medium", "easy"),
        ]
    ]
    made = score_predictions("longbench_v2", rows)
    assert {name: one["mean"] for name, one in made["by"]["length"].items()} == {
        "short": 0.5,
        "medium": 0.5,
        "long": 1.0,
    }
    assert list(made["by"]["difficulty"]) == ["easy", "hard"]
    assert made["score"] == 60.0
    assert score_predictions("longbench_v2", rows, "longbench")["score"] == 40.0


def test_scoring_a_file_imports_no_torch(tmp_path: Path) -> None:
    rows = [{"pred": "Food", "answers": ["Food"], "all_classes": ["Food"]}]
    path = lines(tmp_path / "trec.jsonl", rows)
    code = (
        "import sys; from lcx.__main__ import main\n"
        f"sys.argv = ['lcx', 'eval', '--task', 'longbench:trec', '--predictions', {str(path)!r}, '--json']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["score"] == 100.0
