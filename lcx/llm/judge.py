"""A judge is data: `Rubric(name, prompt, parse, tries)`, and `judge(client, rubric, question=..., answer=...)`.

A rubric's prompt has places such as `{question}`; what others wrote is fenced before it is put there, so that it cannot
close the marks around it. A reply that cannot be read is asked for again, as another attempt with a seed of its own.
IN2's checks, LOGO's filter and LongReward's dimensions are rubrics.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from lcx.errors import LcxError
from lcx.llm.openai import refused_fields
from lcx.llm.prompts import UNFINISHED, fill, said_in, visible
from lcx.llm.protocol import Request, Response, Usage

T = TypeVar("T")

CUT = "the reply was cut at reply_tokens"
EMPTY = "the reply is empty"
GIVE_UP = 40
"""Judgements in a row, from the first one on, after which a judge counts as unusable."""


@dataclass(frozen=True)
class Unreadable:
    """Why a reply could not be read."""

    why: str


class Asks(Protocol):
    """What a judge is asked through: an `LLMClient`, or a stand-in."""

    def ask(self, request: Request, *, attempt: int = 0, part: str = "") -> Awaitable[Response]: ...


@dataclass(frozen=True)
class Judgement(Generic[T]):
    """What came of one question to a judge: a value, or why there is none. `text` is the last reply as it came.

    `attempts` counts the replies asked for, `unread` has the reason of each that could not be used.
    """

    value: T | None
    text: str = ""
    why: str = ""
    attempts: int = 0
    unread: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Rubric(Generic[T]):
    """What a judge is asked, and how its reply is read.

    `name` is what the ledger calls such a call, `task` the rule by which `builtin` answers. `parse` gets a reply and
    returns its value, or Unreadable with the reason. `fence` makes text that others wrote harmless.
    """

    name: str
    prompt: str
    parse: Callable[[str], T | Unreadable]
    tries: int = 3
    task: str = ""
    fence: Callable[[str], str] = str
    temperature: float = 0.0
    retry_temperature: float = 0.7
    max_tokens: int = 512
    seed: int = 0

    def request(
        self,
        texts: Mapping[str, str],
        *,
        fields: Mapping[str, Any] | None = None,
        ready: Collection[str] = (),
        attempt: int = 0,
    ) -> Request:
        """The request of an attempt. It follows from the rubric, the texts and the attempt alone.

        `texts` fill the prompt's places; those named in `ready` are fenced already. `fields` are for rules, and are
        the texts where none are given.
        """
        safe = {name: text if name in ready else self.fence(text) for name, text in texts.items()}
        content = fill(self.prompt, safe)
        drawn = f"{self.seed}:{self.name}:{attempt}:{content}".encode("utf-8", "surrogatepass")
        return Request(
            messages=({"role": "user", "content": content},),
            task=self.task,
            fields=dict(texts) if fields is None else fields,
            temperature=self.retry_temperature if attempt else self.temperature,
            max_tokens=self.max_tokens,
            seed=int.from_bytes(hashlib.sha256(drawn).digest()[:4]) >> 1,
            usable=lambda reply: not isinstance(self.parse(reply.text), Unreadable),
        )


async def judge(
    client: Asks,
    rubric: Rubric[T],
    *,
    fields: Mapping[str, Any] | None = None,
    ready: Collection[str] = (),
    **texts: str,
) -> Judgement[T]:
    """Ask a rubric about texts, until a reply can be read or its tries are used up; see `Rubric.request`.

    Raises LcxError only for what every call would meet.
    """

    def make(attempt: int) -> Request:
        return rubric.request(texts, fields=fields, ready=ready, attempt=attempt)

    return await ask_until_read(client, rubric.name, make, rubric.parse, rubric.tries)


async def ask_until_read(
    client: Asks,
    name: str,
    make: Callable[[int], Request],
    parse: Callable[[str], T | Unreadable],
    tries: int,
) -> Judgement[T]:
    """Ask with the request of attempt 0, 1, ... until a reply can be read. The last reason stands where none can."""
    text = why = ""
    usage = Usage()
    unread: list[str] = []
    for attempt in range(tries):
        response = await client.ask(make(attempt), attempt=attempt, part=name)
        usage += response.usage
        if response.error:
            why = response.error
        else:
            text = response.text
            inside = bool(getattr(client, "inside", False))
            alone = bool(response.completions) and said_in(response.completions[0], inside).only_thought
            value = Unreadable(UNFINISHED) if alone else parse(text)
            if not isinstance(value, Unreadable):
                return Judgement(value, text, "", attempt + 1, tuple(unread), usage)
            cut = bool(response.completions) and response.completions[0].finish_reason == "length"
            thought = bool(response.completions) and response.completions[0].thought
            empty = f"{EMPTY}: all of its text is in reasoning_content" if thought else EMPTY
            why = UNFINISHED if alone else CUT if cut else value.why if text.strip() else empty
        unread.append(why)
        if response.final:
            break
    return Judgement(None, text, why, len(unread), tuple(unread), usage)


@dataclass(frozen=True)
class Asking(Generic[T]):
    """One thing to ask a judge: a rubric with the texts for its places, and what rules get of them."""

    rubric: Rubric[T]
    texts: Mapping[str, str]
    fields: Mapping[str, Any]
    ready: tuple[str, ...] = ()
    """Texts that are fenced already."""

    def request(self, attempt: int = 0) -> Request:
        return self.rubric.request(self.texts, fields=self.fields, ready=self.ready, attempt=attempt)

    async def ask(self, client: Asks) -> Judgement[T]:
        """Ask until a reply can be read. Raises LcxError only for what every call would meet."""
        return await judge(client, self.rubric, fields=self.fields, ready=self.ready, **self.texts)


async def together(jobs: Iterable[Coroutine[Any, Any, T] | asyncio.Task[T]]) -> list[T]:
    """Results of all jobs, in order. Where one raises, the others are cancelled, and that error is raised."""
    tasks = [job if isinstance(job, asyncio.Task) else asyncio.create_task(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


@dataclass
class Health:
    """Whether anything that a judge says can be used: one of which nothing can is not paid to the end."""

    read: int = 0
    unread: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def note(self, judgement: Judgement[T]) -> None:
        """Count a judgement. Raises LcxError where the first GIVE_UP all came to nothing."""
        self.read += judgement.value is not None
        self.unread += judgement.value is None
        if judgement.value is None:
            self.reasons[judgement.why] += 1
        if not self.read and self.unread >= GIVE_UP:
            (why, count), *others = self.reasons.most_common()
            fields = refused_fields(why)
            hint = f"The server refuses it: judge_options={{omit: [{', '.join(fields)}]}}. " if fields else ""
            raise LcxError(
                f"nothing of what the judge was asked could be used, {self.unread} times in a row",
                why=f"{why} ({count} of {self.unread})" if others else why,
                hint=f"{hint}Another judge: --judge SPEC --force",
            )


# -- reading replies

MARKED = re.compile(r"\[\[([^\[\]]*)\]\]")
"""What a reply has in double square brackets."""
_BRACKETS = str.maketrans({"【": "[", "】": "]", "［": "[", "］": "]"})
_ESCAPED = re.compile(r"\\([\[\]])")
_NUMBER = re.compile(r"([+-]?\d+(?:[.,]\d+)?)(.*)", re.S)
_LABEL = re.compile(
    r"(?:(?:overall|final|总体|最终) ?)?(?:rating|score|评分|分数|得分) ?(?:is|为|是)? ?[:：=]? ?[*_]{0,3} ?",
    re.I,
)
"""What some judges repeat inside the marks of a prompt that says `[[rating]]`."""
_JSON = re.compile(
    r"[\"'](?:rating|score|评分|分数)[\"']\s*[:：]\s*[\"']?([+-]?\d+(?:[.,]\d+)?)(?![\d.,]*\d)", re.I
)


def marked(reply: str) -> list[str]:
    """What a reply has in double brackets, without its thoughts: `[[8]]`, `【【8】】` and `\\[\\[8\\]\\]` are marks."""
    return [found.strip("*_` \t\n") for found in MARKED.findall(_plain(reply))]


def _plain(reply: str) -> str:
    return _ESCAPED.sub(r"\1", visible(reply).translate(_BRACKETS))


def read_rating(
    reply: str, low: float = 0.0, high: float = 10.0, *, clamp: bool = False
) -> float | Unreadable:
    """The last `[[number]]` of a reply, `low` to `high`; with `clamp` one beyond that counts as the end of the scale.

    `[[7.5]]`, `[[7,5]]`, `[[8分]]`, `[[**8**]]`, `[[Rating: 8]]` and, of 10, `[[7/10]]` are numbers; where nothing is
    marked, so is `{"rating": 7}`.
    """
    said = [_unlabelled(text) for text in marked(reply)]
    numbers = [text for text in said if text[:1].isdigit() or text[:1] in ("+", "-")]
    if numbers:
        found = _NUMBER.fullmatch(numbers[-1])
        if not found or not _is_unit(found[2], high):
            return Unreadable("the last [[rating]] is no number")
        number = found[1]
    else:
        named = _JSON.findall(visible(reply))
        if not named:
            return Unreadable("no [[rating]] in the reply")
        number = named[-1]
    rating = float(number.replace(",", "."))
    if clamp:
        rating = min(high, max(low, rating))
    return rating if low <= rating <= high else Unreadable(f"a rating outside {low:g} to {high:g}")


def _unlabelled(text: str) -> str:
    plain = " ".join(text.split())
    label = _LABEL.match(plain)
    return plain[label.end() :] if label else text


def _is_unit(rest: str, high: float) -> bool:
    """Whether what follows a number leaves it as it is: `/10` of a scale to 10, or words without another number."""
    joined = "".join(rest.split()).lower()
    for scale in (f"/{high:g}", f"outof{high:g}"):
        joined = joined.removeprefix(scale)
    return not any(letter.isdigit() or letter == "/" for letter in joined)


def read_word(reply: str, words: Collection[str]) -> str | Unreadable:
    """The last word in double brackets, if it is one of `words`."""
    found = marked(reply)
    word = found[-1].rstrip(".").lower() if found else ""
    return word if word in words else Unreadable("the judge's replies could not be read")


def before_mark(reply: str) -> str:
    """What a reply says before its last mark, on one line: the reason for it."""
    text = _plain(reply)
    places = [match.start() for match in MARKED.finditer(text)]
    return " ".join(text[: places[-1]].split()) if places else ""
