"""Several sampled answers to every prompt by the model that is to be trained, and the bundles of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lcx.llm.asking import Asker, samples_of
from lcx.llm.prompts import Render
from lcx.llm.protocol import Request
from lcx.records import Branch, Bundle
from lcx_longreward.judge.prompting import language_of
from lcx_longreward.synth.questions import Prompt

ROLE = "candidate"
GUESSING = 0.6
"""Share of a context's lines that the builtin rules read for an answer: reading all, they would always say the same."""


@dataclass(frozen=True)
class Sample:
    """One answer; `cut` says that the length limit ended it."""

    text: str
    cut: bool = False


@dataclass(frozen=True)
class Policy:
    """The model that answers, and how it is asked.

    `end` is the text that ends an answer in the training template: what comes after it is left out.
    """

    asker: Asker
    text: Callable[[Prompt], str]
    render: Callable[[], Render]
    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    end: str = ""
    seed: int = 0
    batch: int = 256

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[tuple[list[Sample], str]]:
        """Every prompt's samples, in order, and the reason where there are none; batches go through the journal."""
        for number, start in enumerate(range(0, len(prompts), self.batch)):
            part, unit = prompts[start : start + self.batch], f"candidates:{number}"
            for reply in self.asker.ask(unit, len(part), partial(self._requests, part, unit)):
                yield [self._read(text, cut) for text, cut in samples_of(reply)], str(reply["error"])

    def _requests(self, prompts: Sequence[Prompt], unit: str) -> list[Request]:
        seeds = random.Random(f"{self.seed}:{unit}")
        render = self.render()
        return [self._request(render, self.text(p), p.question, seeds.randrange(2**31)) for p in prompts]

    def _request(self, render: Render, context: str, question: str, seed: int) -> Request:
        return Request(
            messages=({"role": "user", "content": render(context, question)},),
            task="answer_question",
            fields={"question": question, "context": (context,), "read": GUESSING},
            n=self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=seed,
        )

    def _read(self, text: str, cut: bool) -> Sample:
        """A sample as it is trained on: what the template says ends an answer ends it here, too."""
        place = text.find(self.end) if self.end else -1
        return Sample(text.strip(), cut) if place < 0 else Sample(text[:place].strip())


def candidate_bundle(
    name: str, prompt: Prompt, context: str, samples: Sequence[Sample], meta: Mapping[str, Any]
) -> Bundle | None:
    """The prompt with its answers, each a branch of role `candidate`; None where no answer has any text."""
    branches = []
    for number, sample in enumerate(samples):
        if sample.text:
            about = {"sample": number, "finish": "length" if sample.cut else "stop"}
            branches.append(
                Branch(prompt.question, sample.text, ROLE, meta=about | ({"cut": True} if sample.cut else {}))
            )
    if not branches:
        return None
    known = {"reference": prompt.reference} if prompt.reference else {}
    found = {"tokens": prompt.window.tokens, "language": language_of(prompt.question), **meta, **known}
    return Bundle(name, tuple(branches), context=context, kind=prompt.kind, meta=found)
