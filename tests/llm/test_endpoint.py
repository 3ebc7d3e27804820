"""`openai:MODEL`: where it is, which key goes with it, what each answer means, and that the key stays secret."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lcx.context import Context
from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm import open_llm
from lcx.llm.client import Service
from lcx.llm.ledger import dump_messages, load_prices
from lcx.llm.limits import Backoff
from lcx.llm.openai import HOSTED, NO_KEY, ChatServer, Failed, find_endpoint, open_openai, redact
from lcx.llm.settings import Calling
from lcx.settings import setting, validate
from tests.llm.senders import request
from tests.llm.stub_server import Reply, Stub

KEY = "sk-proj-Zq81RtmVw0LkQz77yPdn5A"
ODD = [
    "",
    " ",
    "\x00",
    "lone \ud83d surrogate",
    "中文 😀 \u2028",
    '"]}\\',
    "</s><|im_end|>",
    "{n}{text}%s",
    "x" * 500_000,
]


ODD_USAGE = b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": %s}}'


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("localhost:8000", "http://localhost:8000/v1"),
        ("https://host.example/api/openai", "https://host.example/api/openai"),
        ("http://[::1]:11434/v1/chat/completions", "http://[::1]:11434/v1"),
    ],
)
def test_where_a_model_is_served(given: str, url: str) -> None:
    assert find_endpoint({"base_url": given}, {}).url == url
    assert find_endpoint({}, {"OPENAI_BASE_URL": given}).url == url
    assert find_endpoint({"base_url": given}, {"OPENAI_BASE_URL": "http://other/v1"}).url == url


@pytest.mark.parametrize(
    "given",
    [
        "ftp://host/v1",
        "http://",
        "http:///v1",
        "http://[::1",
        "http://host:abc",
        "http://host:99999/v1",
        "http://host:-1",
    ],
)
def test_what_is_no_url_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="is no URL"):
        find_endpoint({"base_url": given}, {})
    with pytest.raises(UsageError, match="is no URL"):
        validate(Calling, {"base_url": given}, where="x")


@pytest.mark.parametrize("given", ["http://host/v1?token=abc", "http://host/v1#part", "host:80/v1?"])
def test_a_query_or_fragment_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="query or fragment") as caught:
        find_endpoint({"base_url": given}, {})
    assert "--base-url" in caught.value.hint
    assert "abc" not in repr(caught.value.as_dict())


def test_which_key_goes_with_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    local = {"base_url": "localhost:1"}
    assert find_endpoint({}, {"OPENAI_API_KEY": KEY}) == find_endpoint(
        {"base_url": HOSTED}, {"OPENAI_API_KEY": KEY}
    )
    assert find_endpoint({"api_key_file": str(file)}, {"OPENAI_API_KEY": "other"}).key == KEY
    assert find_endpoint({"api_key_env": "MINE"}, {"MINE": KEY, "OPENAI_API_KEY": "other"}).key == KEY
    assert find_endpoint(local, {}).key == NO_KEY
    assert find_endpoint(local, {"OPENAI_API_KEY": KEY}).key == KEY
    assert KEY not in repr(find_endpoint(local, {"OPENAI_API_KEY": KEY}))
    with pytest.raises(MissingError, match="no key") as caught:
        find_endpoint({}, {})
    assert "OPENAI_API_KEY" in caught.value.hint
    assert "--base-url" in caught.value.hint
    with pytest.raises(MissingError, match="variable MINE"):
        find_endpoint({**local, "api_key_env": "MINE"}, {})
    with pytest.raises(MissingError, match="cannot read the key"):
        find_endpoint({"api_key_file": str(tmp_path / "none")}, {})
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(MissingError, match="no key"):
        find_endpoint({**local, "api_key_file": str(tmp_path / "empty")}, {})
    file.write_text("two\nlines of something")
    with pytest.raises(UsageError) as refused:
        find_endpoint({"api_key_file": str(file)}, {})
    assert "two" not in str(refused.value.as_dict())


def test_options_that_do_not_exist_are_named() -> None:
    with pytest.raises(UsageError, match="unknown option 'batch'"):
        open_openai("m", {"base_url": "localhost:1", "batch": 3})
    with pytest.raises(UsageError, match="needs a model"):
        open_openai("", {"base_url": "localhost:1"})


def test_a_call_says_what_the_protocol_asks_and_no_more() -> None:
    endpoint = open_openai("m", {"base_url": "localhost:1", "extra": {"top_k": 3}, "omit": ["seed"]})
    asked = request("hi 中", n=2, temperature=0.5, top_p=0.9, stop=("a",), seed=4)
    body = json.loads(endpoint.body(asked, dump_messages(asked.messages), 0, 2))
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi 中"}],
        "n": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 8,
        "stop": ["a"],
        "top_k": 3,
    }
    plain = open_openai("m", {"base_url": "localhost:1"})
    body = json.loads(plain.body(request("hi", seed=4), dump_messages(request("hi").messages), 3, 1))
    assert set(body) == {"model", "messages", "temperature", "max_tokens", "seed"}
    assert body["seed"] == 7


def tried(reply: Reply, key: str = "", timeout: float = 5.0) -> Any:
    """One try against the stub: the reply, or how it failed."""
    with Stub(lambda body: reply) as stub:
        options = {"base_url": stub.url, "timeout": timeout}
        endpoint = ChatServer("m", find_endpoint(options, {"OPENAI_API_KEY": key}), options)

        async def main() -> Any:
            try:
                return await endpoint.send(
                    endpoint.body(request("hi"), dump_messages(request("hi").messages), 0, 1)
                )
            except Failed as bad:
                return bad
            finally:
                await endpoint.aclose()

        return asyncio.run(main())


@pytest.mark.parametrize(
    ("reply", "reason", "kind"),
    [
        (Reply(status=400, message="too long"), "HTTP 400", "final"),
        (Reply(status=413), "HTTP 413", "final"),
        (Reply(status=422), "HTTP 422", "final"),
        (Reply(status=401), "HTTP 401", "fatal"),
        (Reply(status=402), "HTTP 402", "fatal"),
        (Reply(status=403), "HTTP 403", "fatal"),
        (Reply(status=404), "HTTP 404", "fatal"),
        (Reply(status=408), "HTTP 408", "retry"),
        (Reply(status=409), "HTTP 409", "retry"),
        (Reply(status=429), "HTTP 429", "retry"),
        (Reply(status=500), "HTTP 500", "retry"),
        (Reply(status=529), "HTTP 529", "retry"),
        (Reply(cut=40), "the reply was not of the protocol", "retry"),
        (Reply(body=b""), "the reply was not of the protocol", "retry"),
        (Reply(body=b"[1]"), "the reply was not of the protocol", "retry"),
        (Reply(body=b'{"choices": [{}]}'), "the reply was not of the protocol", "retry"),
        (Reply(body=b'{"choices": [{"message": {"content": 5.5}}]}'), None, ""),
        (Reply(body=b"<html>gateway</html>"), "the reply was not of the protocol", "retry"),
        (Reply(body=b"[" * 100_000), "the reply was not of the protocol", "retry"),
        (Reply(body=b'{"a": ' * 100_000), "the reply was not of the protocol", "retry"),
        (Reply(status=500, body=b"[" * 100_000), "HTTP 500", "retry"),
        (Reply(body=ODD_USAGE % b"1e400"), "the reply was not of the protocol", "retry"),
        (Reply(body=ODD_USAGE % b"NaN"), "the reply was not of the protocol", "retry"),
        (Reply(body=ODD_USAGE % b"9223372036854775808"), "the reply was not of the protocol", "retry"),
        (Reply(body=ODD_USAGE % b"-5"), "the reply was not of the protocol", "retry"),
        (Reply(texts=[]), "the reply had no choices", "retry"),
        (Reply(body=b'{"error": {"message": "behind", "code": 429}}'), "HTTP 429", "retry"),
        (Reply(body=b'{"error": {"message": "behind"}}'), "HTTP 502", "retry"),
        (Reply(drop=True), "the connection broke", "retry"),
        (
            Reply(status=429, body=b'{"error": {"message": "pay", "code": "insufficient_quota"}}'),
            "HTTP 429",
            "fatal",
        ),
    ],
)
def test_what_each_answer_means(reply: Reply, reason: str | None, kind: str) -> None:
    end = tried(reply)
    if reason is None:
        assert end.choices == (("5.5", "stop"),)
        return
    assert isinstance(end, Failed)
    assert (end.reason, end.kind, end.unreachable) == (reason, kind, False)
    if reply.message == "too long":
        assert end.detail == "too long"


def test_an_error_with_half_a_surrogate_pair_is_made_valid() -> None:
    end = tried(Reply(status=400, body=b'{"error": {"message": "bad \\ud83d half"}}'))
    assert end.detail == "bad ? half"


def test_a_redirect_is_not_followed_and_names_where_it_leads(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply(status=302, headers={"location": "https://elsewhere.example/v1/chat/completions"})

    with (
        Stub(script) as stub,
        Service(tmp_path, Calling(base_url=stub.url), Context()) as service,
        pytest.raises(UsageError, match="does not take calls itself") as caught,
    ):
        service.client("openai:m", {}).generate([request("hi")])
    assert stub.calls == 1
    assert "https://elsewhere.example/v1" in caught.value.why
    assert "--base-url" in caught.value.hint


def test_it_is_known_whether_a_call_was_sent() -> None:
    """Then the server may have done and charged it, though its reply never came."""
    assert tried(Reply(hang=True), timeout=0.2).unanswered
    assert tried(Reply(drop=True)).unanswered
    for reply in (Reply(status=500), Reply(status=429), Reply(texts=[]), Reply(cut=40)):
        assert not tried(reply).unanswered
    endpoint = open_openai("m", {"base_url": "http://127.0.0.1:9"})
    with pytest.raises(Failed) as caught:
        asyncio.run(endpoint.send(b"{}"))
    assert not caught.value.unanswered


def test_a_server_that_closes_after_each_reply_costs_no_try(tmp_path: Path) -> None:
    """It does not say so, as some do: the connection is found closed before it is used again."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        body = b'{"choices": [{"message": {"content": "x"}}]}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async def main(service: Service, port: list[int]) -> list[str]:
        server = await asyncio.start_server(closing, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        url = {"base_url": f"http://127.0.0.1:{port[0]}/v1"}
        exchange = service.client("openai:m", url)
        texts = [(await exchange.ask(request(str(i)))).text for i in range(30)]
        server.close()
        return texts

    with Service(tmp_path, Calling(), Context()) as service:
        assert service.run(main(service, [])) == ["x"] * 30
        assert "retries" not in service.counts()


def test_a_server_that_hangs_or_is_not_there() -> None:
    end = tried(Reply(hang=True), timeout=0.2)
    assert (end.reason, end.kind) == ("no reply within the timeout", "retry")
    endpoint = open_openai("m", {"base_url": "http://127.0.0.1:9"})
    with pytest.raises(Failed, match="no connection") as caught:
        asyncio.run(endpoint.send(b"{}"))
    assert caught.value.unreachable


def test_what_a_server_asks_for_in_its_headers() -> None:
    assert tried(Reply(status=429, headers={"Retry-After": "7"})).pause == 7
    assert tried(Reply(status=503, headers={"retry-after-ms": "250"})).pause == 0.25
    assert tried(Reply(status=429)).pause is None


def test_a_good_reply_in_its_odd_forms() -> None:
    assert tried(Reply("[[7]]", usage=(5, 3), finish="length")).choices == (("[[7]]", "length"),)
    pieces = b'{"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}]}'
    assert tried(Reply(body=pieces)).choices == (("ab", "stop"),)
    thinking = b'{"choices": [{"message": {"content": null}, "finish_reason": "length"}], "usage": null}'
    assert tried(Reply(body=thinking)).choices == (("", "length"),)


@pytest.mark.parametrize("text", ODD)
def test_prompts_and_replies_may_hold_anything(tmp_path: Path, text: str) -> None:
    with Stub(lambda body: str(body["messages"][0]["content"])) as stub:
        for asked in (1, 0):
            with Service(tmp_path, Calling(base_url=stub.url), Context()) as service:
                [reply] = service.client("openai:m", {}).generate([request(text)])
                # Half of a surrogate pair cannot be written to any file: it is made valid as it is read.
                assert (reply.text, reply.error) == (text.replace("\ud83d", "?"), "")
                reply.text.encode()
            assert stub.calls == 1, asked


def test_a_model_that_knows_only_the_newer_name_of_the_limit_gets_it(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply | str:
        told = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return Reply(status=400, message=told) if "max_tokens" in body else str(body["max_completion_tokens"])

    with Stub(script) as stub:
        settings = Calling(base_url=stub.url, concurrency=2)
        with Service(tmp_path, settings, Context(), backoff=Backoff(0.001)) as service:
            replies = service.client("openai:m", {}).generate([request(str(i)) for i in range(6)])
        assert [reply.text for reply in replies] == ["8"] * 6
        assert stub.calls <= 8


# -- the key


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}.",
        f"Authorization: Bearer {KEY}",
        f"key {KEY[:9]}...{KEY[-9:]}",
        "Bearer abc.def-ghi",
        "you sent sk-other0123456789",
        "api_key=verysecretvalue",
    ],
)
def test_whatever_has_a_keys_shape_is_taken_out(text: str) -> None:
    found = redact(text, (KEY,))
    assert "[key]" in found
    for part in (KEY, KEY[:9], KEY[-9:], "abc.def", "other0123", "verysecret"):
        assert part not in found
    assert redact("the maximum is x", ("x",)) == "the maximum is x", "a key of a sign or two is none"
    assert (
        redact("a plain sentence, a task-list and the bearer of news")
        == "a plain sentence, a task-list and the bearer of news"
    )


@pytest.mark.parametrize("key", [KEY, "PlainWordsOfASecretThatIsLonger42"], ids=["shaped", "plain"])
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_the_key_is_sent_and_appears_nowhere(
    tmp_path: Path,
    status: int,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    echo = f"Incorrect API key provided: {key} (Authorization: Bearer {key})"
    with Stub(lambda body: Reply(status=status, message=echo)) as stub:
        settings = Calling(base_url=stub.url, tries=2)
        with Service(tmp_path, settings, Context(), backoff=Backoff(0.001)) as service:
            exchange = service.client("openai:m", {})
            try:
                said = repr(exchange.generate([request("hi")]))
            except LcxError as bad:
                said = repr(bad.as_dict())
            said += (
                repr(exchange.describe())
                + repr(service.counts())
                + service.progress()
                + repr(exchange.backend)
            )
        assert stub.headers[0]["authorization"] == f"Bearer {key}"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    output = "".join(capfd.readouterr())
    for place in (said, written.decode("latin-1"), output, caplog.text):
        assert key not in place
        assert key[:12] not in place
        assert key[8:-8] not in place
    assert ("[key]" in said) == (status in (400, 401, 429, 500))


@pytest.mark.parametrize("key", ["base_url", "judge_options"])
@pytest.mark.parametrize("port", ["1", "no"])
def test_a_password_in_the_url_is_refused_and_shown_nowhere(key: str, port: str) -> None:
    """Settings are written into the step's folder: it must not even get into them."""

    class Judging(Calling):
        judge_options: Mapping[str, Any] = setting({})

    url = f"http://me:secretword@host:{port}/v1"
    with pytest.raises(UsageError) as caught:
        validate(Judging, {key: url if key == "base_url" else {"base_url": url}}, where="x")
    with pytest.raises(UsageError) as opened:
        open_openai("m", {"base_url": url})
    said = repr((caught.value.as_dict(), opened.value.as_dict()))
    assert "secretword" not in said
    assert port == "no" or "api_key_file" in said


@pytest.mark.parametrize(
    ("status", "kind", "what"),
    [
        (401, MissingError, "refuses the key"),
        (404, MissingError, "does not serve the model 'm'"),
        (402, LcxError, "payment"),
    ],
)
def test_what_stops_a_job_says_how_to_mend_it(
    tmp_path: Path, status: int, kind: type[LcxError], what: str
) -> None:
    with (
        Stub(lambda body: Reply(status=status)) as stub,
        Service(tmp_path, Calling(base_url=stub.url), Context()) as service,
        pytest.raises(kind, match=what) as caught,
    ):
        service.client("openai:m", {}).generate([request("hi")])
    assert "same command goes on" in caught.value.hint


# -- around it


def test_prices_come_from_a_table_or_a_file(tmp_path: Path) -> None:
    assert load_prices({"m": (1, 2.5)}) == {"m": (1.0, 2.5)}
    file = tmp_path / "prices.yaml"
    file.write_text("m: [1, 2.5]\n")
    assert load_prices(str(file)) == {"m": (1.0, 2.5)}
    with pytest.raises(MissingError, match="no file of prices"):
        load_prices(str(tmp_path / "none.yaml"))
    for text, what in (
        ("- 1", "no table"),
        ("m: 5", "'m' has no price"),
        ("m: [1, -2]", "'m'"),
        ("{", "not valid YAML"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=what):
            load_prices(str(file))


def test_a_cost_limit_without_a_price_is_refused_before_any_call(tmp_path: Path) -> None:
    with Service(tmp_path, Calling(base_url="localhost:1", max_cost=1.0), Context()) as service:
        for use in (service.check, service.client):
            with pytest.raises(UsageError, match="has no price"):
                use("openai:m", {})
    with Service(
        tmp_path, Calling(base_url="localhost:1", max_cost=1.0, prices={"m": (1, 1)}), Context()
    ) as service:
        service.check("openai:m", {})


def test_it_works_without_a_step() -> None:
    with Stub(lambda body: "[[7]]") as stub:
        llm = open_llm("openai:m", {"base_url": stub.url})
        for _ in range(2):
            assert [reply.text for reply in llm.generate([request("a"), request("b")])] == ["[[7]]"] * 2
        assert llm.describe() == {"backend": "openai", "model": "m", "base_url": stub.url}


def test_nothing_of_the_sdk_is_loaded_before_a_call() -> None:
    program = (
        "import sys, lcx.llm.client, lcx.llm.openai, lcx.llm.settings\n"
        "lcx.llm.openai.open_openai('m', {'base_url': 'localhost:1'})\n"
        "print([m for m in ('openai', 'httpx2', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
