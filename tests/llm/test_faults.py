"""Faults of a real connection, each alone at 20% of the calls and all mixed at 3% each; and jobs that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lcx.context import Context
from lcx.errors import LcxError
from lcx.llm.client import Service
from lcx.llm.ledger import CallLedger
from lcx.llm.limits import Backoff, BudgetSpent
from lcx.llm.settings import Calling
from tests.conftest import Fault
from tests.llm.senders import request
from tests.llm.stub_server import Reply, Stub, prompt_of

ROOT = Path(__file__).resolve().parents[2]
FAULTS = {
    "429": Reply(status=429, headers={"retry-after": "0.02"}),
    "500": Reply(status=500),
    "timeout": Reply("late", delay=0.9),
    "hang": Reply(hang=True),
    "truncated": Reply(cut=30),
    "empty": Reply(texts=[]),
    "dropped": Reply(drop=True),
    "gateway": Reply(body=b"<html>bad gateway</html>"),
}
REASONS = {
    "429": "HTTP 429",
    "500": "HTTP 500",
    "timeout": "no reply within the timeout",
    "hang": "no reply within the timeout",
    "truncated": "the reply was not of the protocol",
    "empty": "the reply had no choices",
    "dropped": "the connection broke",
    "gateway": "the reply was not of the protocol",
}


QUICK = ("429", "truncated", "dropped", "none")
"""One fault that a server tells, one in a reply, one of the connection; others are slow: their waits are real ones."""


def answer(text: str) -> str:
    return f"[[{sum(map(ord, text)) % 11}]]"


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(fault, marks=[] if fault in QUICK else [pytest.mark.slow])
        for fault in (*FAULTS, "mixed", "none")
    ],
)
def test_nothing_is_lost_or_paid_twice(tmp_path: Path, kind: str, fault: Fault) -> None:
    """Every request gets the reply of a fault-free run, from one usable answer, and every fault is on record."""
    rng = random.Random(kind)
    shares = {"mixed": dict.fromkeys(FAULTS, 0.03), "none": {}}.get(kind, {kind: 0.2})
    sent: Counter[str] = Counter()

    def script(body: dict[str, Any]) -> Reply | str:
        drawn = rng.random()
        for name, share in shares.items():
            if drawn < share:
                sent[name] += 1
                return FAULTS[name]
            drawn -= share
        return answer(prompt_of(body))

    texts = [f"prompt {i}" for i in range(150)]
    waits = any(name in ("timeout", "hang") for name in shares)
    settings = Calling(concurrency=32, timeout=0.6 if waits else 60, tries=12)
    with Stub(script) as stub:
        settings = settings.model_copy(update={"base_url": stub.url})
        with Service(tmp_path, settings, Context(), backoff=Backoff(0.001, 0.05)) as service:
            replies = service.client("openai:m", {}).generate([request(text) for text in texts])
            counts = service.counts()
    right = [
        (reply.text, reply.error) == (answer(text), "") for reply, text in zip(replies, texts, strict=True)
    ]
    fault("faults of a server: replies", sum(sent.values()), right.count(False))
    assert sum(sent.values()) > (8 if shares else -1)
    journal = CallLedger(tmp_path)
    reasons = Counter({REASONS[name]: 0 for name in sent})
    for name, count in sent.items():
        reasons[REASONS[name]] += count
    assert len(journal) == len(texts)
    recorded = Counter(journal.reasons())
    assert recorded - Counter({"no reply within the timeout": 10**6}) == reasons - Counter(
        {"no reply within the timeout": 10**6}
    )
    assert recorded["no reply within the timeout"] >= reasons["no reply within the timeout"]
    assert counts.get("retries", 0) == recorded.total()
    # On a busy machine a call may run out of its time before the server has read it.
    assert stub.calls == recorded.total() + len(texts) or (
        waits and stub.calls < recorded.total() + len(texts)
    )
    # A late answer is good for the server, but came after the client had given it up.
    late = sent["timeout"] + recorded["no reply within the timeout"] - reasons["no reply within the timeout"]
    assert sum(stub.good.values()) - len(texts) <= late
    if not late:
        assert max(stub.good.values()) == 1


def test_a_server_that_ignores_n_over_a_real_connection(tmp_path: Path) -> None:
    with Stub(lambda body: [f"{prompt_of(body)}.{body['seed']}"]) as stub:
        with Service(tmp_path, Calling(base_url=stub.url), Context()) as service:
            exchange = service.client("openai:m", {})
            for text in "ab":
                [reply] = exchange.generate([request(text, n=5, seed=10, temperature=1.0)])
                assert [one.text for one in reply.completions] == [f"{text}.{10 + i}" for i in range(5)]
        assert [body.get("n", 1) for body in stub.bodies] == [5, 1, 1, 1, 1, 1, 1, 1, 1, 1]
        with Service(tmp_path, Calling(base_url=stub.url), Context()) as service:
            again = request("b", n=5, seed=10, temperature=1.0)
            [reply] = service.client("openai:m", {}).generate([again])
            assert [one.text for one in reply.completions] == [f"b.{10 + i}" for i in range(5)]
        assert stub.calls == 10


def test_a_budget_over_a_real_connection_ends_cleanly_and_goes_on(tmp_path: Path) -> None:
    many = [request(f"{i}") for i in range(40)]
    with Stub(lambda body: Reply("ok", delay=0.05)) as stub:
        for limit, total in ((15, 15), (15, 15), (22, 22), (None, 40)):
            settings = Calling(base_url=stub.url, concurrency=8, max_calls=limit)
            with Service(tmp_path, settings, Context()) as service:
                exchange = service.client("openai:m", {})
                if limit is None:
                    assert all(reply.text == "ok" for reply in exchange.generate(many))
                else:
                    with pytest.raises(BudgetSpent) as caught:
                        exchange.generate(many)
                    assert f"{limit} calls" in caught.value.what
            assert stub.calls == total
        assert max(stub.good.values()) == 1


def test_a_server_that_is_not_there_is_an_error_with_a_way_on(tmp_path: Path) -> None:
    settings = Calling(base_url="http://127.0.0.1:9/v1", tries=3)
    with (
        Service(tmp_path, settings, Context(), backoff=Backoff(0.001)) as service,
        pytest.raises(LcxError, match=r"http://127.0.0.1:9/v1 does not answer") as caught,
    ):
        service.client("openai:m", {}).generate([request(str(i)) for i in range(50)])
    assert "no connection to the server" in caught.value.why
    assert "same command goes on" in caught.value.hint


def test_a_server_that_goes_away_and_returns_costs_no_reply(tmp_path: Path) -> None:
    texts = [f"{i:03}" for i in range(60)]
    with Stub(lambda body: Reply(prompt_of(body), delay=0.01)) as stub:
        port = stub.port
        settings = Calling(base_url=stub.url, concurrency=4, tries=3)
        with Service(tmp_path, settings, Context(), backoff=Backoff(0.001)) as service:
            service.client("openai:m", {}).generate([request(text) for text in texts[:20]])
    with Service(tmp_path, settings, Context(), backoff=Backoff(0.001)) as service:
        exchange = service.client("openai:m", {})
        assert [one.text for one in exchange.generate([request(text) for text in texts[:20]])] == texts[:20]
        with pytest.raises(LcxError, match="does not answer"):
            exchange.generate([request(text) for text in texts])
    with (
        Stub(lambda body: prompt_of(body), port) as again,
        Service(tmp_path, settings, Context()) as service,
    ):
        replies = service.client("openai:m", {}).generate([request(text) for text in texts])
        assert [one.text for one in replies] == texts
        assert again.calls == 40


JOB = """
import sys
from pathlib import Path
from lcx.context import Context
from lcx.llm.settings import Calling
from lcx.llm.client import Service
from tests.llm.senders import request

folder, url, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with Service(folder, Calling(base_url=url, concurrency=8), Context()) as service:
    replies = service.client("openai:m", {}).generate([request(f"{i}", n=1 + i % 3, seed=i) for i in range(count)])
(folder / "result.txt").write_text("\\n".join(one.text for reply in replies for one in reply.completions))
"""


@pytest.mark.nightly
def test_a_killed_job_asks_again_only_what_was_in_flight(tmp_path: Path, fault: Fault) -> None:
    rng = random.Random(5)
    count = 120

    def script(body: dict[str, Any]) -> Reply:
        delay = 0.02 + (len(stub.bodies) * 7919 % 13) / 1000
        return Reply([f"{prompt_of(body)}/{body['seed']}"], delay=delay)  # one choice whatever n says

    with Stub(script) as stub:
        command = [sys.executable, "-c", JOB, str(tmp_path), stub.url, str(count)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        kills = 0
        for _ in range(6):
            before = stub.calls
            process = subprocess.Popen(command, env=environment)
            enough = before + rng.randrange(15, 60)
            while process.poll() is None and stub.calls < enough:
                time.sleep(0.002)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
        assert subprocess.run(command, env=environment, check=False).returncode == 0
        samples = sum(1 + i % 3 for i in range(count))
        assert kills >= 3
        # Each kill may cost what was in flight (8 at most); no reply that reached the journal is bought again.
        assert stub.calls <= samples + 8 * kills
    lines = (tmp_path / "result.txt").read_text().split("\n")
    assert lines == [f"{i}/{i + s}" for i in range(count) for s in range(1 + i % 3)]
    journal = CallLedger(tmp_path)
    fault("kills of a job that asks a server: replies", kills, samples - len(journal))
    assert json.dumps(journal.reasons()) == "{}"
