"""LongReward's score step: a judge scores every answer on four dimensions, and the best and worst become pairs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from lcx.context import StepResult
from lcx.data.bundles import write_bundles
from lcx.data.files import Rejects
from lcx.data.table import link_table
from lcx.data.tokens import SpanTokenizer, open_span_tokenizer
from lcx.errors import LcxError
from lcx.llm.client import LOCAL, Service
from lcx.records import Bundle
from lcx.retrieval import open_retriever
from lcx.steps import StepWork
from lcx.storage import Journal, make_folder, write_lines, write_text
from lcx_longreward.judge.judging import Case, Judge, together
from lcx_longreward.judge.opening import CALLS_AN_ANSWER, make_judge, open_prompter, retriever_options
from lcx_longreward.judge.pairs import Rules
from lcx_longreward.score.material import CANDIDATES, Material
from lcx_longreward.score.report import REWARD, Tally, report, rewards_png
from lcx_longreward.score.results import Asked, candidate, fact_rows, outcomes, pairs, score_rows
from lcx_longreward.settings import LongRewardScore

JUDGED = "judged.jsonl"
"""Journal of the bundles whose calls are all answered: a resumed step does not even build their requests again."""
LEAST_OPEN = 16
BATCHES, LOCAL_BATCH, AT_ONCE = 4, 8, 3
"""Batches of a local judge that wait at a time, the size of one where none is given, and calls that an answer begins
with: both ratings and its statements.
"""


def score(work: StepWork[LongRewardScore]) -> StepResult:
    """Judge the answers and write pairs, scores and a report. A killed step resumes and ends with the same bytes."""
    step, run, ctx, settings = work.step, work.run, work.ctx, work.settings
    folder = run.folder(step)
    source = run.bundles(step)
    prompter = open_prompter(settings)
    tokenizer = open_span_tokenizer(settings.tokenizer)
    spec = run.llm(settings.judge)
    rejects = Rejects()
    with (
        Service(folder, settings, ctx) as service,
        closing(open_retriever(settings.retriever, retriever_options(settings, folder, ctx))) as retriever,
    ):
        service.check(
            spec, settings.judge_options
        )  # what is not there should be said before the data is read
        material = Material(source, rejects, settings.fields)
        if len(rejects):
            rejects.write(folder / "rejected.jsonl")
        ctx.log(f"{len(material):,} contexts with answers from {source}")
        for note in material.notes:
            ctx.log(f"    {note}")
        exchange = service.client(spec, settings.judge_options)
        judge = make_judge(settings, exchange, prompter, retriever, tokenizer)
        with Journal(folder / JUDGED) as done:
            judge.health.read += len(done)  # what is left may be just what always fails
            service.run(_judge_all(judge, material, done, _open_answers(settings), service.expect))
        described = {"judge": exchange.describe(), "retriever": retriever.describe()}
        spent = service.counts()
    with Journal(folder / JUDGED, read_only=True) as done:
        result = _write(settings, folder, material, done, described, tokenizer)
    result.counts.update({f"rows set aside: {why}": number for why, number in rejects.counts.items()})
    if len(rejects):
        result.files["rejected"] = "rejected.jsonl"
    (folder / JUDGED).unlink()
    result.counts.update({name: number for name, number in spent.items() if isinstance(number, int)})
    result.extra = {**described, "spent": spent}
    return result


async def _judge_all(
    judge: Judge, material: Material, done: Journal, open_answers: int, expect: Callable[[int], None]
) -> None:
    """Judge every bundle that the journal lacks, many at a time; each is kept as soon as it is complete."""

    guess = CALLS_AN_ANSWER
    # In their order, since bundles are read a group at a time.
    known = (material[number] for number in sorted(map(int, done.done)))
    expect(guess * (material.answers - sum(len(bundle.branches) for bundle in known)))

    async def one(number: int, cases: list[Case]) -> None:
        found = await together(judge.judge(case) for case in cases)
        done.append({"unit": str(number), "cases": [judged.row() for judged in found]})
        expect(
            sum(judged.calls.total() for judged in found) - guess * sum(len(case.answers) for case in cases)
        )

    def jobs() -> Iterator[tuple[int, Callable[[], Coroutine[Any, Any, None]]]]:
        for number in range(len(material)):
            if str(number) in done:
                continue
            bundle = material[number]
            cases = material.cases(bundle)
            yield len(bundle.branches), partial(one, number, cases)

    await spread(jobs(), open_answers)


async def spread(jobs: Iterator[tuple[int, Callable[[], Coroutine[Any, Any, None]]]], most: int) -> None:
    """Run jobs in order of their start, each begun once the weights of those under way leave room for its own.

    Where one raises, the others are cancelled, and that error is raised.
    """
    running: dict[asyncio.Task[None], int] = {}

    async def settle() -> None:
        finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in finished:
            del running[task]
            task.result()

    try:
        for weight, start in jobs:
            while running and sum(running.values()) + weight > most:
                await settle()
            running[asyncio.create_task(start())] = weight
        while running:
            await settle()
    except BaseException:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise


def _write(
    settings: LongRewardScore,
    folder: Path,
    material: Material,
    done: Journal,
    described: Mapping[str, Any],
    tokenizer: SpanTokenizer,
) -> StepResult:
    """Everything that the verdicts lead to. It follows from them alone, whatever order they came in."""
    rules = Rules(settings.least_scored, settings.margin, settings.rejected)
    used = {"judge": settings.judge, "retriever": settings.retriever}
    data = make_folder(folder / "data")

    def found(numbers: range | None = None) -> Iterator[tuple[Bundle, list[Asked]]]:
        for number in numbers if numbers is not None else range(len(material)):
            bundle = material[number]
            yield bundle, outcomes(bundle, done[str(number)], rules)

    if material.table is not None:
        link_table(material.source, data)
    count = min(settings.shards, len(material))
    for index in range(count):
        block = range(index * len(material) // count, (index + 1) * len(material) // count)
        everything = (candidate(bundle, asked, used) for bundle, asked in found(block))
        write_bundles(data, everything, name=CANDIDATES, index=index, count=count)
        paired = (pair for bundle, asked in found(block) for pair in pairs(bundle, asked, used))
        write_bundles(data, paired, index=index, count=count)
    write_lines(
        folder / "scores.jsonl", (row for bundle, asked in found() for row in score_rows(bundle, asked))
    )
    write_lines(
        folder / "facts.jsonl", (row for bundle, asked in found() for row in fact_rows(bundle, asked))
    )
    tally = Tally()
    for bundle, asked in found():
        lengths = [len(starts) for starts in tokenizer.starts([branch.answer for branch in bundle.branches])]
        for one in asked:
            cut = [bool(bundle.branches[place].meta.get("cut")) for place in one.places]
            tally.add(one, cut, [lengths[place] for place in one.places])
    metrics = tally.metrics(settings.early_stop)
    write_text(folder / "report.md", report(tally, metrics, described))
    rewards_png(folder / "rewards.png", tally)
    if not tally.values[REWARD]:
        why = "; ".join(f"{reason} ({n})" for reason, n in tally.failures.most_common(3))
        raise LcxError(
            f"the judge gave none of the {tally.counts['answers judged']:,} answers a reward",
            why=why,
            hint=f"{folder / 'scores.jsonl'} has its replies. Another judge: --judge SPEC --force",
        )
    return StepResult(
        counts=tally.all_counts(),
        metrics=metrics,
        files={
            **({"data": "data"} if tally.counts["pairs"] else {}),
            "scores": "scores.jsonl",
            "facts": "facts.jsonl",
            "report": "report.md",
            "rewards": "rewards.png",
        },
        notes=_notes(settings, tally),
    )


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
