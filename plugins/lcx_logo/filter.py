"""The quality filter: a judge rates every answer, and the chosen one has to beat each rejected one that is kept."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lcx.llm.asking import Asker
from lcx.llm.prompts import fill
from lcx.llm.protocol import Request
from lcx_logo.answers import Answer

MAX_TOKENS = 512
HIGHEST = 10.0
_RATING = re.compile(r"\[\[\s*([+-]?\d+(?:[.,]\d+)?)[^\[\]]*\]\]")
_BLANKS = re.compile(r"\s+")

EMPTY, FAILED, CUT, UNRATED = (
    "empty",
    "the request failed",
    "cut at answer_tokens",
    "the judge gave no rating",
)
NOT_GIVEN = "the corpus gives none"
POOR = "rated below `least`"
SAME, DOUBLE = "the same as the chosen answer", "the same as another rejected answer"
TIE, BETTER, CLOSE = "rated like the chosen answer", "rated above the chosen answer", "within the margin"
NONE_LEFT = "no rejected answer is left"


@dataclass(frozen=True)
class Verdict:
    """What the filter made of one example: for every rejected answer why it went (empty: kept), and for the whole.

    `reason` is empty where the example is kept.
    """

    rejected: tuple[str, ...]
    reason: str = ""

    @property
    def kept(self) -> tuple[int, ...]:
        """Numbers of the rejected answers that stay."""
        return tuple(number for number, why in enumerate(self.rejected) if not why)


def parse_rating(text: str) -> float | None:
    """The last `[[number]]` of a judge's reply, clamped to 0-10 and divided by 10; None where there is none."""
    found = _RATING.findall(text)
    if not found:
        return None
    return min(HIGHEST, max(0.0, float(found[-1].replace(",", ".")))) / HIGHEST


def normal(text: str) -> str:
    """What two answers are compared by: no case, single blanks, no marks at the ends."""
    folded = _BLANKS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return folded.strip(" .,;:!?\"'“”‘’`*。，；：！？") or folded


def sift(answers: Sequence[Answer], *, judged: bool, margin: float, least: float = 0.0) -> Verdict:
    """Which rejected answers are worth training against; `answers` begin with the chosen one.

    Kept are those that differ from the chosen and from each other and, where `judged`, that the chosen one beats by
    at least `margin` and by more than nothing. The example falls where its chosen answer is no good, or where no
    rejected one is left.
    """
    chosen, *rejected = answers
    why = _unsound(chosen, judged, chosen=True)
    if not why and judged and (chosen.rating or 0.0) < least:
        why = POOR
    seen = {normal(chosen.text): SAME}
    reasons = []
    for answer in rejected:
        reason = _unsound(answer, judged, chosen=False) or seen.get(normal(answer.text), "")
        if not reason and judged and not why:
            reason = _not_beaten((chosen.rating or 0.0) - (answer.rating or 0.0), margin)
        if not reason:
            seen[normal(answer.text)] = DOUBLE
        reasons.append(reason)
    if why:
        return Verdict(tuple(reasons), f"chosen answer: {why}")
    return Verdict(tuple(reasons), "" if not all(reasons) else NONE_LEFT)


def _unsound(answer: Answer, judged: bool, *, chosen: bool) -> str:
    if answer.error:
        return FAILED
    if not answer.text:
        return EMPTY if not chosen or answer.what != "corpus" else NOT_GIVEN
    if chosen and answer.cut:  # a rejected one may be cut: an endless answer is a bad one
        return CUT
    return UNRATED if judged and answer.rating is None else ""


def _not_beaten(lead: float, margin: float) -> str:
    if abs(lead) < 1e-9:
        return TIE
    if lead < 0:
        return BETTER
    return CLOSE if lead < margin - 1e-9 else ""


@dataclass(frozen=True)
class Judged:
    """What the judge sees of one example: the question, a reference or an empty text, evidence, and the answers."""

    question: str
    reference: str
    evidence: tuple[str, ...]
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Judge:
    """Rates answers batch by batch through the journal."""

    asker: Asker
    prompt: str
    seed: int = 0
    batch: int = 64
    ahead: int = 1
    """Batches that are asked at a time."""

    def rate(
        self, count: int, example: Callable[[int], Judged], answers: Callable[[int], Sequence[Answer]]
    ) -> Iterator[list[Answer]]:
        """The answers of example 0 to `count` - 1 with their ratings. Answers without a text are not rated.

        `example` is called for batches only that the journal lacks, since it may have to read much text.
        """
        parts = [range(start, min(count, start + self.batch)) for start in range(0, count, self.batch)]
        units = [f"judge:{number}" for number in range(len(parts))]
        for number, (unit, part) in enumerate(zip(units, parts, strict=True)):
            if number % self.ahead == 0:
                near = range(number, min(number + self.ahead, len(parts)))
                self.asker.prepare(
                    [(units[i], partial(self._requests, example, parts[i], units[i])) for i in near]
                )
            given = [list(answers(i)) for i in part]
            size = sum(bool(answer.text) for some in given for answer in some)
            replies = iter(self.asker.ask(unit, size, partial(self._requests, example, part, unit)))
            for some in given:
                yield [_rated(answer, next(replies)) if answer.text else answer for answer in some]

    def _requests(self, example: Callable[[int], Judged], part: range, unit: str) -> list[Request]:
        seeds = random.Random(f"{self.seed}:{unit}")
        return [
            self._request(shown, answer, seeds.randrange(2**31))
            for shown in map(example, part)
            for answer in shown.answers
            if answer.text
        ]

    def _request(self, example: Judged, answer: Answer, seed: int) -> Request:
        shown = {
            "question": example.question,
            "reference": example.reference or "(none is known)",
            "evidence": "\n\n".join(example.evidence),
            "answer": answer.text,
        }
        return Request(
            messages=({"role": "user", "content": fill(self.prompt, shown)},),
            task="judge_overlap",
            fields={
                "question": example.question,
                "reference": example.reference,
                "evidence": example.evidence,
                "answer": answer.text,
            },
            max_tokens=MAX_TOKENS,
            seed=seed,
        )


def _rated(answer: Answer, reply: Mapping[str, Any]) -> Answer:
    return replace(answer, rating=None if reply["error"] else parse_rating(str(reply["text"])))
