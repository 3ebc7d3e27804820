"""Retries, limits, budgets and samples against a scripted backend, in time that passes at once."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import LcxError
from lcx.llm.ledger import CallLedger
from lcx.llm.limits import Budget, BudgetSpent, RateLimiter
from lcx.llm.openai import FATAL, FINAL, Failed, Good
from tests.llm.instant import run_instantly
from tests.llm.senders import Down, Scripted, request, said, served


def failing(times: dict[str, int], how: Failed, good: Good = said()) -> Any:
    """A script that fails each prompt so many times."""
    left = Counter(times)

    def script(asked: dict[str, Any]) -> Good | Failed:
        if left[asked["text"]] > 0:
            left[asked["text"]] -= 1
            return how
        return good

    return script


def test_a_journalled_reply_is_not_asked_again(tmp_path: Path) -> None:
    backend = Scripted(lambda asked: said(asked["text"].upper()))
    first = served(backend, tmp_path)
    replies = first.generate([request("a"), request("b"), request("a")])
    assert [reply.text for reply in replies] == ["A", "B", "A"]
    assert sorted(text for _, text in backend.begun) == ["a", "b"]  # the third shared the first's call
    first.ledger.close()
    again = served(backend, tmp_path)
    assert [r.text for r in again.generate([request("b"), request("a"), request("a", seed=9)])] == [
        "B",
        "A",
        "A",
    ]
    assert [text for _, text in backend.begun[2:]] == ["a"]
    assert again.ledger.counts() == {
        "calls": 3,
        "prompt_tokens": 30,
        "completion_tokens": 6,
        "calls from the journal": 2,
    }


def test_attempts_are_calls_of_their_own_with_other_seeds(tmp_path: Path) -> None:
    seeds = []
    backend = Scripted(lambda asked: (seeds.append(asked["seed"]), said(f"try {asked['seed']}"))[1])
    exchange = served(backend, tmp_path)

    async def main() -> list[str]:
        return [(await exchange.ask(request("a", seed=5), attempt=i)).text for i in (0, 1, 2, 1)]

    replies = run_instantly(main())
    assert len(set(seeds)) == len(seeds) == 3
    assert seeds[0] == 5
    assert replies[1] == replies[3]


@pytest.mark.parametrize("reason", ["HTTP 500", "no reply within the timeout", "the reply had no choices"])
def test_a_failed_call_is_sent_again_later_and_later(tmp_path: Path, reason: str) -> None:
    backend = Scripted(failing({"a": 4}, Failed(reason)))
    exchange = served(backend, tmp_path)
    assert exchange.generate([request("a")])[0].text == "yes"
    times = [at for at, _ in backend.begun]
    pauses = [b - a - 1 for a, b in pairwise(times)]
    for pause, whole in zip(pauses, (1, 2, 4, 8), strict=True):
        assert whole / 2 - 1e-6 <= pause <= whole + 1e-6
    assert exchange.ledger.counts()["retries"] == 4
    exchange.ledger.close()
    assert CallLedger(tmp_path).reasons() == {reason: 4}


def test_a_call_whose_tries_are_used_up_fails_alone_with_its_reason() -> None:
    backend = Scripted(failing({"b": 99}, Failed("HTTP 500", detail="no memory")))
    exchange = served(backend, tries=3)
    replies = exchange.generate([request(text) for text in "abc"])
    assert [reply.text for reply in replies] == ["yes", "", "yes"]
    assert (replies[1].error, replies[1].final) == ("HTTP 500: no memory", False)
    assert Counter(text for _, text in backend.begun)["b"] == 3
    assert exchange.ledger.counts()["calls failed: HTTP 500"] == 1
    assert exchange.ledger.said() == ["calls failed: HTTP 500 (1): the server says: no memory"]


def test_the_most_frequent_sentence_of_a_server_stands_beside_the_count() -> None:
    said = {**{str(n): f"at most 512 tokens, got {n}" for n in range(600, 603)}, "x": "no such field"}
    script = {text: [Failed("HTTP 400", FINAL, detail=detail, status=400)] for text, detail in said.items()}
    exchange = served(Scripted(lambda asked: script[asked["text"]][0]))
    exchange.generate([request(text) for text in said])
    assert exchange.ledger.said() == [
        "calls failed: HTTP 400 (4): the server says: at most 512 tokens, got 600"
    ]


def test_what_asking_again_cannot_help_is_asked_once() -> None:
    backend = Scripted(failing({"b": 99}, Failed("HTTP 400", FINAL, detail="too long", status=400)))
    replies = served(backend).generate([request(text) for text in "abc"])
    assert (replies[1].error, replies[1].final) == ("HTTP 400: too long", True)
    assert len(backend.begun) == 3


@pytest.mark.parametrize("status", [401, 402, 404])
def test_what_every_call_would_meet_stops_the_job(status: int) -> None:
    backend = Scripted(lambda asked: Failed(f"HTTP {status}", FATAL, status=status), concurrency=2)
    with pytest.raises(Down, match=f"stopped by HTTP {status}"):
        served(backend).generate([request(str(i)) for i in range(50)])
    assert len(backend.begun) == 2


def test_a_forbidden_prompt_is_not_a_forbidden_key_once_a_call_got_through() -> None:
    backend = Scripted(failing({"b": 1}, Failed("HTTP 403", FATAL, status=403)), concurrency=1)
    replies = served(backend).generate([request(text) for text in "abc"])
    assert [bool(reply.error) for reply in replies] == [False, True, False]
    with pytest.raises(Down):
        served(Scripted(failing({"a": 1}, Failed("HTTP 403", FATAL, status=403)))).generate([request("a")])


def test_a_server_that_is_not_there_stops_the_job_after_the_tries_of_one_call() -> None:
    backend = Scripted(lambda asked: Failed("no connection", unreachable=True), concurrency=3)
    with pytest.raises(Down, match="no connection"):
        served(backend).generate([request(str(i)) for i in range(20)])
    assert len(backend.begun) <= 15


def test_a_server_that_dies_stops_the_job_and_blames_no_call(tmp_path: Path) -> None:
    """Calls that failed because the server died are not handed out as failed: a resumed job asks them again."""
    done = []

    def script(asked: dict[str, Any]) -> Good | Failed:
        return said() if len(done) < 30 else Failed("HTTP 503", status=503)

    backend = Scripted(script, concurrency=8)
    exchange = served(backend, tmp_path)

    async def one(number: int) -> None:
        reply = await exchange.ask(request(f"{number:03}"))
        assert not reply.error
        done.append(number)

    async def main() -> None:
        await asyncio.gather(*map(one, range(100)))

    with pytest.raises(Down, match="HTTP 503"):
        run_instantly(main())
    assert 30 <= len(done) <= 46  # what was in flight is still answered


def test_an_odd_prompt_that_breaks_the_server_does_not_stop_a_serial_job() -> None:
    backend = Scripted(failing({"4": 99}, Failed("HTTP 500")), concurrency=1)
    exchange = served(backend)

    async def main() -> list[str]:
        return [(await exchange.ask(request(str(i)))).error for i in range(8)]

    errors = run_instantly(main())
    assert [i for i, error in enumerate(errors) if error] == [4]


def test_a_rate_limit_pauses_every_call_for_as_long_as_the_server_asks() -> None:
    told = []

    def script(asked: dict[str, Any]) -> Good | Failed:
        if asked["text"] == "05" and not told:
            told.append(1)
            return Failed("HTTP 429", status=429, pause=30.0)
        return said()

    backend = Scripted(script, concurrency=2)
    replies = served(backend).generate([request(f"{i:02}") for i in range(20)])
    assert all(reply.text for reply in replies)
    times = [at for at, _ in backend.begun]
    refused = next(at for at, text in backend.begun if text == "05") + 1
    assert not [at for at in times if refused + 1e-6 < at < refused + 30 - 1e-6]
    assert max(times) >= refused + 30


def test_rate_limits_that_others_get_past_cost_no_tries() -> None:
    backend = Scripted(failing({"a": 9}, Failed("HTTP 429", status=429, pause=2.0)), concurrency=4)
    replies = served(backend, tries=3).generate([request("a"), *(request(f"b{i}") for i in range(400))])
    assert not [reply.error for reply in replies if reply.error]


def test_a_prompt_that_is_always_turned_away_fails_in_the_end() -> None:
    backend = Scripted(failing({"a": 10**9}, Failed("HTTP 429", status=429, pause=1.0)), concurrency=4)
    replies = served(backend, tries=3).generate([request("a"), *(request(f"b{i}") for i in range(400))])
    assert [reply.error for reply in replies if reply.error] == ["HTTP 429"]


def test_a_server_that_asks_for_hours_ends_the_job() -> None:
    backend = Scripted(lambda asked: Failed("HTTP 429", status=429, pause=7200.0))
    with pytest.raises(Down, match="7,200 seconds"):
        served(backend).generate([request("a")])


@pytest.mark.parametrize("limit", [30.0, 600.0])
def test_no_minute_has_more_calls_than_allowed(limit: float) -> None:
    backend = Scripted(lambda asked: said(), concurrency=1000, seconds=0.1)
    served(backend, limiter=RateLimiter(limit)).generate([request(str(i)) for i in range(int(3 * limit))])
    times = [at for at, _ in backend.begun]
    assert max(sum(0 <= at - start < 60 for at in times) for start in times[:: len(times) // 30]) <= limit
    assert times[-1] <= 200


def test_tokens_a_minute_are_held_by_what_calls_turn_out_to_use() -> None:
    backend = Scripted(lambda asked: said(tokens=(90, 10)), concurrency=1000, seconds=0.1)
    many = [request(f"{i} " + "word " * 70, max_tokens=10) for i in range(200)]
    served(backend, limiter=RateLimiter(None, 6000)).generate(many)
    times = [at for at, _ in backend.begun]
    assert max(sum(100 for at in times if 0 <= at - start < 60) for start in times) <= 6600
    assert times[-1] == pytest.approx(200, rel=0.3)


def test_as_many_calls_are_in_flight_as_allowed_and_no_more() -> None:
    backend = Scripted(lambda asked: said(), concurrency=7)
    served(backend).generate([request(str(i)) for i in range(70)])
    assert backend.most == 7
    assert backend.begun[-1][0] == pytest.approx(9)


# -- samples


def test_all_samples_come_from_one_call_where_the_server_gives_them(tmp_path: Path) -> None:
    backend = Scripted(lambda asked: Good(tuple((f"{i}", "stop") for i in range(asked["n"])), 5, 9))
    [reply] = served(backend, tmp_path).generate([request("a", n=4)])
    assert [one.text for one in reply.completions] == ["0", "1", "2", "3"]
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (5, 9)
    assert len(backend.begun) == 1


@pytest.mark.parametrize("most", [1, 3])
def test_a_server_that_gives_fewer_is_asked_for_the_rest_and_known_from_then_on(
    tmp_path: Path, most: int
) -> None:
    def script(asked: dict[str, Any]) -> Good:
        given = range(asked["sample"], asked["sample"] + min(asked["n"], most))
        return Good(tuple((f"{asked['text']}{i}", "stop") for i in given), 5, 2)

    backend = Scripted(script, concurrency=64)
    exchange = served(backend, tmp_path)
    [reply] = exchange.generate([request("a", n=10)])
    assert [one.text for one in reply.completions] == [f"a{i}" for i in range(10)]
    calls = -(-10 // most)
    assert len(backend.begun) == calls
    begun = len(backend.begun)
    [reply] = exchange.generate([request("b", n=10)])
    assert [one.text for one in reply.completions] == [f"b{i}" for i in range(10)]
    assert len(backend.begun) - begun == calls
    assert {at for at, text in backend.begun if text == "b"} == {backend.begun[-1][0]}  # all at once by now
    assert reply.usage.completion_tokens == 2 * calls


def test_a_server_that_refuses_several_is_asked_for_one_at_a_time() -> None:
    def script(asked: dict[str, Any]) -> Good | Failed:
        return Failed("HTTP 400", FINAL, status=400) if asked["n"] > 1 else said(f"{asked['sample']}")

    backend = Scripted(script, concurrency=64)
    [reply] = served(backend).generate([request("a", n=5)])
    assert [one.text for one in reply.completions] == list("01234")
    assert not reply.error


def test_each_paid_sample_is_kept_where_another_fails(tmp_path: Path) -> None:
    broken = True

    def script(asked: dict[str, Any]) -> Good | Failed:
        if asked["n"] > 1:
            return said("0")
        return Failed("HTTP 500") if asked["sample"] == 2 and broken else said(f"{asked['sample']}")

    backend = Scripted(script, concurrency=64)
    exchange = served(backend, tmp_path, tries=2)
    [reply] = exchange.generate([request("a", n=4)])
    assert reply.error == "HTTP 500"
    assert [one.text for one in reply.completions] == ["0", "1", "3"]
    exchange.ledger.close()
    broken, before = False, len(backend.begun)
    [reply] = served(backend, tmp_path).generate([request("a", n=4)])
    assert [one.text for one in reply.completions] == list("0123")
    assert len(backend.begun) == before + 1
    assert max(backend.good.values()) == 1


# -- budget


@pytest.mark.parametrize(
    ("budget", "calls"),
    [
        (Budget(max_calls=10), 10),
        (Budget(max_tokens=120), 10),
        (Budget(max_cost=0.0012), 12),  # a call costs 10 * 2 + 2 * 40 = 100 millionths
    ],
)
def test_the_budget_ends_the_step_and_a_larger_one_goes_on(
    tmp_path: Path, budget: Budget, calls: int
) -> None:
    backend = Scripted(lambda asked: said(), concurrency=1)
    prices = {"m": (2.0, 40.0)}
    many = [request(f"{i:02}") for i in range(30)]
    exchange = served(backend, tmp_path, budget, prices)
    with pytest.raises(BudgetSpent, match="is spent"):
        exchange.generate(many)
    assert len(backend.begun) == calls
    exchange.ledger.close()
    exchange = served(backend, tmp_path, budget, prices)
    with pytest.raises(BudgetSpent):  # what was spent before counts
        exchange.generate(many)
    assert len(backend.begun) == calls
    exchange.ledger.close()
    exchange = served(backend, tmp_path, Budget(), prices)
    assert all(reply.text for reply in exchange.generate(many))
    assert len(backend.begun) == 30
    assert exchange.ledger.counts()["cost"] == pytest.approx(0.003)


def test_calls_in_flight_count_towards_the_budget() -> None:
    backend = Scripted(lambda asked: said(), concurrency=64)
    with pytest.raises(BudgetSpent):
        served(backend, budget=Budget(max_calls=10)).generate([request(str(i)) for i in range(30)])
    assert len(backend.begun) == 10


def test_replies_of_no_use_count_as_tokens_spent(tmp_path: Path) -> None:
    backend = Scripted(lambda asked: Failed("the reply had no choices", tokens=(50, 0)), concurrency=1)
    with pytest.raises(BudgetSpent):
        served(backend, tmp_path, Budget(max_tokens=100), tries=9).generate([request("a")])
    assert len(backend.begun) == 2


# -- order


def test_waiting_calls_with_a_common_prefix_follow_each_other() -> None:
    backend = Scripted(lambda asked: said(), concurrency=1)
    texts = [f"document {d:02} question {q}" for q in range(6) for d in range(12)]
    random.Random(0).shuffle(texts)
    served(backend).generate([request(text) for text in texts])
    documents = [text.split()[1] for _, text in backend.begun]
    changes = sum(a != b for a, b in pairwise(documents))
    assert changes == 11


def test_a_call_that_nobody_waits_for_any_more_is_not_begun_and_one_in_flight_is_kept(tmp_path: Path) -> None:
    backend = Scripted(lambda asked: said(), concurrency=1)
    exchange = served(backend, tmp_path)

    async def main() -> None:
        tasks = [asyncio.create_task(exchange.ask(request(text))) for text in "abc"]
        await asyncio.sleep(0.5)  # a is in flight
        tasks[0].cancel()
        tasks[1].cancel()
        assert (await tasks[2]).text == "yes"

    run_instantly(main())
    assert [text for _, text in backend.begun] == ["a", "c"]
    assert exchange.generate([request("a")])[0].text == "yes"
    assert len(backend.begun) == 2


def test_a_call_in_flight_that_nobody_waits_for_is_not_paid_again_by_the_next_who_asks() -> None:
    backend = Scripted(lambda asked: said())
    exchange = served(backend)

    async def main() -> str:
        leaving = asyncio.create_task(exchange.ask(request("a")))
        await asyncio.sleep(0.5)
        leaving.cancel()
        await asyncio.sleep(0.1)
        return (await exchange.ask(request("a"))).text

    assert run_instantly(main()) == "yes"
    assert len(backend.begun) == 1


def test_one_asker_that_leaves_does_not_take_the_reply_from_another() -> None:
    backend = Scripted(lambda asked: said())
    exchange = served(backend)

    async def main() -> str:
        leaving = asyncio.create_task(exchange.ask(request("a")))
        staying = asyncio.create_task(exchange.ask(request("a")))
        await asyncio.sleep(0.5)
        leaving.cancel()
        return (await staying).text

    assert run_instantly(main()) == "yes"
    assert len(backend.begun) == 1


def test_a_mistake_in_a_backend_is_raised_and_does_not_hang() -> None:
    def script(asked: dict[str, Any]) -> Good:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        served(Scripted(script)).generate([request("a")])


def test_a_server_that_does_not_count_tokens_is_counted_by_length(tmp_path: Path) -> None:
    backend = Scripted(lambda asked: Good((("word " * 100, "stop"),), 0, 0))
    exchange = served(backend, tmp_path)
    exchange.generate([request("word " * 1000)])
    counts = exchange.ledger.counts()
    assert counts["prompt_tokens"] == pytest.approx(1250, rel=0.05)
    assert counts["completion_tokens"] == pytest.approx(125, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_random_faults_lose_nothing_and_pay_nothing_twice(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    faults = [
        Failed("HTTP 429", status=429, pause=0.5),
        Failed("HTTP 500", status=500),
        Failed("no reply within the timeout"),
        Failed("the reply was not of the protocol"),
        Failed("the reply had no choices"),
        Failed("the connection broke"),
        Failed("no connection to the server", unreachable=True),
    ]

    def script(asked: dict[str, Any]) -> Good | Failed:
        if rng.random() < 0.3:
            return rng.choice(faults)
        n = 1 if rng.random() < 0.3 else asked["n"]
        first = asked["sample"]
        return Good(tuple((f"{asked['text']}.{i}", "stop") for i in range(first, first + n)), 3, n)

    backend = Scripted(script, concurrency=16)
    exchange = served(backend, tmp_path, tries=40)
    many = [request(f"{i % 150}", n=1 + i % 150 % 4) for i in range(200)]
    replies = exchange.generate(many)
    for asked, reply in zip(many, replies, strict=True):
        text = asked.messages[0]["content"]
        assert [one.text for one in reply.completions] == [f"{text}.{i}" for i in range(asked.n)]
        assert not reply.error
    assert max(backend.good.values()) == 1
    exchange.ledger.close()
    journal = CallLedger(tmp_path)
    assert len(journal) == sum(backend.good.values())
    assert sum(journal.reasons().values()) == len(backend.begun) - len(journal)
    assert {json.loads(one)["n"] for one in backend.good} <= {1, 2, 3, 4}


def test_stopping_is_an_error_of_ours() -> None:
    assert issubclass(BudgetSpent, LcxError)
