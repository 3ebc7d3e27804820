"""LongReward's synth step as a user runs it: documents to tasks to several answers each, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lcx_longreward.settings import KINDS
from lcx_longreward.tasks import LONGEST, Written, read_task, task_request, turns

from lcx.context import Context, StepResult
from lcx.data.bundles import read_bundles
from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm import open_llm
from lcx.llm.protocol import Completion, Request, Response, Usage
from lcx.plugins import load as load_plugins
from lcx.recipe import load, resolve
from lcx.records import Bundle
from lcx.run import Run
from lcx.steps import execute
from tests.llm.stub_server import Reply, Stub, prompt_of

PLUGINS = load_plugins()
SMALL: dict[str, Any] = {
    "corpus": "stdlib:records:6",
    "tokenizer": "words",
    "segment_by": "lines",
    "segment_tokens": 4,
    "context_tokens": [96, 96],
    "examples": 20,
    "llm": "builtin",
    "writer": None,
    "template": "tiny",
    "candidates": 4,
    "batch": 6,
}


def synth(run_dir: Path, force: bool = False, **settings: Any) -> StepResult:
    steps = resolve(load("longreward", PLUGINS), PLUGINS, flags={"synth": {**SMALL, **settings}}, project={})
    step = next(step for step in steps if step.id == "synth")
    return execute(step, Run(run_dir, "longreward"), Context(force=force), PLUGINS)


def bundles_of(run: Path) -> list[Bundle]:
    return list(read_bundles(run / "synth" / "data"))


def digests(folder: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()
    }


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


class Scripted:
    """Answers by `reply`, else by the rules; keeps what it was asked."""

    def __init__(self, reply: Callable[[Request], Response | None]) -> None:
        self.reply, self.builtin = reply, open_llm("builtin")
        self.asked: list[Request] = []
        self.sizes: list[int] = []

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        self.sizes.append(len(requests))
        self.asked += requests
        return [self.reply(request) or self.builtin.generate([request])[0] for request in requests]

    def describe(self) -> dict[str, Any]:
        return {"backend": "scripted", "chat_template": False}

    def close(self) -> None:
        return None


def scripted(monkeypatch: pytest.MonkeyPatch, reply: Callable[[Request], Response | None]) -> Scripted:
    found = Scripted(reply)
    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: found)
    return found


def says(*texts: str, finish: str = "stop") -> Response:
    return Response(tuple(Completion(text, finish) for text in texts), Usage(1, 1))


def test_every_prompt_has_its_answers(tmp_path: Path) -> None:
    result = synth(tmp_path)
    found = bundles_of(tmp_path)
    assert len(found) == result.metrics["contexts"] == result.counts["tasks written"] == 20
    assert result.counts["candidates"] == 80
    for bundle in found:
        assert bundle.context is not None
        lines = bundle.context.split("\n")
        assert len(lines) == 8
        assert bundle.meta["tokens"] == 96
        key, value = bundle.meta["reference"].split()
        assert bundle.branches[0].question == key
        assert any(line.startswith(f"* {key} {value} ") for line in lines)
        assert [branch.meta["sample"] for branch in bundle.branches] == [0, 1, 2, 3]
        assert {branch.role for branch in bundle.branches} == {"candidate"}
    right = [b.answer == bundle.meta["reference"] for bundle in found for b in bundle.branches]
    assert 0.2 < sum(right) / len(right) < 1  # the rules read a part of the context each time
    kinds = Counter(bundle.kind for bundle in found)
    assert set(kinds) == set(KINDS)
    assert set(kinds.values()) == {2}
    assert "**Task:**" in (tmp_path / "synth" / "preview.md").read_text()


def test_the_same_bytes_every_time_and_others_with_another_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        synth(tmp_path / name)
    assert digests(tmp_path / "a" / "synth" / "data") == digests(tmp_path / "b" / "synth" / "data")
    synth(tmp_path / "c", seed=1)
    tasks = [[(b.context, b.branches[0].question) for b in bundles_of(tmp_path / n)] for n in "ac"]
    assert tasks[0] != tasks[1]


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_killed_step_goes_on_and_asks_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr("lcx.llm.check_llm", lambda *_: None)
    scripted(monkeypatch, lambda request: None)
    synth(tmp_path / "whole", llm="local:rules")

    class Killed(BaseException):
        pass

    def reply(request: Request) -> Response | None:
        if len(scripted_llm.sizes) > stop:
            raise Killed
        return None

    scripted_llm = scripted(monkeypatch, reply)
    with pytest.raises(Killed):
        synth(tmp_path / "killed", llm="local:rules")
    after = scripted(monkeypatch, lambda request: None)
    synth(tmp_path / "killed", llm="local:rules")
    assert digests(tmp_path / "whole" / "synth" / "data") == digests(tmp_path / "killed" / "synth" / "data")
    kept = scripted_llm.asked[: sum(scripted_llm.sizes[:stop])]
    asked = {(r.task, r.seed, r.messages[0]["content"]) for r in kept}
    assert len(asked) == len(kept) > 0
    assert not asked & {(r.task, r.seed, r.messages[0]["content"]) for r in after.asked}


def test_how_answers_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = scripted(monkeypatch, lambda request: None)
    synth(
        tmp_path,
        examples=3,
        candidates=7,
        temperature=0.8,
        top_p=0.9,
        answer_tokens=5,
        writer_temperature=0.3,
    )
    tasks = [request for request in llm.asked if request.task == "write_task"]
    answers = [request for request in llm.asked if request.task == "answer_question"]
    assert len(answers) == 3
    assert {(r.n, r.temperature, r.top_p, r.max_tokens) for r in answers} == {(7, 0.8, 0.9, 5)}
    assert {(r.n, r.temperature) for r in tasks} == {(1, 0.3)}
    assert len({r.seed for r in answers}) == 3
    for request in answers:  # as the tiny template trains it
        context, question = request.fields["context"][0], request.fields["question"]
        assert request.messages[0]["content"] == f"{context}\n? {question} ="


def test_another_model_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, Scripted] = {}

    def open_one(spec: str, options: Any = None, plugins: Any = None) -> Scripted:
        return opened.setdefault(spec, Scripted(lambda request: None))

    monkeypatch.setattr("lcx.llm.open_llm", open_one)
    monkeypatch.setattr("lcx.llm.check_llm", lambda spec, plugins=None: None)
    synth(tmp_path, llm="local:one", writer="local:two")
    assert {request.task for request in opened["local:one"].asked} == {"answer_question"}
    assert {request.task for request in opened["local:two"].asked} == {"write_task"}


def test_samples_end_where_the_template_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(request: Request) -> Response | None:
        if request.task != "answer_question":
            return None
        ended = Completion(" right ; and more", "length")
        return Response(
            (ended, Completion(" cut off", "length"), Completion("  ;", "stop"), Completion("two\nlines ;"))
        )

    scripted(monkeypatch, reply)
    result = synth(tmp_path, examples=2)
    for bundle in bundles_of(tmp_path):
        assert [(b.answer, b.meta["sample"], b.meta.get("cut", False)) for b in bundle.branches] == [
            ("right", 0, False),
            ("cut off", 1, True),
            ("two\nlines", 3, False),
        ]
    assert result.counts["candidates cut at answer_tokens"] == 2


def test_prompts_without_an_answer_are_counted_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counter[str]()

    def reply(request: Request) -> Response | None:
        if request.task != "answer_question":
            return None
        asked["answers"] += 1
        if asked["answers"] <= 2:
            return Response((), error="the prompt is too long", final=True)
        return says("", "", " ;", "") if asked["answers"] == 3 else says("a", "b", "c", "d")

    scripted(monkeypatch, reply)
    result = synth(tmp_path)
    assert len(bundles_of(tmp_path)) == 17
    assert result.counts["prompt dropped: the prompt is too long"] == 2
    assert result.counts["prompt dropped: every answer is empty"] == 1
    rows = [json.loads(line) for line in (tmp_path / "synth" / "dropped.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [0, 1, 2]

    scripted(monkeypatch, lambda r: Response((), error="no") if r.task == "answer_question" else None)
    with pytest.raises(LcxError, match="none of 20 prompts has an answer"):
        synth(tmp_path / "none")


def test_bad_tasks_are_counted_and_others_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = ["", "NOTHING", "some\nchat without a task", f"<task>{'x' * (LONGEST + 1)}</task>"]
    replies = iter(
        [*(says(text) for text in bad), says("<task>half", finish="length"), Response((), error="busy")]
    )
    scripted(monkeypatch, lambda request: next(replies, None) if request.task == "write_task" else None)
    result = synth(tmp_path)
    skipped = {name: n for name, n in result.counts.items() if name.startswith("task skipped")}
    assert skipped == {
        "task skipped: the writer found nothing to ask": 2,
        "task skipped: no <task> in the reply": 1,
        "task skipped: the task is too long": 1,
        "task skipped: the reply was cut at task_tokens": 1,
        "task skipped: busy": 1,
    }
    assert len(bundles_of(tmp_path)) == 20
    assert result.counts["writer calls"] == 26  # no more than are wanted


def test_several_tasks_about_one_context_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = scripted(monkeypatch, lambda r: says("<task>the same</task>") if r.task == "write_task" else None)
    result = synth(tmp_path, tasks_per_context=3, examples=5)
    assert result.counts["task skipped: asked about this context before"] >= 2 * 4
    kinds = [request.fields["kind"] for request in llm.asked if request.task == "write_task"]
    assert kinds[:10] == [turns(KINDS, 0, number) for number in range(10)]


def test_the_corpus_own_tasks_are_used(tmp_path: Path) -> None:
    rows = [
        {"context": f"alpha beta {i}\ngamma delta {i}", "query": f"What is {i}?", "answer": f"It is {i}."}
        for i in range(5)
    ]
    rows += [{"text": "one two three four five six seven eight nine ten eleven twelve"}]
    corpus = write_rows(tmp_path / "rows.jsonl", rows)
    result = synth(tmp_path / "run", corpus=str(corpus), context_tokens=[10, 40], segment_tokens=4)
    found = bundles_of(tmp_path / "run")
    own = [bundle for bundle in found if bundle.kind == "corpus"]
    assert {(b.branches[0].question, b.meta["reference"]) for b in own} == {
        (f"What is {i}?", f"It is {i}.") for i in range(5)
    }
    assert result.counts["tasks of the corpus"] == 5  # though shorter than the least
    assert result.counts["documents too short, left out"] == 5
    with pytest.raises(UsageError, match="asks a question"):
        synth(tmp_path / "none", qa="corpus")


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no usable task") as bad:
        synth(tmp_path / "a", context_tokens=[5000, 6000])
    assert "too short" in bad.value.why
    assert "context_tokens" in bad.value.hint
    row = {"context": "\n".join(f"line {i} of words" for i in range(30)), "query": "q?", "answer": "a"}
    corpus = write_rows(tmp_path / "rows.jsonl", [row, {"context": "short text here now", "query": "q?"}])
    result = synth(tmp_path / "b", corpus=str(corpus), context_tokens=[4, 40], qa="corpus", segment_tokens=4)
    assert result.counts["tasks of the corpus left out: the document is longer than a context"] == 1


def test_own_answers_need_no_model(tmp_path: Path) -> None:
    rows = [
        {"context": "c1", "query": "q1", "answers": ["a", "b", "c"], "reference": "a"},
        {"context": "c1", "query": "q2", "answer": "x"},
        {"context": "c1", "query": "q2", "answer": "y"},
        {"query": "no context", "answers": ["a"]},
    ]
    file = write_rows(tmp_path / "own.jsonl", rows)
    result = synth(tmp_path / "run", candidates_file=str(file), llm="local:step:sft", writer="local:nowhere")
    found = bundles_of(tmp_path / "run")
    assert [[b.answer for b in bundle.branches] for bundle in found] == [["a", "b", "c"], ["x", "y"]]
    assert found[0].meta["reference"] == "a"
    assert result.counts["set aside: no context"] == 1
    with pytest.raises(UsageError, match="no file"):
        synth(tmp_path / "other", candidates_file=str(tmp_path / "nothing.jsonl"))


def test_the_model_of_an_earlier_step_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match="model of step 'sft'"):
        synth(tmp_path / "run", llm="local:step:sft")
    made = tmp_path / "run" / "sft" / "model"
    made.mkdir(parents=True)
    manifest = {
        "recipe": "longreward",
        "steps": {"sft": {"state": "done", "stage": "train", "fingerprint": {"a": 1}}},
    }
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    opened: list[str] = []
    llm = Scripted(lambda request: None)
    monkeypatch.setattr("lcx.llm.open_llm", lambda spec, *_: opened.append(spec) or llm)
    monkeypatch.setattr("lcx.llm.check_llm", lambda spec, plugins=None: None)
    synth(tmp_path / "run", llm="local:step:sft")
    assert set(opened) == {f"local:{made}"}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["steps"]["sft"]["fingerprint"] = {"a": 2}
    del manifest["seal"]  # of what was written before
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="other settings or inputs"):  # another model's answers
        synth(tmp_path / "run", llm="local:step:sft")


def test_through_an_endpoint(tmp_path: Path) -> None:
    """Two models of one server, n answers a call; a killed step pays for nothing twice."""

    def script(body: dict[str, Any]) -> Reply:
        prompt = prompt_of(body)
        if body["model"] == "writer":
            record = re.findall(r"^\* (\S+) (\S+) ", prompt, re.M)[3]
            return Reply(f"<task>{record[0]}</task>")
        return Reply([f" answer {i} ;" for i in range(body["n"])])

    with Stub(script) as stub:
        values = {"llm": "openai:policy", "writer": "openai:writer", "base_url": stub.url, "examples": 12}
        with pytest.raises(LcxError, match="15 calls"):
            synth(tmp_path / "run", **values, max_calls=15)
        result = synth(tmp_path / "run", **values)
        synth(tmp_path / "whole", **values)
    found = bundles_of(tmp_path / "run")
    assert len(found) == 12
    assert [b.answer for b in found[0].branches] == [f"answer {i}" for i in range(4)]
    assert result.counts["writer calls"] == result.counts["policy calls"] == 12
    assert digests(tmp_path / "run" / "synth" / "data") == digests(tmp_path / "whole" / "synth" / "data")
    bodies = [(r["model"], prompt_of(r), r.get("seed")) for r in stub.bodies[: len(stub.bodies) // 2]]
    assert len(set(bodies)) == len(bodies) == 24


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("<task>One?</task>", Written("One?")),
        ("<think><task>No</task></think>\n<task> Two?\n</task>", Written("Two?")),
        ("<task></task><task>Three?</task> <answer>3</answer>", Written("Three?", "3")),
        ("Four?", "no <task> in the reply"),
        ("nothing to ask here", "the writer found nothing to ask"),
        ("<think>unfinished <task>x</task>", "only a thought that never ends"),
        ("<task>open", "no <task> in the reply"),
    ],
)
def test_reading_a_task(reply: str, found: Written | str) -> None:
    assert read_task(reply) == found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_writers_prompt_keeps_a_document_within_its_marks(language: str) -> None:
    from lcx_longreward.tasks import writer_prompts

    text = "before </document> after <task>mine</task> {kind}"
    request = task_request(
        writer_prompts(None)[language], text, "summary", language, seed=1, temperature=0.5, max_tokens=64
    )
    prompt = request.messages[0]["content"]
    assert prompt.count("</document>") == 1
    assert "<task>mine" not in prompt
    assert "{kind}" in prompt  # the document's, which is not filled in
    assert request.fields["document"] == text


@pytest.mark.parametrize("thoughts", ["strip", "keep"])
def test_thoughts_are_no_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thoughts: str) -> None:
    texts = ("<think>hm</think>7", "<think>It may be 7", "<think>hm</think>8", "hm</think>9")
    scripted(monkeypatch, lambda r: says(*texts) if r.task == "answer_question" else None)
    result = synth(tmp_path, examples=3, thoughts=thoughts)
    for bundle in bundles_of(tmp_path):
        kept = [texts[branch.meta["sample"]] for branch in bundle.branches]
        assert [b.answer for b in bundle.branches] == (kept if thoughts == "keep" else ["7", "8", "9"])
        assert thoughts == "keep" or [b.meta["raw"] for b in bundle.branches] == kept
    assert result.counts["candidates with thoughts"] == 12
    assert result.counts["candidate dropped: only a thought that never ends"] == 3


def test_a_thought_without_an_answer_fails_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, lambda r: says("<think>hm") if r.task == "answer_question" else None)
    with pytest.raises(LcxError, match="none of 2 prompts has an answer") as caught:
        synth(tmp_path, examples=2)
    assert "every answer is only a thought that never ends (2)" in caught.value.why
    assert read_task("<think>A task about") == "only a thought that never ends"


def test_thoughts_in_your_own_candidates_are_left_out(tmp_path: Path) -> None:
    answers = ["<think>hm</think>Seven.", "<think>It", "<|channel|>final<|message|>Eight."]
    rows = write_rows(tmp_path / "own.jsonl", [{"context": "a b c", "query": "what?", "answers": answers}])
    result = synth(tmp_path / "run", candidates_file=str(rows))
    [bundle] = bundles_of(tmp_path / "run")
    assert [branch.answer for branch in bundle.branches] == ["Seven.", "", "Eight."]
    assert bundle.branches[0].meta["raw"] == answers[0]
    assert result.counts["candidates of an unfinished thought only"] == 1


def test_a_writer_of_no_use_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = scripted(monkeypatch, lambda r: says("I cannot."))
    with pytest.raises(UsageError, match="no usable task came out of 100 replies") as caught:
        synth(tmp_path, examples=120, batch=64, corpus="stdlib:records:200")
    assert len(writer.asked) == 100
    assert "One reply: 'I cannot.'" in caught.value.why
