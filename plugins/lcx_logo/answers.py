"""Answers by the policy model: what it is asked to read, how its replies become answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from lcx.data.table import SegmentTable
from lcx.data.tokens import SEPARATOR
from lcx.llm.client import LLMClient
from lcx.llm.prompts import UNFINISHED, Render, Said, begun_inside, raw, said_in
from lcx.llm.protocol import Request, Response
from lcx_logo.contexts import Case, Reading

CORPUS = "corpus"
"""Where a chosen answer comes from that the policy did not write."""


@dataclass(frozen=True)
class Answer:
    """One answer and what it was generated from. `error` says why there is no text, `cut` that a limit ended it.

    `raw` is the reply with its thoughts, where it has some.
    """

    text: str
    what: str
    chunks: tuple[int, ...]
    error: str = ""
    cut: bool = False
    rating: float | None = None
    """The judge's, from 0 to 1; None where it gave none."""
    raw: str = ""


@dataclass(frozen=True)
class Policy:
    """The model that answers, and how it is asked. `own` is off where the corpus gives the chosen answers.

    `stop` ends an answer, where the template has such a mark; a newline never does.
    """

    client: LLMClient
    table: SegmentTable
    render: Callable[[], Render]
    temperature: float
    top_p: float
    max_tokens: int
    own: bool = True
    stop: str = ""
    seed: int = 0
    batch: int = 64
    ahead: int = 1
    """Batches that are asked at a time."""
    keep: bool = False
    """Whether thoughts stay in answers."""

    def replies(self, cases: Sequence[Case]) -> Iterator[list[Response]]:
        """What the model says for every answer that it gives to a case."""
        size = self.batch * self.ahead
        for start in range(0, len(cases), size):
            part = cases[start : start + size]
            requests: list[Request | None] = []
            for first in range(0, len(part), self.batch):
                number = (start + first) // self.batch
                requests += self._requests(part[first : first + self.batch], f"answers:{number}")
            replies = iter(self.client.generate(requests, part="answers", dealt=True))
            for case in part:
                yield [next(replies) for _ in self._readings(case)]

    def answers(self, cases: Sequence[Case], replies: Sequence[Sequence[Response]]) -> list[list[Answer]]:
        """The chosen answer and then the rejected ones of every case, from all that the model said."""
        inside = begun_inside(one for found in replies for reply in found for one in reply.completions)
        return [self._read(case, found, inside) for case, found in zip(cases, replies, strict=True)]

    def _readings(self, case: Case) -> tuple[Reading, ...]:
        return case.readings if self.own else case.readings[1:]

    def _requests(self, cases: Sequence[Case], unit: str) -> list[Request | None]:
        """What is asked about cases; None in place of what is another shard's. Cases of one question go together."""
        seeds = random.Random(f"{self.seed}:{unit}")
        render = self.render()
        found: list[Request | None] = []
        for case in cases:
            skipped = self.client.deal.skips(case.asked.question)
            for reading in self._readings(case):
                seed = seeds.randrange(2**31)
                question = case.asked.question
                found.append(None if skipped else self._request(render, question, reading.chunks, seed))
        return found

    def _request(self, render: Render, question: str, chunks: Sequence[int], seed: int) -> Request:
        texts = self.table.texts(chunks)
        return Request(
            messages=({"role": "user", "content": render(SEPARATOR.join(texts), question)},),
            task="answer_question",
            fields={"question": question, "context": tuple(texts)},
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop=(self.stop,) if self.stop else (),
            seed=seed,
            usable=lambda one: bool(said_in(one).text.strip()),
        )

    def _read(self, case: Case, replies: Sequence[Response], inside: bool) -> list[Answer]:
        """What a reply says is taken whole, newlines included; only its thoughts and blanks around it go."""
        found = [
            self._answer(reply, Answer("", reading.what, reading.chunks, reply.error, _cut(reply)), inside)
            for reading, reply in zip(self._readings(case), replies, strict=True)
        ]
        given = Answer((case.asked.reference or "").strip(), CORPUS, case.asked.source)
        return found if self.own else [given, *found]

    def _answer(self, reply: Response, empty: Answer, inside: bool) -> Answer:
        if not reply.completions:
            return empty
        one = reply.completions[0]
        return spoken(empty, said_in(one, inside), raw(one), self.keep)


def spoken(answer: Answer, said: Said, whole: str, keep: bool) -> Answer:
    """The answer with what a reply says, or all of it where thoughts are kept; a thought alone is no answer."""
    if not said.thought:
        return replace(answer, text=said.text.strip())
    if said.only_thought:
        return replace(answer, text="", error=answer.error or UNFINISHED, raw=whole)
    return replace(answer, text=(whole if keep else said.text).strip(), raw=whole)


def _cut(reply: Response) -> bool:
    """Whether the length limit ended a reply."""
    return bool(reply.completions) and reply.completions[0].finish_reason == "length"
