"""HTTP to a server: the SDK's transport as lcx sets it up, proxies, certificates, and replies that hold no answer."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from lcx.errors import MissingError, UsageError
from lcx.llm.client import StandaloneServer
from lcx.llm.openai import ChatServer, Endpoint, Failed, Good, open_client, proxy_for
from lcx.llm.protocol import Request
from tests.llm.stub_server import Reply, Stub

GOOD = b'{"choices": [{"message": {"content": "x"}}]}'
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Raw:
    """A server that sends given bytes, perhaps closing after them, and notes requests and connections."""

    def __init__(self, reply: bytes, close: bool = False) -> None:
        self.reply, self.close = reply, close
        self.requests: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                writer.write(self.reply)
                await writer.drain()
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


def framed(body: bytes, *lines: str) -> bytes:
    head = "\r\n".join(["HTTP/1.1 200 OK", f"content-length: {len(body)}", *lines])
    return head.encode() + b"\r\n\r\n" + body


def sent(raw: Raw, main: Callable[[ChatServer], Any], **options: Any) -> Any:
    """What a coroutine finds that calls the raw server."""

    async def run() -> Any:
        server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        chat = ChatServer("m", Endpoint(f"http://127.0.0.1:{port}/v1", "none"), {"timeout": 5, **options})
        try:
            return await main(chat)
        finally:
            await chat.aclose()
            server.close()

    return asyncio.run(run())


async def one(chat: ChatServer) -> Good | Failed:
    try:
        return await chat.send(b"{}")
    except Failed as bad:
        return bad


def test_connections_are_kept_and_there_are_as_many_as_calls() -> None:
    raw = Raw(framed(GOOD))

    async def main(chat: ChatServer) -> None:
        for _ in range(3):
            found = await asyncio.gather(*(one(chat) for _ in range(20)))
            assert all(isinstance(reply, Good) for reply in found)

    sent(raw, main, concurrency=20)
    assert len(raw.requests) == 60
    assert raw.connections <= 20


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    """It does not say so, as some do: the socket knows of the connection's end before the loop does."""
    raw = Raw(framed(GOOD), close=True)

    async def main(chat: ChatServer) -> None:
        for _ in range(30):
            assert isinstance(await one(chat), Good)

    sent(raw, main)
    assert raw.connections == 30


def test_a_cancelled_call_leaves_no_connection_in_use() -> None:
    raw = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")  # and nothing of the body

    async def main(chat: ChatServer) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await chat.send(b"{}")
        raw.reply = framed(GOOD)
        assert isinstance(await one(chat), Good)

    sent(raw, main, concurrency=1)
    assert raw.connections == 2


@pytest.mark.parametrize(
    "reply",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"a": "b"}',
        b"\x00\x01 nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 17),
    ],
    ids=["cut", "nonsense", "bad chunk", "endless head"],
)
def test_a_reply_that_is_not_http_may_have_been_charged(reply: bytes) -> None:
    end = sent(Raw(reply, close=True), one)
    assert (end.reason, end.kind, end.unanswered) == ("the connection broke", "retry", True)


def test_a_compressed_reply_is_read() -> None:
    end = sent(Raw(framed(gzip.compress(GOOD), "content-encoding: gzip")), one)
    assert end.choices == (("x", "stop"),)


def test_a_name_that_nobody_has_was_not_sent() -> None:
    chat = ChatServer("m", Endpoint("http://no-such-host.invalid/v1", "none"), {"timeout": 5})
    end = asyncio.run(one(chat))
    assert isinstance(end, Failed)
    assert (end.reason, end.unreachable, end.unanswered) == ("no connection to the server", True, False)


def test_what_is_no_reply_of_the_protocol_is_shown() -> None:
    page = b"<html><body>Sign in to the hotel's network " + b"x" * 1000
    end = sent(Raw(framed(page, "content-type: text/html; charset=utf-8")), one)
    assert end.reason == "the reply was not of the protocol"
    assert end.detail.startswith("text/html; charset=utf-8: ")
    assert "Sign in to the hotel" in end.detail
    assert len(end.detail) < 300


# -- replies of status 200 that hold no answer


def choice(content: str | None = "x", finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    return {"message": message, "finish_reason": finish, **more}


def read(*choices: dict[str, Any]) -> Good | Failed:
    body = {"choices": list(choices), "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    try:
        return ChatServer("m", Endpoint("http://h/v1", "none"), {})._read(json.dumps(body).encode())
    except Failed as bad:
        return bad


CALLED = {"tool_calls": [{"function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("one", "reason", "kind", "detail"),
    [
        (
            choice("", "error", error={"message": "upstream broke", "code": 502}),
            "an error in place",
            "retry",
            "502: up",
        ),
        (choice("half an ans", error="overloaded"), "an error in place of the answer", "retry", "overloaded"),
        (choice("half an ans", "error"), "broke the answer off", "retry", ""),
        (choice("half an ans", "content_filter"), "a content filter withheld", "unusable", ""),
        (choice(None, message={"refusal": "I can't."}), "the model refused", "unusable", "I can't."),
        (choice("", message={"refusal": "I can't."}), "the model refused", "unusable", "I can't."),
        (choice(None, "tool_calls", message=CALLED), "called a tool", "unusable", ""),
        (choice(None), "the answer is missing", "unusable", ""),
        (choice(None, message={"reasoning_content": "hm"}), "only thoughts", "unusable", ""),
    ],
)
def test_a_reply_without_an_answer_fails_with_its_reason(
    one: dict[str, Any], reason: str, kind: str, detail: str
) -> None:
    end = read(one)
    assert isinstance(end, Failed)
    assert reason in end.reason
    assert (end.kind, end.tokens, end.unanswered) == (kind, (7, 3), False)
    assert end.detail.startswith(detail)


def test_what_else_comes_with_an_answer_does_no_harm() -> None:
    for one in (
        choice("x", None),
        choice("x", "eos"),
        choice("x", error=None),
        choice("x", message={"refusal": None, "tool_calls": [], "reasoning_content": "hm"}),
        choice("x", "tool_calls", message=CALLED),
    ):
        end = read(one)
        assert isinstance(end, Good)
        assert end.choices[0][0] == "x"
    assert read(choice("")) == Good((("", "stop"),), 7, 3)


def test_of_several_choices_the_good_ones_are_kept() -> None:
    end = read(choice("a"), choice("", "content_filter"), choice("b", "length"))
    assert end == Good((("a", "stop"), ("b", "length")), 7, 3, spoiled=1)


# -- proxies and certificates


def test_a_proxy_in_the_environment_is_used_but_never_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert proxy_for("http://model.example/v1") is None
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:3128")
    monkeypatch.setenv("no_proxy", "quiet.example, 10.0.0.0/8, fd00::/8")
    assert proxy_for("http://model.example/v1") == "http://me:secret@127.0.0.1:3128"
    assert proxy_for("https://model.example/v1") is None
    for near in ("localhost:8000", "127.0.0.1", "127.1.2.3:1", "[::1]:8", "quiet.example", "10.1.2.3:80"):
        assert proxy_for(f"http://{near}/v1") is None, near
    assert proxy_for("http://[fd00::7]/v1") is None
    assert proxy_for("http://11.1.2.3/v1") is not None


def test_a_call_goes_through_the_proxy_and_names_it_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Raw(framed(GOOD))

    async def through(chat: ChatServer) -> Good | Failed:
        monkeypatch.setenv("http_proxy", chat.endpoint.url.removesuffix("/v1"))
        far = ChatServer("m", Endpoint("http://model.example/v1", "none"), {"timeout": 5})
        try:
            return await one(far)
        finally:
            await far.aclose()

    assert isinstance(sent(raw, through), Good)
    assert raw.requests[0].startswith(b"POST http://model.example/v1/chat/completions HTTP/1.1\r\n")
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    end = asyncio.run(one(ChatServer("m", Endpoint("http://model.example/v1", "none"), {"timeout": 5})))
    assert isinstance(end, Failed)
    assert end.unreachable
    assert "through the proxy" in end.detail
    assert "127.0.0.1:9" in end.detail
    assert "secret" not in end.detail


def test_a_proxy_of_another_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    assert proxy_for("http://localhost:8000/v1") is None
    with pytest.raises(UsageError, match="socks5") as caught:
        open_client(Endpoint("https://model.example/v1", "none"), 4, 5.0)
    assert "NO_PROXY=model.example" in caught.value.hint


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file.pem")
    with pytest.raises(MissingError, match="SSL_CERT_FILE=/no/such/file"):
        open_client(Endpoint("https://model.example/v1", "none"), 4, 5.0)


def test_a_certificate_that_is_not_trusted_stops_the_job_at_once() -> None:
    import aiohttp
    from aiohttp.client_reqrep import ConnectionKey

    chat = ChatServer("m", Endpoint("https://model.example/v1", "none"), {})
    key = ConnectionKey("model.example", 443, True, True, None, None, None)
    cause = aiohttp.ClientConnectorCertificateError(key, ssl.SSLCertVerificationError("self-signed"))
    error = Exception()
    error.__cause__ = cause
    bad = chat._unsent(error)
    assert bad.kind == "fatal"
    assert "SSL_CERT_FILE" in chat.stop_error(bad).hint


# -- servers that take less than was asked


def asked(
    script: Callable[[dict[str, Any]], Reply | str], times: int = 1
) -> tuple[list[Any], list[Any], list[str]]:
    """The replies of a job of several calls, the bodies that the server saw, and what the user was told."""
    told: list[str] = []
    requests = [Request(({"role": "user", "content": f"q{n}"},), seed=n) for n in range(times)]
    with Stub(script) as stub:
        server = StandaloneServer("m", Endpoint(stub.url, "none"), {"timeout": 5, "concurrency": 1})
        server.say = told.append
        return server.generate(requests), stub.bodies, told


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("seed", "Unsupported parameter: 'seed' is not supported with this model."),
        ("temperature", "Unsupported value: 'temperature' does not support 0.2; only the default (1) value."),
        (
            "seed",
            "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted'}]",
        ),
    ],
)
def test_what_a_server_refuses_is_left_out_once_and_said(field: str, said: str) -> None:
    def script(body: dict[str, Any]) -> Reply | str:
        return Reply(status=400, message=said) if field in body else "fine"

    replies, bodies, told = asked(script, 3)
    assert [reply.text for reply in replies] == ["fine"] * 3
    assert [field in body for body in bodies] == [True, False, False, False]
    assert len(told) == 1
    assert f"refuses {field}, which is left out from now on ({said})" in told[0]


def test_a_value_that_a_server_does_not_like_is_the_users_affair() -> None:
    said = "temperature must be between 0 and 1"
    replies, bodies, told = asked(lambda body: Reply(status=400, message=said))
    assert (replies[0].error, len(bodies), told) == (f"HTTP 400: {said}", 1, [])


def events(*parts: dict[str, Any], end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts) + end


def delta(text: str, finish: str | None = None, name: str = "content", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {name: text}, "finish_reason": finish}], **more}


def test_a_server_that_answers_in_streams_only_is_asked_for_them() -> None:
    stream = events(
        delta("hm", name="reasoning_content"), delta("fi"), delta("ne", "stop", usage={"prompt_tokens": 7})
    )

    def script(body: dict[str, Any]) -> Reply:
        if not body.get("stream"):
            return Reply(status=400, message="This model only supports stream mode, please enable stream.")
        return Reply(body=stream)

    replies, bodies, told = asked(script, 2)
    assert [(one.text, one.completions[0].thought, one.usage.prompt_tokens) for one in replies] == [
        ("fine", "hm", 7)
    ] * 2
    assert [body.get("stream") for body in bodies] == [None, True, True]
    assert len(told) == 1
    assert "streams only" in told[0]


def test_a_stream_that_nobody_asked_for_is_read_and_one_that_breaks_off_is_none() -> None:
    def read_of(content: bytes) -> Good:
        return ChatServer("m", Endpoint("http://h/v1", "none"), {})._read(content, "text/event-stream")

    assert read_of(events(delta("a"), delta("b", "length"))).choices == (("ab", "length"),)
    for content in (events(delta("a"), end=b""), b"data: {", b"data: 1\n\ndata: [DONE]"):
        with pytest.raises(Failed, match="not of the protocol"):
            read_of(content)
    with pytest.raises(Failed, match="HTTP 502"):
        read_of(events({"error": {"message": "upstream"}}))
