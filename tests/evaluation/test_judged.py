"""A judged task of a plugin: its rows are rated, what no judge could rate is kept aside, all else is as elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lcx import hookimpl, plugins
from lcx.data.files import strict_rows
from lcx.evaluation.benchmarks.loading import Item, Prompt, load_items
from lcx.evaluation.judged import rated
from lcx.evaluation.task import Case, Row, Samples, Source, Task, TaskOptions, said
from lcx.llm.judge import Asking, Rubric, read_rating
from lcx.settings import setting
from tests.conftest import Ran
from tests.plugins.longreward.eval_scripts import Backends, Scripted

Lcx = Callable[..., Ran]


class Options(TaskOptions):
    tries: int = setting(2, ge=1, description="replies asked for until one can be read")


def samples(source: Source, options: Options) -> Samples:
    from collections import Counter

    from lcx.data.templates import load_template

    rows = strict_rows(str(source.data))
    items = [Item(row["id"], row["context"], {"input": row["question"]}, {"answers": ["-"]}) for row in rows]
    return load_items("clarity", items, Prompt(load_template("plain")), Counter())


def asking(options: Options, seed: int) -> Callable[[Case, Row], Asking[float]]:
    rubric = Rubric("clear", "How clear? {answer}", partial(read_rating, low=0, high=4), options.tries)

    def one(case: Case, row: Row) -> Asking[float]:
        texts = {"answer": said(row)}
        return Asking(rubric, texts, texts)

    return one


CLARITY = Task(
    name="clarity",
    summary="how clear an answer is",
    family="clarity",
    samples=samples,
    options=Options,
    view="table",
    judge=rated(asking),
    score=lambda row: row.get("rating"),
    scale=(0.0, 4.0),
    row_fields=("answers",),
)


class Clarity(Backends):
    """A plugin with the task, a model and a judge."""

    @hookimpl
    def lcx_register_probes(self, register: Callable[..., None]) -> None:
        register("clarity", f"{__name__}:CLARITY")


@pytest.fixture
def judge() -> Scripted:
    """The third answer has no rating, the fourth's judge is down."""

    def reply(request: Any) -> str | None:
        number = request.fields["answer"][-1]
        return None if number == "3" else {"2": "no idea"}.get(number, f"[[{number}]]")

    return Scripted(reply)


@pytest.fixture
def lcx(cli: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Scripted) -> Lcx:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCX_PLUGINS", "")
    model = Scripted(lambda request: f"<think>[[4]]</think>answer {request.fields['question'][-1]}")
    found = plugins.load(extra={"clarity": Clarity(model=model, judge=judge)})
    monkeypatch.setattr(plugins, "loaded", lambda: found)
    rows = [{"id": f"q{n}", "context": f"text {n}", "question": f"number {n}"} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda line, *more: cli(*line.split(), *more)


LINE = "eval --model model:x --task clarity --set eval.data.clarity=rows.jsonl --run out --json"


def test_shards_answer_and_then_judge(lcx: Lcx, tmp_path: Path, judge: Scripted) -> None:
    line = LINE + " --judge judge:x --set eval.judging.tries=1"
    assert lcx(line.replace("--run out", "--run one")).code == 0
    asked, passes = len(judge.requests), 0
    while (ran := lcx(f"{line} --shard any/3")).json["state"] != "done":
        assert ran.code == 0, ran.err
        passes += 1
    assert passes == 2
    # The one that failed is asked for once more when the rest is put together, as by a step that goes on
    assert len(judge.requests) == 2 * asked + 1
    rows = [
        (tmp_path / name / "eval/model-x/predictions-clarity.jsonl").read_bytes() for name in ("one", "out")
    ]
    assert rows[0] == rows[1]


def test_a_judged_task_of_a_plugin(lcx: Lcx, tmp_path: Path, judge: Scripted) -> None:
    ran = lcx(LINE)
    assert (ran.code, "no judge is named for clarity" in ran.err) == (4, True)
    ran = lcx(LINE + " --judge judge:x --set eval.judging.trees=3")
    assert (ran.code, "Did you mean 'tries'?" in ran.err) == (2, True)
    ran = lcx(LINE + " --judge judge:x --set eval.judging.tries=3")
    assert ran.code == 0, ran.err
    folder = tmp_path / "out/eval/model-x"
    rows = [json.loads(line) for line in (folder / "predictions-clarity.jsonl").read_text().splitlines()]
    assert [row["score"] for row in rows] == [0.0, 1.0, None, None, 4.0]
    assert [row["failed"] for row in rows][2:4] == ["no [[rating]] in the reply", "the server said 500"]
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["judge"] == {"backend": "scripted", "model": "table"}
    found = scores["tasks"]["clarity"]
    assert (found["mean"], found["n"], found["unjudged"]) == (pytest.approx(5 / 3), 3, 2)
    assert found["failed"] == {"no [[rating]] in the reply": 1, "the server said 500": 1}
    assert scores["average"] is None  # its scale has no mean with others'
    assert ran.json["counts"]["clarity unjudged"] == 2
    # Thoughts are never judged, and unreadable replies are asked for again.
    assert not any("think" in request.messages[0]["content"] for request in judge.requests)
    assert len(judge.requests) == 3 + 3 + 3
    page = (tmp_path / "out/eval/report.html").read_text()
    assert "from 0 to 4" in page
    assert "not judged: 2" in page
    # A file of its rows scores as the run did.
    again = lcx(f"eval --task clarity --predictions {folder / 'predictions-clarity.jsonl'} --json").json
    assert {key: again[key] for key in ("mean", "n", "failed", "histogram")} == {
        key: found[key] for key in ("mean", "n", "failed", "histogram")
    }
    # Only what got no reply is asked again; what was read or could not be read stays.
    asked = len(judge.requests)
    judge.reply = lambda request: "[[2]]"
    ran = lcx(LINE + " --judge judge:x --set eval.judging.tries=3 --set eval.check=3")
    assert ran.code == 0, ran.err
    assert len(judge.requests) - asked == 1
    assert ran.json["metrics"]["clarity"]["n"] == 4
