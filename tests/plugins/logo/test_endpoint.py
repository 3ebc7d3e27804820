"""LOGO through a server: writer, policy and judge may each be served, and the data is the same as from rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import LcxError
from lcx.llm import open_llm
from lcx.llm.limits import BudgetSpent
from lcx.llm.protocol import Request, Response
from tests.llm.stub_server import Stub, prompt_of
from tests.plugins.logo.corpora import digests, score, synth, write_corpus


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[str, int], str]]:
    """What the rules say in this process to each prompt and seed; a server then says the same."""
    found: dict[tuple[str, int], str] = {}
    real = open_llm

    class Rules:
        def __init__(self, *args: Any) -> None:
            self.inner = real(*args)
            self.describe, self.close = self.inner.describe, self.inner.close

        def generate(self, requests: Sequence[Request]) -> list[Response]:
            replies = self.inner.generate(requests)
            for request, reply in zip(requests, replies, strict=True):
                found[request.messages[-1]["content"], request.seed] = reply.text
            return replies

    with monkeypatch.context() as patch:
        patch.setattr("lcx.llm.open_llm", lambda spec, *a: (Rules if spec == "builtin" else real)(spec, *a))
        yield found


@pytest.fixture
def script(said: dict[tuple[str, int], str]) -> Callable[[dict[str, Any]], str]:
    return lambda body: said[prompt_of(body), body["seed"]]


def test_the_same_data_and_no_call_paid_twice(
    tmp_path: Path, script: Callable[[dict[str, Any]], str]
) -> None:
    corpus = str(write_corpus(tmp_path / "corpus"))
    rules = synth(tmp_path / "rules", corpus=corpus)
    with Stub(script) as stub:
        place = {
            "base_url": stub.url,
            "llm": "openai:policy",
            "writer": "openai:writer",
            "judge": "openai:judge",
        }
        limits: tuple[dict[str, Any], ...] = (
            {"max_calls": 20},
            {"max_calls": 100, "concurrency": 3},
            {"max_tokens": 10**5 // 4, "prices": {"policy": [1, 1]}},
        )
        for limit in limits:
            with pytest.raises(BudgetSpent, match="the budget of"):
                synth(tmp_path / "run", corpus=corpus, **place, **limit)
        result = synth(tmp_path / "run", corpus=corpus, **place, prices={"policy": (1.0, 1.0)})
        assert digests(tmp_path / "run" / "synth" / "data") == digests(tmp_path / "rules" / "synth" / "data")
        names = ("writer calls", "policy calls", "judge calls")
        assert {n: result.counts[n] for n in names} == {n: rules.counts[n] for n in names}
        # Equal answers to one question are rated by one call
        different = {(body["model"], prompt_of(body), body["seed"]) for body in stub.bodies}
        assert 0.9 * sum(rules.counts[n] for n in names) < len(different) == stub.calls
        assert result.metrics["cost"] > 0
        assert "cost" not in rules.metrics


@pytest.mark.slow
def test_the_score_step_asks_the_judge_at_a_server(
    tmp_path: Path, script: Callable[[dict[str, Any]], str]
) -> None:
    corpus = str(write_corpus(tmp_path / "corpus"))
    run = tmp_path / "run"
    synth(run, corpus=corpus)
    score(run)
    wanted = digests(run / "score" / "data")
    with Stub(script) as stub:
        with pytest.raises(LcxError, match="key"):
            score(run, force=True, judge="openai:judge", api_key_file=str(tmp_path / "none"))
        result = score(run, force=True, judge="openai:judge", base_url=stub.url)
    assert digests(run / "score" / "data") == wanted
    different = {(prompt_of(body), body["seed"]) for body in stub.bodies}
    assert 0.9 * result.counts["judge calls"] < len(different) == stub.calls
