"""`openai:MODEL`: one call over HTTP to a server that speaks the chat completions protocol, and what came of it.

The openai SDK makes the request over its aiohttp transport, whose cost a call does not grow with the number of open
connections; retries, limits and the ledger are lcx's own (`lcx.llm.scheduler`). Nothing of the SDK is imported before
the first call: a dry run checks URLs and keys with what is here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import select
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm.limits import retry_after
from lcx.llm.protocol import Request
from lcx.settings import DEFAULT_SOURCE

HOSTED = "https://api.openai.com/v1"
KEY = DEFAULT_SOURCE
WITHHELD = (
    "Where a recipe or an lcx.toml names the server or its key, no key is sent until you name both: "
    "--base-url URL --set STEP.api_key_env=NAME"
)
NO_KEY = "none"
"""The key that is sent to a server of one's own, which asks for none."""
OPTIONS = ("api_key_env", "api_key_file", "base_url", "concurrency", "extra", "omit", "timeout")
MOST_MESSAGE = 300
"""Characters of a server's error that are kept."""
MOST_SHOWN = 200
"""Characters that are shown of a reply that is not of the protocol."""
IDLE = 4.0
"""Seconds that a connection is kept open without use. Common servers close theirs after five."""
CONNECT = 30.0
"""Seconds within which a connection must be open."""
RETRY, UNUSABLE, FINAL, FATAL = "retry", "unusable", "final", "fatal"
"""What a failed try means: send the call again; give this sample up (another one may do); give the prompt up; stop the
job.
"""
LIKE = "--base-url http://localhost:8000/v1"
_NEWER = "max_completion_tokens"
_UNREACHABLE = "no connection to the server"
_UNTRUSTED = "the certificate is not trusted"
_NOT_OF_PROTOCOL = "the reply was not of the protocol"
_HEAD = 1000
"""Bytes of a body among which its parameters are: the messages come last."""
_LEAVABLE = ("temperature", "top_p", "seed", "stop")
"""Parameters that are left out where a server does not know them. A value that it does not like stays."""
_UNKNOWN = re.compile(
    r"(?:un|not |n't |no longer )(?:support|known|recogni[sz]ed|expected|permitted|allowed|available|accepted)"
    r"|extra (?:inputs|fields|parameters)|additional propert|only the default"
    r"|(?:invalid|bad) (?:field|parameter|argument)",
    re.I,
)
_STREAM_ONLY = re.compile(
    r"stream\W{1,3}(?:must|should|has to|needs to|is required|=?true)|(?:only|requires?) [^.]{0,40}stream",
    re.I,
)
_WAITED = frozenset({408, 409, 425, 429})
_REFUSED_KEY = frozenset({401, 402, 403})
_WRONG_PLACE = frozenset({404, 405, 410})
_ELSEWHERE = frozenset({301, 302, 303, 307, 308})
_MOST_TOKENS = 2**40
"""A count of tokens that no reply has."""


# -- keys and URLs

GONE = "[key]"
_SHAPES = re.compile(
    r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=*-]{4,}"
    r"|\b(?:sk|pk|rk|hf|gsk|xai|nvapi|key)[-_][A-Za-z0-9_*-]{6,}"
    r"|(?<=api[_-]key)[\"']?\s*[:=]\s*[\"']?[^\s\"'&]{4,}"
)
_LEAST = 8
_SHORT = 6
"""Signs below which a key is none (EMPTY, x): taken out of errors, it would leave words that nobody can read."""
"""Characters of a key whose beginning or end is replaced too."""


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """The text without the given secrets and without anything that has a key's shape.

    Servers repeat keys in their errors, cut or whole, and errors are written into journals and shown.
    """
    for secret in secrets:
        if len(secret) >= _SHORT:
            text = text.replace(secret, GONE)
            if len(secret) >= 2 * _LEAST:  # some servers show the first and last characters
                text = text.replace(secret[:_LEAST], GONE).replace(secret[-_LEAST:], GONE)
    return _SHAPES.sub(GONE, text)


def wrong_url(url: str) -> tuple[str, str]:
    """What is wrong with a base_url, and what to do about it; two empty texts where nothing is wrong."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises for what is no number, or too large a one
    except ValueError as bad:
        return f"base_url '{_shown(url)}' is no URL: {_shown(str(bad))}", LIKE
    if parts.username is not None or parts.password is not None:
        return (
            "base_url holds a name or password, which would be written into the step's settings",
            f"--set api_key_file=FILE or api_key_env=NAME for the key; {LIKE}",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"base_url '{_shown(url)}' is no URL", LIKE
    if "?" in text or "#" in text:
        return f"base_url '{_shown(url)}' has a query or fragment", f"Leave out what follows the path: {LIKE}"
    return "", ""


def _shown(text: str) -> str:
    """The text without what may be secret: what stands before an @, and what follows a question mark."""
    head, at, tail = text.rpartition("@")
    text = head.partition("://")[0] + "://[key]@" + tail if at and "://" in head else tail
    return redact(text.partition("?")[0])


@dataclass(frozen=True)
class Endpoint:
    """The URL under which a server speaks the protocol, and the key that it gets."""

    url: str
    key: str = field(repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be written anywhere: the key, and a password in the URL."""
        password = urlsplit(self.url).password
        return tuple(one for one in (self.key if self.key != NO_KEY else None, password) if one)

    @property
    def shown(self) -> str:
        """The URL as it may be written: without a user's name and password, and without a query."""
        parts = urlsplit(self.url)
        return redact(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", self.secrets)


def find_endpoint(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Endpoint:
    """The endpoint that options and the environment give. Raises MissingError where a key is needed and not there.

    A server of one's own (any `base_url`) needs none. A bare host gets `/v1`, where such servers have the protocol.
    """
    known = os.environ if environ is None else environ
    given = str(options.get("base_url") or known.get("OPENAI_BASE_URL") or "").strip()
    return Endpoint(_full(given) if given else HOSTED, _key(options, known, needed=not given))


def _full(url: str) -> str:
    wrong, hint = wrong_url(url)
    if wrong:
        raise UsageError(wrong, hint=hint)
    text = (url if "://" in url else f"http://{url}").rstrip("/")
    for ending in ("/chat/completions", "/completions"):
        text = text.removesuffix(ending)
    return text if urlsplit(text).path.strip("/") else f"{text}/v1"


def _key(options: Mapping[str, Any], environ: Mapping[str, str], *, needed: bool) -> str:
    file, name = options.get("api_key_file"), str(options.get("api_key_env") or KEY)
    if options.get("api_key_env") == "" and not file:  # none is to be sent
        if needed:
            raise MissingError("the hosted service wants a key, and api_key_env is empty", hint=WITHHELD)
        return NO_KEY
    if file:
        path = Path(str(file)).expanduser()
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as bad:
            raise MissingError(
                f"cannot read the key from '{redact(str(path))}'",
                why=type(bad).__name__ if isinstance(bad, ValueError) else str(bad.strerror),
                hint="--set api_key_file=FILE, a file with nothing but the key",
            ) from None
        where = f"the file '{path}'"
    else:
        key, where = environ.get(name, "").strip(), f"the variable {name}"
    if not key and not file and name == KEY and not needed:
        return NO_KEY
    if not key:
        raise MissingError(
            f"there is no key for the model's server in {where}",
            hint=f"export {name}=..., or --set api_key_file=FILE; a server of your own needs none: "
            "--base-url http://localhost:8000/v1",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"what {where} holds is no key", why="it has characters that no header can carry")
    return key


# -- proxies and certificates


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL (`HTTPS_PROXY`, `ALL_PROXY` ...); None for no proxy.

    This machine itself is never asked through one, nor are the hosts and networks (`10.0.0.0/8`) of `NO_PROXY`.
    Raises UsageError for a kind of proxy that the transport does not know, such as SOCKS.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or is_loopback(host) or _bypassed(host, parts.port, proxies.get("no", "")):
        return None
    text = found if "://" in found else f"http://{found}"
    kind = urlsplit(text).scheme
    if kind not in ("http", "https"):
        raise UsageError(
            f"the proxy {_shown(found)} is of a kind that calls cannot go through: {kind}",
            why=f"It stands in {parts.scheme.upper()}_PROXY or ALL_PROXY.",
            hint=f"Set {parts.scheme.upper()}_PROXY to an http:// proxy, or NO_PROXY={host} to go without one.",
        )
    return text


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bypassed(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether `NO_PROXY` lists a host by name, by suffix, or by a network that its address is in."""
    if urllib.request.proxy_bypass(host if port is None else f"{host}:{port}"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in no_proxy.split(","):
        try:
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False


def _certificates(url: str) -> Any:
    """The certificates that a server's is checked against. Raises MissingError where SSL_CERT_FILE cannot be used."""
    import ssl

    if urlsplit(url).scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # of no use, and quick: none are read
    import httpx2

    try:
        return httpx2.create_ssl_context()
    except (OSError, ssl.SSLError) as bad:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        where = f"{names[0]}={os.environ[names[0]]}" if names else "this machine"
        raise MissingError(
            f"no certificates can be read from {where}", why=str(bad), hint="Mend or unset the variable."
        ) from None


# -- one call


class Failed(Exception):
    """One try came to nothing. `kind` says what to do: see RETRY, UNUSABLE, FINAL, FATAL."""

    def __init__(
        self,
        reason: str,
        kind: str = RETRY,
        *,
        detail: str = "",
        status: int = 0,
        pause: float | None = None,
        unreachable: bool = False,
        tokens: tuple[int, int] = (0, 0),
        unanswered: bool = False,
    ) -> None:
        """`unanswered` says that the request was sent and no reply came: the server may have done and charged it."""
        super().__init__(reason)
        self.reason, self.kind, self.detail, self.status = reason, kind, _valid(detail), status
        self.pause, self.unreachable, self.tokens = pause, unreachable, tokens
        self.unanswered = unanswered


@dataclass(frozen=True)
class Good:
    """A usable reply: its choices as a ledger's `Row` has them, and the tokens that the server counted.

    `spoiled` counts choices that the server sent and that hold no answer (an error, a refusal): they are asked again.
    """

    choices: tuple[tuple[str, ...], ...]
    prompt_tokens: int
    completion_tokens: int
    spoiled: int = 0


def parameters_of(request: Request, sample: int = 0, count: int | None = None) -> dict[str, Any]:
    """The request's parameters as the protocol names them. A later sample asked for alone has a seed of its own."""
    count = request.n if count is None else count
    found: dict[str, Any] = {"temperature": request.temperature, "max_tokens": request.max_tokens}
    if request.top_p != 1.0:
        found["top_p"] = request.top_p
    if count != 1:
        found["n"] = count
    if request.stop:
        found["stop"] = list(request.stop)
    found["seed"] = request.seed + sample
    return found


class ChatServer:
    """A model at an endpoint: `send` makes one try. When and how often is the scheduler's affair."""

    def __init__(self, model: str, endpoint: Endpoint, options: Mapping[str, Any]) -> None:
        self.model, self.endpoint = model, endpoint
        self.concurrency = int(options.get("concurrency", 64))
        self.timeout = float(options.get("timeout", 600.0))
        self.extra: dict[str, Any] = dict(options.get("extra") or {})
        self.omit = frozenset(options.get("omit") or ())
        self._client: Any = None
        self._length = "max_tokens"
        """What the server calls the limit of a reply: newer hosted models know the newer name only."""
        self.left_out: set[str] = set()
        """Parameters that the server has refused. What a call is known by does not change with them."""
        self._stream = False
        """Whether the server answers in streams only."""
        self.say: Callable[[str], None] = lambda text: None
        """Tells the user what is done otherwise than asked."""

    def describe(self) -> dict[str, Any]:
        return {"backend": "openai", "model": self.model, "base_url": self.endpoint.shown}

    def close(self) -> None:
        self._client = None

    async def aclose(self) -> None:
        """Close the connections, on the loop that used them."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    def body(self, request: Request, messages: bytes, sample: int, count: int) -> bytes:
        """The call's body. `messages` are JSON already."""
        values = parameters_of(request, sample, count)
        if self._length != "max_tokens":
            values[self._length] = values.pop("max_tokens")
        values = {k: v for k, v in values.items() if k not in self.omit | self.left_out} | self.extra
        if self._stream:
            values["stream"] = True
        head = json.dumps({"model": self.model, **values})
        return b"".join((head[:-1].encode(), b', "messages": ', messages, b"}"))

    async def send(self, body: bytes) -> Good:
        """One try. Raises Failed."""
        import aiohttp
        import openai

        if self._client is None:
            self._client = open_client(self.endpoint, self.concurrency, self.timeout)
        try:
            async with asyncio.timeout(self.timeout):
                answer = await self._client.post(
                    "/chat/completions",
                    cast_to=type(self._client).raw_response,
                    content=body,
                    options={"headers": {"Content-Type": "application/json"}},
                )
        except openai.APIStatusError as bad:
            failed = self._status(bad.status_code, bad.response.headers, bad.response.content)
            if failed.kind == FINAL and self._adapts(failed.detail, body[:_HEAD]):
                failed.kind = RETRY
            raise failed from None
        except (TimeoutError, openai.APIConnectionError, aiohttp.ClientError) as bad:
            raise self._unsent(bad) from None
        return self._read(answer.content, answer.headers.get("content-type", ""))

    def _adapts(self, said: str, head: bytes) -> bool:
        """Whether a refused call can be sent again in a form that the server takes; its own sentence tells which."""
        if _NEWER in said and b'"max_tokens"' in head:
            self._length = _NEWER
            return True
        if _STREAM_ONLY.search(said) and b'"stream": true' not in head:
            if not self._stream:
                self.say(f"{self.endpoint.shown} answers in streams only, so it is asked for them ({said})")
            self._stream = True
            return True
        names = [
            name for name in refused_fields(said) if f'"{name}":'.encode() in head and name not in self.extra
        ]
        for name in names:
            if name not in self.left_out:
                self.say(f"{self.endpoint.shown} refuses {name}, which is left out from now on ({said})")
                self.left_out.add(name)
        return bool(names)

    def _unsent(self, bad: Exception) -> Failed:
        """What an error of the connection means.

        The transport's own error is looked at, since the SDK's says too little: it calls every broken connection a
        timeout, and what was sent may have been done and charged.
        """
        import aiohttp

        cause: BaseException = bad
        while cause.__cause__ is not None and not isinstance(cause, aiohttp.ClientError | TimeoutError):
            cause = cause.__cause__
        said = redact(f"{type(cause).__name__}: {cause}", self.endpoint.secrets)[:MOST_MESSAGE]
        if isinstance(cause, aiohttp.ConnectionTimeoutError):
            return Failed(_UNREACHABLE, detail="no connection in time" + self._through(), unreachable=True)
        if isinstance(cause, TimeoutError):
            return Failed("no reply within the timeout", detail=f"{self.timeout:g} s", unanswered=True)
        if isinstance(cause, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
            return Failed(_UNTRUSTED, FATAL, detail=said)
        if isinstance(
            cause, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError | aiohttp.InvalidURL
        ):
            return Failed(_UNREACHABLE, detail=said + self._through(), unreachable=True)
        sent = isinstance(cause, aiohttp.ClientError | OSError)
        return Failed("the connection broke", detail=said, unanswered=sent)

    def _through(self) -> str:
        proxy = proxy_for(self.endpoint.url)
        return f" (through the proxy {_shown(proxy)})" if proxy else ""

    def _read(self, content: bytes, kind: str = "") -> Good:
        """The choices in a reply of status 200. Raises Failed for one that holds none that is an answer."""
        try:
            data = json.loads(content) if not content.startswith(b"data:") else _unstreamed(content)
            if isinstance(
                data.get("error"), Mapping
            ):  # some gateways report a failure behind with status 200
                code = data["error"].get("code")
                raise self._status(code if isinstance(code, int) else 502, {}, content)
            usage = data.get("usage") or {}
            spent = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            if not all(0 <= count < _MOST_TOKENS for count in spent):
                raise ValueError("no count of tokens")
            read = [self._choice(one) for one in data.get("choices") or ()]
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError, OverflowError):
            start = content[: 4 * MOST_SHOWN].decode("utf-8", "replace")[:MOST_SHOWN]
            shown = redact(f"{kind or 'no content type'}: {start!r}", self.endpoint.secrets)
            raise Failed(_NOT_OF_PROTOCOL, detail=shown) from None
        good = tuple(one for one in read if not isinstance(one, Failed))
        if good:
            return Good(good, *spent, spoiled=len(read) - len(good))
        for bad in read:
            assert isinstance(bad, Failed)
            bad.tokens = spent
            raise bad
        raise Failed("the reply had no choices", tokens=spent)

    def _choice(self, choice: Mapping[str, Any]) -> tuple[str, ...] | Failed:
        """A choice's text, finish reason and thought, if any, or why it is no answer though the status is 200.

        A text that the length limit ended may be empty: the limit was spent on thoughts. That is an answer of sorts,
        which asking again would repeat.
        """
        finish = _valid(str(choice.get("finish_reason") or "stop"))
        if error := choice.get("error"):
            code = error.get("code") if isinstance(error, Mapping) else None
            said = _message(json.dumps({"error": error}).encode())[0]
            detail = redact(said, self.endpoint.secrets)[:MOST_MESSAGE]
            return Failed("an error in place of the answer", detail=f"{code}: {detail}" if code else detail)
        if finish == "error":
            return Failed("the server broke the answer off with an error")
        message = choice["message"]
        content = message.get("content")
        text = _text(content)
        if finish == "content_filter":
            return Failed("a content filter withheld the answer", UNUSABLE)
        if not text and (refusal := message.get("refusal")):
            detail = redact(str(refusal), self.endpoint.secrets)[:MOST_MESSAGE]
            return Failed("the model refused", UNUSABLE, detail=detail)
        if not text and (message.get("tool_calls") or message.get("function_call")):
            return Failed("the model called a tool in place of answering", UNUSABLE)
        told = (message.get(name) for name in ("reasoning_content", "reasoning"))
        thought = next((_valid(one) for one in told if one and isinstance(one, str)), "")
        if content is None and finish != "length":
            if thought:
                where = "all of its text is in reasoning_content"
                return Failed("only thoughts, and no answer", UNUSABLE, detail=where)
            return Failed("the answer is missing", UNUSABLE)
        return (text, finish, thought) if thought else (text, finish)

    def _status(self, status: int, headers: Mapping[str, str], content: bytes) -> Failed:
        message, code = _message(content)
        lower = {k.lower(): v for k, v in headers.items()}
        if status in _ELSEWHERE:
            message = f"it sends calls to {lower.get('location') or 'another place'}"
        detail = redact(message, self.endpoint.secrets)[:MOST_MESSAGE]
        asked = retry_after(lower)
        if status in _REFUSED_KEY | _WRONG_PLACE | _ELSEWHERE or (
            status == 429 and code == "insufficient_quota"
        ):
            kind = FATAL
        elif status in _WAITED or status >= 500:
            kind = RETRY
        else:
            kind = FINAL
        return Failed(f"HTTP {status}", kind, detail=detail, status=status, pause=asked)

    def stop_error(self, failed: Failed) -> LcxError:
        """The error that ends a job which no further call can help."""
        where = self.endpoint.shown
        why = ": ".join(part for part in (failed.reason, failed.detail) if part)
        kept = "Every reply so far is kept: the same command goes on."
        if failed.status in _WRONG_PLACE:
            return MissingError(
                f"{where} does not serve the model '{self.model}'",
                why=why,
                hint=f"`curl {where}/models` lists what it serves; check --base-url and the name after openai:. {kept}",
            )
        if failed.status in _ELSEWHERE:
            return UsageError(
                f"{where} does not take calls itself",
                why=why,
                hint=f"Give that address: --base-url URL, without /chat/completions. {kept}",
            )
        if failed.kind == FATAL and failed.status in (402, 429):
            return LcxError(f"{where} wants payment", why=why, hint=f"Top up the account. {kept}")
        if failed.reason == _UNTRUSTED:
            return MissingError(
                f"{where} shows a certificate that this machine does not trust",
                why=why,
                hint=f"SSL_CERT_FILE=FILE names the authority that signed it; or http:// in --base-url. {kept}",
            )
        if failed.kind == FATAL:
            return MissingError(
                f"{where} refuses the key",
                why=why,
                hint=f"Check the variable or file that holds it (api_key_env, api_key_file). {kept}"
                if self.endpoint.key != NO_KEY
                else f"None was sent. {WITHHELD}. {kept}",
            )
        return LcxError(f"{where} does not answer", why=why, hint=f"See to the server. {kept}")


def open_client(endpoint: Endpoint, concurrency: int, timeout: float) -> Any:
    """The SDK's asynchronous client over aiohttp: a connection for every call in flight, no retries of its own.

    Raises UsageError and MissingError for a proxy or certificates that the environment names and that cannot be used.
    """
    import aiohttp
    import httpx2
    import openai

    proxy = proxy_for(endpoint.url)

    class Connector(aiohttp.TCPConnector):
        """Hands out no kept connection on which the server has said anything unasked, such as that it is closed.

        The loop may not have seen that yet; the socket has. Some servers close after each reply and do not say so: a
        call on such a connection would break, and nobody could tell whether it was done and charged.
        """

        async def connect(self, *args: Any, **options: Any) -> Any:
            while True:
                connection = await super().connect(*args, **options)
                transport = connection.transport
                found = transport.get_extra_info("socket") if transport is not None else None
                if found is not None and found.fileno() >= 0 and not _spoke(found):
                    return connection
                if found is None:
                    return connection
                connection.close()

    def session() -> aiohttp.ClientSession:
        connector = Connector(
            limit=concurrency,
            keepalive_timeout=IDLE,
            ssl=certificates,
        )
        return aiohttp.ClientSession(connector=connector, proxy=proxy)

    class Client(openai.AsyncOpenAI):
        raw_response = httpx2.Response

    certificates = _certificates(endpoint.url)
    limits = httpx2.Timeout(timeout, connect=min(CONNECT, timeout), pool=None)
    # Proxies and certificates are ours to choose: the client's own reading of the environment raises for SOCKS, and
    # sends loopback through a proxy.
    http: Any = openai.DefaultAioHttpClient(
        verify=certificates, trust_env=False, follow_redirects=False, timeout=limits
    )
    http._transport.client = session
    return Client(
        api_key=endpoint.key, base_url=endpoint.url, max_retries=0, timeout=limits, http_client=http
    )


def _spoke(socket: Any) -> bool:
    """Whether something waits to be read from a socket: data, or its end."""
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def open_openai(model: str, options: Mapping[str, Any]) -> ChatServer:
    """Factory for `openai:MODEL`. Options: what `Calling` says of servers, `extra` fields of the body, and `omit`."""
    if not model:
        raise UsageError("`openai:` needs a model", hint="--llm openai:MODEL")
    unknown = sorted(set(options) - {*OPTIONS, "device"})
    if unknown:
        raise UsageError(f"openai: unknown option {unknown[0]!r}", why=f"options: {', '.join(OPTIONS)}")
    return ChatServer(model, find_endpoint(options), options)


def refused_fields(said: str) -> list[str]:
    """The parameters of a call that a server's sentence says it does not know."""
    if not _UNKNOWN.search(said):
        return []
    return [name for name in _LEAVABLE if re.search(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])", said)]


def _unstreamed(content: bytes) -> dict[str, Any]:
    """The reply that the events of a stream add up to. Raises ValueError and its like for what is no such stream."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for line in content.decode().splitlines():
        if not line.startswith("data:") or line[5:].strip() in ("", "[DONE]"):
            continue
        event = json.loads(line[5:])
        whole |= {key: event[key] for key in ("usage", "error") if event.get(key)}
        for part in event.get("choices") or ():
            choice = choices.setdefault(int(part.get("index") or 0), {"message": {"content": None}})
            choice |= {key: part[key] for key in ("finish_reason", "error") if part.get(key)}
            message = choice["message"]
            for key, value in (part.get("delta") or part.get("message") or {}).items():
                if isinstance(value, str) and key != "role":
                    message.setdefault(key, None)
                    held = choice.setdefault("pieces", {}).setdefault(key, [])
                    held.append(value)
                elif key == "tool_calls" and value:
                    message[key] = value
    if b"[DONE]" not in content and not all(choice.get("finish_reason") for choice in choices.values()):
        raise ValueError("the stream broke off")
    for choice in choices.values():
        choice["message"] |= {key: "".join(held) for key, held in choice.pop("pieces", {}).items()}
    return {**whole, "choices": [choices[number] for number in sorted(choices)]}


def _text(content: Any) -> str:
    """A message's text, which some servers send in pieces."""
    if isinstance(content, list):
        content = "".join(str(piece.get("text") or "") for piece in content)
    return _valid(str(content or ""))


def _valid(text: str) -> str:
    """The text as UTF-8 can carry it: half of a surrogate pair, which JSON allows, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _message(content: bytes) -> tuple[str, str]:
    """What a server says went wrong, and its code for it."""
    try:
        data = json.loads(content)
        error = data.get("error", data)
        if isinstance(error, Mapping):
            said = error.get("message") or error.get("detail") or error
            return str(said), str(error.get("code") or error.get("type") or "")
        return str(error), ""
    except (ValueError, AttributeError, RecursionError):
        return content[: 2 * MOST_MESSAGE].decode("utf-8", "replace"), ""
