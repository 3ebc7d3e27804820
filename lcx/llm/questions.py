"""Question-answer pairs about segments: what the writer is asked, how its reply is read, and the journal of both."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lcx.llm.client import LLMClient
from lcx.llm.prompts import load_prompt, visible
from lcx.llm.protocol import Request, Response

FINE, INTEGRATION = "fine", "integration"
TASKS = {FINE: "write_question", INTEGRATION: "write_joint_question"}
FIELD = {FINE: "segment", INTEGRATION: "segments"}
MAX_QUESTION = 1000
CUT = "the reply was cut at answer_tokens"
_LABEL = r"\*{0,2}\s*[:：]\*{0,2}"
_QUESTION = re.compile(rf"question{_LABEL}", re.I)
_ANSWER = re.compile(rf"^(?:[^\S\n]|[*#])*answer{_LABEL}", re.I | re.M)
"""A line that begins an answer. Each line is looked at by itself, so thousands of blank ones cost nothing."""
_POINTS_AT_TEXT = re.compile(
    r"\b(?:this|the|above|given|following) (?:passage|text|excerpt|pieces?|segments?)\b", re.I
)


@dataclass(frozen=True)
class QA:
    """A usable pair and the segments (indices into the table) that hold its evidence."""

    question: str
    answer: str
    segments: tuple[int, ...]


def parse_reply(text: str) -> tuple[str, str] | str:
    """The question and answer in a writer's reply, without its thoughts, or the reason why there is none."""
    text = visible(text)
    if not text.strip() or text.strip().upper().startswith("NOTHING"):
        return "the writer found nothing to ask"
    begin = _QUESTION.search(text)
    end = _ANSWER.search(text, begin.end()) if begin else None
    if not begin or not end:
        return "no question and answer in the reply"
    question, answer = text[begin.end() : end.start()].strip().strip("*").strip(), text[end.end() :].strip()
    if not question or not answer:
        return "an empty question or answer"
    if len(question) > MAX_QUESTION:
        return "the question is too long"
    if _POINTS_AT_TEXT.search(question):
        return "the question points at its passage"
    return question, answer


def writer_prompts(folder: str | None) -> dict[str, str]:
    """The prompts of both kinds of question, `fine.txt` and `integration.txt`, by kind."""
    return {kind: load_prompt(kind, folder, needs=["{" + field + "}"]) for kind, field in FIELD.items()}


def build_request(
    kind: str, prompt: str, texts: Sequence[str], *, seed: int, temperature: float, max_tokens: int
) -> Request:
    """The request that asks for one pair about the given segments."""
    if kind == FINE:
        value: object = texts[0]
        filled = prompt.replace("{segment}", texts[0])
    else:
        value = tuple(texts)
        pieces = "\n\n".join(f"<piece {i}>\n{text}\n</piece {i}>" for i, text in enumerate(texts, 1))
        filled = prompt.replace("{segments}", pieces)
    return Request(
        messages=({"role": "user", "content": filled},),
        task=TASKS[kind],
        fields={FIELD[kind]: value},
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
    )


class Writer:
    """Asks a model for pairs, batch by batch.

    The seeds of a batch follow from the candidates' order alone, never from where an earlier process stopped, so a
    resumed step finds the replies that it has.
    """

    def __init__(
        self,
        client: LLMClient,
        *,
        prompts: dict[str, str],
        text: Callable[[int], str],
        batch: int,
        seed: int,
        temperature: float,
        max_tokens: int,
        ahead: int = 1,
    ) -> None:
        """`ahead` is how many batches are asked at a time, where so many are needed."""
        self.client, self.ahead = client, ahead
        self.prompts, self.text = prompts, text
        self.batch, self.seed = batch, seed
        self.temperature, self.max_tokens = temperature, max_tokens
        self.skipped: Counter[str] = Counter()

    def write(self, kind: str, name: str, candidates: Sequence[tuple[int, ...]], needed: int) -> Iterator[QA]:
        """Usable pairs in the candidates' order until `needed` are found or the candidates run out."""
        found = number = 0
        batches = -(-len(candidates) // self.batch)
        while found < needed and number < batches:
            # A candidate gives one pair at most: so many batches are needed in any case
            sure = range(number, min(batches, number + min(self.ahead, -(-(needed - found) // self.batch))))
            number = sure.stop
            asked = [(one, request) for i in sure for one, request in self._batch(kind, name, i, candidates)]
            replies = self.client.generate([request for _, request in asked], part=name)
            for (segments, _), reply in zip(asked, replies, strict=True):
                result = reply.error or self._read(reply)
                if isinstance(result, str):
                    self.skipped[f"segment skipped: {result}"] += 1
                elif found < needed:
                    found += 1
                    yield QA(result[0], result[1], segments)

    def _read(self, reply: Response) -> tuple[str, str] | str:
        return CUT if reply.completions[0].finish_reason == "length" else parse_reply(reply.text)

    def _batch(
        self, kind: str, name: str, number: int, candidates: Sequence[tuple[int, ...]]
    ) -> Iterator[tuple[tuple[int, ...], Request]]:
        """A batch's candidates with their requests."""
        seeds = random.Random(f"{self.seed}:{name}:{number}")
        for segments in candidates[number * self.batch : (number + 1) * self.batch]:
            yield (
                segments,
                build_request(
                    kind,
                    self.prompts[kind],
                    [self.text(i) for i in segments],
                    seed=seeds.randrange(2**31),
                    temperature=self.temperature,
                    max_tokens=self.max_tokens,
                ),
            )

    @property
    def counts(self) -> dict[str, int]:
        """Calls and tokens so far, and what was skipped and why."""
        used = self.client.used
        spent = {
            "calls": used.calls,
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
        }
        return {**self.skipped, **spent}
