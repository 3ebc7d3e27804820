"""The judged tasks chat, qa and summary (rated against references) and versus, and saved predictions of short tasks.

In chat, qa and summary the judge sees a reference; in versus it sees another model's answer, in both orders. The
short task is a seam for predictions that another tool saved: `METRIC:FILE`, where METRIC is `exact`, `contains`, or
what a plugin registers by `lcx_register_metrics`, a callable of (prediction, row) that returns a number from 0 to 1,
or None to leave the row out.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from lcx import plugins
from lcx.context import Context
from lcx.data.files import strict_rows
from lcx.data.tokens import SpanTokenizer, open_span_tokenizer
from lcx.data.words import nfkc
from lcx.errors import MissingError, UsageError
from lcx.evaluation.statistics.intervals import Estimate, estimate_mean
from lcx.formatting import histogram
from lcx.llm.client import LLMClient, Service
from lcx.llm.judge import Asks, Health, Judgement, ask_until_read, marked
from lcx.llm.prompts import fill, load_prompt
from lcx.llm.protocol import Request
from lcx.llm.settings import Calling
from lcx.retrieval import Retriever, open_retriever
from lcx.settings import validate
from lcx.storage import Journal, sha256_json, sha256_text
from lcx_longreward.eval_settings import LongRewardEval
from lcx_longreward.evaluation.answers import (
    QA_SETS,
    SUMMARY_SETS,
    Answer,
    Answerer,
    Item,
    Subject,
    counted,
    digest_of,
)
from lcx_longreward.judge import cut, retriever_options, together
from lcx_longreward.pairs import (
    COMPLETENESS,
    FAITHFULNESS,
    HELPFULNESS,
    LOGICALITY,
)
from lcx_longreward.rubrics import LANGUAGES, Unreadable, fenced, language_of, read_rating
from lcx_longreward.settings import LongRewardScore

# ---- results

BINS = 20


@dataclass
class Result:
    """One task. `scores` go to `scores.json`, `rows` to `predictions-TASK.jsonl`."""

    task: str
    scores: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Statistics:
    """Means with intervals by one level."""

    level: float = 0.95

    @classmethod
    def of(cls, settings: LongRewardEval) -> Statistics:
        return cls(settings.level)

    def mean(
        self,
        values: Sequence[float | None],
        contexts: Sequence[Hashable],
        weights: Sequence[float] | None = None,
    ) -> Estimate:
        """The mean of what is known, and its interval, from contexts or rows as `intervals` has the rule."""
        return estimate_mean(values, contexts, weights=weights, level=self.level)

    def brief(
        self,
        values: Sequence[float | None],
        contexts: Sequence[Hashable],
        weights: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """As `mean`, only the numbers: mean, low, high, n."""
        found = self.mean(values, contexts, weights).as_dict()
        return {name: found[name] for name in ("mean", "low", "high", "n")}


def reasons(found: Iterable[str]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first."""
    return dict(sorted(Counter(found).items(), key=lambda pair: (-pair[1], pair[0])))


def spread(values: Iterable[float | None], low: float, high: float, bins: int = BINS) -> dict[str, Any]:
    """How values are distributed, for pictures: counts of equal parts of the scale."""
    known = [value for value in values if value is not None]
    return {"scale": [low, high], "histogram": histogram(known, bins, low, high)}


def question_row(item: Item) -> dict[str, Any]:
    """A question as a file of them has it, so that another model can be asked the same."""
    row: dict[str, Any] = {"id": item.id, "context": item.context, "query": item.question}
    return row | ({"answers": list(item.references)} if item.references else {})


def base_row(item: Item, sample: int, text: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The first fields of every row of predictions."""
    return {
        "id": item.id,
        **({"dataset": item.dataset} if item.dataset else {}),
        "sample": sample,
        "context_id": item.group,
        "question": item.question,
        "references": list(item.references),
        "answer": text,
        **about,
    }


# ---- what tasks share


@dataclass
class EvalContext:
    """Handed to every task. `mine` is the model under evaluation, `other` the one it is compared with."""

    settings: LongRewardEval
    folder: Path
    service: Service
    journal: Journal
    ctx: Context
    answerer: Answerer
    mine: Subject
    other: Subject | None = None
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def statistics(self) -> Statistics:
        return Statistics.of(self.settings)

    @property
    def judge(self) -> LLMClient:
        return self.service.client(self.settings.judge, self.settings.judge_options)

    @property
    def lanes(self) -> int:
        """Questions in the judge's hands at a time: a kill may cost what a local judge has not yet finished."""
        local = self.settings.judge.startswith("local:")
        return self.settings.batch if local else self.settings.concurrency


T = TypeVar("T")


def judge_units(
    desk: EvalContext,
    label: str,
    units: Sequence[tuple[str, T]],
    judge: Callable[[T], Awaitable[tuple[dict[str, Any], bool]]],
    *,
    calls: int = 1,
) -> list[dict[str, Any]]:
    """What the judge finds of every unit (its name in the journal, and what is judged), from the journal where it is.

    `judge` gives the finding and whether it is settled: only settled ones are journalled, so that a step that goes on
    asks for the others again. A unit without a name has nothing to be judged, and an empty finding. `calls` is about
    how many a unit takes.
    """
    missing = {unit: what for unit, what in units if unit and unit not in desk.journal}
    failed: dict[str, dict[str, Any]] = {}

    async def all_of_them() -> None:
        lanes = asyncio.Semaphore(desk.lanes)

        async def one(unit: str) -> None:
            async with lanes:
                found, settled = await judge(missing[unit])
                if settled:
                    desk.journal.append({"unit": unit, **found})
                else:
                    failed[unit] = found
            shown.advance()

        with desk.ctx.progress(f"judging {label}", len(missing), "questions", closing=False) as shown:
            await together(one(unit) for unit in missing)

    if missing:
        desk.service.expect(calls * len(missing))
        desk.service.run(all_of_them())
    return [(failed.get(unit) or desk.journal[unit]) if unit else {} for unit, _ in units]


def _unit(kind: str, error: str, what: Any) -> str:
    """The name of what is judged, by its content; empty where there is an error in place of an answer."""
    return "" if error else f"{kind}:{sha256_json(what)[:32]}"


# ---- ratings

CHAT, QA, SUMMARY, VERSUS = KINDS = ("chat", "qa", "summary", "versus")
"""Kinds of calls; each has a prompt file in either language."""
NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((CHAT, QA, SUMMARY), ("{question}", "{reference}", "{answer}")),
    VERSUS: ("{question}", "{criterion}", "{a}", "{b}"),
}
TASKS = {CHAT: "judge_reference", QA: "judge_qa", SUMMARY: "judge_summary", VERSUS: "judge_versus"}
"""What the builtin rules call them."""
SCALES = {CHAT: (1.0, 10.0), QA: (1.0, 3.0), SUMMARY: (1.0, 5.0)}
"""Lowest and highest rating (LongReward, section 4.1; LongBench-Chat)."""
REPLY_TOKENS = 1024
CRITERIA = {
    HELPFULNESS: (
        "Helpfulness: which answer serves the person who asked better? It deals with what was asked and all of it, "
        "in the form that was wanted, and is specific and clear.",
        "有用性：哪个回答对提问者更有帮助？它针对所问、答全各个部分，形式符合要求，具体而清楚。",
    ),
    LOGICALITY: (
        "Logicality: which answer is sounder in itself? Its parts agree with one another, and its conclusions follow.",
        "逻辑性：哪个回答自身更严密？前后一致，结论有据可循。",
    ),
    FAITHFULNESS: (
        "Faithfulness: which answer keeps closer to the document? What it says is in the passages, and nothing in it "
        "disagrees with them or is made up.",
        "忠实性：哪个回答更忠于文档？所说内容见于段落，没有与之矛盾或编造的内容。",
    ),
    COMPLETENESS: (
        "Completeness: which answer has more of what the document says on the question, without leaving out what "
        "matters?",
        "完整性：哪个回答更完整地包含了文档中与问题有关的内容，没有遗漏要点？",
    ),
}
"""What answers are compared by, in English and in Chinese."""

_REFERENCE = re.compile(r"<(?=\s*/?\s*reference\b)", re.I)


def read_side(reply: str) -> str | Unreadable:
    """The last `[[A]]`, `[[B]]` or `[[C]]` (a tie, also as `[[tie]]`) of a reply."""
    said = [text.upper() for text in marked(reply)]
    if not said:
        return Unreadable("no [[verdict]] in the reply")
    side = {"TIE": "C", "平局": "C"}.get(said[-1], said[-1])
    return side if side in ("A", "B", "C") else Unreadable("the last [[verdict]] is none of A, B and C")


def load_prompts(folder: str | None) -> dict[tuple[str, str], str]:
    """Every prompt by kind and language, the user's or ours. Raises UsageError for one that lacks a place."""
    return {
        (kind, language): load_prompt(
            f"{kind}.{language}", folder, package="lcx_longreward", needs=NEEDS[kind]
        )
        for kind in KINDS
        for language in LANGUAGES
    }


@dataclass(frozen=True)
class Rater:
    """Asks the judge and reads its replies; what cannot be read is asked for again, `attempts` times in all."""

    exchange: Asks
    prompts: Mapping[tuple[str, str], str]
    language: Literal["auto", "en", "zh"] = "auto"
    attempts: int = 5
    temperature: float = 0.01
    retry_temperature: float = 0.95
    reply_tokens: int = REPLY_TOKENS
    seed: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    """Replies that could not be used, by kind and reason."""
    health: Health = field(default_factory=Health)

    async def rate(
        self, kind: str, question: str, references: Sequence[str], answer: str
    ) -> Judgement[float]:
        """The rating of an answer against its references, on the kind's own scale."""
        low, high = SCALES[kind]
        reference = references[0] if len(references) == 1 else "\n".join(f"- {text}" for text in references)
        shown = {"question": question, "reference": reference, "answer": answer}
        fields: dict[str, Any] = {"question": question, "answer": answer}
        fields |= {"references": tuple(references)} if len(references) > 1 else {"reference": references[0]}
        language = language_of(question, answer, self.language)
        safe = {name: _fenced(text.strip()) for name, text in shown.items()}
        return await self._ask(kind, language, safe, fields, lambda reply: read_rating(reply, low, high))

    async def compare(
        self, dimension: str, question: str, passages: Sequence[str], first: str, second: str
    ) -> Judgement[str]:
        """Which of two answers is better in one respect: A (the first), B or C."""
        language = language_of(question, f"{first} {second}", self.language)
        shown = {
            "question": _fenced(question.strip()),
            "criterion": CRITERIA[dimension][LANGUAGES.index(language)],
            "passages": "\n".join(f"<passage>\n{_fenced(text.strip())}\n</passage>" for text in passages),
            "a": _fenced(first.strip()),
            "b": _fenced(second.strip()),
        }
        context = "\n".join(passages)
        fields = {"question": question, "context": context, "a": first, "b": second, "dimension": dimension}
        return await self._ask(VERSUS, language, shown, fields, read_side)

    async def _ask(
        self,
        kind: str,
        language: str,
        shown: Mapping[str, str],
        fields: Mapping[str, Any],
        read: Callable[[str], float | str | Unreadable],
    ) -> Judgement[Any]:
        content = fill(self.prompts[kind, language], shown)

        def make(attempt: int) -> Request:
            return Request(
                messages=({"role": "user", "content": content},),
                task=TASKS[kind],
                fields=fields,
                temperature=self.retry_temperature if attempt else self.temperature,
                max_tokens=self.reply_tokens,
                seed=int(sha256_text(f"{self.seed}:{attempt}:{content}")[:8], 16) >> 1,
            )

        reply = await ask_until_read(self.exchange, kind, make, read, self.attempts)
        self.unread.update(f"{kind}: {why}" for why in reply.unread)
        self.health.note(reply)
        return reply


def _fenced(text: str) -> str:
    """A text that others wrote, unable to close or open the marks around it."""
    return _REFERENCE.sub("&lt;", fenced(text))


def scoring(settings: LongRewardEval) -> LongRewardScore:
    """The score step's settings by which answers are judged. Raises UsageError for a wrong one in `judging`."""
    shared = ("judge", "judge_options", "prompts", "language", "attempts", "tokenizer", "retriever")
    names = (*shared, "retriever_options", "seed", *Calling.model_fields)
    values = {name: getattr(settings, name) for name in names}
    made = validate(LongRewardScore, {**values, **settings.judging}, where="judging")
    assert isinstance(made, LongRewardScore)
    return made


# ---- chat, qa, summary

UNREADABLE = 0.5
"""What an unreadable rating of qa or summary counts in the published evaluation."""
GROUPS = {**QA_SETS, **SUMMARY_SETS}


def score_of(task: str, rating: float | None, compat: str | None = None) -> float | None:
    """A rating as the paper counts it: (r - 1) / 2 of qa, (r - 1) / 4 of summary, 0 to 1; chat's as it is, 1 to 10.

    Without a rating None, or 0.5 of qa and summary with `compat: longreward`.
    """
    low, high = SCALES[task]
    if rating is None:
        return UNREADABLE if compat == "longreward" and task != CHAT else None
    return rating if task == CHAT else (rating - low) / (high - low)


def open_rater(desk: EvalContext) -> Rater:
    """What asks the judge for ratings, by the settings of the score step's judge."""
    known = scoring(desk.settings)
    return Rater(
        exchange=desk.judge,
        prompts=load_prompts(known.prompts),
        language=known.language,
        attempts=known.attempts,
        temperature=known.temperature,
        retry_temperature=known.retry_temperature,
        seed=known.seed,
    )


def rate_all(
    desk: EvalContext, task: str, items: Sequence[Item], answers: Sequence[Answer]
) -> list[Mapping[str, Any]]:
    """Rating, analysis and why there is none, of every answer. Where no reply came at all, it is asked for again."""
    rater = open_rater(desk)

    async def rate(what: tuple[Item, str]) -> tuple[dict[str, Any], bool]:
        item, text = what
        reply = await rater.rate(task, item.question, item.references, text)
        return {"rating": reply.value, "analysis": reply.text, "why": reply.why}, bool(reply.text)

    units = [
        (_unit("rated", answer.error, [task, item.key, item.references, answer.text]), (item, answer.text))
        for item, answer in zip(items, answers, strict=True)
    ]
    found = judge_units(desk, task, units, rate)
    return [
        one or {"rating": None, "analysis": "", "why": answer.error}
        for one, answer in zip(found, answers, strict=True)
    ]


def judged_result(
    desk: EvalContext,
    task: str,
    items: Sequence[Item],
    answers: Sequence[Answer],
    rated: Sequence[Mapping[str, Any]],
) -> Result:
    """Mean score with its interval, by set and by the paper's columns, and what failed."""
    settings = desk.settings
    rows = []
    for item, answer, found in zip(items, answers, rated, strict=True):
        about = {"error": answer.error, "cut": answer.cut, "truncated": answer.short}
        # A question without an answer has no rating to be unreadable: compat leaves it out, too.
        score = None if answer.error else score_of(task, found["rating"], settings.compat)
        rows.append(
            base_row(item, 0, answer.text, about)
            | {
                "rating": found["rating"],
                "score": score,
                "analysis": found["analysis"],
                "failed": found["why"],
            }
        )
    scores = [row["score"] for row in rows]
    contexts = [row["context_id"] for row in rows]
    low, high = SCALES[task] if task == CHAT else (0.0, 1.0)
    total: dict[str, Any] = {
        "task": task,
        **desk.statistics.mean(scores, contexts).as_dict(),
        **_by(desk, items, scores, contexts),
        "empty": sum(not row["answer"] and not row["error"] for row in rows),
        "failed": reasons(row["failed"] for row in rows if row["failed"]),
        **counted(answers),
        **spread(scores, low, high, bins=18 if task == CHAT else 20),
        "compat": settings.compat,
        "data": digest_of(items),
    }
    return Result(task, total, rows)


def _by(
    desk: EvalContext, items: Sequence[Item], scores: Sequence[float | None], contexts: Sequence[str]
) -> dict[str, Any]:
    """Means by set, by the columns of the paper's table, and the mean of the sets, which all count alike."""
    sets = list(dict.fromkeys(item.dataset for item in items))
    if len(sets) < 2:
        return {}
    found: dict[str, Any] = {"sets": {}, "columns": {}}
    for name in sets:
        mine = [score if item.dataset == name else None for item, score in zip(items, scores, strict=True)]
        found["sets"][name] = desk.statistics.brief(mine, contexts)
    known = {name: numbers["n"] for name, numbers in found["sets"].items()}
    weights = [1 / known[item.dataset] if known[item.dataset] else 0.0 for item in items]
    for group in dict.fromkeys(GROUPS[name] for name in sets if name in GROUPS):
        part = [
            score if GROUPS.get(item.dataset) == group else None
            for item, score in zip(items, scores, strict=True)
        ]
        found["columns"][group] = desk.statistics.brief(part, contexts, weights)
    found["mean of sets"] = desk.statistics.brief(scores, contexts, weights)
    return found


# ---- versus


WIN, TIE, LOSS = "win", "tie", "loss"
POINTS = {WIN: 1.0, TIE: 0.5, LOSS: 0.0}


def outcome(first: str | None, swapped: str | None) -> str | None:
    """From two verdicts: `first` with our answer as A, `swapped` with it as B.

    A win or loss counts only where both say so, else it is a tie; None where a verdict is not known.
    """
    if first is None or swapped is None:
        return None
    if (first, swapped) == ("A", "B"):
        return WIN
    return LOSS if (first, swapped) == ("B", "A") else TIE


def overall(outcomes: Mapping[str, str | None]) -> str | None:
    """Won in more respects than lost, or the other way, or a tie; None where a respect is not known."""
    if any(one is None for one in outcomes.values()):
        return None
    lead = sum(one == WIN for one in outcomes.values()) - sum(one == LOSS for one in outcomes.values())
    return WIN if lead > 0 else LOSS if lead < 0 else TIE


def compare_all(
    desk: EvalContext, items: Sequence[Item], mine: Sequence[Answer], others: Sequence[Answer]
) -> list[Mapping[str, Any]]:
    """The judge's verdicts on every question with two answers. Where one is not known, all are asked for again."""
    units = [
        (_unit("versus", a.error or b.error, [item.key, a.text, b.text]), (item, a.text, b.text))
        for item, a, b in zip(items, mine, others, strict=True)
    ]
    rater, known = open_rater(desk), scoring(desk.settings)
    tokenizer = open_span_tokenizer(known.tokenizer)
    with closing(
        open_retriever(known.retriever, retriever_options(known, desk.folder, desk.ctx))
    ) as retriever:

        async def compare(what: tuple[Item, str, str]) -> tuple[dict[str, Any], bool]:
            item, a, b = what
            find = partial(_passages, known, tokenizer, retriever, item, a, b)
            passages = await asyncio.to_thread(find) if retriever.waits else find()
            verdicts = await _compare(rater, item.question, passages, a, b)
            return {"verdicts": verdicts}, not any(verdict["why"] for verdict in verdicts.values())

        found = judge_units(desk, VERSUS, units, compare, calls=2 * len(CRITERIA))
    return [one.get("verdicts", {}) for one in found]


def _passages(
    known: LongRewardScore, tokenizer: SpanTokenizer, retriever: Retriever, item: Item, a: str, b: str
) -> list[str]:
    """The passages nearest to the question and to each of the answers, in the document's order."""
    if not item.context:
        return []
    passages = cut(item.context, tokenizer, known.chunk_tokens, known.extract_tokens)
    texts = passages.passages.texts
    found = retriever.index(texts).top([item.question, a, b], known.top_chunks)
    return [texts[place] for place in sorted({place for places in found for place in places})]


async def _compare(
    rater: Rater, question: str, passages: Sequence[str], a: str, b: str
) -> dict[str, dict[str, Any]]:
    """Both orders of every dimension."""

    async def one(dimension: str) -> dict[str, Any]:
        replies: list[Judgement[str]] = await together(
            [
                rater.compare(dimension, question, passages, a, b),
                rater.compare(dimension, question, passages, b, a),
            ]
        )
        first, swapped = replies
        why = first.why or swapped.why
        return {"first": first.value, "swapped": swapped.value, "why": why, "analysis": first.text}

    found = await together(one(dimension) for dimension in CRITERIA)
    return dict(zip(CRITERIA, found, strict=True))


def versus_result(
    desk: EvalContext,
    items: Sequence[Item],
    mine: Sequence[Answer],
    others: Sequence[Answer],
    verdicts: Sequence[Mapping[str, Any]],
) -> Result:
    """Shares of wins, ties and losses, overall and in each respect, with intervals."""
    rows = []
    for item, a, b, found in zip(items, mine, others, verdicts, strict=True):
        about = {"error": a.error or b.error, "other": b.text, "cut": a.cut, "truncated": a.short}
        by = {name: outcome(one["first"], one["swapped"]) for name, one in found.items()}
        failed = {name: one["why"] for name, one in found.items() if by[name] is None}
        row = base_row(item, 0, a.text, about) | {"overall": overall(by) if by else None, "outcomes": by}
        rows.append(
            row | {"failed": {"answer": about["error"]} if about["error"] else failed, "verdicts": found}
        )
    contexts = [row["context_id"] for row in rows]
    results = {"overall": [row["overall"] for row in rows]}
    results |= {name: [row["outcomes"].get(name) for row in rows] for name in CRITERIA}
    shares = {name: _shares(desk, found, contexts) for name, found in results.items()}
    points = [None if one is None else POINTS[one] for one in results["overall"]]
    moved = [
        one["first"] != {"A": "B", "B": "A"}.get(one["swapped"], one["swapped"])
        for found in verdicts
        for one in found.values()
        if one["first"] and one["swapped"]
    ]
    total: dict[str, Any] = {
        "task": VERSUS,
        **desk.statistics.mean(points, contexts).as_dict(),
        "against": desk.other.name if desk.other else "",
        "shares": shares,
        "changed by the order": sum(moved) / len(moved) if moved else None,
        "failed": reasons(f"{part}: {why}" for row in rows for part, why in row["failed"].items()),
        **counted(mine),
        "data": digest_of(items),
    }
    return Result(VERSUS, total, rows)


def _shares(desk: EvalContext, outcomes: Sequence[str | None], contexts: Sequence[str]) -> dict[str, Any]:
    return {
        name: desk.statistics.brief(
            [None if one is None else float(one == name) for one in outcomes], contexts
        )
        for name in (WIN, TIE, LOSS)
    }


# ---- short

SHORT = "short"

Metric = Callable[[str, Mapping[str, Any]], float | None]


def exact(prediction: str, row: Mapping[str, Any]) -> float:
    """1 where the prediction is an answer, but for case, blanks and a full stop at its end."""
    return float(_plain(prediction) in {_plain(text) for text in _answers(row)})


def holds(prediction: str, row: Mapping[str, Any]) -> float:
    """1 where the prediction holds an answer."""
    return float(any(_plain(text) in _plain(prediction) for text in _answers(row) if _plain(text)))


OWN: Mapping[str, Metric] = {"exact": exact, "contains": holds}


def short_lacking(settings: LongRewardEval) -> str:
    """What a `METRIC:FILE` lacks, in one sentence; empty where all are there."""
    for one in settings.short:
        name, _, path = one.partition(":")
        if name not in OWN and name not in plugins.loaded().metrics:
            known = ", ".join([*OWN, *plugins.loaded().metrics.names()])
            return f"no metric '{name}' (known: {known}); a plugin registers one by lcx_register_metrics"
        if not Path(path).expanduser().is_file():
            return f"no file '{path}' for {name}: JSONL rows with pred and answer"
    return ""


def short_results(desk: EvalContext) -> list[Result]:
    """One result a `METRIC:FILE`, named `short:FILE`. Raises as `short_lacking` says."""
    if why := short_lacking(desk.settings):
        raise MissingError(f"short: {why}")
    return [_result(desk, one) for one in desk.settings.short]


def _result(desk: EvalContext, spec: str) -> Result:
    name, _, path = spec.partition(":")
    metric: Metric = OWN[name] if name in OWN else plugins.loaded().metrics.load(name)
    file = Path(path).expanduser()
    items, rows, nulls = [], [], 0
    for number, given in enumerate(strict_rows(file), 1):
        if not isinstance(given, Mapping) or "pred" not in given or not _answers(given):
            raise UsageError(f"{file}, row {number}: short needs pred and answer")
        item = Item(
            str(given.get("id", f"{number:05d}")), "", str(given.get("question") or ""), _answers(given)
        )
        items.append(item)
        nulls += given["pred"] is None
        text = str(given["pred"] or "")
        rows.append(base_row(item, 0, text, {}) | {"score": metric(text, given), "context_id": item.id})
    scores = [row["score"] for row in rows]
    total = {
        "task": SHORT,
        "metric": name,
        **desk.statistics.mean(scores, [row["context_id"] for row in rows]).as_dict(),
        "nulls": nulls,
        "failed": {"left out by the metric": scores.count(None)} if None in scores else {},
        **spread(scores, 0.0, 1.0),
        "data": digest_of(items),
    }
    return Result(f"{SHORT}:{file.stem}", total, rows)


def _answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    value = row.get("answers", row.get("answer"))
    return (
        tuple(map(str, value)) if isinstance(value, list | tuple) else () if value is None else (str(value),)
    )


def _plain(text: str) -> str:
    return " ".join(nfkc(text).casefold().split()).rstrip(".。").strip()
