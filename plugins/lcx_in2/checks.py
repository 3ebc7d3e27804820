"""What a judge is asked about a question of ours, and how its reply is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lcx.llm.client import LLMClient
from lcx.llm.prompts import fence, fill, load_prompt, visible
from lcx.llm.protocol import Request, Usage

CHECKS = {
    "answered": "not answered by its evidence",
    "needed": "answerable without its evidence",
    "unambiguous": "has other right answers",
}
"""The checks in their order, and what a question is called that fails one."""
NEEDS = {
    "answered": ("{evidence}", "{question}", "{answer}"),
    "needed": ("{question}", "{answer}"),
    "unambiguous": ("{question}", "{answer}"),
}
YES, NO, UNCLEAR = "yes", "no", "unclear"
RETRY_TEMPERATURE = 0.7
NOT_SHOWN = "(nothing)"
UNREADABLE = "the judge's replies could not be read"
_VERDICT = re.compile(r"\[\[\s*([^\[\]]*?)\s*\]\]")
fenced = fence("passages", "text", "question", "answer")
"""Makes a text that others wrote unable to close or open the marks around it."""


@dataclass(frozen=True)
class Item:
    """A question with its answer, the passages that hold the evidence, and the rest of its context where shown."""

    question: str
    answer: str
    evidence: tuple[str, ...]
    rest: tuple[str, ...] = ()


@dataclass
class Checked:
    """What the judge made of one question: the verdict of each check so far, and why it failed, if it did.

    `unchecked` says that the judge could not be asked, or not be read.
    """

    verdicts: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    unchecked: str = ""
    calls: int = 0
    usage: Usage = field(default_factory=Usage)

    def why(self, unclear: str) -> str:
        """Why the question is dropped; empty where it is kept."""
        for check, verdict in self.verdicts.items():
            if verdict == NO:
                return CHECKS[check]
            if verdict == UNCLEAR and unclear == "drop":
                return f"unclear: {CHECKS[check]}"
        return f"not checked: {self.unchecked}" if self.unchecked else ""


@dataclass(frozen=True)
class Judge:
    """Asks the checks one after another; a question that fails one is spared the others."""

    exchange: LLMClient
    prompts: Mapping[str, str]
    attempts: int = 3
    reply_tokens: int = 512
    unclear: str = "drop"
    seed: int = 0

    async def check(self, item: Item) -> Checked:
        """The verdicts on a question. Raises LcxError only for what every call would meet."""
        found = Checked()
        for check in CHECKS:
            await self._ask(check, item, found)
            if found.unchecked or found.why(self.unclear):
                return found
        return found

    async def _ask(self, check: str, item: Item, found: Checked) -> None:
        for attempt in range(self.attempts):
            request = self.request(check, item, attempt)
            response = await self.exchange.ask(request, attempt=attempt, part=check)
            found.calls += 1
            found.usage += response.usage
            if response.error:
                found.unchecked = response.error
                if response.final:
                    return
                continue
            verdict = read_verdict(response.text)
            if verdict:
                found.verdicts[check], found.unchecked = verdict, ""
                found.reasons[check] = reason_of(response.text)
                return
            found.unchecked = UNREADABLE

    def request(self, check: str, item: Item, attempt: int = 0) -> Request:
        """The request of one check, from the texts, the attempt and the seed alone."""
        shown = {
            "evidence": fenced("\n\n".join(item.evidence)),
            "rest": fenced("\n".join(item.rest)) or NOT_SHOWN,
            "question": fenced(item.question),
            "answer": fenced(item.answer),
        }
        return Request(
            messages=({"role": "user", "content": fill(self.prompts[check], shown)},),
            task="judge_qa_check",
            fields={
                "check": check,
                "question": item.question,
                "answer": item.answer,
                "evidence": item.evidence,
                "context": item.rest,
            },
            temperature=RETRY_TEMPERATURE if attempt else 0.0,
            max_tokens=self.reply_tokens,
            seed=self.seed,
        )


def load_prompts(folder: str | None) -> dict[str, str]:
    """The prompt of every check, the user's or ours. Raises UsageError for one that lacks a place."""
    return {
        check: load_prompt(check, folder, package="lcx_in2", needs=needs) for check, needs in NEEDS.items()
    }


def read_verdict(text: str) -> str:
    """The last word in double brackets, if it is yes, no or unclear; else an empty text."""
    found = _VERDICT.findall(visible(text))
    word = found[-1].lower() if found else ""
    return word if word in (YES, NO, UNCLEAR) else ""


def reason_of(text: str) -> str:
    """What the judge said before its verdict."""
    text = visible(text)
    places = [match.start() for match in _VERDICT.finditer(text)]
    return " ".join(text[: places[-1]].split()) if places else ""


def texts_of(pieces: Sequence[str], gold: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Evidence and the rest of a context's pieces, each in their order."""
    mine = set(gold)
    return (
        tuple(pieces[place] for place in sorted(mine)),
        tuple(text for place, text in enumerate(pieces) if place not in mine),
    )
