"""One thing asked of the judge until its reply can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lcx.errors import LcxError
from lcx.llm.protocol import Request, Response
from lcx_longreward.judge.ratings import Unreadable

T = TypeVar("T")

CUT = "the reply was cut at reply_tokens"
GIVE_UP = 40
"""Parts in a row, from the first one on, after which a judge counts as unusable."""


class Asks(Protocol):
    """What the judge is asked through: an `Exchange`, or a stand-in."""

    def ask(self, request: Request, *, attempt: int = 0, part: str = "") -> Awaitable[Response]: ...


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What came of one call and its further attempts: a value, or why there is none. `text` is the last reply.

    `attempts` counts the calls, `unread` those whose replies could not be used, by reason.
    """

    value: T | None
    text: str = ""
    why: str = ""
    attempts: int = 0
    unread: tuple[str, ...] = ()


@dataclass
class Health:
    """Whether anything that the judge says can be used: one of which nothing can is not paid to the end."""

    read: int = 0
    unread: int = 0

    def note(self, reply: Reply[T]) -> None:
        """Count what came of a part. Raises LcxError where the first GIVE_UP parts all came to nothing."""
        self.read += reply.value is not None
        self.unread += reply.value is None
        if not self.read and self.unread >= GIVE_UP:
            hint = (
                "A server that refuses a field: judge_options={omit: [seed]}. "
                if "HTTP 4" in reply.why
                else ""
            )
            raise LcxError(
                f"nothing of what the judge was asked could be used, {self.unread} times in a row",
                why=reply.why,
                hint=f"{hint}Another judge: --judge SPEC --force",
            )


async def ask_until_read(
    exchange: Asks,
    part: str,
    make: Callable[[int], Request],
    read: Callable[[str], T | Unreadable],
    attempts: int,
) -> Reply[T]:
    """Ask with the request of attempt 0, 1, ... until a reply can be read. The last reason stands where none can."""
    text = why = ""
    unread: list[str] = []
    for attempt in range(attempts):
        response = await exchange.ask(make(attempt), attempt=attempt, part=part)
        if response.error:
            why = response.error
        else:
            text = response.text
            value = read(text)
            if not isinstance(value, Unreadable):
                return Reply(value, text, attempts=attempt + 1, unread=tuple(unread))
            cut = response.completions and response.completions[0].finish_reason == "length"
            why = CUT if cut else value.why
        unread.append(why)
        if response.final:
            break
    return Reply(None, text, why, attempts=len(unread), unread=tuple(unread))


def tally(reply: Reply[T], part: str, into: Counter[str], name: Callable[[str], str] = str) -> None:
    """Count a reply's unusable attempts as `PART: REASON`."""
    into.update(f"{part}: {name(why)}" for why in reply.unread)
