"""A lean HTTP/1.1 transport for the SDK's client: a write and a read a call, connections that stay open.

The client's own pool goes through all of its connections for every request, which at 256 of them costs
milliseconds a call. This one serves plain HTTP, as servers of one's own speak it; for https, and where the environment
names a proxy, the client's own transport is used.
"""

from __future__ import annotations

import asyncio
import select
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import httpx2

IDLE = 4.0
"""Seconds that a connection is kept without use. Common servers close theirs after five."""
MOST_HEAD, MOST_BODY = 1 << 16, 1 << 28
"""Bytes of a reply's head and body at most."""
_CONNECT = 30.0


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.since = 0.0
        """When it was last used."""
        self._reply: asyncio.Future[httpx2.Response] | None = None
        self._start()

    def _start(self) -> None:
        self._buffer = bytearray()
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._length: int | None = None
        """Bytes of the body; None where the connection's end is its end."""
        self._chunked = self._close = False
        self._body = bytearray()

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self.transport is not None and not self.transport.is_closing() and not self._close

    @property
    def silent(self) -> bool:
        """Whether the server has said nothing unasked, such as that it has closed the connection.

        The loop may not have seen that yet; the socket has.
        """
        socket = self.transport.get_extra_info("socket") if self.transport is not None else None
        if socket is None or socket.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    async def send(self, data: bytes) -> httpx2.Response:
        """Send a request and wait for the whole reply. Raises httpx2's errors."""
        assert self.transport is not None
        self._start()
        self._reply = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        try:
            return await self._reply
        except BaseException:
            self.transport.abort()
            raise
        finally:
            self._reply = None

    # -- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._reply is None or self._reply.done():  # nothing was asked: the server says good-bye
            self._close = True
            return
        self._buffer += data
        try:
            if (self._status or self._read_head()) and self._read_body():
                self._finish()
        except (ValueError, IndexError):
            self._fail(httpx2.RemoteProtocolError("the server's reply is not HTTP"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._close = True
        if self._reply is None or self._reply.done():
            return
        if self._status and self._length is None and not self._chunked and exc is None:
            self._body += self._buffer
            self._finish()
        elif exc is not None:
            self._fail(httpx2.ReadError(str(exc) or type(exc).__name__))
        else:
            self._fail(
                httpx2.RemoteProtocolError("the server closed the connection before its reply was whole")
            )

    # -- reading a reply

    def _read_head(self) -> bool:
        """Parse the status and headers, if they are there in full."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MOST_HEAD:
                raise ValueError("too long a head")
            return False
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        version, status = first.split(b" ", 2)[:2]
        if not version.startswith(b"HTTP/1."):
            raise ValueError("another protocol")
        code = int(status)
        if 100 <= code < 200:
            return self._read_head()
        self._status = code
        self._close = version == b"HTTP/1.0"
        for line in lines:
            name, _, value = line.partition(b":")
            name, value = name.strip(), value.strip()
            self._headers.append((name, value))
            lower = name.lower()
            if lower == b"content-length":
                self._length = int(value)
            elif lower == b"transfer-encoding":
                self._chunked = value.lower().endswith(b"chunked")
            elif lower == b"connection":
                self._close = value.lower() == b"close"
        if code in (204, 304):
            self._length = 0
        return True

    def _read_body(self) -> bool:
        """Move what has come into the body; whether it is whole."""
        if len(self._buffer) + len(self._body) > MOST_BODY:
            raise ValueError("too long a body")
        if self._chunked:
            return self._read_chunks()
        if self._length is None:
            return False
        if len(self._buffer) < self._length:
            return False
        self._body += self._buffer[: self._length]
        del self._buffer[: self._length]
        return True

    def _read_chunks(self) -> bool:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
            if size == 0:
                return self._buffer.find(b"\r\n\r\n") >= 0 or self._buffer.startswith(b"0\r\n\r\n")
            if len(self._buffer) < end + 2 + size + 2:
                return False
            self._body += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 2 + size + 2]
        return False

    def _finish(self) -> None:
        assert self._reply is not None
        if not self._reply.done():
            body = httpx2.ByteStream(bytes(self._body))
            self._reply.set_result(httpx2.Response(self._status, headers=self._headers, stream=body))

    def _fail(self, error: Exception) -> None:
        self._close = True
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)


class Wire(httpx2.AsyncBaseTransport):
    """Opens connections as they are needed and keeps them for the next call; how many is up to its user."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[Connection]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        if url.scheme != "http":
            raise httpx2.UnsupportedProtocol(f"{url.scheme}: only plain HTTP")
        place = url.host, url.port or 80
        data = _head(request) + await request.aread()
        idle = self._idle.setdefault(place, [])
        connection = self._kept(idle) or await self._connect(place)
        response = await connection.send(data)
        if connection.usable:
            connection.since = asyncio.get_running_loop().time()
            idle.append(connection)
        elif connection.transport is not None:
            connection.transport.close()
        return response

    def _kept(self, idle: list[Connection]) -> Connection | None:
        """The connection used last, if it still stands; those that have waited too long are closed."""
        now = asyncio.get_running_loop().time()
        while idle:
            connection = idle.pop()
            if connection.usable and now - connection.since < IDLE and connection.silent:
                return connection
            if connection.transport is not None:
                connection.transport.close()
        return None

    async def _connect(self, place: tuple[str, int]) -> Connection:
        host, port = place
        try:
            async with asyncio.timeout(_CONNECT):
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection,
                    host,
                    port,
                    happy_eyeballs_delay=0.25,
                )
        except TimeoutError:
            raise httpx2.ConnectTimeout(f"no connection within {_CONNECT:g} s") from None
        except (OSError, UnicodeError) as bad:
            raise httpx2.ConnectError(str(bad) or type(bad).__name__) from bad
        return connection

    async def aclose(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                if connection.transport is not None:
                    connection.transport.close()
            idle.clear()
        await asyncio.sleep(0)


def _head(request: httpx2.Request) -> bytes:
    lines = [request.method.encode("ascii") + b" " + request.url.raw_path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers.raw]
    if any(b"\n" in line or b"\r" in line for line in lines):
        raise httpx2.LocalProtocolError("a header holds a line break")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def open_http(url: str, connections: int) -> Any:
    """An HTTP client for so many calls at a time; through a proxy where the environment names one for the URL."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxied = (parts.scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(
        parts.hostname or ""
    )
    if parts.scheme == "http" and not proxied:
        return httpx2.AsyncClient(transport=Wire(), follow_redirects=False)
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx2.AsyncClient(limits=limits, follow_redirects=False)
