"""IN2's score step: a judge checks every question; without one, all of them pass."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lcx.context import Context, StepResult
from lcx.data.bundles import BundleReader, read_bundles, write_bundles
from lcx.data.table import SegmentTable, link_table, load_table
from lcx.errors import LcxError, UsageError
from lcx.llm.costs import paid
from lcx.llm.service import Service
from lcx.recipe import Step
from lcx.records import Bundle
from lcx.run import Run
from lcx.work.files import link_file, make_folder, write_lines
from lcx.work.journal import Journal
from lcx_in2.checks import CHECKS, Checked, Item, Judge, load_prompts, texts_of
from lcx_in2.settings import In2Score

WINDOW = 256
"""Questions whose texts are held at a time."""


def score(step: Step, run: Run, ctx: Context) -> StepResult:
    """Check every question with evidence and write those that hold to `STEP/data`, which train takes.

    A killed step resumes and ends with the same bytes.
    """
    settings = step.settings
    assert isinstance(settings, In2Score)
    source = run.bundles(step)
    if not source.is_dir():
        raise UsageError(
            f"{source} is no folder of bundles", hint="--input FOLDER, as `lcx synth` leaves one"
        )
    folder = run.folder(step)
    data = make_folder(folder / "data")
    link_table(source, data)
    bundles = read_bundles(source)
    if settings.judge is None:
        for path in sorted(source.glob("bundles-*-of-*")):
            link_file(path, data / path.name)
        questions = sum(len(bundle.branches) for bundle in bundles)
        return StepResult(
            counts={"contexts": len(bundles), "questions": questions, "questions not checked": questions},
            files={"data": "data"},
            notes=["no judge is given, so that every question passes; one checks them: --judge openai:MODEL"],
        )
    prompts = load_prompts(settings.prompts)
    service = Service(folder, settings, ctx)
    if not (folder / "journal.jsonl").exists():
        service.check(settings.judge, settings.judge_options)
    work = _Checking(settings, bundles, load_table(source) if (source / "table.json").is_file() else None)
    with Journal(folder / "journal.jsonl") as journal, service:
        judge = Judge(
            service.exchange(settings.judge, settings.judge_options),
            prompts,
            settings.attempts,
            settings.reply_tokens,
            settings.unclear,
            settings.seed,
        )
        service.expect(len(CHECKS) * (work.count() - len(journal)))
        known = len(journal)
        found = service.run(work.run(judge, journal))
        described = judge.exchange.describe() if len(found) > known else {"spec": settings.judge}
        others, cost = paid(service.counts())
    result = _finish(work, found, folder)
    result.counts.update(others)
    result.metrics.update(cost)
    return replace(result, extra={"judge": described})


@dataclass(frozen=True)
class _Checking:
    """The questions of all bundles, and where their texts are."""

    settings: In2Score
    bundles: BundleReader
    table: SegmentTable | None

    def places(self) -> Iterator[tuple[int, int]]:
        """Bundle and branch of every question with evidence."""
        for number, bundle in enumerate(self.bundles):
            for place, branch in enumerate(bundle.branches):
                if branch.gold:
                    yield number, place

    def count(self) -> int:
        return sum(1 for _ in self.places())

    def item(self, bundle: Bundle, place: int) -> Item:
        """The texts of one question. Raises UsageError for a plan without its table."""
        if bundle.plan is None or self.table is None:
            raise UsageError(f"bundle {bundle.id} names evidence, but the folder holds no segment table")
        branch = bundle.branches[place]
        if self.settings.see == "context":
            evidence, rest = texts_of(self.table.texts(bundle.plan), branch.gold)
        else:
            evidence, rest = tuple(self.table.texts(bundle.plan[gold] for gold in sorted(branch.gold))), ()
        return Item(branch.question, branch.answer, evidence, rest)

    async def run(self, judge: Judge, journal: Journal) -> dict[str, dict[str, Any]]:
        """What came of every question, by its unit; those in the journal are not asked again."""
        found: dict[str, dict[str, Any]] = {}

        async def one(number: int, place: int) -> None:
            checked = await judge.check(self.item(self.bundles[number], place))
            row = _row(f"{number}:{place}", checked, self.settings)
            if not checked.unchecked:  # a call that failed is made again when the step resumes
                journal.append(row)
            found[row["unit"]] = row

        waiting: list[tuple[int, int]] = []
        for number, place in self.places():
            known = journal.get(f"{number}:{place}")
            if known is not None:
                found[known["unit"]] = known
                continue
            waiting.append((number, place))
            if len(waiting) == WINDOW:
                await _all(one, waiting)
                waiting = []
        await _all(one, waiting)
        return found


async def _all(one: Any, places: Sequence[tuple[int, int]]) -> None:
    """Run all to their end, so that what is in flight is kept; then raise what the first of them raised."""
    results = await asyncio.gather(*(one(*place) for place in places), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _row(unit: str, checked: Checked, settings: In2Score) -> dict[str, Any]:
    """A question's outcome as the journal keeps it."""
    return {
        "unit": unit,
        "verdicts": checked.verdicts,
        "reasons": checked.reasons,
        "dropped": checked.why(settings.unclear),
        "calls": checked.calls,
        "usage": [checked.usage.prompt_tokens, checked.usage.completion_tokens],
    }


def _finish(
    work: _Checking,
    found: dict[str, dict[str, Any]],
    folder: Path,
) -> StepResult:
    counts: Counter[str] = Counter()
    kept = _kept(work, found, counts)
    data = folder / "data"
    for path in data.glob("bundles-*-of-*"):
        path.unlink()  # an earlier finish of this step may have known fewer verdicts
    write_lines(folder / "scores.jsonl", _rows(work, found))
    write_lines(folder / "dropped.jsonl", (row for row in _rows(work, found) if row["dropped"]))
    for row in found.values():
        counts["calls"] += row["calls"]
        counts["prompt_tokens"] += row["usage"][0]
        counts["completion_tokens"] += row["usage"][1]
    if not kept:
        raise LcxError(
            f"the judge let none of the {len(found):,} questions pass",
            why="; ".join(f"{k} ({n})" for k, n in counts.most_common() if k.startswith("question dropped")),
            hint=f"{folder / 'scores.jsonl'} has its reasons; see whether the judge is up to the task.",
        )
    shards = min(work.settings.shards, len(kept))
    for index in range(shards):
        block = kept[index * len(kept) // shards : (index + 1) * len(kept) // shards]
        write_bundles(data, (_bundle(work, *one) for one in block), index=index, count=shards)
    checked, good = len(found), counts["questions kept"]
    notes = [f"{good:,} of {checked:,} checked questions hold; dropped.jsonl says why the others went"]
    unasked = sum(n for key, n in counts.items() if key.startswith("question dropped: not checked"))
    if unasked:
        notes.append(
            f"{unasked:,} questions could not be checked and were left out; --force asks all of them again"
        )
    return StepResult(
        counts=dict(sorted((+counts).items())),
        metrics={"kept": round(good / checked, 4) if checked else 1.0},
        files={"data": "data", "scores": "scores.jsonl", "dropped": "dropped.jsonl"},
        notes=notes,
    )


def _kept(
    work: _Checking, found: dict[str, dict[str, Any]], counts: Counter[str]
) -> list[tuple[int, list[int]]]:
    """Bundles with a question left, and the places of those questions."""
    kept = []
    for number, bundle in enumerate(work.bundles):
        good = []
        for place in range(len(bundle.branches)):
            row = found.get(f"{number}:{place}")
            if row is None:
                counts["questions without evidence, not checked"] += 1
            elif row["dropped"]:
                counts[f"question dropped: {row['dropped']}"] += 1
                continue
            else:
                counts["questions kept"] += 1
            good.append(place)
        if good:
            kept.append((number, good))
        else:
            counts["contexts dropped"] += 1
    counts["contexts"] = len(kept)
    return kept


def _bundle(work: _Checking, number: int, places: Sequence[int]) -> Bundle:
    bundle: Bundle = work.bundles[number]
    return replace(bundle, branches=tuple(bundle.branches[place] for place in places))


def _rows(work: _Checking, found: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row a checked question, for people and scripts."""
    for number, bundle in enumerate(work.bundles):
        for place, branch in enumerate(bundle.branches):
            row = found.get(f"{number}:{place}")
            if row is not None:
                yield {
                    "id": bundle.id,
                    "question": branch.question,
                    "answer": branch.answer,
                    "dropped": row["dropped"],
                    "verdicts": row["verdicts"],
                    "reasons": row["reasons"],
                }
