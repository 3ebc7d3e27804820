"""One question's answers judged: every part asked until it can be read, all parts and answers at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from lcx.context import Context
from lcx.data.table import safe_cut
from lcx.data.tokens import SpanTokenizer
from lcx.llm.judge import Asking, Asks, Health, Judgement, together
from lcx.llm.prompts import UNFINISHED
from lcx.retrieval import Index, Retriever
from lcx_longreward.early import Standing, first, needed
from lcx_longreward.pairs import DIMENSIONS, FAITHFULNESS, Rules, bounds, faithfulness, reward
from lcx_longreward.rubrics import (
    COMPLETENESS,
    HELPFULNESS,
    LOGICALITY,
    NO_INFORMATION,
    PARTS,
    STATEMENTS,
    Rubrics,
    language_of,
    range_labels,
)
from lcx_longreward.settings import LongRewardScore

# -- a document as the judge sees it


@dataclass(frozen=True)
class Pieces:
    """Consecutive pieces of a text: piece i is `text[edges[i]:edges[i + 1]]`; together they are the text."""

    text: str
    edges: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def texts(self) -> list[str]:
        return [self.text[begin:end] for begin, end in pairwise(self.edges)]

    @property
    def labels(self) -> list[str]:
        """Where each piece lies in the text, in percent."""
        return range_labels(self.edges)


@dataclass(frozen=True)
class Document:
    """One text, cut both ways; `tokens` by the tokenizer that cut it."""

    passages: Pieces
    parts: Pieces
    tokens: int


def cut(text: str, tokenizer: SpanTokenizer, chunk_tokens: int, extract_tokens: int) -> Document:
    """Passages of `chunk_tokens` and parts of `extract_tokens`, without overlap; the last ones may be shorter."""
    [found] = tokenizer.starts([text])
    starts = found.tolist()
    return Document(pieces(text, starts, chunk_tokens), pieces(text, starts, extract_tokens), len(starts))


def pieces(text: str, starts: Sequence[int], size: int) -> Pieces:
    """Cut before every `size`-th token; no cut parts a character from its marks, whatever bytes the tokens hold."""
    edges = [0]
    for token in range(size, len(starts), size):
        place = safe_cut(text, int(starts[token]))
        if edges[-1] < place < len(text):
            edges.append(place)
    return Pieces(text, (*edges, len(text)))


# -- what comes of it

T = TypeVar("T")

ANSWER = "answer"
"""What failed where there is no text to judge."""
EMPTY = "the answer is empty"
NO_STATEMENTS = "the answer states nothing (no_statements is skip)"


@dataclass(frozen=True)
class Case:
    """One question about one text, and the answers to it."""

    context: str
    question: str
    answers: tuple[str, ...]
    lost: tuple[str, ...] = ()
    """Why an answer has no text, for each that has a reason."""

    def verdicts(self) -> list[JudgeScore]:
        """What is known before anything is asked: an answer without a text has failed."""
        return [
            JudgeScore(failed={} if answer.strip() else {ANSWER: why or EMPTY})
            for answer, why in zip_longest(self.answers, self.lost, fillvalue="")
        ]


@dataclass
class JudgeScore:
    """What is known of one answer. `failed` has the reason for every part that has no result."""

    scores: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(DIMENSIONS))
    failed: dict[str, str] = field(default_factory=dict)
    analyses: dict[str, str] = field(default_factory=dict)
    statements: list[dict[str, Any]] | None = None
    skipped: bool = False
    """Whether calls were left out that could not change the pair."""

    @property
    def reward(self) -> float | None:
        return None if self.failed else reward(self.scores)

    @property
    def standing(self) -> Standing:
        low, high = bounds(self.scores)
        return Standing(low, high, done=self.reward is not None, failed=bool(self.failed))

    @property
    def settled(self) -> bool:
        """Whether nothing failed but what fails by rule: asking again would find the same."""
        return all(why in (EMPTY, UNFINISHED, NO_STATEMENTS) for why in self.failed.values())

    def row(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            **self.scores,
            "reward": self.reward,
            "failed": _ordered(self.failed),
            "analyses": _ordered(self.analyses),
            "statements": self.statements,
            "skipped": self.skipped,
        }


def _ordered(texts: Mapping[str, str]) -> dict[str, str]:
    """By part, not by when the replies came."""
    return {part: texts[part] for part in (ANSWER, *DIMENSIONS) if part in texts}


@dataclass
class Judged:
    """What came of one case: a verdict an answer, the document's facts by part, and the calls by what they were for."""

    verdicts: list[JudgeScore]
    facts: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    """Replies that could not be used, by part and reason."""

    def row(self) -> dict[str, Any]:
        return {
            "answers": [verdict.row() for verdict in self.verdicts],
            "facts": self.facts,
            "tokens": self.tokens,
            "calls": dict(sorted(self.calls.items())),
            "attempts": dict(sorted(self.attempts.items())),
        }


@dataclass(frozen=True)
class Judge:
    """Judges cases by the paper's four scorers (section 3.1)."""

    client: Asks
    rubrics: Rubrics
    retriever: Retriever
    tokenizer: SpanTokenizer
    chunk_tokens: int = 128
    top_chunks: int = 5
    extract_tokens: int = 4096
    no_statements: float | None = 10.0
    """Faithfulness of an answer that states nothing; None gives it no reward."""
    early: Rules | None = None
    """The pair rule by which calls are left out; None asks them all."""
    health: Health = field(default_factory=Health)

    async def judge(self, case: Case) -> Judged:
        """Every part of every answer. Raises only what the client raises: what no further call would mend."""
        document = cut(case.context, self.tokenizer, self.chunk_tokens, self.extract_tokens)
        verdicts = case.verdicts()
        found = Judged(verdicts, tokens=document.tokens)
        if all(verdict.failed for verdict in verdicts):
            return found
        work = _Work(self, case, document, found)
        await (work.all() if self.early is None else work.in_rounds(self.early))
        return found

    async def supported(self, case: Case) -> Judged:
        """Only the statements of every answer and their support. Raises as `judge`."""
        document = cut(case.context, self.tokenizer, self.chunk_tokens, self.extract_tokens)
        verdicts = case.verdicts()
        found = Judged(verdicts, tokens=document.tokens)
        work = _Work(self, case, document, found)
        await together(work.faithfulness(place) for place in work.places)
        return found


class _Work:
    """The calls of one case."""

    def __init__(self, judge: Judge, case: Case, document: Document, found: Judged) -> None:
        self.judge, self.case, self.document, self.found = judge, case, document, found
        self.places = [place for place, one in enumerate(found.verdicts) if not one.failed]
        self.index: asyncio.Task[Index] | None = None
        self.facts: list[list[str]] | str = []

    async def all(self) -> None:
        """Everything at once: only statements wait for their answer's list, and completeness for the facts."""
        extracting = asyncio.create_task(self.extract())

        async def complete(place: int) -> None:
            await asyncio.shield(extracting)
            await self.completeness(place)

        jobs = [extracting]
        for place in self.places:
            for job in (self.rate(HELPFULNESS, place), self.rate(LOGICALITY, place)):
                jobs.append(asyncio.create_task(job))
            jobs.append(asyncio.create_task(self.faithfulness(place)))
            jobs.append(asyncio.create_task(complete(place)))
        await together(jobs)

    async def in_rounds(self, rules: Rules) -> None:
        """The cheap parts of all answers, then the statements of those that the pair still depends on, in rounds."""
        ratings = [self.rate(part, place) for place in self.places for part in (HELPFULNESS, LOGICALITY)]
        await together([self.extract(), *ratings])
        await together(self.completeness(place) for place in self.needed(rules))
        least = max(2, rules.least_scored)
        while wanted := self.needed(rules):
            done = sum(self.found.verdicts[place].reward is not None for place in self.places)
            standings = [verdict.standing for verdict in self.found.verdicts]
            chosen = first(standings, wanted, max(least - done, rules.rejected + 1))
            await together(self.finish(place) for place in chosen)
        for place in self.places:
            verdict = self.found.verdicts[place]
            verdict.skipped = not verdict.failed and verdict.reward is None

    async def finish(self, place: int) -> None:
        """Whatever is not known of one answer."""
        if self.found.verdicts[place].scores[COMPLETENESS] is None:
            await self.completeness(place)
        await self.faithfulness(place)

    def needed(self, rules: Rules) -> list[int]:
        standings = [verdict.standing for verdict in self.found.verdicts]
        return needed(standings, self.case.answers, rules)

    async def rate(self, part: str, place: int) -> None:
        """Helpfulness or logicality of one answer."""
        asking = self.judge.rubrics.rating(part, self.case.question, self.case.answers[place])
        self.note(place, part, part, await self.ask(asking))

    async def extract(self) -> None:
        """The facts of every part of the document, asked once for all answers."""
        parts = self.document.parts

        async def one(text: str) -> Judgement[list[str]]:
            if not text.strip():
                return Judgement([NO_INFORMATION])
            return await self.ask(self.judge.rubrics.extract(self.case.question, text))

        replies = await together(one(text) for text in parts.texts)
        labels = parts.labels
        for label, reply in zip(labels, replies, strict=True):
            row: dict[str, Any] = {"range": label, "facts": reply.value}
            self.found.facts.append(row | ({"failed": reply.why} if reply.value is None else {}))
        failed = [(label, r.why) for label, r in zip(labels, replies, strict=True) if r.value is None]
        self.facts = f"extract: {failed[0][1]}" if failed else [reply.value or [] for reply in replies]

    async def completeness(self, place: int) -> None:
        """Completeness of one answer; fails where the facts of a part are not known."""
        if isinstance(self.facts, str):
            self.note(place, COMPLETENESS, COMPLETENESS, Judgement[float](None, why=self.facts))
            return
        question, answer, labels = self.case.question, self.case.answers[place], self.document.parts.labels
        asking = self.judge.rubrics.completeness(question, answer, self.facts, labels)
        self.note(place, COMPLETENESS, COMPLETENESS, await self.ask(asking))

    async def faithfulness(self, place: int) -> None:
        """Support of an answer's statements by the passages that are nearest to each."""
        judge, verdict, answer = self.judge, self.found.verdicts[place], self.case.answers[place]
        asking = judge.rubrics.rating(STATEMENTS, self.case.question, answer)
        listed: Judgement[list[str]] = await self.ask(asking)
        if listed.value is None:
            verdict.failed[FAITHFULNESS] = f"statements: {listed.why}"
            return
        verdict.statements = [{"statement": text} for text in listed.value]
        if not listed.value:
            verdict.scores[FAITHFULNESS] = judge.no_statements
            if judge.no_statements is None:
                verdict.failed[FAITHFULNESS] = NO_STATEMENTS
            return
        index = await self.passages()
        find = partial(index.top, listed.value, judge.top_chunks)
        places = await asyncio.to_thread(find) if judge.retriever.waits else find()
        language = language_of(self.case.question, answer, judge.rubrics.language)
        replies = await together(
            self.support(text, found, language) for text, found in zip(listed.value, places, strict=True)
        )
        for row, found, reply in zip(verdict.statements, places, replies, strict=True):
            row |= {"passages": found, "support": reply.value, "analysis": reply.text}
            row |= {"failed": reply.why} if reply.value is None else {}
        failed = [reply.why for reply in replies if reply.value is None]
        if failed:
            verdict.failed[FAITHFULNESS] = f"support: {failed[0]}"
        else:
            verdict.scores[FAITHFULNESS] = faithfulness([reply.value or 0.0 for reply in replies])

    async def support(self, statement: str, passages: Sequence[int], language: str) -> Judgement[float]:
        """How far the document supports one statement."""
        texts = self.document.passages.texts
        return await self.ask(self.judge.rubrics.support(statement, [texts[p] for p in passages], language))

    async def passages(self) -> Index:
        """The document's passages, indexed by the first answer that needs them."""
        if self.index is None:
            self.index = asyncio.create_task(self._indexed())
        return await asyncio.shield(self.index)

    async def _indexed(self) -> Index:
        texts, retriever = self.document.passages.texts, self.judge.retriever
        return await asyncio.to_thread(retriever.index, texts) if retriever.waits else retriever.index(texts)

    def note(self, place: int, name: str, part: str, reply: Judgement[float]) -> None:
        """Keep a rating, or why there is none."""
        verdict = self.found.verdicts[place]
        if reply.text:
            verdict.analyses[part] = reply.text
        if reply.value is None:
            verdict.failed[name] = reply.why
        verdict.scores[name] = reply.value

    async def ask(self, asking: Asking[T]) -> Judgement[T]:
        """Ask until a reply can be read, and count the calls."""
        part = asking.rubric.name
        found = await asking.ask(self.judge.client)
        self.found.calls[part] += found.attempts
        self.found.attempts.update(f"{part}: {kind(why)}" for why in found.unread)
        self.judge.health.note(found)
        return found


def kind(why: str) -> str:
    """A reason as it is counted: which part and what went wrong, without a server's further words."""
    words = why.split(": ")
    return ": ".join(words[: 2 if words[0] in PARTS else 1])


# -- from settings to a judge

_NO_STATEMENTS = {"10": 10.0, "0": 0.0, "skip": None}
CALLS_AN_ANSWER = 12
"""About how many calls an answer takes; what it took takes the guess's place."""


def make_judge(
    settings: LongRewardScore,
    client: Asks,
    rubrics: Rubrics,
    retriever: Retriever,
    tokenizer: SpanTokenizer,
) -> Judge:
    """The judge that settings describe, on a client. The retriever is the caller's to close."""
    rules = Rules(settings.least_scored, settings.margin, settings.rejected)
    return Judge(
        client,
        rubrics,
        retriever,
        tokenizer,
        chunk_tokens=settings.chunk_tokens,
        top_chunks=settings.top_chunks,
        extract_tokens=settings.extract_tokens,
        no_statements=_NO_STATEMENTS[settings.no_statements],
        early=rules if settings.early_stop else None,
    )


def retriever_options(settings: LongRewardScore, folder: Path, ctx: Context) -> dict[str, Any]:
    """The retriever's options; a server's vectors are kept in the step's folder, beside the calls."""
    name = settings.retriever.partition(":")[0]
    given = settings.retriever_options
    if name == "openai":
        same = {"api_key_env": settings.api_key_env, "api_key_file": settings.api_key_file}
        return {"base_url": settings.base_url, **same, "cache": str(folder / "embeddings.sqlite"), **given}
    return {"device": ctx.device, **given} if name == "sentence-transformers" else given
