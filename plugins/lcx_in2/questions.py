"""Question-answer pairs about segments: what the writer is asked, how its reply is read, and the journal of both."""

from __future__ import annotations

import importlib.resources
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcx.errors import LcxError, UsageError
from lcx.llm.protocol import LLM, Request, Response
from lcx.work.journal import Journal

FINE, INTEGRATION = "fine", "integration"
TASKS = {FINE: "write_question", INTEGRATION: "write_joint_question"}
FIELD = {FINE: "segment", INTEGRATION: "segments"}
MAX_QUESTION = 1000
CUT = "the reply was cut at answer_tokens"
_LABEL = r"\*{0,2}\s*[:：]\*{0,2}\s*"
_REPLY = re.compile(rf"question{_LABEL}(?P<q>.+?)\s*\n[\s*#]*answer{_LABEL}(?P<a>.+)", re.I | re.S)
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
    """The question and answer in a writer's reply, or the reason why there is none."""
    if not text.strip() or text.strip().upper().startswith("NOTHING"):
        return "the writer found nothing to ask"
    found = _REPLY.search(text)
    if not found:
        return "no question and answer in the reply"
    question, answer = found["q"].strip().strip("*").strip(), found["a"].strip()
    if not question or not answer:
        return "an empty question or answer"
    if len(question) > MAX_QUESTION:
        return "the question is too long"
    if _POINTS_AT_TEXT.search(question):
        return "the question points at its passage"
    return question, answer


def _row(response: Response) -> dict[str, Any]:
    """A reply as the journal keeps it. One that the length limit cut is no answer to learn from."""
    cut = bool(response.completions) and response.completions[0].finish_reason == "length"
    return {"text": response.text, "error": response.error, "cut": cut}


def load_prompt(name: str, folder: str | None) -> str:
    """The prompt file of a kind: the user's where the folder has it, else the bundled one."""
    if folder is not None:
        place = Path(folder).expanduser()
        if not place.is_dir():
            raise UsageError(f"no folder of prompts at '{folder}'", hint="--set synth.prompts=FOLDER")
        own = place / f"{name}.txt"
        if own.is_file():
            text = own.read_text(encoding="utf-8")
            needed = "{segment}" if name == FINE else "{segments}"
            if needed not in text:
                raise UsageError(f"{own} has no {needed}, so the writer would never see the text")
            return text
    return (importlib.resources.files("lcx_in2") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")


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
    """Asks for pairs batch by batch and journals every batch, so that a killed step asks nothing twice.

    The composition of a batch depends on the candidates' order alone, never on where an earlier process stopped, so
    a resumed step gets the same replies.
    """

    def __init__(
        self,
        llm: Callable[[], LLM],
        journal: Journal,
        *,
        prompts: dict[str, str],
        text: Callable[[int], str],
        batch: int,
        seed: int,
        temperature: float,
        max_tokens: int,
    ) -> None:
        self._open = llm
        self._llm: LLM | None = None
        self.journal, self.prompts, self.text = journal, prompts, text
        self.batch, self.seed = batch, seed
        self.temperature, self.max_tokens = temperature, max_tokens
        self.skipped: Counter[str] = Counter()
        self.calls = self.prompt_tokens = self.completion_tokens = 0

    def write(self, kind: str, name: str, candidates: Sequence[tuple[int, ...]], needed: int) -> Iterator[QA]:
        """Usable pairs in the candidates' order until `needed` are found or the candidates run out."""
        found = 0
        for number, start in enumerate(range(0, len(candidates), self.batch)):
            if found >= needed:
                return
            part = candidates[start : start + self.batch]
            for segments, reply in zip(part, self._replies(kind, f"{name}:{number}", part), strict=True):
                result = reply["error"] or (CUT if reply["cut"] else parse_reply(reply["text"]))
                if isinstance(result, str):
                    self.skipped[f"segment skipped: {result}"] += 1
                elif found < needed:
                    found += 1
                    yield QA(result[0], result[1], segments)

    def _replies(self, kind: str, unit: str, part: Sequence[tuple[int, ...]]) -> list[dict[str, Any]]:
        known = self.journal.get(unit)
        if known is None:
            if self._llm is None:
                self._llm = self._open()
            seeds = random.Random(f"{self.seed}:{unit}")
            requests = [
                build_request(
                    kind,
                    self.prompts[kind],
                    [self.text(i) for i in segments],
                    seed=seeds.randrange(2**31),
                    temperature=self.temperature,
                    max_tokens=self.max_tokens,
                )
                for segments in part
            ]
            responses = self._llm.generate(requests)
            known = {
                "unit": unit,
                "replies": [_row(response) for response in responses],
                "usage": [
                    sum(r.usage.prompt_tokens for r in responses),
                    sum(r.usage.completion_tokens for r in responses),
                ],
            }
            self.journal.append(known)
        self.calls += len(known["replies"])
        self.prompt_tokens += known["usage"][0]
        self.completion_tokens += known["usage"][1]
        if len(known["replies"]) != len(part):
            raise LcxError(
                f"{self.journal.path}: batch {unit} has another size", hint="--force starts the step over."
            )
        return list(known["replies"])

    def close(self) -> None:
        if self._llm is not None:
            self._llm.close()

    def describe(self) -> dict[str, Any]:
        """The backend that answered in this process; empty where the journal had every reply."""
        return self._llm.describe() if self._llm is not None else {}
