"""IN2's score step: a judge checks every question; without one, all of them pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lcx.data.bundles import BundleReader
from lcx.data.table import SegmentTable, link_table, load_table
from lcx.errors import LcxError, UsageError
from lcx.llm.ledger import costs
from lcx.records import Bundle
from lcx.steps import StepResult, StepWork
from lcx.storage import link_file
from lcx_in2.checks import CHECKS, Checked, Item, Judge, rubrics, texts_of
from lcx_in2.settings import In2Score
from lcx_in2.synth import ANSWER_TOKENS, PROMPT_TOKENS

VERDICT_TOKENS = 80
"""About what a verdict with its reason takes."""


async def score(work: StepWork[In2Score]) -> StepResult:
    """Check every question with evidence and write those that hold to `STEP/data`, which train takes.

    A killed step resumes and ends with the same bytes.
    """
    settings, source, bundles = work.settings, work.source, work.bundles()
    link_table(source, work.data)
    if settings.judge is None:
        for path in sorted(source.glob("bundles-*-of-*")):
            link_file(path, work.data / path.name)
        questions = sum(len(bundle.branches) for bundle in bundles)
        work.counts.update(
            {"contexts": len(bundles), "questions": questions, "questions not checked": questions}
        )
        work.notes.append(
            "no judge is given, so that every question passes; one checks them: --judge openai:MODEL"
        )
        return work.done()
    asking = rubrics(
        settings.prompts, tries=settings.attempts, reply_tokens=settings.reply_tokens, seed=settings.seed
    )
    judge = Judge(work.llm("judge"), asking, settings.unclear)
    asked = _Questions(settings, bundles, load_table(source) if (source / "table.json").is_file() else None)
    known = len(work.journal)
    work.service.expect(len(CHECKS) * (asked.count() - known))

    async def check(place: tuple[int, int]) -> dict[str, Any]:
        return _row(await judge.check(asked.item(bundles[place[0]], place[1])), settings)

    found = await work.each(
        asked.places(),
        check,
        key=lambda place: f"{place[0]}:{place[1]}",
        keep=lambda row: not row["unchecked"],  # a call that failed is made again when the step resumes
        share=lambda place: asked.share(bundles[place[0]], place[1]),
    )
    _write(work, asked, found)
    described = judge.client.describe() if len(found) > known else {"spec": settings.judge}
    return work.done(extra={"judge": described})


@dataclass(frozen=True)
class _Questions:
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

    def share(self, bundle: Bundle, place: int) -> str:
        """What a question is dealt by: the same question stands in several contexts, and is asked about once."""
        return f"{bundle.branches[place].question}\0{bundle.branches[place].answer}"

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


def _row(checked: Checked, settings: In2Score) -> dict[str, Any]:
    """A question's outcome as the journal keeps it."""
    return {
        "verdicts": checked.verdicts,
        "reasons": checked.reasons,
        "dropped": checked.why(settings.unclear),
        "unchecked": checked.unchecked,
        "calls": checked.calls,
        "usage": [checked.usage.prompt_tokens, checked.usage.completion_tokens],
    }


def _write(work: StepWork[In2Score], asked: _Questions, found: Mapping[str, dict[str, Any]]) -> None:
    """Write the questions that hold as data, and every verdict for people; count both."""
    counts = work.counts
    kept = _kept(asked, found, counts)
    work.write("scores", _rows(asked, found))
    work.write("dropped", (row for row in _rows(asked, found) if row["dropped"]))
    for row in found.values():
        counts["calls"] += row["calls"]
        counts["prompt_tokens"] += row["usage"][0]
        counts["completion_tokens"] += row["usage"][1]
    if not kept:
        raise LcxError(
            f"the judge let none of the {len(found):,} questions pass",
            why="; ".join(f"{k} ({n})" for k, n in counts.most_common() if k.startswith("question dropped")),
            hint=f"{work.folder / 'scores.jsonl'} has its reasons; see whether the judge is up to the task.",
        )
    for shard in work.shards(len(kept), fresh=True):
        shard.write(_bundle(asked, *kept[place]) for place in shard.places)
    checked, good = len(found), counts["questions kept"]
    work.metrics["kept"] = round(good / checked, 4) if checked else 1.0
    work.notes.append(
        f"{good:,} of {checked:,} checked questions hold; dropped.jsonl says why the others went"
    )
    unasked = sum(n for key, n in counts.items() if key.startswith("question dropped: not checked"))
    if unasked:
        work.notes.append(
            f"{unasked:,} questions could not be checked and were left out; --force asks all of them again"
        )


def _kept(
    asked: _Questions, found: Mapping[str, dict[str, Any]], counts: Counter[str]
) -> list[tuple[int, list[int]]]:
    """Bundles with a question left, and the places of those questions."""
    kept = []
    for number, bundle in enumerate(asked.bundles):
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


def _bundle(asked: _Questions, number: int, places: Sequence[int]) -> Bundle:
    bundle: Bundle = asked.bundles[number]
    return replace(bundle, branches=tuple(bundle.branches[place] for place in places))


def _rows(asked: _Questions, found: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row a checked question, for people and scripts."""
    for number, bundle in enumerate(asked.bundles):
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


# What it will cost


def forecast(work: StepWork[In2Score]) -> dict[str, Any]:
    """The judge's calls and tokens, where the data is there to count. Assumes that every question passes."""
    run, settings = work.run, work.settings
    found: dict[str, Any] = {"judge": settings.judge or "none: every question passes", "data": settings.input}
    if settings.judge is None or not str(settings.input).startswith("step:"):
        return found
    name = str(settings.input).removeprefix("step:")
    if run.state(name) != "done":
        return {**found, "note": f"the data of {settings.input} is not there yet"}
    made = run.manifest["steps"][name]
    questions = sum(int(n) for kind, n in made.get("counts", {}).items() if kind == "questions")
    asked = (made.get("fingerprint") or {}).get("settings", {})
    evidence = int(asked.get("segment_tokens", 128))
    length = (made.get("metrics", {}).get("context_tokens") or {}).get("mean", 0.0)
    rest = length if settings.see == "context" else 0.0
    calls = len(CHECKS) * questions
    prompt = round(questions * (len(CHECKS) * (PROMPT_TOKENS + evidence + ANSWER_TOKENS) + 2 * rest))
    reply = calls * VERDICT_TOKENS
    return {
        **found,
        "questions": questions,
        "calls": calls,
        "judge_prompt_tokens": prompt,
        "judge_answer_tokens": reply,
        **costs(settings, {"judge": (settings.judge, prompt, reply)}),
        "assumes": f"every question passes; one that fails a check is spared the others ({len(CHECKS)} in all)",
    }
