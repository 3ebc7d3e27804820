"""The judged tasks that the score step's judge rates: reward, and the support of statements by their context.

Reward asks fresh questions, several samples each, judged on the four dimensions as for training. Support asks which
share of an answer's statements its context fully supports, in the manner of FactScore.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lcx.data.files import Rejects
from lcx.data.table import step_table
from lcx.data.tokens import open_span_tokenizer
from lcx.data.words import clean, scan, words
from lcx.evaluation.text_metrics import contains
from lcx.retrieval import open_retriever
from lcx.settings import validate
from lcx_longreward.data import Material
from lcx_longreward.eval_settings import LongRewardEval
from lcx_longreward.evaluation.answers import (
    Answer,
    Item,
    Sampling,
    counted,
    digest_of,
    read_items,
)
from lcx_longreward.evaluation.judged import (
    EvalContext,
    Result,
    _unit,
    base_row,
    judge_units,
    reasons,
    scoring,
    spread,
)
from lcx_longreward.judge import CALLS_AN_ANSWER, Case, Judge, make_judge, retriever_options
from lcx_longreward.pairs import (
    DIMENSIONS,
    HIGHEST,
)
from lcx_longreward.rubrics import open_rubrics
from lcx_longreward.sampling import text_of
from lcx_longreward.settings import LongRewardSynth
from lcx_longreward.tasks import gather

# ---- reward

REWARD = "reward"
NAMED = 8
"""Words of a reference up to which an answer can be said to name it."""
EMPTY = "an empty answer counts 0"


def asking(settings: LongRewardEval) -> LongRewardSynth:
    """The synth step's settings by which questions are made. Raises UsageError for a wrong one in `asking`."""
    values = {
        "corpus": settings.corpus,
        "documents": settings.documents,
        "examples": settings.questions,
        "tokenizer": settings.tokenizer,
        "seed": settings.seed,
        "writer": settings.writer or settings.judge,
        "writer_options": settings.writer_options if settings.writer else settings.judge_options,
        **settings.asking,
    }
    made = validate(LongRewardSynth, values, where="asking")
    assert isinstance(made, LongRewardSynth)
    return made


@contextmanager
def open_judge(desk: EvalContext) -> Iterator[Callable[[], Judge]]:
    """The score step's judge, on this step's models; it is opened by the first call, and its retriever closed here."""
    known = scoring(desk.settings)
    opened: list[Judge] = []

    def judge() -> Judge:
        if not opened:
            retriever = open_retriever(known.retriever, retriever_options(known, desk.folder, desk.ctx))
            tokenizer = open_span_tokenizer(known.tokenizer)
            opened.append(make_judge(known, desk.judge, open_rubrics(known), retriever, tokenizer))
        return opened[0]

    try:
        yield judge
    finally:
        for one in opened:
            one.retriever.close()


def given_questions(given: str) -> list[Item]:
    """The questions of a file of rows or a folder of bundles. Raises MissingError or UsageError."""
    path = Path(given).expanduser()
    if not path.is_dir():
        return read_items(path, needs_reference=False, task=REWARD)
    material = Material(path, Rejects())
    items = []
    for number in range(len(material)):
        bundle = material[number]
        reference = bundle.meta.get("reference")
        references = (reference,) if isinstance(reference, str) and reference.strip() else ()
        for place, case in enumerate(material.cases(bundle)):
            name = bundle.id if not place else f"{bundle.id}-{place}"
            items.append(Item(name, case.context, case.question, references))
    return items


def written_items(desk: EvalContext) -> list[Item]:
    """New questions about documents of the corpus, made as the synth step makes them."""
    known = asking(desk.settings)
    folder = desk.folder / "questions"
    counts: Counter[str] = Counter()
    table = step_table(
        folder,
        known.corpus,
        documents=known.documents,
        tokenizer=known.tokenizer,
        min_tokens=known.segment_tokens,
        mode=known.segment_by,
        decontaminate=known.decontaminate,
        counts=counts,
        log=desk.ctx.log,
        questions=True,
    )
    writer = desk.service.client(known.writer or known.llm, known.writer_options)
    prompts = gather(known, table, folder / "data", writer, counts, desk.ctx)
    if len(prompts) < known.examples:
        desk.notes.append(
            f"{REWARD}: {len(prompts):,} questions of the {known.examples:,} wanted; the counts say what was left out"
        )
    desk.counts.update({f"questions: {name}": count for name, count in counts.items() if count})
    return [
        Item(
            f"{number:05d}",
            text_of(table, prompt.window),
            prompt.question,
            (prompt.reference,) if prompt.reference else (),
            meta={"kind": prompt.kind},
        )
        for number, prompt in enumerate(prompts)
    ]


def sampling(settings: LongRewardEval) -> Sampling:
    return Sampling(settings.samples, settings.temperature, settings.top_p)


def judge_all(
    desk: EvalContext, items: Sequence[Item], answers: Sequence[Sequence[Answer]]
) -> list[Mapping[str, Any]]:
    """What the judge found of every question's answers. Where a part failed, only that part is paid for again:
    replies that came are in the calls' own journal.
    """
    units = [
        (_unit("judged", "", [item.key, [answer.text for answer in found]]), (item, found))
        for item, found in zip(items, answers, strict=True)
    ]
    with open_judge(desk) as judge:

        async def rate(what: tuple[Item, Sequence[Answer]]) -> tuple[dict[str, Any], bool]:
            item, found = what
            case = Case(item.context, item.question, tuple(answer.text for answer in found))
            judged = await judge().judge(case)
            return {"judged": judged.row()}, all(verdict.settled for verdict in judged.verdicts)

        calls = CALLS_AN_ANSWER * max((len(found) for found in answers), default=1)
        found = judge_units(desk, REWARD, units, rate, calls=calls)
    return [one["judged"] for one in found]


def reward_result(
    desk: EvalContext,
    items: Sequence[Item],
    answers: Sequence[Sequence[Answer]],
    judged: Sequence[Mapping[str, Any]],
) -> Result:
    """Rewards of all samples: their mean, the dimensions', how many name the reference, and what failed."""
    rows = [
        reward_row(item, sample, answer, verdict)
        for item, found, one in zip(items, answers, judged, strict=True)
        for sample, (answer, verdict) in enumerate(zip(found, one["answers"], strict=True))
    ]
    contexts = [row["context_id"] for row in rows]
    statistics = desk.statistics
    scores: dict[str, Any] = {
        "task": REWARD,
        **statistics.mean([row["reward"] for row in rows], contexts).as_dict(),
        "dimensions": {name: statistics.brief([row[name] for row in rows], contexts) for name in DIMENSIONS},
    }
    if any(row["right"] is not None for row in rows):
        scores["right"] = statistics.brief([row["right"] for row in rows], contexts)
    scores |= support_numbers(desk, rows)
    scores |= {
        "questions": len(items),
        "samples": desk.settings.samples,
        "words": statistics.brief([float(len(words(row["answer"]))) for row in rows], contexts),
        "empty": sum(not row["answer"] and not row["error"] for row in rows),
        "failed": reasons(f"{part}: {why}" for row in rows for part, why in row["failed"].items()),
        **counted(answer for found in answers for answer in found),
        **spread((row["reward"] for row in rows), 0.0, HIGHEST),
        "data": digest_of(items),
    }
    return Result(REWARD, scores, rows)


def reward_row(item: Item, sample: int, answer: Answer, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A sample's row. An empty answer has the lowest reward here: else silence would raise the mean."""
    about = {"error": answer.error, "cut": answer.cut, "truncated": answer.short}
    row = base_row(item, sample, answer.text, about)
    row["right"] = None if answer.error else right(answer.text, item.references)
    row |= {name: verdict[name] for name in (*DIMENSIONS, "reward", "failed", "analyses", "statements")}
    if answer.error:
        row["failed"] = {"answer": answer.error}
    elif not answer.text:
        row |= dict.fromkeys((*DIMENSIONS, "reward"), 0.0) | {"failed": {}}
    return row


def right(answer: str, references: Sequence[str]) -> float | None:
    """Whether an answer names a reference, as whole words; None where no reference is short enough to be named."""
    short = [text for text in map(clean, references) if 0 < len(words(text)) <= NAMED]
    said = clean(answer).casefold()
    found = (contains(said, text.casefold(), whole_words=not _spaceless(text)) for text in short)
    return float(any(found)) if short else None


def _spaceless(text: str) -> bool:
    """Whether a text is of a script without spaces: its words have no ends that could be seen."""
    return any(word.wide for word in scan(text))


def support_numbers(desk: EvalContext, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The share of statements that are fully supported, and statements an answer, where all were judged."""
    known = judged_rows(rows)
    sizes = [float(len(row["statements"])) for row in known]
    contexts = [row["context_id"] for row in known]
    return {
        "supported": desk.statistics.brief(full_shares(known), contexts, sizes),
        "statements": desk.statistics.brief(sizes, contexts),
    }


def judged_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows whose statements all have a level of support."""
    return [
        row
        for row in rows
        if row["statements"] is not None and all(one.get("support") is not None for one in row["statements"])
    ]


def full_shares(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of each row's statements the share that is fully supported; 0 where there are none."""
    return [
        sum(one["support"] == 1 for one in row["statements"]) / (len(row["statements"]) or 1) for row in rows
    ]


# ---- support

SUPPORT = "support"
SUPPORT_CALLS = 8
"""About how many calls an answer takes."""


def support_all(
    desk: EvalContext, items: Sequence[Item], answers: Sequence[Answer]
) -> list[Mapping[str, Any]]:
    """The statements of every answer and their support. Where a statement's is not known, it is asked for again."""
    units = [
        (_unit("support", answer.error, [item.key, answer.text]), (item, answer.text))
        for item, answer in zip(items, answers, strict=True)
    ]
    with open_judge(desk) as judge:

        async def support(what: tuple[Item, str]) -> tuple[dict[str, Any], bool]:
            item, text = what
            judged = await judge().supported(Case(item.context, item.question, (text,)))
            [verdict] = judged.verdicts
            return {"verdict": verdict.row()}, verdict.settled

        found = judge_units(desk, SUPPORT, units, support, calls=SUPPORT_CALLS)
    return [one.get("verdict", {}) for one in found]


def support_result(
    desk: EvalContext, items: Sequence[Item], answers: Sequence[Answer], verdicts: Sequence[Mapping[str, Any]]
) -> Result:
    """The share of all statements that are fully supported, and how many an answer makes."""
    rows = []
    for item, answer, found in zip(items, answers, verdicts, strict=True):
        about = {"error": answer.error, "cut": answer.cut, "truncated": answer.short}
        failed = {"answer": answer.error} if answer.error else found["failed"]
        statements = found.get("statements")
        row = base_row(item, 0, answer.text, about) | {"statements": statements, "failed": failed}
        levels = [one.get("support") for one in statements or []]
        known = levels and not failed
        row["score"] = sum(level == 1 for level in levels) / len(levels) if known else None
        rows.append(row)
    known = judged_rows(rows)
    sizes = [float(len(row["statements"])) for row in known]
    contexts = [row["context_id"] for row in known]
    total: dict[str, Any] = {
        "task": SUPPORT,
        **desk.statistics.mean(full_shares(known), contexts, sizes).as_dict(),
        "statements": desk.statistics.brief(sizes, contexts),
        "silent": sum(row["statements"] == [] for row in rows),
        "failed": reasons(f"{part}: {why}" for row in rows for part, why in row["failed"].items()),
        **counted(answers),
        **spread((row["score"] for row in rows), 0.0, 1.0),
        "data": digest_of(items),
    }
    return Result(SUPPORT, total, rows)
