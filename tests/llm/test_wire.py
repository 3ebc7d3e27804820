"""The lean transport against a raw socket: every way to frame a reply, in pieces of any size, and broken ones."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Coroutine
from typing import Any

import httpx2
import pytest

from lcx.llm.wire import Wire, open_http

GZIPPED = gzip.compress(b'{"a": "b"}')
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX-Odd:  two words \r\n\r\n" + b'{"a": "b"}'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b'4\r\n{"a"\r\n6;name=x\r\n: "b"}\r\n0\r\nTrailer: 1\r\n\r\n'
)
PLAIN_CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n{"a": "b"}\r\n0\r\n\r\n'
UNTIL_CLOSE = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"a": "b"}'
OLD = b'HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n{"a": "b"}'
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH
SMALL = (
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: "
    + str(len(GZIPPED)).encode()
    + b"\r\n\r\n"
    + GZIPPED
)
CLOSES = {UNTIL_CLOSE, OLD}


class Raw:
    """A server that sends given bytes, so many at a time, and notes the requests."""

    def __init__(self, reply: bytes, piece: int, close: bool) -> None:
        self.reply, self.piece, self.close = reply, piece, close
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                for start in range(0, len(self.reply), self.piece):
                    writer.write(self.reply[start : start + self.piece])
                    await writer.drain()
                    if self.piece < 100:
                        await asyncio.sleep(0)
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


def against(
    reply: bytes, main: Callable[[httpx2.AsyncClient, Raw], Coroutine[Any, Any, None]], piece: int = 1 << 20
) -> Raw:
    raw = Raw(reply, piece, reply in CLOSES or b"Content-Length: 99" in reply)

    async def run() -> None:
        server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
        raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/x?y=1"
        async with httpx2.AsyncClient(transport=Wire(), timeout=5) as client:
            await main(client, raw)
        server.close()

    asyncio.run(run())
    return raw


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "reply",
    [LENGTH, CHUNKED, PLAIN_CHUNKED, UNTIL_CLOSE, OLD, EARLY, SMALL],
    ids=["length", "chunked", "plain chunks", "until close", "HTTP/1.0", "early hints", "gzip"],
)
def test_every_framing_gives_the_same_body(reply: bytes, piece: int) -> None:
    async def main(client: httpx2.AsyncClient, raw: Raw) -> None:
        for _ in range(3):
            answer = await client.post(raw.url, content="中文".encode())
            assert (answer.status_code, answer.json()) == (200, {"a": "b"})

    raw = against(reply, main, piece)
    assert raw.connections == (3 if reply in CLOSES else 1)
    assert len(raw.requests) == 3
    for request in raw.requests:
        assert request.startswith(b"POST /v1/x?y=1 HTTP/1.1\r\n")
        assert request.endswith(b"\r\n\r\n" + "中文".encode())
        assert b"host: 127.0.0.1:" in request.lower()


@pytest.mark.parametrize(
    "reply",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"a": "b"}',
        b"HTTP/2 200\r\n\r\n",
        b"\x00\x01 nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 17),
    ],
    ids=["cut", "another protocol", "nonsense", "bad chunk", "endless head"],
)
def test_a_broken_reply_is_an_error_of_the_client(reply: bytes) -> None:
    async def main(client: httpx2.AsyncClient, raw: Raw) -> None:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.post(raw.url, content=b"x")

    against(reply, main)


def test_calls_at_the_same_time_have_connections_of_their_own_and_reuse_them() -> None:
    async def main(client: httpx2.AsyncClient, raw: Raw) -> None:
        for _ in range(3):
            answers = await asyncio.gather(*(client.post(raw.url, content=b"x") for _ in range(20)))
            assert all(answer.json() == {"a": "b"} for answer in answers)

    assert against(LENGTH, main).connections <= 20


def test_a_cancelled_call_leaves_no_connection_in_use() -> None:
    async def main(client: httpx2.AsyncClient, raw: Raw) -> None:
        raw.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"  # and nothing of the body
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.post(raw.url, content=b"x")
        raw.reply = LENGTH
        assert (await client.post(raw.url, content=b"x")).json() == {"a": "b"}

    assert against(LENGTH, main).connections == 2


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async def main(client: httpx2.AsyncClient, raw: Raw) -> None:
        raw.close = True
        for _ in range(3):
            # The socket knows of the connection's end before the loop does.
            assert (await client.post(raw.url, content=b"x")).json() == {"a": "b"}

    assert against(LENGTH, main).connections == 3


def test_no_server_is_a_connection_error() -> None:
    async def main() -> None:
        async with httpx2.AsyncClient(transport=Wire()) as client:
            with pytest.raises(httpx2.ConnectError):
                await client.post("http://127.0.0.1:9/v1", content=b"x")
            with pytest.raises(httpx2.ConnectError):
                await client.post("http://no-such-host.invalid/v1", content=b"x")

    asyncio.run(main())


def test_a_line_break_in_a_header_is_refused() -> None:
    async def main(client: httpx2.AsyncClient, raw: Raw) -> None:
        with pytest.raises(httpx2.LocalProtocolError):
            await client.post(raw.url, content=b"x", headers={"x-a": "b\r\nx-c: d"})

    assert not against(LENGTH, main).requests


def test_a_proxy_in_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert isinstance(open_http("http://model.example/v1", 4)._transport, Wire)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:3128")
    monkeypatch.setenv("no_proxy", "localhost")
    assert not isinstance(open_http("http://model.example/v1", 4)._transport, Wire)
    assert isinstance(open_http("http://localhost:8000/v1", 4)._transport, Wire)
