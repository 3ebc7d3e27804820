"""Question-answer pairs about segments: what the writer is asked, how its reply is read, and the journal of both."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from lcx.errors import UsageError
from lcx.llm.client import LLMClient, RuleClient
from lcx.llm.prompts import UNFINISHED, load_prompt, raw, read_thoughts, said_in
from lcx.llm.protocol import Completion, Request, Response

FINE, INTEGRATION = "fine", "integration"
TASKS = {FINE: "write_question", INTEGRATION: "write_joint_question"}
FIELD = {FINE: "segment", INTEGRATION: "segments"}
MAX_QUESTION = 1000
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
    said = read_thoughts(text)
    if said.only_thought:
        return UNFINISHED
    text = said.text
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


PROBED, LEAST = 100, 0.05
"""Replies after which a writer is looked at, and the share of them that has to be usable."""
SHOWN = 200


@dataclass
class Yield:
    """How much of what a writer says is usable: one that says next to nothing is not asked about a whole corpus.

    `free` is a writer that costs nothing: such a one ends only where nothing at all is usable.
    """

    what: str
    free: bool = False
    hint: str = ""
    asked: int = 0
    usable: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    shown: dict[str, str] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """How many may be asked before the next look."""
        return PROBED - self.asked if self.asked < PROBED else 1 << 30

    def note(self, reply: Response, why: str) -> None:
        """Count a reply; `why` it is of no use, if it is of none."""
        self.asked += 1
        if not why:
            self.usable += 1
            return
        self.reasons[why] += 1
        if why not in self.shown and reply.completions:
            self.shown[why] = raw(reply.completions[0])

    def check(self) -> None:
        """Raise UsageError where too little is usable, with the reasons and one of the replies."""
        least = 1 if self.free else LEAST * self.asked
        if self.asked < PROBED or self.usable >= least:
            return
        whole = f"{self.usable} usable {self.what}s" if self.usable else f"no usable {self.what}"
        why = "; ".join(f"{reason} ({n})" for reason, n in self.reasons.most_common(3))
        if shown := next((self.shown[one] for one, _ in self.reasons.most_common() if one in self.shown), ""):
            short = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]} …"
            why += f". One reply: {short!r}"
        raise UsageError(
            f"{whole} came out of {self.asked:,} replies, so the writer is not asked any further",
            why=why,
            hint=" ".join(filter(None, ("Another writer, or more tokens for it.", self.hint))),
        )


class Writer:
    """Asks a model for pairs, batch by batch.

    Seeds follow from the candidates' order alone, never from where an earlier process stopped, so a resumed step finds
    the replies that it has.
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
        limit: str = "answer_tokens",
    ) -> None:
        """`ahead` is how many batches are asked at a time; `limit` is what the setting of `max_tokens` is called."""
        self.client, self.ahead, self.limit = client, ahead, limit
        self.prompts, self.text = prompts, text
        self.batch, self.seed = batch, seed
        self.temperature, self.max_tokens = temperature, max_tokens
        self.skipped: Counter[str] = Counter()

    def write(
        self, kind: str, name: str, candidates: Sequence[tuple[int, ...]], needed: int, hint: str = ""
    ) -> Iterator[QA]:
        """Usable pairs in the candidates' order until `needed` are found or the candidates run out.

        No more are asked about than are wanted still: what comes too much is paid for, too. Raises UsageError where
        next to nothing of what the writer says is usable; `hint` is what else may help then.
        """
        found = start = 0
        useful = Yield(f"{name} question", isinstance(self.client, RuleClient), hint)
        if self.client.deal.open:
            self._write_share(kind, name, candidates, needed, useful)
            return
        while found < needed and start < len(candidates):
            room = min(needed - found, self.ahead * self.batch, useful.room)
            part = range(start, min(len(candidates), start + room))
            start = part.stop
            requests = list(self._requests(kind, name, part, candidates))
            replies = self.client.generate(requests, part=name, dealt=True)
            for place, reply in zip(part, replies, strict=True):
                result = reply.error or self._read(reply.completions[0])
                useful.note(reply, result if isinstance(result, str) else "")
                if isinstance(result, str):
                    self.skipped[f"segment skipped: {result}"] += 1
                else:
                    found += 1
                    yield QA(result[0], result[1], candidates[place])
            useful.check()

    def _write_share(
        self, kind: str, name: str, candidates: Sequence[tuple[int, ...]], needed: int, useful: Yield
    ) -> None:
        """Ask what a shard has of this: every so many-th candidate, until its share of what is needed is usable.

        A shard whose candidates give less than others' leaves a few for whoever gathers, which asks in their order.
        """
        deal, start = self.client.deal, 0
        mine = range(deal.index or 0, len(candidates), deal.count)
        share = len(range(deal.index or 0, needed, deal.count))
        while useful.usable < share and start < len(mine):
            part = mine[start : start + min(share - useful.usable, self.ahead * self.batch, useful.room)]
            start += len(part)
            requests = list(self._requests(kind, name, part, candidates))
            for reply in self.client.generate(requests, part=name, dealt=True):
                result = reply.error or self._read(reply.completions[0])
                useful.note(reply, result if isinstance(result, str) else "")
            useful.check()

    def _read(self, one: Completion) -> tuple[str, str] | str:
        if said_in(one).only_thought:
            return UNFINISHED
        return (
            f"the reply was cut at {self.limit}" if one.finish_reason == "length" else parse_reply(one.text)
        )

    def _requests(
        self, kind: str, name: str, part: range, candidates: Sequence[tuple[int, ...]]
    ) -> Iterator[Request]:
        """The requests about candidates. A seed follows from a candidate's place, not from how many are asked."""
        seeds: list[int] = []
        drawn_for = -1
        for place in part:
            if place // self.batch != drawn_for:
                drawn_for = place // self.batch
                drawn = random.Random(f"{self.seed}:{name}:{drawn_for}")
                seeds = [drawn.randrange(2**31) for _ in range(self.batch)]
            request = build_request(
                kind,
                self.prompts[kind],
                [self.text(i) for i in candidates[place]],
                seed=seeds[place % self.batch],
                temperature=self.temperature,
                max_tokens=self.max_tokens,
            )
            yield replace(request, usable=lambda one: not isinstance(self._read(one), str))

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
