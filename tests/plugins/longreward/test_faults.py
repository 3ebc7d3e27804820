"""A server with every kind of fault: nothing is lost, nothing is paid twice, every failure has its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcx.llm.client import Service
from lcx.llm.limits import Backoff
from tests.llm.stub_server import Stub
from tests.plugins.longreward import scripted_judge as judge

DOCUMENTS, ANSWERS = 2, 6
WAITS = ("timeout", "hang")
"""Faults that are over only when the client gives up."""
QUICK = ("500", "truncated", "missing")
"""One fault of the server, one of the line and one of the judge for the quick tier."""
CASES = {kind: {kind: 0.2} for kind in judge.FAULTS} | {"mixed": dict.fromkeys(judge.FAULTS, 0.03)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Service.__init__.__kwdefaults__
    assert defaults
    monkeypatch.setitem(defaults, "backoff", Backoff(0.01, 0.1))


def judged(cli: Any, tmp_path: Path, script: judge.Faulty, name: str, **values: Any) -> list[dict[str, Any]]:
    rows = judge.write_rows(tmp_path / "rows.jsonl", DOCUMENTS, ANSWERS)
    recipe = judge.recipe(tmp_path / "judged.yaml", extract_tokens=128, **values)
    with Stub(script) as stub:
        run = str(tmp_path / name)
        ran = cli("score", "-r", str(recipe), "--input", str(rows), "--base-url", stub.url, "--run", run)
    assert ran.code == 0, ran.err
    text = (tmp_path / name / "score" / "scores.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    "kind",
    # "hang" waits as "timeout" does, and is in "mixed" too
    [
        pytest.param(
            kind, marks=[] if kind in QUICK else pytest.mark.nightly if kind == "hang" else pytest.mark.slow
        )
        for kind in CASES
    ],
)
def test_faults_change_no_reward(kind: str, cli: Any, tmp_path: Path) -> None:
    faults = CASES[kind]
    script = judge.Faulty(faults)
    timeout = {"timeout": 2.5} if any(name in WAITS for name in faults) else {}
    found = judged(cli, tmp_path, script, "run", **timeout)
    assert len(found) == DOCUMENTS * ANSWERS
    assert script.met.total() > script.met[""] > 0, "no fault was met"
    scored = 0
    for number, row in enumerate(found):
        expected = judge.expected(*divmod(number, ANSWERS))
        for name, value in expected.items():
            if name != "reward" or not row["failed"]:
                assert row[name] == pytest.approx(value) or (row[name] is None and row["failed"].get(name))
        assert (row["reward"] is None) == bool(row["failed"])
        assert all(row["failed"].values())
        scored += row["reward"] is not None
    assert scored >= len(found) - 1, "five attempts of five tries each get through"
    # What the server answered well, it was asked once. A late answer is one that nobody got.
    assert max(script.paid.values()) == 1
    counts = json.loads((tmp_path / "run/manifest.json").read_text())["steps"]["score"]["counts"]
    asked = sum(number for name, number in counts.items() if name.startswith("calls: "))
    assert counts["calls"] == len(script.paid) == script.paid.total() == asked
    unusable = sum(number for name, number in counts.items() if name.startswith("unusable replies"))
    assert unusable == sum(script.met[name] for name in judge.READABLE)


def test_calls_that_never_get_through_leave_their_reason(cli: Any, tmp_path: Path) -> None:
    class Broken(judge.Faulty):
        def __call__(self, body: dict[str, Any]) -> Any:
            prompt = judge.prompt_of(body)
            hit = judge.part_of(prompt)[0] == "statements" and "/3)" in prompt
            return judge.Reply(status=503, message="overloaded") if hit else super().__call__(body)

    script = Broken({})
    found = judged(cli, tmp_path, script, "run")  # the default tries and attempts
    for number, row in enumerate(found):
        document, answer = divmod(number, ANSWERS)
        hit = answer == 3
        assert row["failed"] == ({"faithfulness": "statements: HTTP 503: overloaded"} if hit else {})
        assert row["completeness"] == judge.expected(document, answer)["completeness"]
        assert (row["reward"] is None) == hit
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())["steps"]["score"]
    assert manifest["state"] == "done"
    assert manifest["counts"]["failed: faithfulness: statements: HTTP 503"] == DOCUMENTS


@pytest.mark.slow
def test_a_spent_budget_stops_cleanly_and_the_same_command_goes_on(cli: Any, tmp_path: Path) -> None:
    rows = judge.write_rows(tmp_path / "rows.jsonl", DOCUMENTS, ANSWERS)
    recipe = judge.recipe(tmp_path / "judged.yaml")
    script = judge.Faulty({})
    with Stub(script) as stub:
        words = ["score", "-r", str(recipe), "--input", str(rows), "--base-url", stub.url]
        words += ["--concurrency", "4", "--run", str(tmp_path / "run")]
        stopped = cli(*words, "--max-calls", "40")
        assert stopped.code == 1
        assert "40 calls" in stopped.err
        assert script.paid.total() == 40
        assert cli(*words).code == 0
        assert max(script.paid.values()) == 1
        again = tmp_path / "whole"
        assert cli(*words[:-1], str(again)).code == 0
    assert judge.result_files(tmp_path / "run/score") == judge.result_files(again / "score")


@pytest.mark.slow
def test_the_order_of_replies_does_not_show_in_the_files(cli: Any, tmp_path: Path) -> None:
    class Slow(judge.Faulty):
        def __call__(self, body: dict[str, Any]) -> Any:
            said = super().__call__(body)
            delay = judge.draw(self.seed, json.dumps(body, sort_keys=True)).random() / 5
            return judge.Reply(said.texts, delay=delay)

    found = []
    for seed in (1, 2):
        judged(cli, tmp_path, Slow({}, seed=seed), f"run{seed}")
        found.append(judge.result_files(tmp_path / f"run{seed}/score"))
    assert found[0] == found[1]


def test_a_judge_that_cannot_be_used_is_not_paid_to_the_end(cli: Any, tmp_path: Path) -> None:
    class Refusing(judge.Faulty):
        def __call__(self, body: dict[str, Any]) -> Any:
            super().__call__(body)
            return judge.Reply(status=400, message="unsupported parameter: 'seed'")

    rows = judge.write_rows(tmp_path / "rows.jsonl", 20, ANSWERS)
    recipe = judge.recipe(tmp_path / "judged.yaml", concurrency=2, open_answers=2)
    with Stub(Refusing({})) as stub:
        words = ["score", "-r", str(recipe), "--input", str(rows), "--base-url", stub.url]
        ran = cli(*words, "--run", str(tmp_path / "run"))
        assert ran.code == 1
        assert "nothing of what the judge was asked could be used" in ran.err
        assert "unsupported parameter: 'seed'" in ran.err
        assert "omit: [seed]" in ran.err
        assert stub.calls < 20 * ANSWERS


def test_where_no_answer_gets_a_reward_the_step_fails(cli: Any, tmp_path: Path) -> None:
    class Mute(judge.Faulty):
        def __call__(self, body: dict[str, Any]) -> Any:
            return (
                "I would rather not."
                if judge.part_of(judge.prompt_of(body))[0] == "helpfulness"
                else (super().__call__(body))
            )

    rows = judge.write_rows(tmp_path / "rows.jsonl", 1, 3)
    recipe = judge.recipe(tmp_path / "judged.yaml", attempts=2)
    with Stub(Mute({})) as stub:
        words = ["score", "-r", str(recipe), "--input", str(rows), "--base-url", stub.url]
        ran = cli(*words, "--run", str(tmp_path / "run"))
    assert ran.code == 1
    assert "none of the 3 answers a reward" in ran.err
    assert "helpfulness: no [[rating]] in the reply" in ran.err
    assert len((tmp_path / "run/score/scores.jsonl").read_text().splitlines()) == 3
