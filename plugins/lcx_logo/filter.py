"""The quality filter: a judge rates every answer, and the chosen one has to beat each rejected one that is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lcx.data.words import nfkc
from lcx.llm.client import LLMClient
from lcx.llm.judge import Rubric, Unreadable, judge, read_rating
from lcx.llm.prompts import UNFINISHED, fence, visible
from lcx.steps import StepWork
from lcx_logo.answers import Answer

MAX_TOKENS = 512
fenced = fence("question", "reference", "passages", "answer")
"""Makes a text that others wrote unable to close or open the marks around it."""
HIGHEST = 10.0
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
    found = read_rating(text, 0.0, HIGHEST, clamp=True)
    return None if isinstance(found, Unreadable) else found / HIGHEST


def normal(text: str) -> str:
    """What two answers are compared by: no case, single blanks, no marks at the ends."""
    folded = _BLANKS.sub(" ", nfkc(text).casefold()).strip()
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
    seen = {normal(visible(chosen.text)): SAME}
    reasons = []
    for answer in rejected:
        said = normal(visible(answer.text))
        reason = _unsound(answer, judged, chosen=False) or seen.get(said, "")
        if not reason and judged and not why:
            reason = _not_beaten((chosen.rating or 0.0) - (answer.rating or 0.0), margin)
        if not reason:
            seen[said] = DOUBLE
        reasons.append(reason)
    if why:
        return Verdict(tuple(reasons), f"chosen answer: {why}")
    return Verdict(tuple(reasons), "" if not all(reasons) else NONE_LEFT)


def _unsound(answer: Answer, judged: bool, *, chosen: bool) -> str:
    if answer.error:
        return answer.error if answer.error == UNFINISHED else FAILED
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


def judge_rubric(prompt: str, seed: int = 0) -> Rubric[float]:
    """How an answer is rated, from 0 to 1; it is asked for once."""
    return Rubric("judge", prompt, _read, 1, "judge_overlap", fenced, max_tokens=MAX_TOKENS, seed=seed)


def _read(reply: str) -> float | Unreadable:
    rating = parse_rating(reply)
    return Unreadable(UNRATED) if rating is None else rating


@dataclass(frozen=True)
class Judge:
    """Rates the answers of examples, so many examples at a time."""

    client: LLMClient
    rubric: Rubric[float]
    batch: int = 64

    def rate(
        self, work: StepWork[Any], questions: Sequence[str], example: Callable[[int], Judged]
    ) -> list[list[Answer]]:
        """The answers of every example with their ratings; `questions` has the question of each.

        Answers without a text are not rated. Where several processes share the step, examples of one question are one
        process's: what the judge is asked about them may be the same.
        """
        rated: dict[str, list[Answer]] = {}

        async def one(number: int) -> Mapping[str, Any]:
            judged = example(number)
            rated[str(number)] = list(
                await asyncio.gather(*(self._rated(judged, answer) for answer in judged.answers))
            )
            work.ctx.pulse(f"    judged: {len(rated):,} of {len(questions):,}")
            return {}

        places = range(len(questions))
        every = work.each(places, one, key=str, share=questions.__getitem__, most=self.batch, keep=None)
        work.service.run(every)
        return [rated[str(number)] for number in places]

    async def _rated(self, shown: Judged, answer: Answer) -> Answer:
        if not answer.text:
            return answer
        texts = {
            "question": shown.question,
            "reference": shown.reference or "(none is known)",
            "evidence": "\n\n".join(shown.evidence),
            "answer": visible(answer.text),
        }
        fields = {**texts, "reference": shown.reference, "evidence": shown.evidence}
        found = await judge(self.client, self.rubric, fields=fields, **texts)
        return replace(answer, rating=found.value)
