"""What a judge is asked about a question of ours, and how its reply is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lcx.llm.client import LLMClient
from lcx.llm.judge import Rubric, Unreadable, before_mark, judge, read_word
from lcx.llm.prompts import fence, load_prompt
from lcx.llm.protocol import Usage

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

    client: LLMClient
    rubrics: Mapping[str, Rubric[str]]
    unclear: str = "drop"

    async def check(self, item: Item) -> Checked:
        """The verdicts on a question. Raises LcxError only for what every call would meet."""
        found = Checked()
        for check, rubric in self.rubrics.items():
            texts = texts_shown(item)
            made = await judge(self.client, rubric, fields={"check": check, **fields_of(item)}, **texts)
            found.calls += made.attempts
            found.usage += made.usage
            if made.value is None:
                found.unchecked = made.why
                return found
            found.verdicts[check] = made.value
            found.reasons[check] = before_mark(made.text)
            if found.why(self.unclear):
                return found
        return found


def texts_shown(item: Item) -> dict[str, str]:
    """What a question's prompts show of it, by place."""
    return {
        "evidence": "\n\n".join(item.evidence),
        "rest": "\n".join(item.rest) or NOT_SHOWN,
        "question": item.question,
        "answer": item.answer,
    }


def fields_of(item: Item) -> dict[str, Any]:
    """The same for rules."""
    return {
        "question": item.question,
        "answer": item.answer,
        "evidence": item.evidence,
        "context": item.rest,
    }


def rubrics(
    folder: str | None, *, tries: int = 3, reply_tokens: int = 512, seed: int = 0
) -> dict[str, Rubric[str]]:
    """The rubric of every check, with the user's prompt or ours. Raises UsageError for a prompt that lacks a place."""
    return {
        check: Rubric(
            check,
            load_prompt(check, folder, package="lcx_in2", needs=needs),
            read_verdict,
            tries,
            "judge_qa_check",
            fenced,
            retry_temperature=RETRY_TEMPERATURE,
            max_tokens=reply_tokens,
            seed=seed,
        )
        for check, needs in NEEDS.items()
    }


def read_verdict(reply: str) -> str | Unreadable:
    """The last word in double brackets, if it is yes, no or unclear."""
    return read_word(reply, (YES, NO, UNCLEAR))


def texts_of(pieces: Sequence[str], gold: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Evidence and the rest of a context's pieces, each in their order."""
    mine = set(gold)
    return (
        tuple(pieces[place] for place in sorted(mine)),
        tuple(text for place, text in enumerate(pieces) if place not in mine),
    )
