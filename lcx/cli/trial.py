"""`lcx synth --limit N`: a trial of a step in small, beside the run, and what the whole would take at its rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.cli import show
from lcx.data.settings import CorpusSettings
from lcx.errors import LcxError, UsageError
from lcx.formatting import cut, several
from lcx.progress import duration

if TYPE_CHECKING:
    from lcx.context import Context
    from lcx.plugins import Plugins
    from lcx.recipe import Step
    from lcx.records import Bundle
    from lcx.run import Run

UNIT = "examples"
"""The setting of a synth step that says how many are made; `--limit` is this one in small."""
READ, DOCUMENTS = "documents", 10_000
"""The setting that bounds what is read of a corpus, and its value in a trial: who has a million looks sooner."""
SHOWN, TEXT = 8, 600
"""Rows that are printed, and characters of each text in them."""
TOKENS = {"prompt_tokens": "prompt tokens", "completion_tokens": "reply tokens"}


def small_step(step: Step, limit: int) -> Step:
    """The step for so many examples. Raises UsageError where its settings do not say how many it makes."""
    whole = step.values().get(UNIT)
    if not isinstance(whole, int):
        raise UsageError(
            f"--limit does not know how to make step '{step.id}' smaller",
            why=f"The method {step.method} has no setting `{UNIT}`, which says how many examples a step makes.",
            hint="Make it smaller by its own settings, with --set and another --run DIR.",
        )
    small = {UNIT: min(limit, whole)}
    if isinstance(step.settings, CorpusSettings):  # another method's `documents` may be anything
        read = step.settings.documents
        if read is None or read > DOCUMENTS:
            small[READ] = DOCUMENTS
    settings = step.settings.model_copy(update=small)
    return replace(step, settings=settings, origins={**step.origins, **dict.fromkeys(small, "--limit")})


def starts_over(small: Step, trial: Run) -> bool:
    """Whether an earlier trial had other settings: it is made anew, and what it paid for is kept."""
    from lcx.run import fingerprint

    prints = fingerprint(small, trial)
    try:
        trial.standing(small, prints)
    except UsageError:
        if trial.key(small) in trial.manifest["steps"]:
            return True
        raise
    return False


def rows_of(folder: Path) -> list[Bundle]:
    """The bundles that a trial left in a step's folder: what it kept, or else all candidates of a filter."""
    from lcx.data.bundles import read_bundles

    for name in ("bundles", "candidates"):
        try:
            if found := list(read_bundles(folder / "data", name)):
                return found
        except LcxError:
            continue
    return []


def row_lines(bundles: list[Bundle], folder: Path) -> Iterator[str]:
    """Each context's questions, with their answers by role, for people."""
    left = SHOWN
    for bundle in bundles:
        if left <= 0:
            yield f"... and {several(len(bundles) - bundles.index(bundle), 'context')} more in {folder}"
            return
        tokens = bundle.meta.get("tokens")
        size = [f"{tokens:,} tokens"] if isinstance(tokens, int) else []
        size += [f"{len(bundle.plan):,} segments"] if bundle.plan else []
        size += [f"{len(bundle.context):,} characters"] if bundle.context and not size else []
        yield f"{bundle.id} ({': '.join(filter(None, (bundle.kind, ', '.join(size) or 'no context')))})"
        asked = ""
        times = Counter((one.question, one.role, one.answer) for one in bundle.branches)
        for branch in bundle.branches:
            if not (often := times.pop((branch.question, branch.role, branch.answer), 0)):
                continue  # shown before
            if branch.question != asked:
                if left <= 0:
                    yield "  ..."
                    break
                asked, left = branch.question, left - 1
                yield f"  question   {_line(branch.question)}"
            places = ", ".join(str(place + 1) for place in branch.gold)
            rated = branch.meta.get("rating")
            notes = [f"{often} times"] if often > 1 else []
            notes += [f"evidence: segment {places}"] if places else []
            notes += [f"rated {rated:.2f}"] if isinstance(rated, float) else []
            note = f"  [{'; '.join(notes)}]" if notes else ""
            yield f"  {branch.role.ljust(9)}  {_line(branch.answer)}{note}"


def _line(text: str) -> str:
    return cut(" ".join(text.split()), TEXT)


def as_json(bundles: list[Bundle]) -> list[dict[str, Any]]:
    """The same rows for --json, all of them."""
    return [
        {
            "id": one.id,
            "kind": one.kind,
            "branches": [{"role": b.role, "question": b.question, "answer": b.answer} for b in one.branches],
        }
        for one in bundles
    ]


def whole_cost(
    step: Step,
    small: Step,
    runs: tuple[Run, Run],
    ctx: Context,
    plugins: Plugins,
    report: Mapping[str, Any],
) -> dict[str, Any]:
    """What the whole step would take: its forecast, and what the trial took, times how much larger the whole is.

    How much larger it is say the forecasts' calls, which know how many questions a small corpus gives. Time and cost
    are told where this process asked everything itself.
    """
    from lcx.steps import forecast

    whole, part = (
        dict(forecast(one, run, ctx, plugins)) for one, run in zip((step, small), runs, strict=True)
    )
    calls = [_sum(found.get("calls")) for found in (whole, part)]
    examples = [int(one.values()[UNIT]) for one in (step, small)]
    times = calls[0] / calls[1] if all(calls) else examples[0] / examples[1]
    counts = report["counts"]
    took = {"calls": sum(n for name, n in counts.items() if name == "calls" or name.endswith(" calls"))}
    took |= {name: counts.get(name, 0) for name in TOKENS}
    rate = {name: round(number * times) for name, number in took.items() if number}
    found = {"trial": examples[1], UNIT: examples[0], "times": times, "forecast": whole, "at_this_rate": rate}
    if small.origins.get(READ) == "--limit" and counts.get(READ, 0) >= DOCUMENTS:
        found[READ] = counts[READ]
    if not report["reused"] and not counts.get("calls from the journal"):
        reading = (
            0.0 if READ in found else min(sum(ctx.reading), report["seconds"])
        )  # a part was read, or all of it
        found["seconds"] = round(reading + (report["seconds"] - reading) * times, 1)
        if cost := report["metrics"].get("cost"):
            found["cost"] = cost * times
    return found


def _sum(calls: Any) -> float:
    if isinstance(calls, Mapping):
        return sum(_sum(one) for one in calls.values())
    return calls if isinstance(calls, int | float) else 0


def whole_lines(whole: Mapping[str, Any], command: str) -> list[str]:
    """What the whole would take, for people, and the command that makes it."""
    rate = [f"{number:,} {TOKENS.get(name, name)}" for name, number in whole["at_this_rate"].items()]
    if cost := whole.get("cost"):
        rate.append(f"cost {show.number(cost)}")
    if seconds := whole.get("seconds"):
        rate.append(f"less than {duration(seconds)} (loading is counted in)")
    read = whole.get(READ)
    return [
        *([f"read for this: the first {read:,} documents of the corpus"] if read else []),
        f"the whole of {whole[UNIT]:,} {UNIT}, by its forecast:",
        *(f"  {line}" for line in show.pairs(whole["forecast"])),
        f"and by the rate of these {whole['trial']:,}: {', '.join(rate) or 'nothing'}",
        f"next: {command}",
    ]
