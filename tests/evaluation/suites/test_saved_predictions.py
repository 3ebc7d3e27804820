"""Files of predictions: the command, the modes, and that no torch is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lcx.evaluation.result import result_of
from tests.evaluation.tasks import score_predictions, score_rows
from tests.truth import shared_folder

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


@pytest.mark.parametrize(
    ("row", "score"),
    [
        ({"pred": "B"}, 1.0),  # a published file: the letter that was read out
        ({"pred": None, "response": "I choose B"}, 0.0),
        ({"response": "The correct answer is (B)"}, 1.0),
        ({"response": "B"}, 0.0),  # a reply, which has to use the phrase
        ({"pred": "(B)"}, 0.0),
        ({"pred": "B.", "finish": "stop"}, 0.0),
        ({"pred": "The correct answer is **B**"}, 1.0),
        ({"pred": "the correct answer is (B)"}, 0.0),  # small letter
    ],
)
def test_longbench_v2_as_published_to_the_letter(row: dict[str, Any], score: float) -> None:
    made, _ = score_rows("longbench_v2", [{**row, "answer": "B"}], "longbench")
    assert made["score"] == 100 * score


def test_film_wants_equal_floats() -> None:
    row = {"answer": "0.3", "pred": "The answer is 0.1+0.2"}
    assert score_predictions("gsm8k", [row], "film")["score"] == 0.0
    assert score_predictions("gsm8k", [{**row, "pred": "The answer is 0.30"}], "film")["score"] == 100.0


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


# ---- files as people have them

LB = {"answers": ["1954"], "all_classes": None, "length": 3100}
TYPES = {
    "answers": ["Number of something"],
    "all_classes": ["Number of something", "Other number"],
    "length": 6000,
}
NEEDLE = {"set_id": 0, "position_id": 0, "query": "k", "value": "4819263", "length": 1024, "depth": 0.5}
THOUGHT = "<think>\nIt was in 1954, though 1956 is named.\n</think>\n\n1954"
HARMONY = (
    "<|channel|>analysis<|message|>1956?<|end|><|start|>assistant<|channel|>final<|message|>1954<|return|>"
)
CHAIN = ["ABCDE", "FGHIJ", "KLMNO", "PQRST", "UVWXY"]
RULER = {"index": 0, "pred": "ABCDE FGHIJ", "input": "...", "outputs": CHAIN, "others": {}, "length": 4090}
SAMPLE = {
    "doc_id": 0,
    "target": "['1954']",
    "filter": "none",
    "resps": [["In 1954"]],
    "filtered_resps": ["In 1954"],
}


@pytest.mark.parametrize(
    ("task", "row", "scores", "counts"),
    [
        ("longbench:qasper", {**LB, "pred": THOUGHT}, (100.0, 16.67), (1, None)),
        ("longbench:qasper", {**LB, "pred": HARMONY}, (100.0, 0.0), (1, None)),
        ("longbench:qasper", {**LB, "pred": "<think>It is 1954"}, (0.0, 50.0), (1, 1)),
        ("longbench:qasper", {**LB, "pred": "1954", "reasoning_content": "hm"}, (100.0, 100.0), (1, None)),
        ("longbench:qasper", {**LB, "pred": "", "reasoning_content": "1954"}, (0.0, 0.0), (1, 1)),
        (
            "longbench:trec",
            {**TYPES, "pred": "<think>\nA number.\n</think>\n\nNumber of something"},
            (100.0, 0.0),
            (1, None),
        ),
        (
            "longbench_v2",
            {"answers": ["B"], "pred": "<think>(A)?</think>\n\nThe answer is B"},
            (100.0, 0.0),
            (1, None),
        ),
        (
            "longbench_v2",
            {"answers": ["B"], "pred": "<think>The correct answer is (B)"},
            (0.0, 100.0),
            (1, 1),
        ),
        ("needle", {**NEEDLE, "pred": "<think>It may be 4819263, or"}, (0.0, None), (1, 1)),
        ("needle", {**NEEDLE, "pred": "hm, or 1?</think>4819263"}, (100.0, None), (1, None)),
    ],
)
def test_thoughts_are_no_part_of_an_answer(
    task: str, row: dict[str, Any], scores: tuple[float, float | None], counts: tuple[int, int | None]
) -> None:
    """Published arithmetic takes them for one; both say how many there are."""
    for compat, score in zip((None, "longbench"), scores, strict=True):
        if score is None:
            continue
        made = score_predictions(task, [row], compat)
        assert made["score"] == pytest.approx(score, abs=0.01)
        assert (made["thoughts"], made.get("unfinished_thoughts")) == counts


def test_marks_of_a_final_channel_alone_are_no_part_of_an_answer() -> None:
    rows = [{"pred": "<|channel|>final<|message|>the red mill<|return|>", "answers": ["the red mill"]}]
    assert score_predictions("longbench:qasper", rows)["score"] == 100
    published = score_predictions("longbench:qasper", rows, "longbench")
    assert published["score"] < 100
    assert "thoughts" not in published


def test_a_reply_that_never_leaves_the_thought_which_its_prompt_opens() -> None:
    rows = [{**NEEDLE, "position_id": n, "pred": "or</think>4819263"} for n in range(3)]
    made, values = score_rows("needle", [*rows, {**NEEDLE, "position_id": 3, "pred": "4819263, or"}])
    assert values == [1.0, 1.0, 1.0, 0.0]
    assert (made["thoughts"], made["unfinished_thoughts"]) == (4, 1)


@pytest.mark.parametrize("failed", [{"finish": "error"}, {"error": "HTTP 400"}])
def test_what_no_server_answered_counts_as_nothing(failed: dict[str, str]) -> None:
    for task, row in (
        ("needle", NEEDLE),
        ("longbench:qasper", LB),
        ("val:document", {**NEEDLE, "answer": "a b"}),
    ):
        good = {**row, "pred": "4819263 1954 a b"}
        made, values = score_rows(
            task, [good, {**row, **failed, "position_id": 1, "query": "l", "pred": None}]
        )
        assert values[1] is None
        assert (made["n"], made["errors"], made["nulls"]) == (1, 1, 0)
        none, _ = score_rows(task, [{**row, **failed, "pred": None}])
        assert (none["n"], none["errors"], none["score"]) == (0, 1, None)


@pytest.mark.parametrize(
    ("name", "content", "same", "rows"),
    [
        (
            "ruler_vt.jsonl",
            [RULER],
            "ruler:variables",
            [{**RULER, "answers": CHAIN, "query": "", "length": 4096}],
        ),
        ("vt.jsonl", [RULER], "ruler:variables", [{**RULER, "answers": CHAIN, "query": "", "length": 4096}]),
        (
            "samples_longbench_qasper_2025-09-01T10-00-00.000000.jsonl",
            [{**SAMPLE, "doc": {**LB, "input": "When?"}}],
            "longbench:qasper",
            [{**LB, "pred": "In 1954"}],
        ),
        (
            "samples_longbench_e_qasper_2025-09-01T10-00-00.000000.jsonl",
            [{**SAMPLE, "doc": LB}, {**SAMPLE, "doc": LB, "filter": "strict"}],
            "longbench_e:qasper",
            [{**LB, "pred": "In 1954"}],
        ),
        (
            "samples_val_database_2025-09-01T10-00-00.000000.jsonl",
            [{**SAMPLE, "doc": {**NEEDLE, "id": "Q1", "label": "1954", "description": "x y"}}],
            "val:database",
            [{**NEEDLE, "id": "Q1", "label": "1954", "description": "x y", "pred": "In 1954"}],
        ),
        (
            "LongBench_qasper.json",
            {
                "0": {"origin_prompt": "p", "prediction": "In 1954", "gold": ["1954"]},
                "1": {"prediction": "x", "gold": ["y"]},
            },
            "longbench:qasper",
            [{"answers": ["1954"], "pred": "In 1954"}, {"answers": ["y"], "pred": "x"}],
        ),
        (
            "LongBench_trec.json",
            {
                "0": {
                    "prediction": "Other number",
                    "gold": {"answers": ["Other number"], "all_classes": TYPES["all_classes"]},
                }
            },
            "longbench:trec",
            [{**TYPES, "answers": ["Other number"], "pred": "Other number"}],
        ),
        (
            "ruler_niah_mk_2_eval_validation_in8192_size100_shots2_max50.json",
            {
                "args": {"x": 1},
                "data": [{"question": "q", "answer": ["77"], "output": "It is 77.", "length": 8000}],
                "metrics": {},
            },
            "ruler:multivalue",
            [{**NEEDLE, "answers": ["77"], "pred": "It is 77.", "length": 8192}],
        ),
        (
            "ruler_vt_4k.json",
            {
                "0": {
                    "origin_prompt": [{"role": "HUMAN", "prompt": "p"}],
                    "prediction": ["ABCDE"],
                    "gold": CHAIN,
                }
            },
            "ruler:variables",
            [{**RULER, "answers": CHAIN, "pred": "ABCDE", "query": "", "length": 4096}],
        ),
        (
            "LongBenchv2_0.json",
            {"0": {"prediction": "The correct answer is (B)", "gold": "B", "res_length": 7}},
            "longbench_v2",
            [{"answers": ["B"], "pred": "The correct answer is (B)"}],
        ),
        (
            "glm.json",
            [{"idx": 0, "dataset": "qasper", "query": "When?", "answer": ["1954"], "prediction": "In 1954"}],
            "longbench:qasper",
            [{"answers": ["1954"], "pred": "In 1954"}],
        ),
        ("think_qasper.jsonl", [{**LB, "pred": THOUGHT}], "longbench:qasper", [{**LB, "pred": "1954"}]),
    ],
)
def test_files_of_other_tools_score_as_our_own(
    cli: Any, tmp_path: Path, name: str, content: Any, same: str, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path / name
    if name.endswith(".jsonl"):
        lines(path, content)
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    ran = cli("eval", "-p", str(path), "--json")
    assert ran.code == 0, ran.err
    ours = {"set_id": 0, "position_id": 0}
    truth = score_predictions(same, [{**ours, **row} for row in rows])
    assert ran.json["task"] == ("ruler:multikey" if "niah_mk" in name else same)
    assert ran.json["score"] == pytest.approx(truth["score"])
    assert ran.json["n"] == truth["n"] == len(rows)
    if "lengths" in truth:
        assert ran.json["lengths"] == truth["lengths"]


def test_an_empty_prediction_is_none_that_is_missing() -> None:
    made, _ = score_rows("longbench:qasper", [{**LB, "output": ""}, {**LB, "samples": [None]}])
    assert (made["n"], made["nulls"], made["empty"]) == (2, 1, 1)
    assert "empty" not in score_rows("longbench:qasper", [{**LB, "output": "1954"}])[0]
    said = [{**LB, "pred": "1954"}] * 9
    beside = [
        result_of("t", score_rows("longbench:qasper", [*said, *[{**LB, "pred": " "}] * n])[0]).beside
        for n in (0, 1)
    ]
    assert beside == [[], ["1 of 10 answers empty"]]


def test_a_folder_of_models_and_a_file_of_sets(cli: Any, tmp_path: Path) -> None:
    for model, said in (("a", "red"), ("b", "blue")):
        (tmp_path / "pred" / model).mkdir(parents=True)
        lines(tmp_path / "pred" / model / "qasper.jsonl", [{**QA, "pred": said}])
        lines(tmp_path / "pred" / model / "hotpotqa.jsonl", [{**QA, "pred": None, "finish": "error"}])
    made = cli("eval", "-p", str(tmp_path / "pred"), "--task", "longbench", "--json").json
    assert {name: one["average"] for name, one in made["models"].items()} == {"a": 100.0, "b": 0.0}
    text = cli("eval", "-p", str(tmp_path / "pred")).out
    assert "1 of 1 questions unanswered" in text
    assert max(map(len, text.splitlines())) <= 80
    rows = [{"dataset": name, "prediction": "red", "answer": ["red"]} for name in ("qasper", "musique")]
    made = cli("eval", "-p", str(lines(tmp_path / "glm.jsonl", rows)), "--json").json
    assert {task: one["score"] for task, one in made["tasks"].items()} == {
        "longbench:qasper": 100.0,
        "longbench:musique": 100.0,
    }
    (tmp_path / "oc").mkdir()
    for part in range(2):
        rows = {"0": {"prediction": "red", "gold": ["red"]}}
        (tmp_path / "oc" / f"LongBench_qasper_{part}.json").write_text(json.dumps(rows))
    (tmp_path / "oc" / "results.json").write_text("[1]")
    made = cli("eval", "-p", str(tmp_path / "oc"), "--json").json
    assert made["n"] == 2
    assert made["left_out"] == {"results.json": "neither its name nor its rows tell a task"}
    assert "Left out: results.json: neither" in cli("eval", "-p", str(tmp_path / "oc")).out
    (tmp_path / "ruler").mkdir()
    for name, said in (("niah_multikey_1", "ABCDE"), ("niah_multikey_2", "x"), ("qa_1", "klmno")):
        lines(tmp_path / "ruler" / f"{name}.jsonl", [{**RULER, "pred": said, "outputs": [CHAIN[0], "KLMNO"]}])
    made = cli("eval", "-p", str(tmp_path / "ruler"), "--json").json
    assert {name: one["score"] for name, one in made["tasks"].items()} == {
        "niah_multikey_1": 50.0,
        "niah_multikey_2": 0.0,
        "ruler:qa": 100.0,  # any of the answers will do
    }
    oc = tmp_path / "parts"
    oc.mkdir()
    for size in ("4k", "8k"):
        for part in range(2):
            rows = {"0": {"prediction": "ABCDE" if part else "x", "gold": [CHAIN[0]]}}
            (oc / f"ruler_vt_{size}_{part}.json").write_text(json.dumps(rows))
    for part in range(2):
        lines(oc / f"cwe-{part}.jsonl", [{**RULER, "index": part}])
    made = cli("eval", "-p", str(oc), "--json").json["tasks"]
    assert {name: (one["n"], one["score"]) for name, one in made.items()} == {
        "ruler:common": (2, 40.0),
        "ruler_vt_4k": (2, 50.0),
        "ruler_vt_8k": (2, 50.0),
    }
    assert set(made["ruler_vt_8k"]["lengths"]) == {8192}
    none = cli("eval", "-p", str(lines(tmp_path / "some.jsonl", [QA])))
    assert none.code == 2
    assert "--task TASK" in none.err


TAIL = "size100_shots2_sampFalsemax50min0t0.0p1.0_chatFalse_42.json"


def helmet(name: str, length: int, rows: list[dict[str, Any]]) -> tuple[str, str]:
    content = {"args": {}, "data": rows, "metrics": {}, "averaged_metrics": {}}
    return f"{name}_in{length}_{TAIL}", json.dumps(content)


def test_sets_of_helmet_count_what_helmet_gave_their_rows(cli: Any, tmp_path: Path) -> None:
    said = {"question": "q", "answer": ["1"], "output": "Answer: 1", "parsed_output": "1"}
    rated = {"fluency": 1, "correctness": 2}
    files = [
        helmet("json_kv_eval_test_k50_dep6", 8192, [{**said, "substring_exact_match": True, "f1": 0.5}]),
        helmet("json_kv_eval_test_k105_dep6", 16384, [{**said, "substring_exact_match": False}]),
        helmet("icl_nlu_500shot_balance_eval_", 8192, [{**said, "answer": "1", "exact_match": True}]),
        helmet("msmarco_rerank_psg_eval_x", 8192, [{**said, "output": "ID: 3 > 1", "NDCG@10": 0.25}]),
        helmet(
            "narrativeqa_7892_eval_", 8192, [{**said, "gpt-4-scores": rated}, {**said, "gpt-4-scores": None}]
        ),
        helmet("infbench_sum_eng_7292_eval_", 8192, [said]),
        helmet("alce_asqa_30_eval_asqa", 8192, [said]),
    ]
    for name, content in files:
        (tmp_path / name).write_text(content)
    ran = cli("eval", "-p", str(tmp_path), "--json")
    assert {name: (one["n"], one["score"]) for name, one in ran.json["tasks"].items()} == {
        "helmet:icl_nlu": (1, 100.0),
        "json_kv_eval_test_k105_dep6_in16384": (1, 0.0),
        "json_kv_eval_test_k50_dep6_in8192": (1, 100.0),
        "helmet:msmarco_rerank": (1, 25.0),
        "helmet:narrativeqa": (1, pytest.approx(200 / 3)),
    }
    why = {name[:9]: reason for name, reason in ran.json["left_out"].items()}
    assert why == {
        "alce_asqa": "a set of HELMET's that is scored over its whole file, or not known here",
        "infbench_": "no row has HELMET's gpt-4-f1",
    }
    one = cli("eval", "-p", str(tmp_path / files[5][0]))
    assert one.code == 2
    assert "-gpt4eval_o.json" in one.err


def test_a_file_that_cannot_be_scored_does_not_end_a_folder(cli: Any, tmp_path: Path) -> None:
    lines(tmp_path / "qasper.jsonl", [QA])
    lines(tmp_path / "trec.jsonl", [{"pred": "x", "answers": ["x"]}])  # no classes
    lines(tmp_path / "musique.jsonl", [{"answers": ["x"]}])  # no prediction
    (tmp_path / "hotpotqa.jsonl").write_text("{")
    for task in ((), ("--task", "longbench")):
        made = cli("eval", "-p", str(tmp_path), *task, "--json").json
        assert list(made["tasks"]) == ["longbench:qasper"]
        assert list(made["left_out"]) == ["hotpotqa.jsonl", "musique.jsonl", "trec.jsonl"]
        assert "all_classes" in made["left_out"]["trec.jsonl"]
        text = cli("eval", "-p", str(tmp_path), *task).out
        assert (
            "Left out: musique.jsonl: row 0 (counted from 0): longbench:musique needs the field 'pred'"
            in (" ".join(text.split()))
        )
        assert max(map(len, text.splitlines())) <= 80
    (tmp_path / "qasper.jsonl").unlink()
    none = cli("eval", "-p", str(tmp_path))
    assert none.code == 2
    assert "no file of 3 could be scored" in none.err


CASES: list[tuple[str, str | None, float]] = [
    ("needle_zh.jsonl", None, 100.0),
    ("ruler_vt.jsonl", None, 40.0),
    ("samples_longbench_qasper_2025-09-01T10-00-00.000000.jsonl", None, 200 / 3),
    ("think_qasper.jsonl", "longbench:qasper", 100.0),
    ("think_trec.jsonl", "longbench:trec", 100.0),
    ("qasper_twice.jsonl", "longbench:qasper", 62.5),
]


@pytest.mark.parametrize(("file", "task", "score"), CASES)
def test_the_cases_of_predictions(cli: Any, file: str, task: str | None, score: float) -> None:
    folder = shared_folder("cases") / "predictions"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    assert {path.name for path in folder.iterdir()} == {name for name, _, _ in CASES}
    ran = cli("eval", "-p", str(folder / file), *(["--task", task] if task else []), "--json")
    assert ran.json["score"] == pytest.approx(score)
