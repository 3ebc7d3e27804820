"""LongReward's score step: a judge scores every answer on four dimensions, and the best and worst become pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

from lcx.data.bundles import write_bundles
from lcx.data.files import Rejects
from lcx.data.table import link_table
from lcx.data.tokens import SpanTokenizer, open_span_tokenizer
from lcx.errors import LcxError
from lcx.llm.client import LOCAL
from lcx.llm.ledger import load_prices
from lcx.records import Bundle
from lcx.retrieval import open_retriever
from lcx.run import Run
from lcx.steps import StepResult, StepWork
from lcx.storage import Journal
from lcx_longreward.data import CANDIDATES, Material
from lcx_longreward.judge import CALLS_AN_ANSWER, Judge, make_judge, retriever_options, together
from lcx_longreward.pairs import Rules
from lcx_longreward.report import REWARD, Tally, report, rewards_png
from lcx_longreward.results import QuestionResult, candidate, fact_rows, outcomes, pairs, score_rows
from lcx_longreward.rubrics import (
    COMPLETENESS,
    EXTRACT,
    HELPFULNESS,
    LOGICALITY,
    PARTS,
    STATEMENTS,
    SUPPORT,
    language_of,
    load_prompts,
    open_rubrics,
)
from lcx_longreward.settings import LongRewardScore

JUDGED = "judged.jsonl"
"""What the judge found of each bundle whose calls are all answered. It is read a bundle at a time: at the paper's size
all of it would not fit into memory.
"""
LEAST_OPEN = 16
BATCHES, LOCAL_BATCH, AT_ONCE = 4, 8, 3
"""Batches of a local judge that wait at a time, the size of one where none is given, and calls that an answer begins
with: both ratings and its statements.
"""


async def score(work: StepWork[LongRewardScore]) -> StepResult:
    """Judge the answers and write pairs, scores and a report. A killed step resumes and ends with the same bytes."""
    settings, folder = work.settings, work.folder
    source = work.run.bundles(work.step)
    rubrics = open_rubrics(settings)
    tokenizer = open_span_tokenizer(settings.tokenizer)
    client = work.llm("judge")  # what is not there is said before the data is read
    options = retriever_options(settings, work.place, work.ctx)
    with closing(open_retriever(settings.retriever, options, work.plugins)) as retriever:
        material = Material(source, work.rejects, settings.fields, keep=settings.thoughts == "keep")
        work.counts.update(+material.counts)
        work.ctx.log(f"{len(material):,} contexts with answers from {source}")
        for note in material.notes:
            work.ctx.log(f"    {note}")
        judge = make_judge(settings, client, rubrics, retriever, tokenizer)
        found = work.open_journal(JUDGED, of=work.run.work_of(work.step))
        judge.health.read += len(found)  # what is left may be just what always fails
        await _judge_all(work, judge, material, found)
        described = {"judge": client.describe(), "retriever": retriever.describe()}
    spent = work.service.counts()
    _write(work, material, found, described, tokenizer)
    found.close()
    (folder / JUDGED).unlink()
    work.counts.update({name: number for name, number in spent.items() if isinstance(number, int)})
    result = work.done(extra={**described, "spent": spent})
    if not work.counts["pairs"]:
        del result.files["data"]  # there is nothing to train on, and no next command to name
    return result


async def _judge_all(
    work: StepWork[LongRewardScore], judge: Judge, material: Material, found: Journal
) -> None:
    """Judge every bundle that `found` lacks, many at a time; each is kept as soon as it is complete."""
    guess, expect = CALLS_AN_ANSWER, work.service.expect
    # In their order, since bundles are read a group at a time.
    known = (material[number] for number in sorted(map(int, found.done)))
    expect(guess * (material.answers - sum(len(bundle.branches) for bundle in known)))

    async def one(number: int) -> Mapping[str, Any]:
        cases = material.cases(material[number])
        judged = await together(judge.judge(case) for case in cases)
        calls = sum(one.calls.total() for one in judged)
        expect(calls - guess * sum(len(case.answers) for case in cases))
        return {"cases": [one.row() for one in judged]}

    await work.each(
        range(len(material)),
        one,
        key=str,
        weight=lambda number: len(material[number].branches),
        most=_open_answers(work.settings),
        share=lambda number: material[number].branches[0].question,
        journal=found,
    )


def _write(
    work: StepWork[LongRewardScore],
    material: Material,
    judged: Journal,
    described: Mapping[str, Any],
    tokenizer: SpanTokenizer,
) -> None:
    """Everything that the verdicts lead to. It follows from them alone, whatever order they came in."""
    settings = work.settings
    rules = Rules(settings.least_scored, settings.margin, settings.rejected)
    used = {"judge": settings.judge, "retriever": settings.retriever}
    data = work.data

    def found(numbers: range | None = None) -> Iterator[tuple[Bundle, list[QuestionResult]]]:
        for number in numbers if numbers is not None else range(len(material)):
            bundle = material[number]
            yield bundle, outcomes(bundle, judged[str(number)], rules)

    if material.table is not None:
        link_table(material.source, data)
    count = min(settings.shards, len(material))
    for index in range(count):
        block = range(index * len(material) // count, (index + 1) * len(material) // count)
        everything = (candidate(bundle, asked, used) for bundle, asked in found(block))
        write_bundles(data, everything, name=CANDIDATES, index=index, count=count)
        paired = (pair for bundle, asked in found(block) for pair in pairs(bundle, asked, used))
        write_bundles(data, paired, index=index, count=count)
    work.write("scores", (row for bundle, asked in found() for row in score_rows(bundle, asked)))
    work.write("facts", (row for bundle, asked in found() for row in fact_rows(bundle, asked)))
    tally = Tally()
    for bundle, asked in found():
        lengths = [len(starts) for starts in tokenizer.starts([branch.answer for branch in bundle.branches])]
        for one in asked:
            cut = [bool(bundle.branches[place].meta.get("cut")) for place in one.places]
            tally.add(one, cut, [lengths[place] for place in one.places])
    work.metrics |= tally.metrics(settings.early_stop)
    work.write_text("report.md", report(tally, work.metrics, described))
    rewards_png(work.folder / "rewards.png", tally)
    work.files["rewards"] = "rewards.png"
    if not tally.values[REWARD]:
        why = "; ".join(f"{reason} ({n})" for reason, n in tally.failures.most_common(3))
        raise LcxError(
            f"the judge gave none of the {tally.counts['answers judged']:,} answers a reward",
            why=why,
            hint=f"{work.folder / 'scores.jsonl'} has its replies. Another judge: --judge SPEC --force",
        )
    work.counts.update(tally.all_counts())
    work.notes += _notes(settings, tally)


def _notes(settings: LongRewardScore, tally: Tally) -> list[str]:
    counts, notes = tally.counts, []
    if counts["answers failed"]:
        most = ", ".join(f"{why} ({n})" for why, n in tally.failures.most_common(3))
        notes.append(
            f"{counts['answers failed']:,} of {counts['answers judged']:,} answers have no reward: {most}"
        )
    if not counts["pairs"]:
        why = ", ".join(f"{reason} ({n})" for reason, n in tally.unpaired.most_common(3))
        notes.append(f"no pairs to train on, the scores are in scores.jsonl: {why}")
    elif tally.unpaired:
        lost = tally.unpaired.total()
        notes.append(f"{lost:,} of {counts['questions judged']:,} questions give no pair; report.md says why")
    if counts["chosen answers that were cut at their limit"]:
        cut = counts["chosen answers that were cut at their limit"]
        notes.append(f"{cut:,} chosen answers were cut at their limit; synth.answer_tokens may be too small")
    if settings.judge.partition(":")[0] == "builtin":
        notes.append(
            "builtin rules judged, by words in common: --judge openai:MODEL or local:PATH for a real judge"
        )
    return notes


def _open_answers(settings: LongRewardScore) -> int:
    """Answers in work at a time: of a server, enough that calls wait, so that those with a common prefix can go
    together. Of a model in this process, a few batches' worth: all calls that wait are answered before any is kept.
    """
    if settings.open_answers:
        return settings.open_answers
    if settings.judge.partition(":")[0] != LOCAL:
        return max(LEAST_OPEN, 2 * settings.concurrency)
    batch = settings.judge_options.get("batch")
    size = batch if isinstance(batch, int) and batch > 0 else LOCAL_BATCH
    return max(1, BATCHES * size * settings.gpus // AT_ONCE)


# -- what it will cost

SAMPLE = 24
"""Contexts that are looked into."""
STATEMENT = 30
"""About how many of an answer's tokens one statement stands for, and how many it has."""
FACTS = 60
"""About how many tokens the facts of one part have."""
REPLY = {HELPFULNESS: 120, LOGICALITY: 120, SUPPORT: 70, EXTRACT: 120, COMPLETENESS: 150}
"""About how many tokens a reply has; statements have a little more than the answer."""


def forecast(work: StepWork[LongRewardScore]) -> dict[str, Any]:
    """Calls, tokens and cost by part. Where the data is not there yet, only who judges."""
    run, settings = work.run, work.settings
    found: dict[str, Any] = {"judge": settings.judge, "retriever": settings.retriever, "data": settings.input}
    source = _source(settings.input, run)
    if source is None:
        return {**found, "note": f"the data ({settings.input}) is not there yet"}
    rejects = Rejects()
    tokenizer = open_span_tokenizer(settings.tokenizer)
    calls, sent = _by_part(settings, Material(source, rejects, settings.fields), tokenizer, found)
    made = {
        part: calls[part] * REPLY.get(part, round(1.3 * found["answer_tokens"]) + STATEMENT) for part in PARTS
    }
    found["calls"] = {**calls, "all": sum(calls.values())}
    found["prompt_tokens"] = {**sent, "all": sum(sent.values())}
    found["reply_tokens"] = {**made, "all": sum(made.values())}
    price = load_prices(settings.prices).get(settings.judge.partition(":")[2])
    if price is not None:
        cost = {part: (sent[part] * price[0] + made[part] * price[1]) / 1e6 for part in PARTS}
        found["cost"] = {part: round(value, 4) for part, value in {**cost, "all": sum(cost.values())}.items()}
    found["assumes"] = (
        f"a statement for every {STATEMENT} tokens of an answer, the first attempt read"
        f"{', nothing left out by early_stop' if settings.early_stop else ''}; lengths of {SAMPLE} contexts at most"
    )
    return found


def _source(reference: str | None, run: Run) -> Path | None:
    if not reference:
        return None
    if reference.startswith("step:") and run.state(reference.removeprefix("step:")) != "done":
        return None
    place = run.resolve(reference, "data")
    return place if place.exists() else None


def _by_part(
    settings: LongRewardScore, material: Material, tokenizer: SpanTokenizer, found: dict[str, Any]
) -> tuple[dict[str, int], dict[str, int]]:
    """Calls and prompt tokens by part; lengths go into `found`."""
    step = max(1, len(material) // SAMPLE)
    cases = [case for number in range(0, len(material), step) for case in material.cases(material[number])]

    def tokens(texts: list[str]) -> float:
        return fmean([len(starts) for starts in tokenizer.starts(texts)] or [0])

    context = tokens([case.context for case in cases])
    question = tokens([case.question for case in cases])
    answer = tokens([answer for case in cases for answer in case.answers])
    answers = material.answers
    questions = round(len(material) * len(cases) / len(range(0, len(material), step)))
    parts = max(1, -(-round(context) // settings.extract_tokens))
    statements = max(1, round(answer / STATEMENT))
    found |= {
        "questions": questions,
        "answers": answers,
        "context_tokens": round(context),
        "answer_tokens": round(answer),
    }
    calls = {
        HELPFULNESS: answers,
        LOGICALITY: answers,
        STATEMENTS: answers,
        SUPPORT: answers * statements,
        EXTRACT: questions * parts,
        COMPLETENESS: answers,
    }
    language = language_of(cases[0].question, cases[0].answers[0], settings.language)
    prompts = load_prompts(settings.prompts)
    own = {part: len(tokenizer.starts([prompts[part, language]])[0]) for part in PARTS}
    both = question + answer
    shown = {
        HELPFULNESS: both,
        LOGICALITY: both,
        STATEMENTS: both,
        SUPPORT: STATEMENT + min(context, settings.top_chunks * settings.chunk_tokens),
        EXTRACT: question + context / parts,
        COMPLETENESS: both + FACTS * parts,
    }
    return calls, {part: round(calls[part] * (own[part] + shown[part])) for part in PARTS}
