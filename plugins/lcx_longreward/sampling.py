"""Documents as contexts, and several answers to every prompt by the model that is to be trained."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcx.data.table import SegmentTable
from lcx.llm.builtin import ANSWERING, GUESSING
from lcx.llm.client import LLMClient
from lcx.llm.prompts import UNFINISHED, Render, begun_inside, raw, said_in, thought_meta
from lcx.llm.protocol import Request, Response
from lcx.records import Branch, Bundle
from lcx_longreward.rubrics import language_of

# -- contexts


@dataclass(frozen=True)
class Window:
    """A stretch of a document: its segments `[first, last]` of the table and how many tokens they have."""

    document: int
    first: int
    last: int
    tokens: int
    whole: bool = True
    """Whether it is all of its document."""


def windows(table: SegmentTable, least: int, most: int, counts: Counter[str]) -> list[Window]:
    """Every document's windows of at most `most` tokens, in order, also those of fewer than `least`.

    Segments fill a window until the next one would not fit. A segment of more than `most` tokens is left out, and
    counted; so is what is too short, which only tasks of the corpus' own use.
    """
    found: list[Window] = []
    for document in range(table.document_count):
        segments = table.segments_of(document)
        mine: list[Window] = []
        first, tokens = segments.start, 0
        for segment in segments:
            size = int(table.tokens[segment])
            if tokens and tokens + size > most:
                mine.append(Window(document, first, segment - 1, tokens, False))
                first, tokens = segment, 0
            if size > most:
                counts["pieces left out: a line is longer than a context"] += 1
                first, tokens = segment + 1, 0
                continue
            tokens += size
        if tokens:
            mine.append(Window(document, first, segments.stop - 1, tokens, first == segments.start))
        counts["documents too short, left out"] += sum(w.tokens for w in mine) < least
        counts["ends of documents too short, left out"] += (
            len(mine) > 1 and mine[-1].tokens < least <= mine[0].tokens
        )
        found += mine
    return found


def text_of(table: SegmentTable, window: Window) -> str:
    """The window's characters, as they stand in the document."""
    text = table.document(window.document).text
    return text[int(table.starts[window.first]) : int(table.ends[window.last])]


# -- prompts and answers

ROLE = "candidate"
EMPTY = "empty"


@dataclass(frozen=True)
class Sample:
    """One answer; `cut` says that the length limit ended it, `raw` has the reply where it has thoughts.

    Where there is no text, `why` says why.
    """

    text: str
    cut: bool = False
    raw: str = ""
    why: str = ""


@dataclass(frozen=True)
class Prompt:
    """A task about a window. `reference` is an answer, where one is known."""

    window: Window
    question: str
    kind: str
    reference: str | None = None


@dataclass(frozen=True)
class Policy:
    """The model that answers, and how it is asked.

    `end` is the text that ends an answer in the training template: what comes after it is left out.
    """

    client: LLMClient
    text: Callable[[Prompt], str]
    render: Callable[[], Render]
    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    end: str = ""
    seed: int = 0
    batch: int = 256
    keep: bool = False
    """Whether thoughts stay in answers."""

    def answer(self, prompts: Sequence[Prompt]) -> list[tuple[list[Sample], str]]:
        """Every prompt's samples, in order, and the reason where there are none; a batch of prompts at a time."""
        found: list[Response] = []
        for number, start in enumerate(range(0, len(prompts), self.batch)):
            part = prompts[start : start + self.batch]
            found += self.client.generate(self._requests(part, number), part="answers", dealt=True)
        self.client.deal.gathered()
        inside = begun_inside(one for response in found for one in response.completions)
        return [(self._samples(response, inside), response.error) for response in found]

    def _requests(self, prompts: Sequence[Prompt], number: int) -> list[Request | None]:
        """What is asked; None in place of what is another shard's. Prompts about one window go together."""
        seeds = random.Random(f"{self.seed}:candidates:{number}")
        render = self.render()
        found: list[Request | None] = []
        for prompt in prompts:
            seed = seeds.randrange(2**31)
            skipped = self.client.deal.skips((prompt.window.document, prompt.window.first))
            found.append(None if skipped else self._request(render, self.text(prompt), prompt.question, seed))
        return found

    def _request(self, render: Render, context: str, question: str, seed: int) -> Request:
        return Request(
            messages=({"role": "user", "content": render(context, question)},),
            task=ANSWERING,
            fields={"question": question, "context": (context,), "read": GUESSING},
            n=self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=seed,
            usable=lambda one: bool(said_in(one).text.strip()),
        )

    def _samples(self, response: Response, inside: bool) -> list[Sample]:
        """The samples as they are trained on: what the template says ends an answer ends it here, too."""
        found = []
        for one in response.completions:
            said, whole = said_in(one, inside), raw(one)
            text = whole if self.keep and not said.only_thought else said.text
            place = text.find(self.end) if self.end else -1
            cut = place < 0 and one.finish_reason == "length"
            text = (text if place < 0 else text[:place]).strip()
            why = "" if text else UNFINISHED if said.only_thought else EMPTY
            found.append(Sample(text, cut, whole if said.thought else "", why))
        return found


def candidate_bundle(
    name: str, prompt: Prompt, context: str, samples: Sequence[Sample], meta: Mapping[str, Any]
) -> Bundle | None:
    """The prompt with its answers, each a branch of role `candidate`; None where no answer has any text."""
    branches = []
    for number, sample in enumerate(samples):
        if sample.text:
            about: dict[str, Any] = {"sample": number, "finish": "length" if sample.cut else "stop"}
            about |= {"cut": True} if sample.cut else {}
            about |= thought_meta(sample.text, sample.raw)
            branches.append(Branch(prompt.question, sample.text, ROLE, meta=about))
    if not branches:
        return None
    known = {"reference": prompt.reference} if prompt.reference else {}
    found = {"tokens": prompt.window.tokens, "language": language_of(prompt.question), **meta, **known}
    return Bundle(name, tuple(branches), context=context, kind=prompt.kind, meta=found)
