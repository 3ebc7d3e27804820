"""Every task of the eval step against numbers worked by hand, with models and judges that answer from tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcx.evaluation.compare import pair_rows
from lcx.evaluation.statistics.paired import paired_difference
from lcx.llm.protocol import Request
from tests.conftest import Ran
from tests.plugins.longreward.eval_scripts import Scripted, load_with, recipe

Lcx = Callable[..., Ran]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"predictions-{task}.jsonl").read_text().splitlines()]


def questions(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"r{n}", "context": f"Text {n}.", "query": f"What is {n}?", "answer": f"ref {n}", **fields}
        for n in range(count)
    ]


def asked(request: Request) -> int:
    """The number in a question."""
    found = re.search(r"What is (\d+)\?", request.fields["question"])
    assert found
    return int(found[1])


@pytest.fixture
def lcx(cli: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lcx:
    monkeypatch.chdir(tmp_path)
    return lambda line, *more: cli(*line.split(), *more)


def run(lcx: Lcx, tmp_path: Path, step: str, *more: str) -> tuple[dict[str, Any], Path]:
    """The report of one eval step and the folder of `model:x`."""
    path = recipe(tmp_path, "stage: eval\nmodel: model:x\njudge: judge:x\n" + step)
    ran = lcx(f"eval --recipe {path} --run out --json", *more)
    assert ran.code == 0, ran.err
    return ran.json, tmp_path / "out" / "eval" / "model-x"


def test_chat_rates_against_the_reference(lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratings = {0: ["[[8]]"], 1: ["nothing", "[[5]]"], 2: ["[[11]]"] * 3, 3: ["[[3.5]]"]}

    def judge(request: Request) -> str:
        assert request.task == "judge_reference"
        assert request.fields["reference"] == f"ref {asked(request)}"
        assert request.fields["answer"] == f"answer {asked(request)}"
        return ratings[asked(request)].pop(0)

    model = Scripted(lambda request: None if asked(request) == 4 else f" answer {asked(request)}\n")
    load_with(monkeypatch, model=model, judge=Scripted(judge))
    write(tmp_path / "chat.jsonl", *questions(5))
    report, folder = run(
        lcx, tmp_path, "tasks: [chat]\ndata: {chat: chat.jsonl}\njudging: {attempts: 3}\ntemplate: plain"
    )
    found = report["metrics"]["chat"]
    assert found["mean"] == pytest.approx((8 + 5 + 3.5) / 3)
    assert (found["low"], found["high"]) == (None, None), "three contexts are too few for an interval"
    assert (found["n"], found["failed"]) == (3, 2)
    assert report["counts"]["chat failed: a rating outside 1 to 10"] == 1
    assert report["counts"]["chat failed: answer: the server said 500"] == 1
    rows = rows_of(folder, "chat")
    assert [row["score"] for row in rows] == [8.0, 5.0, None, 3.5, None]
    assert rows[1]["analysis"] == "[[5]]"
    assert [r.temperature for r in model.requests] == [0.0] * 5
    assert model.requests[0].messages[0]["content"] == "Text 0.\n\nWhat is 0?"
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["judge"]["backend"] == "scripted"
    assert scores["tasks"]["chat"]["scale"] == [1.0, 10.0]
    assert sum(scores["tasks"]["chat"]["histogram"]) == 3
    assert (folder / "histogram-chat.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("compat", ["null", "longreward"])
def test_qa_and_summary_of_longbench(
    lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compat: str
) -> None:
    replies = {0: "[[3]]", 1: "[[2]]", 2: "?", 3: "[[1]]", 4: "[[4]]", 5: "[[2]]", 6: "?"}
    load_with(
        monkeypatch,
        model=Scripted(lambda request: f"answer {asked(request)}"),
        judge=Scripted(lambda request: replies[asked(request)]),
    )
    data = tmp_path / "longbench"
    data.mkdir()

    def row(number: int, dataset: str) -> dict[str, Any]:
        question = f"What is {number}?"
        return {
            "input": question, "context": f"T{number}", "answers": ["a", "b"], "dataset": dataset, "_id": f"i{number}",
        }  # fmt: skip

    write(data / "qasper.jsonl", row(0, "qasper"), row(1, "qasper"), row(2, "qasper"))
    write(data / "hotpotqa.jsonl", row(3, "hotpotqa"))
    write(data / "multi_news.jsonl", row(4, "multi_news"), row(5, "multi_news"), row(6, "multi_news"))
    step = f"tasks: [qa, summary]\ndata: {{longbench: longbench}}\njudging: {{attempts: 2}}\ncompat: {compat}"
    report, folder = run(lcx, tmp_path, step)
    tasks = json.loads((folder / "scores.json").read_text())["tasks"]
    half = compat == "longreward"
    qasper = [1.0, 0.5, *([0.5] if half else [])]
    assert tasks["qa"]["mean"] == pytest.approx((sum(qasper) + 0.0) / (len(qasper) + 1))
    assert tasks["qa"]["sets"]["qasper"]["mean"] == pytest.approx(sum(qasper) / len(qasper))
    assert tasks["qa"]["columns"]["multi-document"]["mean"] == 0.0
    assert tasks["qa"]["mean of sets"]["mean"] == pytest.approx(sum(qasper) / len(qasper) / 2)
    summaries = [0.75, 0.25, *([0.5] if half else [])]
    assert tasks["summary"]["mean"] == pytest.approx(sum(summaries) / len(summaries))
    assert tasks["summary"]["failed"] == {"no [[rating]] in the reply": 1}
    assert report["metrics"]["qa"]["n"] == 3 + half
    assert report["metrics"]["qa single-document"]["mean"] == pytest.approx(sum(qasper) / len(qasper))


DIMENSIONS = ("helpfulness", "logicality", "faithfulness", "completeness")


def dimension_judge(table: dict[str, tuple[str, ...]]) -> Callable[[Request], str]:
    """Replies of the four scorers: table[answer] = helpfulness, logicality, levels by letters, completeness."""

    def judge(request: Request) -> str:
        fields = request.fields
        if request.task == "judge_extract":
            return "1. a fact"
        if request.task == "judge_support":
            level = {"f": "[[Fully supported]]", "p": "[[Partially supported]]", "n": "[[No support]]"}
            return level[fields["statement"][-1]]
        helpful, logical, levels, complete = table[fields["answer"]]
        if request.task == "judge_statements":
            return (
                "".join(f"<statement>point {n} {level}</statement>" for n, level in enumerate(levels))
                or "[[none]]"
            )
        rating = {"judge_helpfulness": helpful, "judge_logicality": logical, "judge_completeness": complete}
        return rating[request.task]

    return judge


def test_reward_is_the_mean_of_four(lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "the ref 0": ("[[8]]", "[[6]]", "fp", "[[10]]"),  # faithfulness 7.5, reward 7.875
        "no": ("[[2]]", "[[9]]", "n", "[[1]]"),  # faithfulness 0, reward 3
        "ref 1 ok": ("[[4]]", "[[4]]", "fff", "[[6]]"),  # faithfulness 10, reward 6
        "unread": ("?", "[[4]]", "f", "[[6]]"),  # no helpfulness, no reward
    }
    samples = {0: ["the ref 0", "no"], 1: ["ref 1 ok", "unread"], 2: ["", "no"]}
    model = Scripted(lambda request: samples[asked(request)])
    load_with(monkeypatch, model=model, judge=Scripted(dimension_judge(table)))
    write(tmp_path / "questions.jsonl", *questions(3))
    step = "tasks: [reward]\ndata: {reward: questions.jsonl}\nsamples: 2\njudging: {attempts: 2}\ntemperature: 0.8"
    report, folder = run(lcx, tmp_path, step)
    rows = rows_of(folder, "reward")
    assert [row["score"] for row in rows] == [7.875, 3.0, 6.0, None, 0.0, 3.0]
    assert [row["faithfulness"] for row in rows] == [7.5, 0.0, 10.0, 10.0, 0.0, 0.0]
    assert [row["right"] for row in rows] == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert rows[3]["failed"] == {"helpfulness": "no [[rating]] in the reply"}
    found = report["metrics"]
    assert found["reward"]["mean"] == pytest.approx((7.875 + 3 + 6 + 0 + 3) / 5)
    assert (found["reward"]["n"], found["reward"]["failed"]) == (5, 1)
    assert found["reward helpfulness"]["mean"] == pytest.approx((8 + 2 + 4 + 0 + 2) / 5)
    assert found["reward right"]["mean"] == pytest.approx(2 / 6)
    # statements: 2, 1, 3, 1, none of the empty one, 1; fully supported: 1, 0, 3, 1, 0
    assert found["reward supported"]["mean"] == pytest.approx(5 / 8)
    assert found["reward statements"]["mean"] == pytest.approx(8 / 5)
    assert report["counts"]["reward empty"] == 1
    assert [(r.n, r.temperature) for r in model.requests] == [(2, 0.8)] * 3
    assert len({r.seed for r in model.requests}) == 3
    again = [json.loads(line) for line in (folder / "questions-reward.jsonl").read_text().splitlines()]
    assert [row["query"] for row in again] == ["What is 0?", "What is 1?", "What is 2?"]


def test_versus_counts_what_both_orders_say(
    lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = {0: "mine 0", 1: "theirs 1", 2: "", 3: "first"}  # 2: ties, 3: whatever stands first

    def judge(request: Request) -> str:
        number, fields = asked(request), request.fields
        if fields["dimension"] == "completeness" and number == 0:
            return "[[C]]"
        if number == 3:
            return "[[A]]"
        return (
            "[[A]]"
            if fields["a"] == better[number]
            else "[[B]]"
            if fields["b"] == better[number]
            else "[[C]]"
        )

    load_with(
        monkeypatch,
        model=Scripted(lambda request: f"mine {asked(request)}"),
        other=Scripted(lambda request: None if asked(request) == 4 else f"theirs {asked(request)}"),
        judge=Scripted(judge),
    )
    write(tmp_path / "chat.jsonl", *questions(5))
    report, folder = run(lcx, tmp_path, "tasks: [versus]\ndata: {chat: chat.jsonl}\nagainst: 'other:y'")
    scores = json.loads((folder / "scores.json").read_text())["tasks"]["versus"]
    assert [row.get("overall") for row in rows_of(folder, "versus")] == ["win", "loss", "tie", "tie", None]
    assert scores["mean"] == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert [scores["shares"]["overall"][one]["mean"] for one in ("win", "tie", "loss")] == [0.25, 0.5, 0.25]
    assert [scores["shares"]["completeness"][one]["mean"] for one in ("win", "tie", "loss")] == [
        0,
        0.75,
        0.25,
    ]
    assert scores["changed by the order"] == 0.25  # the four verdicts on question 3 of sixteen
    assert scores["failed"] == {"answer: the server said 500": 1}
    assert report["metrics"]["versus"]["n"] == 4


def test_versus_of_two_files_needs_no_model(
    lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(request: Request) -> str:
        return "[[A]]" if "good" in request.fields["a"] else "[[B]]"

    load_with(monkeypatch, judge=Scripted(judge))
    write(tmp_path / "rows.jsonl", *questions(3))
    write(tmp_path / "a.jsonl", *({"id": f"r{n}", "answer": "good"} for n in range(3)))
    write(tmp_path / "b.jsonl", *({"question": f"What is {n}?", "answer": "bad"} for n in range(2)))
    path = recipe(
        tmp_path,
        "stage: eval\njudge: judge:x\ntasks: [versus]\ndata: {versus: rows.jsonl}\nanswers: a.jsonl\nagainst: b.jsonl",
    )
    ran = lcx(f"eval --recipe {path} --run out --json")
    assert ran.code == 0, ran.err
    assert ran.json["metrics"]["versus"] == {"mean": 1.0, "low": None, "high": None, "n": 2, "failed": 1}
    assert ran.json["metrics"]["tasks"]["versus"]["against"] == "b.jsonl"
    assert ran.json["counts"]["versus failed: answer: the saved answers have none"] == 1


def test_support_counts_statements(lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"a0": ("", "", "ff", ""), "a1": ("", "", "fpnn", ""), "a2": ("", "", "", "")}
    judge = Scripted(dimension_judge(table))
    load_with(monkeypatch, model=Scripted(lambda request: f"a{asked(request)}"), judge=judge)
    write(tmp_path / "rows.jsonl", *questions(3))
    report, folder = run(lcx, tmp_path, "tasks: [support]\ndata: {support: rows.jsonl}")
    scores = json.loads((folder / "scores.json").read_text())["tasks"]["support"]
    assert scores["mean"] == pytest.approx(3 / 6)
    assert scores["statements"]["mean"] == pytest.approx(2.0)
    assert scores["silent"] == 1
    assert [row["score"] for row in rows_of(folder, "support")] == [1.0, 0.25, None]
    assert {request.task for request in judge.requests} == {"judge_statements", "judge_support"}
    assert report["metrics"]["support"]["mean"] == scores["mean"]


def test_the_change_of_support_is_that_of_its_headline(
    lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand. Before: 2 of 2, 1 of 4, 0 of 0; after: 0 of 1, 3 of 4, 1 of 1. So 3/6 before and 4/6 after."""
    levels = {"old0": "ff", "old1": "fpnn", "old2": "", "new0": "n", "new1": "fffp", "new2": "f"}
    judge = Scripted(dimension_judge({name: ("", "", said, "") for name, said in levels.items()}))
    served = {name: Scripted(lambda r, name=name: f"{name}{asked(r)}") for name in ("old", "new")}
    load_with(monkeypatch, judge=judge, model=served["old"], other=served["new"])
    write(tmp_path / "rows.jsonl", *questions(3))
    path = recipe(tmp_path, "stage: eval\njudge: judge:x\ntasks: [support]\ndata: {support: rows.jsonl}")
    before = lcx(f"eval --recipe {path} --run out --json --model model:x").json["metrics"]
    after = lcx(f"eval --recipe {path} --run out --json --model other:y").json["metrics"]
    moved = after["support change from model-x"]
    assert moved["mean"] == pytest.approx(4 / 6 - 3 / 6)
    assert moved["mean"] == pytest.approx(after["support"]["mean"] - before["support"]["mean"])
    assert moved["n"] == 3
    assert moved["low"] is None, "too few contexts for an interval"


def test_the_change_of_a_share_varies_as_pairs_drawn_again_do() -> None:
    """Against shares worked out anew for each of many draws of questions."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 12, size=(2, 300))
    full = rng.binomial(sizes, [[0.5], [0.7]])
    drawn = rng.integers(300, size=(20_000, 300))
    moves = [full[k][drawn].sum(1) / sizes[k][drawn].sum(1) for k in (0, 1)]
    wanted = np.quantile(moves[1] - moves[0], [0.025, 0.975])
    rows = [
        [
            {"item": n, "score": float(f / s) if s else None, "weight": float(s)}
            for n, (f, s) in enumerate(zip(full[k].tolist(), sizes[k].tolist(), strict=True))
        ]
        for k in (0, 1)
    ]
    pairs = pair_rows(*rows).pairs
    found = paired_difference(
        [pair.b - pair.a for pair in pairs], [pair.context for pair in pairs], most=None
    )
    shares = full.sum(1) / sizes.sum(1)
    assert found.mean == pytest.approx(shares[1] - shares[0])
    assert [found.low, found.high] == pytest.approx(wanted, abs=0.05 * (wanted[1] - wanted[0]))


def test_short_scores_saved_predictions(lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is asked, so none is named."""
    load_with(monkeypatch)
    write(
        tmp_path / "csqa.jsonl",
        {"pred": "B. ", "answer": "b"},
        {"pred": "A or B", "answer": ["C", "a"]},
        {"pred": None, "answer": "c"},
        {"pred": "Cat", "answer": "C"},
    )
    step = "stage: eval\ntasks: [short]\ndata: {short: %s}"
    path = recipe(
        tmp_path,
        step % "['exact:csqa.jsonl', 'first-letter:csqa.jsonl']",
        "id: other\n" + step % "'first-letter:csqa.jsonl'",
        "id: none\n" + step % "'rouge:csqa.jsonl'",
    )
    ran = lcx(f"eval --recipe {path} --step eval --run both --json")
    assert ran.code == 0, ran.err
    assert ran.json["metrics"]["tasks"]["short"]["n"] == 7
    ran = lcx(f"eval --recipe {path} --step other --run out --json")
    assert ran.code == 0, ran.err
    found = ran.json["metrics"]["tasks"]["short"]
    # b is not B, A is not C, none, C is C
    assert (found["average"], found["n"], found["skipped"]) == (pytest.approx(1 / 3), 3, 1)
    assert found["by"]["dataset"]["csqa"]["mean"] == pytest.approx(1 / 3)
    assert (tmp_path / "out/other/no-model/predictions-short.jsonl").is_file()
    ran = lcx(f"eval --recipe {path} --step none --run out --json")
    assert ran.code == 4
    assert "no metric 'rouge'" in ran.err + ran.out
    assert "first-letter" in ran.err
