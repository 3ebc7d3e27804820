"""A scripted server that speaks the chat completions protocol, on loopback, in a thread of its own.

    with Stub(lambda body: "[[7]]") as stub:
        Service(folder, Calling(base_url=stub.url), ctx)

The script gets each request's body and says what comes back: a text, a list of texts, or a `Reply` with any fault.
Run as a program it serves fixed texts after a fixed latency, for benchmarks and for jobs that are killed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

PHRASES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass(frozen=True)
class Reply:
    """What the stub does with a request; by default it answers well."""

    texts: Sequence[str] | str = "ok"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    hang: bool = False
    """Never answer: the client has to give up."""
    drop: bool = False
    """Close the connection without an answer."""
    cut: int | None = None
    """Send so many bytes of the body and call it whole."""
    finish: str = "stop"
    usage: tuple[int, int] | None = None
    body: bytes | None = None
    """The raw body in place of a completion."""
    message: str = "scripted"
    """What an error says."""

    @property
    def good(self) -> bool:
        """Whether a client can use it, so that asking again would be paying twice."""
        bad = self.status != 200 or self.hang or self.drop or self.cut is not None or self.body is not None
        return not bad and bool(self.texts or isinstance(self.texts, str))


Script = Callable[[dict[str, Any]], Reply | str | Sequence[str]]


def prompt_of(body: Mapping[str, Any]) -> str:
    """The last message's text."""
    return str(body["messages"][-1]["content"])


def completion(body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """The body of a good answer: one text is repeated as often as asked, a list is sent as it is."""
    texts = [reply.texts] * int(body.get("n") or 1) if isinstance(reply.texts, str) else list(reply.texts)
    words = sum(len(str(m["content"]).split()) for m in body["messages"])
    spent = reply.usage or (words, sum(len(t.split()) for t in texts))
    return {
        "id": "stub",
        "object": "chat.completion",
        "created": 0,
        "model": body.get("model"),
        "choices": [
            {
                "index": i,
                "message": {"role": "assistant", "content": text},
                "finish_reason": reply.finish,
                "logprobs": None,
            }
            for i, text in enumerate(texts)
        ],
        "usage": {
            "prompt_tokens": spent[0],
            "completion_tokens": spent[1],
            "total_tokens": sum(spent),
        },
    }


class Server:
    """The protocol on one event loop, and what it has seen."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        """Every request's body, in order of arrival."""
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.good: Counter[str] = Counter()
        """Usable answers sent in full, by the request's body as JSON: nothing here should exceed 1."""
        self.in_flight = self.most_in_flight = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> int:
        return len(self.bodies)

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=1024, limit=1 << 26)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        with contextlib.suppress(ConnectionError, RuntimeError):
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        if " /v1/chat/completions" not in first:
            self._send(writer, 404, {}, b'{"error": {"message": "no such path"}}')
            return True
        body = json.loads(raw)
        self.bodies.append(body)
        self.headers.append(headers)
        self.times.append(time.monotonic())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            said = self.script(body)
            reply = said if isinstance(said, Reply) else Reply(said)
            if reply.delay:
                await asyncio.sleep(reply.delay)
            if reply.hang:
                await reader.read()  # until the client goes
                return False
            if reply.drop:
                return False
            if reply.status != 200:
                answer = json.dumps({"error": {"message": reply.message, "type": "scripted"}}).encode()
            else:
                answer = json.dumps(completion(body, reply)).encode()
            answer = reply.body if reply.body is not None else answer
            answer = answer[: reply.cut] if reply.cut is not None else answer
            if reply.good:
                self.good[json.dumps(body, sort_keys=True)] += 1
            self._send(writer, reply.status, reply.headers, answer)
            await writer.drain()
            return True
        finally:
            self.in_flight -= 1

    def _send(
        self, writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        lines = [f"HTTP/1.1 {status} {PHRASES.get(status, 'Status')}", "content-type: application/json"]
        lines += [f"{k}: {v}" for k, v in headers.items()] + [f"content-length: {len(body)}", "", ""]
        writer.write("\r\n".join(lines).encode() + body)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()


class Stub(Server):
    """The server in a thread, as a context manager."""

    def __init__(self, script: Script, port: int = 0) -> None:
        super().__init__(script)
        self._wanted = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._ready = threading.Event()

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.start(self._wanted))
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def __enter__(self) -> Stub:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


def main() -> None:
    """Serve until killed; the first line of output is the URL."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--latency", type=float, default=0.0)
    made.add_argument("--text", default="[[7]]")
    made.add_argument("--log", help="file that gets a line for each good answer: the request's prompt")
    options = made.parse_args()

    async def serve() -> None:
        log = open(options.log, "a", encoding="utf-8", buffering=1) if options.log else None  # noqa: SIM115

        def script(body: dict[str, Any]) -> Reply:
            if log is not None:
                log.write(json.dumps([prompt_of(body), body.get("seed")]) + "\n")
            return Reply(options.text, delay=options.latency)

        server = Server(script)
        await server.start()
        print(server.url, flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
