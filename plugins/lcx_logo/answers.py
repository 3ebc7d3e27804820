"""Answers by the policy model: what it is asked to read, how its replies become answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lcx.data.table import SegmentTable
from lcx.data.tokens import SEPARATOR
from lcx.llm.asking import Asker
from lcx.llm.prompts import Render
from lcx.llm.protocol import Request
from lcx_logo.contexts import Case, Reading

CORPUS = "corpus"
"""Where a chosen answer comes from that the policy did not write."""


@dataclass(frozen=True)
class Answer:
    """One answer and what it was generated from. `error` says why there is no text, `cut` that a limit ended it."""

    text: str
    what: str
    chunks: tuple[int, ...]
    error: str = ""
    cut: bool = False
    rating: float | None = None
    """The judge's, from 0 to 1; None where it gave none."""


@dataclass(frozen=True)
class Policy:
    """The model that answers, and how it is asked. `own` is off where the corpus gives the chosen answers.

    `stop` ends an answer, where the template has such a mark; a newline never does.
    """

    asker: Asker
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

    def answer(self, cases: Sequence[Case]) -> Iterator[list[Answer]]:
        """The chosen answer and then the rejected ones of every case; batches go through the journal."""
        parts = [cases[start : start + self.batch] for start in range(0, len(cases), self.batch)]
        units = [f"answers:{number}" for number in range(len(parts))]
        for number, (unit, part) in enumerate(zip(units, parts, strict=True)):
            if number % self.ahead == 0:
                some = range(number, min(number + self.ahead, len(parts)))
                self.asker.prepare([(units[i], partial(self._requests, parts[i], units[i])) for i in some])
            size = sum(len(self._readings(case)) for case in part)
            replies = iter(self.asker.ask(unit, size, partial(self._requests, part, unit)))
            for case in part:
                yield self._read(case, [next(replies) for _ in self._readings(case)])

    def _readings(self, case: Case) -> tuple[Reading, ...]:
        return case.readings if self.own else case.readings[1:]

    def _requests(self, cases: Sequence[Case], unit: str) -> list[Request]:
        seeds = random.Random(f"{self.seed}:{unit}")
        render = self.render()
        return [
            self._request(render, case.asked.question, reading.chunks, seeds.randrange(2**31))
            for case in cases
            for reading in self._readings(case)
        ]

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
        )

    def _read(self, case: Case, replies: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """A reply is taken whole, newlines included; only blanks around it go."""
        found = [
            Answer(str(r["text"]).strip(), reading.what, reading.chunks, str(r["error"]), bool(r["cut"]))
            for reading, r in zip(self._readings(case), replies, strict=True)
        ]
        given = Answer((case.asked.reference or "").strip(), CORPUS, case.asked.source)
        return found if self.own else [given, *found]
