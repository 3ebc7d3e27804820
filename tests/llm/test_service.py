"""One service for all kinds of generators: opened once, asked asynchronously or in batches, counted, and told about."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lcx.context import Context, Stopped
from lcx.errors import LcxError, MissingError
from lcx.llm.client import Service
from lcx.llm.protocol import Completion, Request, Response, Usage
from lcx.llm.settings import Calling
from lcx.process import ended_gently
from tests.llm.senders import request
from tests.llm.stub_server import Reply, Stub


class Model:
    """A model in this process that notes its batches."""

    batches: list[list[str]]

    def __init__(self, spec: str, options: dict[str, Any]) -> None:
        self.spec, self.options = spec, options
        self.batches, self.closed = [], False

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        assert threading.current_thread() is not threading.main_thread() or self.options.get("inline")
        texts = [one.messages[-1]["content"] for one in requests]
        self.batches.append(texts)
        return [
            Response((), error="too long")
            if text == "bad"
            else Response((Completion(text.upper()),), Usage(2, 1))
            for text in texts
        ]

    def describe(self) -> dict[str, Any]:
        return {"model": self.spec}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    made: list[Model] = []

    def open_llm(spec: str, options: dict[str, Any], plugins: Any) -> Model:
        made.append(Model(spec, options))
        return made[-1]

    monkeypatch.setattr("lcx.llm.open_llm", open_llm)
    return made


def judged(answer: str) -> Request:
    return Request(
        ({"role": "user", "content": "rate"},),
        task="judge_overlap",
        fields={"answer": answer, "reference": "a b"},
    )


def test_rules_are_answered_in_place_and_never_journalled(tmp_path: Path) -> None:
    with Service(tmp_path, Calling(), Context()) as service:
        exchange = service.client("builtin", {})

        async def main() -> list[str]:
            replies = await asyncio.gather(*(exchange.ask(judged(text), part="p") for text in ("a b", "c")))
            return [reply.text for reply in replies]

        assert service.run(main()) == ["[[10.00]]", "[[0.00]]"]
        assert service.counts()["calls"] == 2
        assert exchange.describe()["backend"] == "builtin"
    assert not list(tmp_path.iterdir())


def test_calls_to_a_model_here_are_gathered_into_batches_and_kept(
    tmp_path: Path, models: list[Model]
) -> None:
    async def main() -> list[str]:
        async def two(text: str) -> str:
            first = await exchange.ask(request(text))
            return (await exchange.ask(request(first.text + "2"))).text

        return list(await asyncio.gather(*map(two, "abcd")))

    for run in range(2):
        with Service(tmp_path, Calling(), Context(device="cpu")) as service:
            exchange = service.client("local:x", {"batch": 4})
            assert service.run(main()) == ["A2", "B2", "C2", "D2"]
            assert service.counts()["calls"] == 8
            assert service.counts().get("calls from the journal", 0) == 8 * run
    assert [model.batches for model in models] == [[list("abcd"), ["A2", "B2", "C2", "D2"]]]
    assert models[0].options == {"device": "cpu", "batch": 4}
    assert models[0].closed


def test_a_model_here_that_fails_a_call_is_asked_again_by_the_next_run(
    tmp_path: Path, models: list[Model]
) -> None:
    for _ in range(2):
        with Service(tmp_path, Calling(gpus=2), Context()) as service:
            reply = service.run(service.client("local:x", {}).ask(request("bad")))
            assert reply.error == "too long"
            assert service.counts()["calls failed: too long"] == 1
    assert len(models) == 2
    assert models[0].options["gpus"] == 2


def test_batches_come_back_in_their_order(tmp_path: Path, models: list[Model]) -> None:
    with Service(tmp_path, Calling(), Context()) as service:
        llm = service.client("local:x")
        assert llm.about == {"spec": "local:x"}
        assert [reply.text for reply in llm.generate([request("b"), request("a")])] == ["B", "A"]
        assert models[0].batches == [["b", "a"]]
        assert llm.about == llm.describe() == {"model": "local:x"}


def test_one_model_that_plays_two_parts_is_opened_once(tmp_path: Path, models: list[Model]) -> None:
    two, three = ("local:a", {"batch": 2}), ("local:a", {"batch": 3})
    with Service(tmp_path, Calling(), Context(device="cpu")) as service:
        first = service.client(*two)
        assert first is service.client(*two) is not service.client(*three)
        assert not models
        for number, spec in enumerate((two, two, three)):
            service.client(*spec).generate([request(str(number))])
        assert [model.options["batch"] for model in models] == [2, 3]
        service.close(two)
        assert [model.closed for model in models] == [False, True]
        assert service.client(*two) is first
        service.close()
        assert models[0].closed
        service.client(*two).generate([request("new")])
        assert len(models) == 3


def test_two_models_for_two_parts_share_the_journal_and_the_counts(tmp_path: Path) -> None:
    with Stub(lambda body: str(body["model"])) as one, Stub(lambda body: str(body["model"])) as two:
        with Service(tmp_path, Calling(base_url=one.url, prices={"a": (1e6, 0.0)}), Context()) as service:
            writer = service.client("openai:a", {})
            judge = service.client("openai:b", {"base_url": two.url})

            async def main() -> list[str]:
                return [(await x.ask(request("hi", temperature=1.0))).text for x in (writer, judge, writer)]

            assert service.run(main()) == ["a", "b", "a"]
            counts = service.counts()
        assert (one.calls, two.calls) == (1, 1)
        assert counts["calls"] == 2
        assert counts["cost"] == 1.0
        assert counts["calls from the journal"] == 1


def test_where_a_model_is_served_is_no_part_of_what_is_kept(tmp_path: Path) -> None:
    for expected in (1, 0):
        with (
            Stub(lambda body: "x") as stub,
            Service(tmp_path, Calling(base_url=stub.url), Context()) as service,
        ):
            assert service.run(service.client("openai:m", {}).ask(request("hi"))).text == "x"
            assert stub.calls == expected


def test_what_is_missing_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with Service(tmp_path, Calling(), Context()) as service:
        service.check("builtin", {})
        with pytest.raises(MissingError, match="no key"):
            service.check("openai:m", {})
        service.check("openai:m", {"base_url": "localhost:8000"})
        with pytest.raises(LcxError):
            service.check("no-such:m", {})


def test_progress_tells_calls_tokens_cost_failures_and_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcx.context.PULSE", 0.0)
    monkeypatch.setattr("lcx.llm.client._TICK", 0.02)
    heard = io.StringIO()
    with Stub(lambda body: Reply("x", delay=0.03, usage=(9, 1))) as stub:
        settings = Calling(base_url=stub.url, concurrency=2, prices={"m": (1000.0, 0.0)})
        ctx = Context(console=Console(file=heard, soft_wrap=True))
        with Service(tmp_path, settings, ctx) as service:
            service.expect(30)
            service.client("openai:m", {}).generate([request(str(i)) for i in range(30)])
            assert service.progress() == "30 of 30 calls, 300 tokens, cost 0.27"
            assert service.progress(working=True).startswith("30 calls, ")  # more may come
            service.expect(-5)
            assert service.progress().startswith("30 calls, ")
    lines = [line.strip() for line in heard.getvalue().splitlines()]
    assert any(
        " of 30 calls, " in line and "2 in flight" in line and line.endswith("s left") for line in lines
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_at_once_and_keeps_every_reply(tmp_path: Path, number: signal.Signals) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if stub.calls == 10:
            os.kill(os.getpid(), number)
        return Reply("x", hang=stub.calls >= 10)

    many = [request(f"{i}") for i in range(30)]
    with Stub(script) as stub:
        settings = Calling(base_url=stub.url, concurrency=1)
        with ended_gently(), Service(tmp_path, settings, Context()) as service, pytest.raises(Stopped):
            service.client("openai:m", {}).generate(many)
    with Stub(lambda body: "x") as again:
        settings = Calling(base_url=again.url)
        with Service(tmp_path, settings, Context()) as service:
            assert all(reply.text == "x" for reply in service.client("openai:m", {}).generate(many))
        assert again.calls == 21


def test_what_is_in_flight_when_a_job_fails_is_let_end(tmp_path: Path) -> None:
    """One call is refused for good; the other, which takes longer, is paid for and kept."""

    def script(body: dict[str, Any]) -> Reply:
        return Reply(status=401, delay=0.05) if "bad" in str(body["messages"]) else Reply("x", delay=0.4)

    with Stub(script) as stub:
        settings = Calling(base_url=stub.url)
        with Service(tmp_path, settings, Context()) as service, pytest.raises(MissingError):
            service.client("openai:m", {}).generate([request("bad"), request("good")])
        with Service(tmp_path, settings, Context()) as service:
            assert service.client("openai:m", {}).generate([request("good")])[0].text == "x"
        assert stub.calls == 2


@pytest.mark.parametrize(
    ("made", "said"), [([], "gave 0 replies"), (["x"], "gave a str"), ("x", "gave a str")]
)
def test_what_a_backend_gives_in_place_of_responses_is_named(made: Any, said: str) -> None:
    from lcx.errors import PluginError
    from lcx.llm.client import _streamed

    backend = types.SimpleNamespace(generate=lambda requests: made)
    with pytest.raises(PluginError, match=f"{said}.* for 1 request"):
        list(_streamed(backend, [(Request(({"role": "user", "content": "q"},)), (0,))]))
