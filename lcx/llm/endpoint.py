"""`openai:MODEL`: one call over HTTP to a server that speaks the chat completions protocol, and what came of it.

The openai SDK makes the request; retries, limits and the journal are lcx's own (`lcx.llm.posting`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm.protocol import Request, Response
from lcx.llm.redact import redact
from lcx.llm.url import wrong_url
from lcx.work.retry import retry_after

HOSTED = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
NO_KEY = "none"
"""What a server of one's own is told in place of a key."""
OPTIONS = ("api_key_env", "api_key_file", "base_url", "concurrency", "extra", "omit", "timeout")
MOST_MESSAGE = 300
"""Characters of a server's error that are kept."""
RETRY, FINAL, FATAL = "retry", "final", "fatal"
_NEWER = "max_completion_tokens"
_UNREACHABLE = "no connection to the server"
_HEAD = 1000
_WAITED = frozenset({408, 409, 425, 429})
_REFUSED_KEY = frozenset({401, 402, 403})
_WRONG_PLACE = frozenset({404, 405, 410})
_ELSEWHERE = frozenset({301, 302, 303, 307, 308})
_MOST_TOKENS = 2**40
"""A count that no reply has."""


class Failed(Exception):
    """One try came to nothing. `kind` says what to do: send it again, give this call up, or stop the job."""

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
    """A usable reply: (text, finish reason) of each choice, and the tokens that the server counted."""

    choices: tuple[tuple[str, str], ...]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Place:
    """Where a model is served, and the key."""

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


def find_place(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Place:
    """The URL and key that options and the environment give. Raises MissingError where a key is needed and not there.

    A server of one's own (any `base_url`) needs none. A bare host gets `/v1`, where such servers have the protocol.
    """
    known = os.environ if environ is None else environ
    given = str(options.get("base_url") or known.get("OPENAI_BASE_URL") or "").strip()
    return Place(_full(given) if given else HOSTED, _key(options, known, needed=not given))


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
    if file:
        path = Path(str(file)).expanduser()
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as bad:
            raise MissingError(
                f"cannot read the key from '{path}'",
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


class Endpoint:
    """A model at a place. `send` makes one try; `generate` is there for use without a step, one batch at a time."""

    def __init__(self, model: str, place: Place, options: Mapping[str, Any]) -> None:
        self.model, self.place = model, place
        self.concurrency = int(options.get("concurrency", 64))
        self.timeout = float(options.get("timeout", 600.0))
        self.extra: dict[str, Any] = dict(options.get("extra") or {})
        self.omit = frozenset(options.get("omit") or ())
        self._client: Any = None
        self._length = "max_tokens"
        """What the server calls the limit of a reply: newer hosted models know the newer name only."""

    def describe(self) -> dict[str, Any]:
        return {"backend": "openai", "model": self.model, "base_url": self.place.shown}

    def close(self) -> None:
        self._client = None

    async def aclose(self) -> None:
        """Close the connections, on the loop that used them."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Replies to a batch, without a journal."""
        from lcx.llm.posting import Posting

        async def main() -> list[Response]:
            posting = Posting(lambda: self, spec=f"openai:{self.model}")
            try:
                return list(await asyncio.gather(*map(posting.ask, requests)))
            finally:
                await self.aclose()

        return asyncio.run(main())

    def body(self, request: Request, messages: bytes, sample: int, count: int) -> bytes:
        """The call's body. `messages` are JSON already."""
        values = parameters_of(request, sample, count)
        if self._length != "max_tokens":
            values[self._length] = values.pop("max_tokens")
        values = {k: v for k, v in values.items() if k not in self.omit} | self.extra
        head = json.dumps({"model": self.model, **values})
        return b"".join((head[:-1].encode(), b', "messages": ', messages, b"}"))

    async def send(self, body: bytes) -> Good:
        """One try. Raises Failed."""
        import openai

        if self._client is None:
            self._client = open_client(self.place, self.concurrency, self.timeout)
        try:
            async with asyncio.timeout(self.timeout):
                answer = await self._client.post(
                    "/chat/completions",
                    cast_to=type(self._client).raw_response,
                    content=body,
                    options={"headers": {"Content-Type": "application/json"}},
                )
        except (TimeoutError, openai.APITimeoutError) as bad:
            if type(bad.__cause__).__name__ == "ConnectTimeout":
                raise Failed(_UNREACHABLE, detail="no connection in time", unreachable=True) from None
            detail = f"{self.timeout:g} s"
            raise Failed("no reply within the timeout", detail=detail, unanswered=True) from None
        except openai.APIStatusError as bad:
            failed = self._status(bad.status_code, bad.response.headers, bad.response.content)
            if failed.kind == FINAL and _NEWER in failed.detail and b'"max_tokens"' in body[:_HEAD]:
                self._length, failed.kind = _NEWER, RETRY
            raise failed from None
        except openai.APIConnectionError as bad:
            cause = bad.__cause__
            name = type(cause).__name__
            refused = name in ("ConnectError", "UnsupportedProtocol")
            detail = redact(f"{name}: {cause}", self.place.secrets)
            reason = _UNREACHABLE if refused else "the connection broke"
            sent = not refused and name != "LocalProtocolError"
            raise Failed(reason, detail=detail, unreachable=refused, unanswered=sent) from None
        return self._read(answer.content)

    def _read(self, content: bytes) -> Good:
        try:
            data = json.loads(content)
            if isinstance(
                data.get("error"), Mapping
            ):  # some gateways report a failure behind with status 200
                code = data["error"].get("code")
                raise self._status(code if isinstance(code, int) else 502, {}, content)
            usage = data.get("usage") or {}
            spent = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            if not all(0 <= count < _MOST_TOKENS for count in spent):
                raise ValueError("no count of tokens")
            choices = tuple(
                (_text(one["message"].get("content")), _valid(str(one.get("finish_reason") or "stop")))
                for one in data.get("choices") or ()
            )
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError, OverflowError):
            raise Failed("the reply was not of the protocol") from None
        if not choices:
            raise Failed("the reply had no choices", tokens=spent)
        return Good(choices, *spent)

    def _status(self, status: int, headers: Mapping[str, str], content: bytes) -> Failed:
        message, code = _message(content)
        lower = {k.lower(): v for k, v in headers.items()}
        if status in _ELSEWHERE:
            message = f"it sends calls to {lower.get('location') or 'another place'}"
        detail = redact(message, self.place.secrets)[:MOST_MESSAGE]
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
        where = self.place.shown
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
        if failed.kind == FATAL:
            return MissingError(
                f"{where} refuses the key",
                why=why,
                hint=f"Check the variable or file that holds it (api_key_env, api_key_file). {kept}",
            )
        return LcxError(f"{where} does not answer", why=why, hint=f"See to the server. {kept}")


def open_client(place: Place, concurrency: int, timeout: float) -> Any:
    """The SDK's asynchronous client, its connections raised to the concurrency and without retries of its own."""
    import httpx2
    import openai

    from lcx.llm.wire import open_http

    class Client(openai.AsyncOpenAI):
        raw_response = httpx2.Response

    return Client(
        api_key=place.key,
        base_url=place.url,
        max_retries=0,
        timeout=httpx2.Timeout(timeout, connect=min(30.0, timeout), pool=None),
        http_client=open_http(place.url, concurrency),
    )


def open_openai(model: str, options: Mapping[str, Any]) -> Endpoint:
    """Factory for `openai:MODEL`. Options: what `Calling` says of servers, `extra` fields of the body, and `omit`."""
    if not model:
        raise UsageError("`openai:` needs a model", hint="--llm openai:MODEL")
    unknown = sorted(set(options) - {*OPTIONS, "device"})
    if unknown:
        raise UsageError(f"openai: unknown option {unknown[0]!r}", why=f"options: {', '.join(OPTIONS)}")
    return Endpoint(model, find_place(options), options)


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
