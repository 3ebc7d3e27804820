"""IN2 through a server: the same data as from rules, journalled call by call, with limits and a budget."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcx.llm import open_llm
from lcx.llm.protocol import Request
from lcx.run import Run
from tests.conftest import Ran
from tests.llm.stub_server import Reply, Stub, prompt_of
from tests.plugins.in2.test_synth import digests, write_corpus

WORDS = ("examples=40", "context_tokens=[600, 1500]", "segment_tokens=40", "batch=16", "mix={fine: 1}")
RULES = open_llm("builtin")


def written(body: dict[str, Any]) -> str:
    """What the rules write about the passage in a writer's prompt, with the call's own seed."""
    passage = prompt_of(body).split("<passage>\n")[1].removesuffix("\n</passage>\n")
    request = Request((), task="write_question", fields={"segment": passage}, seed=body["seed"])
    return RULES.generate([request])[0].text


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Command lines of IN2's synth step, and of other steps of the same run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    corpus = write_corpus(tmp_path / "corpus")
    sets = [word for one in WORDS for word in ("--set", f"synth.{one}")]

    def line(run: str, *more: str) -> list[str]:
        return ["synth", "--recipe", "in2", "--run", run, "--corpus", str(corpus), *sets, *more]

    return line


def served(url: str) -> list[str]:
    return ["--llm", "openai:some", "--base-url", url]


def test_a_server_writes_what_the_rules_write(
    words: Callable[..., list[str]], cli: Callable[..., Ran]
) -> None:
    assert cli(*words("rules")).code == 0
    with Stub(written) as stub:
        ran = cli(*words("server"), *served(stub.url), "--json")
    assert ran.code == 0, ran.err
    assert digests(Path("server/synth/data")) == digests(Path("rules/synth/data"))
    assert ran.json["counts"]["calls"] == stub.calls == 40  # a call a question
    assert (Path("server/synth") / "calls.sqlite").is_file()
    extra = Run(Path("server"), "in2").manifest["steps"]["synth"]["extra"]["writer"]
    assert extra == {"backend": "openai", "model": "some", "base_url": stub.url}


def test_what_a_trial_paid_for_is_paid_once(words: Callable[..., list[str]], cli: Callable[..., Ran]) -> None:
    with Stub(written) as stub:
        ran = cli(*words("run"), *served(stub.url), "--limit", "4")
        assert ran.code == 0, ran.err
        assert stub.calls == 4
        assert ran.out.count("question  ") == 4
        assert ran.out.count("[evidence: segment") == 4
        assert "    calls                 40\n" in ran.out
        assert "these 4: 40 calls, " in ran.out
        tried = cli(*words("run"), *served(stub.url), "--limit", "6", "--json").json
        assert stub.calls == 6
        assert len([branch for row in tried["trial"] for branch in row["branches"]]) == 6
        assert "seconds" not in tried["whole"], "four of its calls were not made now"
        line = tried["next"].split()
        assert "--limit" not in line
        ran = cli(*words("run"), *served(stub.url), "--json")
        assert ran.json["counts"]["calls from the journal"] == 6
        assert stub.calls == 40
    assert ran.json["counts"]["questions"] == 40


def test_a_budget_stops_cleanly_and_another_server_goes_on(
    words: Callable[..., list[str]], cli: Callable[..., Ran]
) -> None:
    """Nothing that says how calls are made is part of what a step is; nothing is paid twice."""
    assert cli(*words("rules")).code == 0
    with Stub(written) as first:
        ran = cli(*words("run"), *served(first.url), "--max-calls", "20", "--concurrency", "4")
    assert ran.code == 1
    assert "error: the budget of 20 calls is spent" in ran.err
    assert "--max-calls" in ran.err.split("hint:")[1]
    assert "Traceback" not in ran.err
    assert first.calls == 20
    with Stub(written) as second:
        line = [*words("run"), *served(second.url), "--set", "synth.api_key_env=OTHER", "--set", "tries=2"]
        assert "there is no key" in cli(*line).err
        os.environ["OTHER"] = "sk-secret-of-mine"
        try:
            ran = cli(*line, "--json", "--max-cost", "3", "--set", "prices={some: [1, 2]}")
        finally:
            del os.environ["OTHER"]
    assert ran.code == 0, ran.err
    assert first.calls + second.calls == 40
    assert digests(Path("run/synth/data")) == digests(Path("rules/synth/data"))
    assert ran.json["counts"]["calls"] == 40
    assert ran.json["counts"]["calls from the journal"] == 20
    assert ran.json["metrics"]["cost"] > 0
    for file in Path("run").rglob("*"):
        assert not file.is_file() or b"sk-secret-of-mine" not in file.read_bytes()


def test_a_failed_call_is_a_skipped_segment_with_its_reason(
    words: Callable[..., list[str]], cli: Callable[..., Ran]
) -> None:
    def script(body: dict[str, Any]) -> Reply | str:
        if sum(map(ord, prompt_of(body))) % 4 == 0:
            return Reply(status=400, message="not this one")
        return written(body)

    with Stub(script) as stub:
        counts = cli(*words("run"), *served(stub.url), "--json").json["counts"]
    [(reason, number)] = [(k, n) for k, n in counts.items() if "400" in k]
    assert reason.startswith("segment skipped: ")
    assert number > 3
    assert counts["questions"] == 40


def test_what_lacks_is_said_before_the_corpus_is_read(
    words: Callable[..., list[str]], cli: Callable[..., Ran]
) -> None:
    ran = cli(*words("run"), "--llm", "openai:some")
    assert ran.code == 4
    assert "there is no key" in ran.err
    assert "--base-url" in ran.err
    ran = cli(*words("run"), *served("http://localhost:1"), "--max-cost", "1")
    assert ran.code == 2
    assert "no price" in ran.err
    assert not Path("run/synth/data").exists()
    ran = cli("synth", "--recipe", "in2", "--run", "new", "--llm", "openai:some", "--dry-run")
    assert ran.code == 0  # a dry run asks nobody, and needs no key


def test_a_dry_run_says_what_it_costs(words: Callable[..., list[str]], cli: Callable[..., Ran]) -> None:
    line = [*words("run"), "--llm", "openai:some", "--set", "prices={some: [2, 8]}", "--dry-run", "--json"]
    found = cli(*line).json["steps"][0]["forecast"]
    assert found["calls"] == 40
    cost = (2 * found["writer_prompt_tokens"] + 8 * found["writer_answer_tokens"]) / 1e6
    assert found["cost"]["writer"] == pytest.approx(cost, abs=1e-4)
    assert not Path("run").exists()


def test_a_judge_at_a_server_checks_the_questions(
    words: Callable[..., list[str]], cli: Callable[..., Ran]
) -> None:
    assert cli(*words("run")).code == 0
    with Stub(lambda body: f"I think so. [[{'no' if 'counted 7' in prompt_of(body) else 'yes'}]]") as stub:
        line = ["score", "--recipe", "in2", "--run", "run", "--judge", "openai:j", "--base-url", stub.url]
        ran = cli(*line, "--max-tokens", "3000", "--concurrency", "2")
        assert ran.code == 1
        assert "the budget of 3,000 tokens is spent" in ran.err
        early = stub.calls
        ran = cli(*line, "--json")
    assert ran.code == 0, ran.err
    assert 0 < early < stub.calls == ran.json["counts"]["calls"]
    bodies = [(prompt_of(b), b["seed"]) for b in stub.bodies]
    assert len(bodies) == len(set(bodies))
    rows = [json.loads(row) for row in Path("run/score/scores.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    assert {row["dropped"] for row in rows} == {"", "not answered by its evidence"}
    assert {reason for row in rows for reason in row["reasons"].values()} == {"I think so."}


def test_ctrl_c_ends_at_once_and_says_how_to_go_on(
    words: Callable[..., list[str]], lcx_program: str, tmp_path: Path
) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply(written(body), delay=60.0 if stub.calls > 20 else 0.0)

    with Stub(script) as stub:
        line = [lcx_program, *words("run"), *served(stub.url)]
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        end = time.monotonic() + 60
        while stub.calls <= 21 and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=40)
    assert process.returncode == 130, err
    assert re.search(r"hint: resume with: lcx synth --recipe in2 --run run .*--base-url", err)
    assert "Traceback" not in err


@pytest.mark.nightly
def test_killed_three_times_it_pays_twice_for_calls_in_flight_alone(
    words: Callable[..., list[str]], cli: Callable[..., Ran], lcx_program: str
) -> None:
    assert cli(*words("rules")).code == 0
    flight = 4
    with Stub(lambda body: Reply(written(body), delay=0.02)) as stub:
        line = [lcx_program, *words("run"), *served(stub.url), "--concurrency", str(flight), "-q"]
        for calls in (7, 19, 30):
            process = subprocess.Popen(line, env=dict(os.environ))
            end = time.monotonic() + 60
            while stub.calls < calls and time.monotonic() < end:
                time.sleep(0.002)
            process.kill()
            process.wait()
        done = subprocess.run(
            [*line, "--json"], capture_output=True, text=True, env=dict(os.environ), check=False
        )
        assert done.returncode == 0, done.stderr
        twice = stub.calls - len(stub.good)
    assert len(stub.good) == json.loads(done.stdout)["counts"]["calls"] == 48
    assert twice <= 3 * flight
    assert digests(Path("run/synth/data")) == digests(Path("rules/synth/data"))
