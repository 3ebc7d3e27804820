"""What ends a job and what does not: prompts that always fail, servers that go, full disks, calls nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lcx.errors import LcxError
from lcx.llm.client import LocalClient, ServerClient
from lcx.llm.ledger import CallLedger
from lcx.llm.limits import Budget, BudgetSpent, RateLimiter
from lcx.llm.openai import FINAL, Failed, Good
from lcx.llm.protocol import Completion, Request, Response
from tests.llm.instant import run_instantly
from tests.llm.senders import Down, Scripted, request, said, served

T = TypeVar("T")


def timed(main: Coroutine[Any, Any, T]) -> T:
    """Run it with an end: what hangs fails here instead of hanging the tests."""

    async def limited() -> T:
        async with asyncio.timeout(10**6):
            return await main

    return run_instantly(limited())


async def judged(exchange: ServerClient, text: str, attempts: int = 5) -> str:
    """As a judge asks: a failed call is asked for again, as another attempt."""
    error = ""
    for attempt in range(attempts):
        reply = await exchange.ask(request(text), attempt=attempt)
        if not reply.error:
            return reply.text
        error = reply.error
    return error


async def all_judged(exchange: ServerClient, texts: list[str]) -> list[str]:
    return list(await asyncio.gather(*(judged(exchange, text) for text in texts)))


@pytest.mark.parametrize("reason", ["HTTP 500", "no reply within the timeout"])
@pytest.mark.parametrize("bad", [2, 4, 30])
def test_prompts_that_always_fail_leave_a_job_that_ends(tmp_path: Path, bad: int, reason: str) -> None:
    """Also when nothing else is left to ask, at the end of a job and in a resumed one."""

    def script(asked: dict[str, Any]) -> Good | Failed:
        return Failed(reason) if "bad" in asked["text"] else said()

    texts = [*(f"good {i:02}" for i in range(20)), *(f"bad {i}" for i in range(bad))]
    expected = ["yes"] * 20 + [reason] * bad
    for run in range(2):
        backend = Scripted(script, concurrency=8)
        exchange = served(backend, tmp_path)
        assert timed(all_judged(exchange, texts)) == expected
        exchange.ledger.close()
        asked = Counter(text for _, text in backend.begun)
        assert all(asked[f"bad {i}"] == 25 for i in range(bad))
        assert run == 0 or sum(backend.good.values()) == asked["Say yes."] <= 1 + bad
    journal = CallLedger(tmp_path)
    assert len(journal) == 20  # asking whether the server answers is no result


def test_a_server_that_is_down_ends_a_resumed_job_though_few_prompts_are_left(tmp_path: Path) -> None:
    exchange = served(Scripted(lambda asked: said()), tmp_path)
    assert timed(all_judged(exchange, ["good"])) == ["yes"]
    exchange.ledger.close()
    backend = Scripted(lambda asked: Failed("HTTP 503", status=503))
    with pytest.raises(Down, match="503"):
        timed(all_judged(served(backend, tmp_path), ["good", "a", "b"]))


def test_a_server_that_answers_no_real_prompt_at_all_ends_the_job() -> None:
    backend = Scripted(lambda asked: said() if asked["text"] == "Say yes." else Failed("HTTP 500"))
    with pytest.raises(Down, match="500"):
        served(backend).generate([request(f"{i:02}") for i in range(200)])
    assert len(backend.begun) < 200


class Full(CallLedger):
    """A disk that is full after so many rows."""

    left = 0

    def paid(self, *args: Any, **more: Any) -> None:
        self._write()
        super().paid(*args, **more)

    def lost(self, *args: Any, **more: Any) -> None:
        self._write()
        super().lost(*args, **more)

    def _write(self) -> None:
        if self.left <= 0:
            raise LcxError("cannot use the journal of calls", why="disk is full")
        self.left -= 1


@pytest.mark.parametrize("end", [Failed("HTTP 500"), Failed("HTTP 400", FINAL), said()])
@pytest.mark.parametrize("left", [0, 3, 52])
def test_a_full_disk_ends_the_job_whatever_the_tries_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Good | Failed, left: int
) -> None:
    monkeypatch.setattr("tests.llm.senders.CallLedger", Full)
    monkeypatch.setattr(Full, "left", left)  # 52: the disk is full when the server is probed, or later
    exchange = served(Scripted(lambda asked: end), tmp_path)
    many = [request(f"{i:02}") for i in range(60)]
    with pytest.raises(LcxError, match="cannot use the journal"):
        timed(gathered(exchange, many))


async def gathered(exchange: Any, many: list[Request]) -> list[Response]:
    return list(await asyncio.gather(*map(exchange.ask, many)))


def test_a_full_disk_ends_calls_to_a_model_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(Scripted):
        def generate(self, requests: Any) -> list[Response]:
            assert threading.current_thread() is not threading.main_thread()
            return [Response((Completion("x"),)) for _ in requests]

    monkeypatch.setattr("tests.llm.senders.CallLedger", Full)
    exchange = LocalClient(lambda: Model(lambda asked: said()), Full(tmp_path), "local:x")

    async def main() -> list[Any]:
        async with asyncio.timeout(5):
            asked = [exchange.ask(request(str(i))) for i in range(3)]
            return list(await asyncio.gather(*asked, return_exceptions=True))

    assert ["full" in getattr(end, "why", "") for end in asyncio.run(main())] == [True] * 3


def test_a_call_in_doubt_is_told_when_the_last_other_one_is_cancelled() -> None:
    """One has used its tries up; the other waits for a rate limit and is then given up."""

    def script(asked: dict[str, Any]) -> Good | Failed:
        return Failed("HTTP 500") if asked["text"] == "bad" else said()

    exchange = served(Scripted(script, concurrency=1), limiter=RateLimiter(0.001), tries=1)

    async def main() -> tuple[str, float]:
        bad = asyncio.create_task(exchange.ask(request("bad")))
        await asyncio.sleep(0.5)
        other = asyncio.create_task(exchange.ask(request("other")))
        await asyncio.sleep(10)
        assert not bad.done()
        other.cancel()
        return (await bad).error, asyncio.get_running_loop().time()

    error, at = timed(main())
    assert error == "HTTP 500"
    assert at < 20


def test_a_call_that_nobody_waits_for_any_more_is_not_sent_again(tmp_path: Path) -> None:
    backend = Scripted(lambda asked: Failed("HTTP 500"))
    exchange = served(backend, tmp_path)

    async def main() -> None:
        leaving = asyncio.create_task(exchange.ask(request("a")))
        await asyncio.sleep(0.5)
        leaving.cancel()
        await asyncio.sleep(1000)

    timed(main())
    assert len(backend.begun) == 1


def test_samples_that_nobody_waits_for_any_more_are_not_asked_for(tmp_path: Path) -> None:
    backend = Scripted(lambda asked: said(str(asked["sample"])))  # one, however many are asked for
    exchange = served(backend, tmp_path)

    async def main() -> list[str]:
        leaving = asyncio.create_task(exchange.ask(request("a", n=5)))
        await asyncio.sleep(0.5)
        leaving.cancel()
        await asyncio.sleep(1000)
        assert len(backend.begun) == 1
        return [one.text for one in (await exchange.ask(request("a", n=5))).completions]

    assert timed(main()) == list("01234")
    assert len(backend.begun) == 5  # the first sample was kept


# -- outages


def away(since: float, until: float) -> Any:
    def script(asked: dict[str, Any]) -> Good | Failed:
        now = asyncio.get_running_loop().time()
        return Failed("no connection", unreachable=True) if since <= now < until else said()

    return script


@pytest.mark.parametrize("length", [20, 100, 280])
def test_a_server_that_is_away_for_minutes_costs_nothing_but_time(length: float) -> None:
    backend = Scripted(away(5, 5 + length), concurrency=8)
    replies = served(backend).generate([request(f"{i:02}") for i in range(100)])
    assert all(reply.text == "yes" for reply in replies)
    assert len(backend.begun) < 100 + 8 * 14


def test_a_server_that_stays_away_ends_the_job_after_minutes() -> None:
    ends = []

    async def main() -> None:
        try:
            await gathered(served(Scripted(away(5, 10**9))), [request(f"{i:02}") for i in range(100)])
        finally:
            ends.append(asyncio.get_running_loop().time())

    with pytest.raises(Down, match="no connection"):
        timed(main())
    assert 300 <= ends[0] - 5 <= 400


def test_a_server_that_fails_and_starts_again_costs_nothing_but_time() -> None:
    """First it answers with errors, then it is not there, and then it is back."""

    def script(asked: dict[str, Any]) -> Good | Failed:
        now = asyncio.get_running_loop().time()
        if 3 <= now < 5.2:
            return Failed("HTTP 500", status=500)
        return Failed("no connection", unreachable=True) if 5.2 <= now < 100 else said()

    backend = Scripted(script, concurrency=12)
    replies = served(backend, tries=2).generate([request(f"{i:02}") for i in range(48)])
    assert Counter(reply.error for reply in replies).keys() <= {"", "HTTP 500"}
    assert sum(not reply.error for reply in replies) >= 36


def test_a_server_that_was_never_there_ends_the_job_at_once() -> None:
    ends = []

    async def main() -> None:
        try:
            await gathered(served(Scripted(away(0, 10**9))), [request(f"{i:02}") for i in range(100)])
        finally:
            ends.append(asyncio.get_running_loop().time())

    with pytest.raises(Down, match="no connection"):
        timed(main())
    assert ends[0] < 25


# -- budgets


def costs(asked: dict[str, Any]) -> Good:
    """20 to 60 tokens a choice of 100 allowed."""
    tokens = sum(20 + hash_of(f"{asked['text']}.{i}") % 41 for i in range(asked["n"]))
    return Good(tuple(("x", "stop") for _ in range(asked["n"])), 10, tokens)


def hash_of(text: str) -> int:
    return sum(map(ord, text)) * 7919


PRICES = {"m": (0.0, 1_000_000.0)}
"""A reply's token costs 1."""


@pytest.mark.parametrize(
    ("n", "concurrency"),
    [
        (4, 256),
        *(pytest.param(*way, marks=pytest.mark.slow) for way in [(1, 1), (1, 16), (1, 256), (4, 1), (4, 16)]),
    ],
)
@pytest.mark.parametrize(
    ("budget", "of"),
    [
        (Budget(max_calls=50), "calls"),
        (Budget(max_tokens=20_000), "tokens"),
        (Budget(max_cost=20_000.0), "cost"),
        (Budget(max_cost=1000.0), "cost"),
    ],
)
def test_no_budget_is_overrun_however_many_calls_are_in_flight(
    tmp_path: Path, budget: Budget, of: str, n: int, concurrency: int
) -> None:
    backend = Scripted(costs, concurrency=concurrency)
    exchange = served(backend, tmp_path, budget, PRICES)
    many = [request(f"{i:03}", n=n, max_tokens=100) for i in range(1000)]
    with pytest.raises(BudgetSpent):
        timed(gathered(exchange, many))
    timed(exchange.drain())
    spent, limit = (
        getattr(exchange.ledger.spent, of),
        budget.max_calls or budget.max_tokens or budget.max_cost,
    )
    assert limit is not None
    assert spent <= limit * (1 if of == "calls" else 1.05)
    assert spent >= limit - (0 if of == "calls" else 100 * n)
    flying = exchange.ledger.in_flight
    assert (flying.calls, flying.tokens, flying.cost) == (0, 0, 0.0)


def test_the_first_wave_counts_every_sample() -> None:
    """Before any reply has come, a call for 10 samples may need 10 replies of full length."""
    backend = Scripted(lambda asked: Good((("x", "stop"),) * asked["n"], 9, 100 * asked["n"]), concurrency=64)
    with pytest.raises(BudgetSpent):
        served(backend, budget=Budget(max_tokens=5000)).generate(
            [request(f"{i:02}", n=10, max_tokens=100) for i in range(64)]
        )
    assert len(backend.begun) == 4


def test_calls_that_were_sent_and_never_answered_count_towards_the_budget(tmp_path: Path) -> None:
    backend = Scripted(lambda asked: Failed("no reply within the timeout", unanswered=True), concurrency=2)
    for budget in (5, 5, 8):  # in the next process, too
        exchange = served(backend, tmp_path, Budget(max_calls=budget))
        with pytest.raises(BudgetSpent, match=f"{budget} calls"):
            exchange.generate([request("a" * 400), request("b" * 400)])
        counts = exchange.ledger.counts()
        exchange.ledger.close()
        assert len(backend.begun) == counts["calls without a reply"] == budget
        assert counts["calls"] == 0
        assert counts["prompt_tokens"] == pytest.approx(100 * budget, rel=0.15)


def test_what_is_omitted_is_part_of_what_a_call_is_known_by(tmp_path: Path) -> None:
    backend = Scripted(lambda asked: said())
    for number, omit in enumerate(((), ("seed",), ("seed", "top_p"), ())):
        backend.omit = frozenset(omit)
        exchange = served(backend, tmp_path)
        exchange.generate([request("a")])
        exchange.ledger.close()
        assert len(backend.begun) == min(number + 1, 3)


@pytest.mark.parametrize(("bad", "texts"), [({9}, "012345678"), (set(range(1, 10)), "0")])
def test_nine_samples_are_kept_where_the_tenth_fails(tmp_path: Path, bad: set[int], texts: str) -> None:
    def script(asked: dict[str, Any]) -> Good | Failed:
        if asked["n"] > 1:
            return said("0")
        return Failed("HTTP 500") if asked["sample"] in bad else said(str(asked["sample"]))

    client = served(Scripted(script), tmp_path, tries=2)
    [reply] = client.generate([request("a", n=10)])
    assert [choice.text for choice in reply.completions] == list(texts)
    assert reply.error == "HTTP 500"
    client.ledger.close()
    again = Scripted(lambda asked: said(str(asked["sample"])))
    [whole] = served(again, tmp_path).generate([request("a", n=10)])
    assert "".join(choice.text for choice in whole.completions) == "0123456789"
    assert len(again.begun) == len(bad)  # each call gives one
