"""The eval step as a whole: what it leaves out, how it goes on after a kill, before and after, local models, costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lcx_longreward
import pytest

from lcx import plugins
from lcx.errors import LcxError
from lcx.llm.protocol import Request
from tests.conftest import Ran
from tests.llm.models import tiny_llama
from tests.plugins.longreward.eval_scripts import Scripted, load_with, recipe
from tests.plugins.longreward.scripted_judge import ends_after
from tests.plugins.longreward.test_eval_tasks import asked, questions, rows_of, write

Lcx = Callable[..., Ran]
HEAD = "stage: eval\nmodel: model:x\njudge: judge:x\n"
RECORDS = """\
stage: eval
tasks: [reward]
corpus: stdlib:records:8@1
template: tiny
questions: 6
samples: 3
max_new_tokens: 8
judging: {tokenizer: words}
asking: {segment_by: lines, segment_tokens: 4, context_tokens: [24, 24]}
"""


@pytest.fixture
def lcx(cli: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lcx:
    monkeypatch.chdir(tmp_path)
    return lambda line, *more: cli(*line.split(), *more)


@pytest.fixture
def builtin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCX_PLUGINS", "")
    found = plugins.load(extra={"longreward": lcx_longreward})
    monkeypatch.setattr(plugins, "loaded", lambda: found)


def rating(request: Request) -> str:
    return f"[[{1 + asked(request) % 9}]]"


def test_tasks_without_data_are_left_out_by_name(
    lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_with(monkeypatch, model=Scripted(lambda r: "a"), judge=Scripted(rating))
    write(tmp_path / "chat.jsonl", *questions(3))
    path = recipe(tmp_path, HEAD + "tasks: [chat, qa, summary, versus, short]\ndata: {chat: chat.jsonl}")
    ran = lcx(f"eval --recipe {path} --run out --json")
    assert ran.code == 0, ran.err
    notes = "\n".join(ran.json["notes"])
    assert "left out: qa: qa: its questions are not given (--set eval.data.longbench=FOLDER" in notes
    assert "left out: versus: nothing to compare with is given (--set eval.against=" in notes
    assert "left out: short: " in notes
    assert "left out: summary: " in notes
    assert set(json.loads((tmp_path / "out/eval/model-x/scores.json").read_text())["tasks"]) == {"chat"}


def test_no_task_at_all_ends_at_once(lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_with(monkeypatch, model=Scripted(lambda r: "a"), judge=Scripted(rating))
    path = recipe(tmp_path, "id: look\n" + HEAD + "tasks: [qa, chat]")
    ran = lcx(f"eval --recipe {path} --run out")
    assert ran.code == 4
    assert "step 'look' has no task that can run" in ran.err
    assert "--set eval.data.chat=FILE" in ran.err
    # What failed at once is not in the way of other settings.
    write(tmp_path / "chat.jsonl", {"context": "c", "query": "q"})
    ran = lcx(f"eval --recipe {path} --run out --set look.data.chat=chat.jsonl")
    assert (ran.code, "row 1: chat needs answer" in ran.err) == (2, True)
    write(tmp_path / "chat.jsonl", *questions(2))
    assert lcx(f"eval --recipe {path} --run out --task chat --set look.data.chat=chat.jsonl").code == 0


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("eval.tasks=chat,quiz", 2, "no task 'quiz'"),
        ("eval.judging.margin=1", 2, "no judged task has the option 'margin'"),
        ("eval.judging.attempts=0", 2, "'attempts'"),
        ("eval.asking.examples=0", 2, "asking: 'examples'"),
        ("eval.options.reward.chunks=4", 2, "unknown key 'chunks'"),
        ("eval.judge=local:nowhere", 4, "no model at 'nowhere'"),
        ("eval.model=nowhere", 4, "no model at 'nowhere'"),
        ("eval.data.reward=nothing.jsonl", 4, "no file 'nothing.jsonl'"),
        ("eval.template=fancy", 2, "no template 'fancy'"),
        ("eval.judging.retriever=best", 2, "unknown retriever 'best'"),
        ("eval.judging.prompts=nowhere", 2, "no folder of prompts"),
    ],
)
def test_wrong_settings_are_said_at_once(
    lcx: Lcx, tmp_path: Path, builtin: None, line: str, code: int, said: str
) -> None:
    path = recipe(tmp_path, RECORDS + "model: builtin")
    ran = lcx(f"eval --recipe {path} --run out --set {line}")
    assert ran.code == code, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err


class Killed(LcxError):
    """Stands for a kill: nothing after it runs."""


def test_a_killed_eval_asks_nothing_twice(lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "chat.jsonl", *questions(8))
    step = HEAD + "tasks: [chat]\ndata: {chat: chat.jsonl}\nconcurrency: 1"
    path = recipe(tmp_path, step)
    calls: dict[str, list[str]] = {"model": [], "judge": []}
    limits = {"model": 3, "judge": 99}

    def counted(name: str, reply: Callable[[Request], str]) -> Scripted:
        def answer(request: Request) -> str:
            if len(calls[name]) == limits[name]:
                raise Killed("killed")
            calls[name].append(request.messages[0]["content"])
            return reply(request)

        return Scripted(answer)

    def go(run: str) -> Ran:
        model = counted("model", lambda request: f"answer {asked(request)}")
        load_with(monkeypatch, model=model, judge=counted("judge", rating))
        return lcx(f"eval --recipe {path} --run {run} --json")

    assert go("out").code == 1
    assert len(calls["model"]) == 3
    limits.update(model=99, judge=2)
    assert go("out").code == 1
    limits.update(judge=99)
    ran = go("out")
    assert ran.code == 0, ran.err
    assert [len(found) for found in calls.values()] == [8, 8]
    assert all(len(set(found)) == 8 for found in calls.values())
    assert go("whole").code == 0
    for name in ("predictions-chat.jsonl", "scores.json", "histogram-chat.png"):
        one, other = ((tmp_path / run / "eval" / "model-x" / name).read_bytes() for run in ("out", "whole"))
        assert one == other, name


def test_saved_answers_leave_other_models_results_alone(
    lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_with(monkeypatch, model=Scripted(lambda r: "a"), judge=Scripted(rating))
    write(tmp_path / "chat.jsonl", *questions(3))
    saved = ({"id": f"r{n}", "answer": "good"} for n in range(3))
    write(tmp_path / "some.jsonl", *saved)
    write(tmp_path / "other.jsonl", *({"id": f"r{n}", "answer": "fair"} for n in range(3)))
    head = "stage: eval\njudge: judge:x\ntasks: [chat]\ndata: {chat: chat.jsonl}"
    path = recipe(tmp_path, head)
    assert lcx(f"eval --recipe {path} --run out --json --model model:x").code == 0
    (tmp_path / "out/eval/model-x/calls.sqlite").touch()
    before = {p: p.read_bytes() for p in (tmp_path / "out/eval/model-x").rglob("*") if p.is_file()}
    for more in ("some.jsonl", "other.jsonl", "some.jsonl --force"):
        name = more.split(".")[0]
        ran = lcx(f"eval --recipe {path} --run out --json --set eval.answers={more}")
        assert ran.code == 0, ran.err
        assert (tmp_path / f"out/eval/answers-{name}/scores.json").is_file()
        assert {p: p.read_bytes() for p in before if p.exists()} == before
    assert (tmp_path / "out/eval/answers-other/scores.json").is_file()
    assert set(json.loads((tmp_path / "out/manifest.json").read_text())["steps"]) == {
        "eval/model-x",
        "eval/answers-some",
        "eval/answers-other",
    }


def test_calls_of_the_judge_that_failed_are_made_again(
    lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eval that ends before its last line goes on: verdicts stay, failures are asked for once more."""
    down = {"judge_support", "judge_logicality", "judge_versus"}
    asked_of: list[str] = []

    def judge(request: Request) -> str | None:
        asked_of.append(request.task)
        if request.task in down and (request.task != "judge_versus" or "2" in request.fields["question"]):
            return None
        if request.task == "judge_statements":
            return "<statement>s</statement>"
        return {
            "judge_extract": "1. F",
            "judge_support": "[[Fully supported]]",
            "judge_versus": "[[C]]",
        }.get(request.task, "[[5]]")

    load_with(
        monkeypatch, model=Scripted(lambda r: "a"), other=Scripted(lambda r: "b"), judge=Scripted(judge)
    )
    write(tmp_path / "rows.jsonl", *questions(3))
    step = HEAD + (
        "tasks: [reward, versus, support]\ndata: {reward: rows.jsonl, versus: rows.jsonl, support: rows.jsonl}\n"
        "against: 'other:y'\nsamples: 1\njudging: {attempts: 2}"
    )
    line = f"eval --recipe {recipe(tmp_path, step)} --run out --json"

    def stops(*_: Any) -> None:
        raise Killed("killed")

    with monkeypatch.context() as patched:
        patched.setattr("lcx.evaluation.step.finish", stops)
        assert lcx(line).code == 1
    first = list(asked_of)
    assert down <= set(first)
    down.clear()
    asked_of.clear()
    ran = lcx(line)
    assert ran.code == 0, ran.err
    counts = ran.json["counts"]
    assert not any("failed" in name for name in counts), counts
    assert [ran.json["metrics"][task]["n"] for task in ("reward", "versus", "support")] == [3, 3, 3]
    assert "judge_helpfulness" not in asked_of
    assert asked_of.count("judge_versus") == 8  # of one question; the others' verdicts are known


def test_tasks_share_answers(lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(request: Request) -> str:
        if request.task == "judge_statements":
            return "<statement>s</statement>"
        return {"judge_reference": "[[5]]", "judge_support": "[[Fully supported]]"}.get(request.task, "[[C]]")

    model = Scripted(lambda request: f"a{asked(request)}")
    load_with(monkeypatch, model=model, other=Scripted(lambda r: "b"), judge=Scripted(judge))
    write(tmp_path / "chat.jsonl", *questions(4))
    step = HEAD + "tasks: [chat, versus, support]\ndata: {chat: chat.jsonl}\nagainst: 'other:y'\nlimit: 3"
    assert lcx(f"eval --recipe {recipe(tmp_path, step)} --run out --json").code == 0
    assert len(model.requests) == 3


def test_before_and_after_stand_side_by_side(
    lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(request: Request) -> str:
        return f"[[{4 + asked(request) + 2 * (request.fields['answer'] == 'new')}]]"

    load_with(
        monkeypatch,
        model=Scripted(lambda r: "old"),
        other=Scripted(lambda r: "new" if asked(r) else "old"),
        judge=Scripted(judge),
    )
    write(tmp_path / "chat.jsonl", *questions(4))
    write(tmp_path / "more.jsonl", *questions(3))
    step = "stage: eval\njudge: judge:x\ntasks: [chat]\ndata: {chat: chat.jsonl}\nmodel: "
    path = recipe(tmp_path, "id: before\n" + step + "model:x", step + "other:y")
    assert lcx(f"eval --recipe {path} --step before --run out").code == 0
    ran = lcx(f"eval --recipe {path} --step eval --run out --json")
    moved = ran.json["metrics"]["chat change from model-x"]
    assert (moved["mean"], moved["n"]) == (pytest.approx((0 + 2 + 2 + 2) / 4), 4)
    assert moved["low"] is None, "too few contexts for an interval"
    ran = lcx("compare out --json")
    [whole] = [one for one in ran.json["verdicts"] if one["kind"] == "task"]
    assert (whole["a"], whole["b"], whole["difference"]) == (5.5, 7.0, pytest.approx(1.5))
    lcx("report out --out page.html")
    page = (tmp_path / "page.html").read_text()
    assert "5.50" in page
    assert "7.00" in page
    assert "from 1 to 10" in page
    # Other questions, or another judge, are nothing to compare with.
    line = f"eval --recipe {path} --step eval --run out --json --force"
    assert "chat change from model-x" not in lcx(line + " --set eval.data.chat=more.jsonl").json["metrics"]
    assert "chat change from model-x" not in lcx(line + " --set eval.judging.attempts=2").json["metrics"]


def test_builtin_writer_model_and_judge(lcx: Lcx, tmp_path: Path, builtin: None) -> None:
    path = recipe(tmp_path, RECORDS + "model: builtin")
    ran = lcx(f"eval --recipe {path} --run out --json --export markdown")
    assert ran.code == 0, ran.err
    folder = tmp_path / "out" / "eval" / "builtin"
    page, card = (tmp_path / "out/eval/report.html").read_text(), (folder / "model-card.md").read_text()
    for said in ("helpfulness", "completeness", "statements", "supported"):
        assert (said in page, said in card) == (True, True), said
    assert ("from 0 to 10" in page, "go from 0 to 10" in card) == (True, True)
    rows = rows_of(folder, "reward")
    assert len(rows) == 18
    assert 0 < ran.json["metrics"]["reward right"]["mean"] < 1  # its rules guess
    right = [row["reward"] for row in rows if row["right"]]
    wrong = [row["reward"] for row in rows if not row["right"]]
    assert min(right) > max(wrong)
    again = lcx(
        f"eval --recipe {path} --run again --json --set eval.data.reward={folder / 'questions-reward.jsonl'}"
    )
    again_rows = rows_of(tmp_path / "again/eval/builtin", "reward")
    assert [row["question"] for row in again_rows] == [row["question"] for row in rows]
    assert again.json["metrics"]["reward"]["n"] == 18


def test_rules_are_counted_in_an_evaluation_that_went_on(lcx: Lcx, tmp_path: Path, builtin: None) -> None:
    path = recipe(tmp_path, RECORDS + "model: builtin")
    whole = lcx(f"eval --recipe {path} --run out --json")
    with ends_after(4, "rows"):
        assert lcx(f"eval --recipe {path} --run again --json").code == 1
    again = lcx(f"eval --recipe {path} --run again --json")
    assert again.code == 0, again.err
    for name in ("calls", "prompt_tokens", "completion_tokens"):
        assert again.json["counts"][name] == whole.json["counts"][name] > 0


def test_what_a_reader_should_know_is_noted(lcx: Lcx, tmp_path: Path, builtin: None) -> None:
    synth = "stage: synth\n" + "\n".join(
        line for line in RECORDS.splitlines() if line.split(":")[0] in ("corpus", "tokenizer")
    )
    synth += "\nsegment_by: lines\nsegment_tokens: 4\ncontext_tokens: [24, 24]\nexamples: 4\nllm: builtin"
    path = recipe(tmp_path, synth, RECORDS.replace("questions: 6", "questions: 999") + "model: builtin")
    assert lcx(f"synth --recipe {path} --run out").code == 0
    ran = lcx(f"eval --recipe {path} --run out --json --set eval.limit=1")
    assert ran.code == 0, ran.err
    notes = "\n".join(ran.json["notes"])
    assert "questions of the 999 wanted" in notes
    assert "reward asks about the documents of step 'synth'" in notes
    other = lcx(f"eval --recipe {path} --run out --json --force --corpus stdlib:records:8@2")
    assert "documents of step" not in "\n".join(other.json["notes"])


@pytest.mark.slow
def test_a_local_model_under_evaluation(lcx: Lcx, tmp_path: Path, builtin: None) -> None:
    tiny_llama(tmp_path / "model")
    step = RECORDS.replace("template: tiny", "template: plain") + "model: model\nbatch: 2\nwindow: 200"
    path = recipe(tmp_path, step)
    ran = lcx(f"eval --recipe {path} --run out --json")
    assert ran.code == 0, ran.err
    rows = rows_of(tmp_path / "out" / "eval" / "model", "reward")
    assert len(rows) == 18
    assert not any("error" in row for row in rows)
    assert len({row["pred"] for row in rows}) > 6  # samples differ
    short = lcx(f"eval --recipe {path} --run short --json --set eval.window=64 --set eval.too_long=drop")
    assert short.json["counts"]["reward dropped"], short.json["counts"]
    ran = lcx(f"eval --recipe {path} --run error --set eval.window=64 --set eval.too_long=error")
    assert ran.code == 2
    assert "window" in ran.err


def test_costs_before_the_first_call(lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_with(monkeypatch, model=Scripted(lambda r: "a"), judge=Scripted(rating))
    write(tmp_path / "chat.jsonl", *questions(7))
    step = HEAD + (
        "tasks: [reward, chat, versus, support, qa]\ndata: {chat: chat.jsonl}\nagainst: 'model:y'\nquestions: 10\n"
        "samples: 3\nmax_new_tokens: 60\nprices: {x: [1.0, 2.0]}\nlimit: 5"
    )
    ran = lcx(f"eval --recipe {recipe(tmp_path, step)} --run out --dry-run --json")
    found = ran.json["steps"][0]["forecast"]
    calls = found["calls"]
    assert calls["chat"] == {"model": 5, "judge": 5}
    assert calls["versus"] == {"other": 5, "judge": 40}  # chat's answers serve
    assert calls["support"] == {"judge": 5 + 5 * 2}  # 60 tokens are two statements
    reward = calls["reward"]
    assert (reward["model"], reward["writer"]) == (10, 10)
    parts = -(-((8192 + 65536) // 2) // 4096)
    assert reward["judge"] == 10 * 3 * (4 + 2) + 10 * parts
    assert calls["all"] == sum(sum(part.values()) for name, part in calls.items() if name != "all")
    assert "LongBench" in found["left out"]["qa"]
    tokens = found["prompt_tokens"]["judge"] * 1.0 + found["reply_tokens"]["judge"] * 2.0
    assert found["cost"]["judge"] == pytest.approx(tokens / 1e6, abs=1e-4)
    assert not (tmp_path / "out").exists()


def test_settings_and_forecast_need_no_torch(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import lcx_longreward.judged, lcx.evaluation.planning, sys; "
        "assert not {'torch', 'openai', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_two_contexts_say_so(lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_with(monkeypatch, model=Scripted(lambda r: "a"), judge=Scripted(rating))
    rows: list[dict[str, Any]] = questions(20)
    for number, row in enumerate(rows):
        row["context"] = f"Text {number % 2}."
    write(tmp_path / "chat.jsonl", *rows)
    path = recipe(tmp_path, HEAD + "tasks: [chat]\ndata: {chat: chat.jsonl}")
    ran = lcx(f"eval --recipe {path} --run out --json")
    assert "chat: its intervals hold for these 2 contexts only" in ran.json["notes"]
    ran = lcx(f"eval --recipe {path} --run one --json --set eval.limit=1")
    assert ran.json["metrics"]["chat"]["low"] is None
    assert any("no interval" in note for note in ran.json["notes"])


@pytest.mark.slow
def test_endpoints_with_faults_change_no_number(
    lcx: Lcx, tmp_path: Path, builtin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.llm.stub_server import Reply, Stub, prompt_of

    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    write(tmp_path / "chat.jsonl", *questions(6))
    path = recipe(
        tmp_path,
        "stage: eval\nmodel: 'openai:m'\njudge: 'openai:j'\ntasks: [chat]\ndata: {chat: chat.jsonl}\ntries: 4",
    )
    failed: set[str] = set()

    def script(body: dict[str, Any], faults: bool) -> Reply:
        text = prompt_of(body)
        number = int(text.rpartition("What is ")[2][0])
        if faults and number % 2 and (body["model"] + text) not in failed:
            failed.add(body["model"] + text)
            return Reply(status=500, headers={"retry-after-ms": "1"})
        return Reply(f"answer {number}" if body["model"] == "m" else f"Hm. [[{number + 1}]]")

    found = {}
    for name, faults in (("calm", False), ("stormy", True)):
        with Stub(lambda body, faults=faults: script(body, faults)) as stub:
            ran = lcx(f"eval --recipe {path} --run {name} --json --base-url {stub.url}")
        assert ran.code == 0, ran.err
        folder = tmp_path / name / "eval" / "openai-m"
        found[name] = (ran.json["metrics"], (folder / "predictions-chat.jsonl").read_bytes())
        assert ran.json["counts"]["calls"] == 12
    assert found["calm"] == found["stormy"]
    assert found["calm"][0]["chat"]["mean"] == pytest.approx(3.5)
    assert len(failed) == 6
    # A budget stops the step; the same command with a larger one goes on.
    with Stub(lambda body: script(body, False)) as stub:
        line = f"eval --recipe {path} --run tight --json --base-url {stub.url}"
        ran = lcx(line + " --max-calls 8")
        assert ran.code == 1
        assert "the budget of 8 calls is spent" in ran.err
        ran = lcx(line)
        assert ran.code == 0, ran.err
        assert stub.calls == 12
    assert ran.json["metrics"] == found["calm"][0]
    # Another run of the same step in a fresh folder's place costs nothing: the replies are kept.
    ran = lcx(f"eval --recipe {path} --run calm --json --force --base-url http://127.0.0.1:9/v1")
    assert ran.code == 0, ran.err
    assert ran.json["metrics"] == found["calm"][0]
