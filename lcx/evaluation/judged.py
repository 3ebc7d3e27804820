"""Judges of answers: every question's rows are shown to a judge model, and get the fields that it gives.

A judge is asked when all tasks are answered, through the step's one client and its `calls.sqlite`. What it found of a
question is in the step's journal by its content, so a step that goes on asks only for what is missing; where no reply
came at all, or a part of it failed, that is asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from lcx.context import DEALT_BY
from lcx.evaluation.samples import TaskData
from lcx.evaluation.task import AskJudge, Case, Row
from lcx.llm.client import LOCAL
from lcx.llm.judge import Asking, Health, together
from lcx.llm.ledger import counting_rules, rules_counted
from lcx.storage import Journal, sha256_json

if TYPE_CHECKING:
    from lcx.steps import StepWork

__all__ = ["judge_tasks", "rated"]

DESCRIBED = "judge"


def rated(
    prepare: Callable[[Any, int], Callable[[Case, Row], Asking[Any]]], field: str = "rating"
) -> Callable[[StepWork[Any], Any], AbstractContextManager[AskJudge]]:
    """The judge of a task whose rows are each asked about once: `prepare(options, seed)` says what about a row.

    The reply's value is in the row's `field`, the reply in `analysis`, and why there is no value in `failed`.
    """

    @contextmanager
    def opened(work: StepWork[Any], options: Any) -> Iterator[AskJudge]:
        asking, client, health = prepare(options, work.settings.seed), work.llm("judge"), Health()

        async def one(case: Case, row: Row) -> dict[str, Any]:
            reply = await asking(case, row).ask(client)
            health.note(reply)
            return {field: reply.value, "analysis": reply.text, "failed": reply.why}

        async def ask(case: Case) -> tuple[Sequence[Mapping[str, Any]], bool]:
            found = await together(one(case, row) for row in case.rows)
            return found, all(row["analysis"] for row in found)

        yield ask

    return opened


Cases = Sequence[Sequence[tuple[Case, Sequence[int]]]]
"""For each context its questions, with the places of their rows among the context's."""


def judge_tasks(
    tasks: Sequence[tuple[TaskData, Cases, list[list[dict[str, Any]]]]],
    work: StepWork[Any],
    journal: Journal,
) -> dict[str, Any]:
    """Give every answered row of every task what the judge finds; returns what the judge is.

    Rows without an answer are not judged. Raises LcxError for what every call would meet.
    """
    judge = work.spec("judge")
    work.service.close(judge)  # models that have answered make room
    for one, cases, rows in tasks:
        _judge(one, cases, rows, work, journal)
    work.deal.gathered()
    if (
        DESCRIBED not in journal
    ):  # a step that goes on after its last verdict does not open the judge to say so
        about = {key: value for key, value in work.llm("judge").describe().items() if key != "base_url"}
        journal.append({"unit": DESCRIBED, "judge": about})  # where it is served is no part of what it says
    found: dict[str, Any] = journal[DESCRIBED]["judge"]
    return found


def _judge(
    one: TaskData, cases: Cases, rows: list[list[dict[str, Any]]], work: StepWork[Any], journal: Journal
) -> None:
    units: dict[str, Case] = {}
    places: dict[str, list[list[dict[str, Any]]]] = {}
    for found, mine in zip(cases, rows, strict=True):
        for case, at in found:
            answered = [
                mine[place]
                for place in at
                if mine[place]["pred"] is not None and not mine[place].get("error")
            ]
            if answered:
                kept = Case(case.context, case.question, tuple(answered))
                unit = _unit(one, kept)
                units[unit] = kept
                places.setdefault(unit, []).append(answered)
    missing = {unit: case for unit, case in units.items() if unit not in journal}
    if work.deal.open:
        missing = {unit: case for unit, case in missing.items() if work.deal.mine(case.question)}
    elif missing and not work.deal.due():
        missing = {}
    unsettled: dict[str, Sequence[Mapping[str, Any]]] = {}
    if missing:
        work.ctx.log(f"judging {one.name}")
        _ask(one, missing, unsettled, work, journal)
    for unit, twins in places.items() if not work.deal.open else ():
        verdicts = unsettled[unit] if unit in unsettled else journal[unit]["rows"]
        for answered in twins:
            for row, verdict in zip(answered, verdicts, strict=True):
                row |= verdict


def _ask(
    one: TaskData,
    missing: Mapping[str, Case],
    unsettled: dict[str, Sequence[Mapping[str, Any]]],
    work: StepWork[Any],
    journal: Journal,
) -> None:
    settings, task = one.settings, one.task
    assert task.judge is not None
    local = work.spec("judge")[0].startswith(f"{LOCAL}:")
    # Questions in a judge's hands at a time: a kill may cost what a local one has not yet finished.
    lanes = asyncio.Semaphore(settings.batch if local else settings.concurrency)

    async def main(ask: AskJudge) -> None:
        async def judged(unit: str, case: Case) -> None:
            async with lanes:
                with counting_rules():
                    found, settled = await ask(case)
                    about = rules_counted()
            if settled:
                about |= {DEALT_BY: case.question} if work.deal.open else {}
                journal.append({"unit": unit, "rows": [dict(row) for row in found], **about})
            else:
                unsettled[unit] = found
            shown.advance()

        with work.ctx.progress(f"judging {one.name}", len(missing), "questions", closing=False) as shown:
            await together(judged(unit, case) for unit, case in missing.items())

    expected = task.expect(one.options, settings, len(missing), None) if task.expect is not None else ()
    work.service.expect(sum(one.calls for one in expected if one.who == "judge") or len(missing))
    with task.judge(work, one.options) as ask:
        work.service.run(main(ask))


def _unit(one: TaskData, case: Case) -> str:
    """The name of what is judged, by its content."""
    about = [
        [answer, row.get("other"), row.get("answers")]
        for answer, row in zip(case.answers, case.rows, strict=True)
    ]
    return f"judged {one.task.name} {sha256_json([case.context, case.question, about])[:32]}"
