"""The reward task: fresh questions, several samples each, judged on the four dimensions as for training."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.data.files import Rejects
from lcx.data.prepare import step_table
from lcx.data.tokenizing import open_span_tokenizer
from lcx.data.words import clean, scan, words
from lcx.evaluation.text_metrics import contains
from lcx.llm.asking import Asker
from lcx.llm.settings import Calling
from lcx.retrieval import open_retriever
from lcx.settings import validate
from lcx.work.files import sha256_json
from lcx_longreward.eval_settings import LongRewardEval
from lcx_longreward.evaluation.answers import Answer, Sampling, counted
from lcx_longreward.evaluation.data import Item, digest_of, read_items
from lcx_longreward.evaluation.desk import Desk
from lcx_longreward.evaluation.results import Result, base_row, reasons, spread
from lcx_longreward.judge.judging import Case, Judge, together
from lcx_longreward.judge.opening import CALLS_AN_ANSWER, make_judge, open_prompter, retriever_options
from lcx_longreward.judge.reward import DIMENSIONS, HIGHEST
from lcx_longreward.score.material import Material
from lcx_longreward.settings import LongRewardScore
from lcx_longreward.synth.questions import gather
from lcx_longreward.synth.windows import text_of
from lcx_longreward.synth_settings import LongRewardSynth

TASK = "reward"
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


def scoring(settings: LongRewardEval) -> LongRewardScore:
    """The score step's settings by which answers are judged. Raises UsageError for a wrong one in `judging`."""
    shared = ("judge", "judge_options", "prompts", "language", "attempts", "tokenizer", "retriever")
    names = (*shared, "retriever_options", "seed", *Calling.model_fields)
    values = {name: getattr(settings, name) for name in names}
    made = validate(LongRewardScore, {**values, **settings.judging}, where="judging")
    assert isinstance(made, LongRewardScore)
    return made


def open_judge(desk: Desk) -> Judge:
    """The score step's judge, on this step's exchange. Its retriever is the caller's to close."""
    known = scoring(desk.settings)
    retriever = open_retriever(known.retriever, retriever_options(known, desk.folder, desk.ctx))
    return make_judge(
        known, desk.judge, open_prompter(known), retriever, open_span_tokenizer(known.tokenizer)
    )


def given_items(given: str) -> list[Item]:
    """The questions of a file of rows or a folder of bundles. Raises MissingError or UsageError."""
    path = Path(given).expanduser()
    if not path.is_dir():
        return read_items(path, needs_reference=False, task=TASK)
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


def written_items(desk: Desk) -> list[Item]:
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
        ngram=known.ngram,
        counts=counts,
        log=desk.ctx.log,
        questions=True,
    )
    writer = Asker(desk.service.opener(known.writer or known.llm, known.writer_options), desk.journal)
    prompts = gather(known, table, folder / "data", writer, counts, desk.ctx)
    if len(prompts) < known.examples:
        desk.notes.append(
            f"{TASK}: {len(prompts):,} questions of the {known.examples:,} wanted; the counts say what was left out"
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
    desk: Desk, items: Sequence[Item], answers: Sequence[Sequence[Answer]]
) -> list[Mapping[str, Any]]:
    """What the judge found of every question's answers, from the journal where it has it."""
    units = [_unit(item, found) for item, found in zip(items, answers, strict=True)]
    missing = {u: (i, a) for u, i, a in zip(units, items, answers, strict=True) if u not in desk.journal}
    failed: dict[str, Mapping[str, Any]] = {}
    if missing:
        desk.service.expect(CALLS_AN_ANSWER * sum(len(found) for _, found in missing.values()))
        judge = open_judge(desk)
        try:
            failed = desk.service.run(_judge_missing(desk, judge, missing))
        finally:
            judge.retriever.close()
    return [failed.get(unit) or desk.journal[unit]["judged"] for unit in units]


async def _judge_missing(
    desk: Desk, judge: Judge, missing: Mapping[str, tuple[Item, Sequence[Answer]]]
) -> dict[str, Mapping[str, Any]]:
    """Judge what the journal lacks. Where a part failed, what was found is returned, to be asked again.

    Only what failed is paid for again: replies that came are in the calls' own journal.
    """
    lanes = asyncio.Semaphore(desk.lanes)
    failed: dict[str, Mapping[str, Any]] = {}
    done = 0

    async def one(unit: str) -> None:
        nonlocal done
        item, found = missing[unit]
        async with lanes:
            case = Case(item.context, item.question, tuple(answer.text for answer in found))
            judged = await judge.judge(case)
            if all(verdict.settled for verdict in judged.verdicts):
                desk.journal.append({"unit": unit, "judged": judged.row()})
            else:
                failed[unit] = judged.row()
        done += 1
        desk.ctx.pulse(f"    judged: {done:,} of {len(missing):,} questions")

    await together(one(unit) for unit in missing)
    return failed


def _unit(item: Item, answers: Sequence[Answer]) -> str:
    return f"judged:{sha256_json([item.key, [answer.text for answer in answers]])[:32]}"


def reward_result(
    desk: Desk,
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
        "task": TASK,
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
    return Result(TASK, scores, rows)


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


def support_numbers(desk: Desk, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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
