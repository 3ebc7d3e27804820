"""`lcx eval --model openai:NAME`: a server answers, and what it was asked once is not asked again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcx.evaluation.served_model import cut_prompts
from tests.conftest import Ran
from tests.llm.stub_server import Reply, Stub, prompt_of

LINE = "Keeper {} of the lighthouse counted {} herring gulls on the {}th day of the long winter storm. "
FACT = re.compile(r"The ([^.]+?) code of the ([^.]+?) is (\d+)\.")


def reads(body: dict[str, Any]) -> str:
    """A model that finds every code of which it is asked, but for those of the second half."""
    prompt = prompt_of(body)
    asked = re.search(r"What is the .+ code of the (.+)\?", prompt)
    assert asked
    for found in FACT.finditer(prompt):
        if found[2] == asked[1]:
            return f"It is {found[3]}." if found.start() < len(prompt) / 2 else "I cannot find it."
    return "none"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("LCX_RUNS", str(tmp_path / "runs"))
    (tmp_path / "texts").mkdir()
    for number in range(3):
        text = "".join(LINE.format(f"{number}-{k}", k * 7, k) for k in range(30))
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    return tmp_path


LINES = (
    "eval --model openai:m --corpus texts --task needle --set lengths=700 --set depths=4 --set sets=2 --json"
)


def test_a_server_is_asked_each_question_once(cli: Callable[..., Ran], place: Path) -> None:
    with Stub(reads) as stub:
        planned = cli(*LINES.split(), "--dry-run", "--base-url", stub.url).json["steps"][0]["forecast"]
        assert planned["calls"] == 8
        report = cli(*LINES.split(), "--base-url", stub.url).json
        assert len(stub.bodies) == 8
        facts = [tuple(found[2] for found in FACT.finditer(prompt_of(body))) for body in stub.bodies]
        assert [len(names) for names in facts] == [4] * 8
        assert len(set(facts)) == 2
        folder = Path(report["folder"])
        (folder / "journal.jsonl").unlink()  # the replies are in calls.sqlite too
        (folder / "scores.json").unlink()
        assert cli(*LINES.split(), "--base-url", stub.url).json["state"] == "done"
        assert len(stub.bodies) == 8
    scores = json.loads((folder / "scores.json").read_text())
    needle = scores["tasks"]["needle"]
    assert needle["by_depth"] == [1.0, 1.0, 0.0, 0.0]
    assert (needle["n"], needle["refused"]) == (8, 4)
    assert scores["weights"] == "openai:m"
    assert not scores["answering"].get("check")


def test_shards_of_an_evaluation_end_as_one_process_does(cli: Callable[..., Ran], place: Path) -> None:
    with Stub(reads) as stub:
        one = cli(*LINES.split(), "--run", "one", "--base-url", stub.url).json
        asked = len(stub.bodies)
        words = [*LINES.split(), "--run", "two", "--base-url", stub.url, "--shard"]
        for number in (2, 0, 1):
            ran = cli(*words, f"{number}/3")
            assert ran.code == 0, ran.err
            assert ran.json["state"] == "in shards"
        assert len(stub.bodies) == 2 * asked
        ran = cli("merge", "two")
        assert ran.code == 0, ran.err
        assert len(stub.bodies) == 2 * asked
    files = [next(Path(name).rglob("predictions-needle.jsonl")).read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    scores = [json.loads(next(Path(name).rglob("scores.json")).read_text()) for name in ("one", "two")]
    assert scores[0]["tasks"] == scores[1]["tasks"]
    assert one["state"] == "done"


def test_a_measure_needs_the_model_itself(cli: Callable[..., Ran], place: Path) -> None:
    with Stub(reads) as stub:
        ran = cli(*LINES.replace("needle", "perplexity").split(), "--base-url", stub.url)
        assert ran.code == 4
        assert "not behind a server" in ran.err


def test_a_context_that_is_too_long_is_cut_in_its_middle(cli: Callable[..., Ran], place: Path) -> None:
    with Stub(reads) as stub:
        more = ["--set", "window=500", "--set", "too_long=truncate-middle", "--set", "max_new_tokens=20"]
        report = cli(*LINES.split(), *more, "--base-url", stub.url).json
        assert report["counts"]["needle truncated"] == 2
        from lcx.data.tokens import open_span_tokenizer

        count = open_span_tokenizer("simple").spans
        assert max(len(count(prompt_of(body))) for body in stub.bodies) <= 500 - 20 + 2


def test_rows_of_a_cut_context_tell_where_the_evidence_was(cli: Callable[..., Ran], place: Path) -> None:
    with Stub(reads) as stub:
        new = ["--set", "max_new_tokens=20"]
        more = [*new, "--set", "window=500", "--set", "too_long=truncate-middle"]
        for name, flags in (("whole", new), ("cut", more)):
            ran = cli(*LINES.split(), *flags, "--run", name, "--base-url", stub.url).json
            assert ran["counts"].get("needle truncated", 0) == (2 if flags == more else 0)
    whole, cut = (
        [json.loads(line) for line in next(Path(name).rglob("predictions-needle.jsonl")).open()]
        for name in ("whole", "cut")
    )
    assert [row["excerpt"] for row in cut] == [row["excerpt"] for row in whole]
    for row in cut:
        said = re.search("«(.+)»", row["excerpt"])
        assert said, row
        assert FACT.search(said[1])


def test_calls_that_fail_are_counted_under_their_own_task(cli: Callable[..., Ran], place: Path) -> None:
    """Two tasks with one template share who answers: one task's failures are not the other's."""
    (place / "small.yaml").write_text("probe: needle\nname: small\nlengths: [600]\ndepths: 3\nsets: 1\n")

    def answer(body: dict[str, Any]) -> Reply | str:
        return Reply(status=400) if len(FACT.findall(prompt_of(body))) == 4 else reads(body)

    with Stub(answer) as stub:
        ran = cli(*LINES.replace("needle", "needle,small.yaml").split(), "--base-url", stub.url)
        assert ran.code == 0, ran.err
    found = json.loads((Path(ran.json["folder"]) / "scores.json").read_text())
    tasks = found["tasks"]
    assert [tasks[task]["errors"] for task in ("needle", "small")] == [8, 0]
    assert sum(tasks["needle"]["answering"]["failed"].values()) == 8
    assert "failed" not in tasks["small"]["answering"]
    assert found["answering"]["failed"] == tasks["needle"]["answering"]["failed"]
    assert found["answering"]["calls"]


def test_questions_that_no_server_answered_count_as_nothing(cli: Callable[..., Ran], place: Path) -> None:
    """Half of them fail: the score is that of the others, and says so everywhere; all of them: the step fails."""

    def half(body: dict[str, Any]) -> Reply | str:
        found = FACT.search(prompt_of(body))
        asked = re.search(r"What is the .+ code of the (.+)\?", prompt_of(body))
        assert found
        assert asked
        first = found[2] == asked[1]
        return Reply(status=400, message="max context is 512") if first else reads(body)

    with Stub(half) as stub:
        ran = cli(*LINES.split(), "--base-url", stub.url, "--export", "markdown", "--export", "lm-eval")
        assert ran.code == 0, ran.err
        folder = Path(ran.json["folder"])
        needle = json.loads((folder / "scores.json").read_text())["tasks"]["needle"]
        assert (needle["n"], needle["errors"], needle["nulls"]) == (6, 2, 0)
        assert needle["score"] == pytest.approx(100 * 2 / 6)
        assert needle["by_depth"][0] is None
        rows = [json.loads(line) for line in (folder / "predictions-needle.jsonl").open()]
        assert [row["score"] for row in rows if row["finish"] == "error"] == [None, None]
        assert any("2 of 8 questions got no answer" in note for note in ran.json["notes"])
        assert "2 of 8 questions unanswered" in (folder / "model-card.md").read_text()
        shown = cli(*LINES.removesuffix(" --json").split(), "--base-url", stub.url).out
        assert "2 of 8 questions unanswered" in shown
        samples = next((folder / "export-lm-eval").rglob("samples_needle_*.jsonl"))
        again = cli("eval", "--predictions", str(samples), "--json").json
        assert (again["task"], again["score"], again["errors"]) == ("needle", needle["score"], 2)
    with Stub(reads) as stub:
        cli(*LINES.split(), "--base-url", stub.url, "--run", "good")
        told = cli("compare", str(folder), "good")
        assert "2 items that one of the two got no reply to are left out" in " ".join(told.out.split())
        assert "worse in 0 of" in told.out
    with Stub(lambda body: Reply(status=400, message="max context is 512")) as stub:
        ran = cli(*LINES.split(), "--base-url", stub.url, "--run", "none")
        assert ran.code == 1
        assert "none of 8 questions was answered" in ran.err + ran.out
        assert "max context is 512" in ran.err + ran.out


def test_a_server_that_cuts_prompts_is_found_out(cli: Callable[..., Ran], place: Path) -> None:
    """Ollama reads the last num_ctx tokens of a prompt, and says so only in its count."""

    def cuts(body: dict[str, Any]) -> Reply:
        words = len(prompt_of(body).split())
        return Reply(reads(body), usage=(min(600, round(1.4 * words)), 5))

    more = ["--set", "lengths=300,600,1200", "--set", "sets=1"]
    with Stub(cuts) as stub:
        ran = cli(*LINES.split(), *more, "--base-url", stub.url)
        assert ran.code == 0, ran.err
        assert any("num_ctx" in note and "600" in note for note in ran.json["notes"])
        shown = cli(*LINES.removesuffix(" --json").split(), *more, "--base-url", stub.url).out
        assert "prompts cut by the server" in shown
    scores = json.loads((Path(ran.json["folder"]) / "scores.json").read_text())["tasks"]["needle"]
    assert scores["answering"]["cut"]["reported"] == 600


@pytest.mark.parametrize(
    ("counted", "exact", "cut"),
    [
        ([(1000, 1300), (4000, 5200), (16000, 20800)], False, 0),
        ([(1000, 700), (4000, 2810), (16000, 11000)], False, 0),  # another tokenizer
        ([(1000, 1300), (4000, 4096), (16000, 4096)], False, 2),
        ([(8000, 2048), (8010, 2048), (8003, 2048)], False, 3),
        ([(8000, 4000)], True, 1),
        ([(8000, 7900)], True, 0),
        ([(8000, 0)], True, 0),
        ([(8000, 10000), (8000, 10000)], False, 0),
    ],
)
def test_prompts_that_a_server_cut(counted: list[tuple[int, int]], exact: bool, cut: int) -> None:
    assert cut_prompts(counted, exact=exact).get("prompts", 0) == cut


def test_thoughts_of_a_served_model_are_no_answers(cli: Callable[..., Ran], place: Path) -> None:
    """The first fact's is one that never ends, and names it."""

    def thinks(body: dict[str, Any]) -> Reply | str:
        said = reads(body)
        first = FACT.search(prompt_of(body))
        assert first
        if first[3] in said:
            return Reply(f"<think>{first[3]}, or", finish="length")
        return f"<think>{first[3]}?</think>\n{said}"

    with Stub(thinks) as stub:
        ran = cli(*LINES.split(), "--base-url", stub.url)
        assert ran.code == 0, ran.err
    folder = Path(ran.json["folder"])
    needle = json.loads((folder / "scores.json").read_text())["tasks"]["needle"]
    assert needle["by_depth"] == [0.0, 1.0, 0.0, 0.0]
    assert (needle["thoughts"], needle["unfinished_thoughts"]) == (8, 2)
    rows = [json.loads(line) for line in (folder / "predictions-needle.jsonl").open()]
    assert all(row["raw"].startswith("<think>") and "<think>" not in row["pred"] for row in rows)


def test_a_thought_that_comes_apart_is_kept_and_no_answer(cli: Callable[..., Ran], place: Path) -> None:
    def apart(body: dict[str, Any]) -> Reply:
        asked = re.search(r"What is the .+ code of the (.+)\?", prompt_of(body))
        assert asked
        first, *others = FACT.finditer(prompt_of(body))
        done = first[2] != asked[1]
        value = next(found[3] for found in (first, *others) if found[2] == asked[1])
        message = {"role": "assistant", "content": value if done else None, "reasoning_content": f"{value}?"}
        choice = {"index": 0, "message": message, "finish_reason": "stop" if done else "length"}
        return Reply(body=json.dumps({"choices": [choice], "usage": {}}).encode())

    with Stub(apart) as stub:
        ran = cli(*LINES.split(), "--set", "sets=1", "--base-url", stub.url)
        assert ran.code == 0, ran.err
    folder = Path(ran.json["folder"])
    needle = json.loads((folder / "scores.json").read_text())["tasks"]["needle"]
    assert needle["by_depth"] == [0.0, 1.0, 1.0, 1.0]
    assert (needle["thoughts"], needle["unfinished_thoughts"]) == (4, 1)
    rows = [json.loads(line) for line in (folder / "predictions-needle.jsonl").open()]
    assert all(row["reasoning"].endswith("?") for row in rows)


def test_without_a_key_nothing_is_built(
    cli: Callable[..., Ran], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    ran = cli(*LINES.split())
    assert ran.code == 4
    assert "OPENAI_API_KEY" in ran.err
