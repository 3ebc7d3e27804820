"""The eval step: which tasks can run, their questions, the model's answers, scores, what is written and drawn."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx import __version__, gguf
from lcx.context import Context, StepResult
from lcx.errors import LcxError, MissingError
from lcx.evaluation.planning import PlannedTask, lacking, left_out, makes_questions, plan_tasks, was_named
from lcx.evaluation.result import CUT_SHARE
from lcx.evaluation.settings import EvalSettings, asked_as_llm
from lcx.formatting import sparkline
from lcx.paths import slug
from lcx.recipe import Step
from lcx.run import versions
from lcx.storage import sealed, sha256_file, write_json

if TYPE_CHECKING:
    from lcx.evaluation.model import ModelUnderTest
    from lcx.evaluation.samples import TaskData
    from lcx.plugins import Plugins
    from lcx.steps import StepWork

__all__ = ["SCORES", "Findings", "Prepared", "answer_eval", "eval_step", "prepare_eval"]

SCORES = "scores.json"


@dataclass
class Findings:
    """What an evaluation gave: scores by task, how they were answered, and what was left out and why."""

    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    answering: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, MissingError] = field(default_factory=dict)
    rejects: Counter[str] = field(default_factory=Counter)
    weights: str = ""
    prompt: dict[str, Any] = field(default_factory=dict)

    left_out: dict[str, str] = field(default_factory=dict)
    """What of that is said: groups in place of their tasks."""

    @property
    def notes(self) -> list[str]:
        return [f"left out: {names}: {why}" for names, why in self.left_out.items()]


@dataclass
class Prepared:
    """The tasks of an eval step before there is a model: what benchmarks ask, and what is left out already."""

    settings: EvalSettings
    planned: list[PlannedTask]
    ready: dict[str, TaskData]
    found: Findings

    @property
    def left(self) -> list[PlannedTask]:
        return [one for one in self.planned if one.name not in self.found.skipped]


def eval_step(work: StepWork[EvalSettings]) -> StepResult:
    """Build the questions, answer them with the model, score, and draw.

    A benchmark whose data is not there is left out by name where a recipe lists it. Raises MissingError where the
    command line names it, and where no task is left.
    """
    step, run, ctx, settings = work.step, work.run, work.ctx, work.settings
    first = [one.task for one in plan_tasks(settings, ctx.plugins)]
    if not settings.answers and any(task is None or not (task.judged or task.answered) for task in first):
        run.model(step)  # said before anything is loaded
    prepared = prepare_eval(settings, ctx.plugins, named=was_named(step), work=work)
    if not prepared.left:
        raise _nothing(step, prepared.found)
    asks = any(one.task is None or not one.task.answered for one in prepared.left)
    spec = run.model(step) if asks and not settings.answers else ""
    for note in prepared.found.notes:
        ctx.log(f"warning: {note}")
    _check_models(prepared, work)
    answer_eval(prepared, spec, work)
    return finish(prepared.found, work)


def prepare_eval(
    settings: EvalSettings, plugins: Plugins, *, named: bool, work: StepWork[EvalSettings] | None = None
) -> Prepared:
    """Find the tasks and load the benchmarks' rows. `named`: the command line named the tasks, not a recipe.

    Raises UsageError for an unknown task, and MissingError for what a named one lacks.
    """
    planned = plan_tasks(settings, plugins)
    found = Findings()
    ready = _published(planned, settings, found, named, work)
    found.left_out = left_out(planned, found.skipped)
    return Prepared(settings, planned, ready, found)


def _check_models(prepared: Prepared, work: StepWork[EvalSettings]) -> None:
    """Say what judges and the other side lack before anything is made or asked. Raises typed errors."""
    judged = [one.task for one in prepared.left if one.task is not None and one.task.judged]
    if judged:
        work.service.check(*work.spec("judge"))
    for one in prepared.left:
        if one.task is not None and one.task.judge is not None:
            with one.task.judge(work, one.options):
                pass  # its prompts are read
    if any(task.against for task in judged):
        _open_model(str(work.settings.against), work, against=True)


def answer_eval(prepared: Prepared, spec: str, work: StepWork[EvalSettings]) -> Findings:
    """Ask the model `spec` everything; rows and the journal go into the step's folder."""
    ready, found = dict(prepared.ready), prepared.found
    tested = _open_model(spec, work)
    try:
        for one in [one for one in prepared.left if one.name not in ready and one.task is not None]:
            ready[one.name] = _make_samples(one, tested, found, work)
        data = [ready[one.name] for one in prepared.left if one.name in ready]
        _answer(data, [one for one in prepared.left if one.task is None], tested, found, work)
        _check_answered(found)
        found.weights = tested.weights
        found.prompt = tested.prompt(_template(work.settings))
    finally:
        tested.close()
    return found


def _answer(
    data: Sequence[TaskData],
    bridged: Sequence[PlannedTask],
    tested: ModelUnderTest,
    found: Findings,
    work: StepWork[EvalSettings],
) -> None:
    from lcx.evaluation.runner import run_tasks

    if data:

        def other() -> ModelUnderTest:
            return _open_model(str(work.settings.against), work, against=True)

        found.scores, found.answering = run_tasks(data, tested, work.folder, work.ctx, work, other)
    if bridged:
        work.deal.writes()  # another harness runs these as a whole
        from lcx.evaluation.bridge import run_bridge

        found.scores |= run_bridge(bridged, tested, work.folder, work.ctx)


def _check_answered(found: Findings) -> None:
    """Raises LcxError with the server's own sentence where no question of any task was answered."""
    failed: Counter[str] = Counter()
    for scores in found.scores.values():
        failed.update((scores.get("answering") or {}).get("failed") or {})
    if not failed or any(scores.get("n") for scores in found.scores.values()):
        return
    (first, count), *others = failed.most_common()
    more = f"; {sum(failed.values()) - count} failed otherwise" if others else ""
    raise LcxError(
        f"none of {sum(failed.values())} questions was answered",
        why=f"{first}{f' ({count} times)' if count > 1 else ''}{more}",
        hint="See to the server; then the same command asks again what has no answer.",
    )


def _published(
    planned: Sequence[PlannedTask],
    settings: EvalSettings,
    found: Findings,
    named: bool,
    work: StepWork[EvalSettings] | None,
) -> dict[str, TaskData]:
    """The benchmarks' questions; those whose data is not there, and what a server cannot do, are left out by name."""
    from lcx.evaluation.samples import load_benchmark

    ready: dict[str, TaskData] = {}
    for one in planned:
        try:
            if lack := lacking(one):
                raise lack
            if one.task is not None and one.task.published and not makes_questions(one):
                ready[one.name] = load_benchmark(one.name, one.task, one.settings, one.options, work)
            elif settings.served and (one.task is None or one.task.reads):
                raise MissingError(
                    f"{one.name} needs the model in this process, not behind a server", hint="--model PATH"
                )
            elif one.task is None:
                from lcx.evaluation.bridge import require_lm_eval

                require_lm_eval(one.name)
        except MissingError as lack:
            if named and one.named:
                raise
            found.skipped[one.name] = lack
    groups = {one.group for one in planned if not one.named}
    for group in groups if named else ():
        members = [one.name for one in planned if one.group == group]
        if all(task in found.skipped for task in members):
            raise found.skipped[members[0]]
    return ready


def _nothing(step: Step, found: Findings) -> MissingError:
    return MissingError(
        f"step '{step.id}' has no task that can run",
        why="; ".join(f"{names}: {why}" for names, why in found.left_out.items()),
        hint=next(iter(found.skipped.values())).hint,
    )


def _template(settings: EvalSettings) -> Any:
    from lcx.data.templates import load_template

    return load_template(settings.template)


def _open_model(spec: str, work: StepWork[EvalSettings], *, against: bool = False) -> ModelUnderTest:
    """The model under evaluation, or the one that it is compared with."""
    from lcx.evaluation.local_model import LocalModel
    from lcx.evaluation.model import SavedAnswers
    from lcx.evaluation.served_model import ServedModel

    settings, ctx = work.settings, work.ctx
    if against:
        if Path(spec).expanduser().is_file() and not gguf.is_gguf(spec):
            return SavedAnswers(spec, ctx)
        spec = str(work.run.resolve(spec, "model")) if spec.startswith("step:") else work.run.llm(spec)
    elif settings.answers or not spec:
        return SavedAnswers(settings.answers or "", ctx)
    if asked_as_llm(spec):
        options = settings.against_options if against else settings.model_options
        return ServedModel(spec, settings, work.service, ctx, options=options)
    folder = ctx.ready_model(spec.removeprefix("local:"))
    return LocalModel(folder, settings, ctx, lambda: work.service)


def _make_samples(
    one: PlannedTask, tested: ModelUnderTest, found: Findings, work: StepWork[EvalSettings]
) -> TaskData:
    from lcx.evaluation.samples import load_benchmark, make_samples

    assert one.task is not None
    tested.ctx.log(f"{one.name}: making its questions from {one.settings.corpus}")
    if one.task.published:
        return load_benchmark(one.name, one.task, one.settings, one.options, work)
    template = _template(one.settings)
    made, rejects = make_samples(
        one.name, one.task, one.settings, one.options, template, tested.token_counter(template)
    )
    if sum(rejects.counts.values()) > sum(found.rejects.values()):
        found.rejects = rejects.counts
    return made


def finish(found: Findings, work: StepWork[EvalSettings]) -> StepResult:
    """Write `scores.json`, then pictures and the report: where these fail, the results are there all the same."""
    from lcx.evaluation.scores import ROWS, check_notes, merge_answering

    work.deal.writes()
    settings, folder, ctx = work.settings, work.folder, work.ctx
    kept, rows = _kept(folder, found)
    tasks = {**kept, **found.scores}
    rows |= {file: sha256_file(folder / file) for task in found.scores if (file := _rows_of(folder, task))}
    answering = {**found.answering, **merge_answering(tasks)}
    total = summary(
        folder.name,
        tasks,
        settings,
        weights=found.weights,
        prompt=found.prompt,
        answering=answering,
        skipped=found.left_out,
    )
    write_json(folder / SCORES, sealed({**total, ROWS: rows}))
    counts, metrics, notes = eval_notes(found.scores, settings.sets)
    notes = [*found.notes, *notes, *check_notes(answering), *work.notes, *work.said]
    metrics |= judged_metrics(found.scores) | _changes(found, folder, work)
    if any("average" in scores for scores in tasks.values()):
        metrics = {"average": total["average"], "gap": total["gap"], **metrics}
    files = {"scores": SCORES, **work.files, **_drawn(folder, found, ctx, notes)}
    rejects = {f"set aside: {reason}": count for reason, count in found.rejects.items()}
    left_out = {"tasks left out": len(found.skipped)} if found.skipped else {}
    return StepResult(
        counts={**rejects, **left_out, **counts, **work.counts, **work.spent},
        metrics={**metrics, "tasks": tasks},
        files=files,
        notes=notes,
        extra={"prompt": found.prompt, "answering": answering, "skipped": total["skipped"]},
    )


def _changes(found: Findings, folder: Path, work: StepWork[EvalSettings]) -> dict[str, Any]:
    """By how much judged tasks moved from the run's other models to this one, question by question.

    They may come from other eval steps: what counts is that the same was asked, and judged alike.
    """
    from lcx.evaluation.compare import changes_from
    from lcx.evaluation.scores import find_results, load_result

    judged = [task for task, scores in found.scores.items() if "failed" in scores]
    if not judged:
        return {}
    mine = load_result(folder)
    others = [one for one in find_results(work.run.path) if one.folder != folder]
    return {
        f"{task} change from {label}": numbers
        for task in judged
        for label, numbers in changes_from(others, mine, task).items()
    }


def _kept(folder: Path, found: Findings) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Scores of tasks that were asked before, with the same settings and weights, and are not now; digests of rows."""
    from lcx.evaluation.scores import ROWS, read_scores

    if not (folder / SCORES).is_file():
        return {}, {}
    try:
        old = read_scores(folder)
    except MissingError as bad:
        found.notes.append(f"{bad.what}: what it said of tasks that are not asked now is not kept")
        return {}, {}
    if old.get("weights") != found.weights:
        return {}, {}
    kept = {task: scores for task, scores in old["tasks"].items() if task not in found.scores}
    rows = old.get(ROWS) or {}
    return kept, {file: rows[file] for task in kept if (file := _rows_of(folder, task)) in rows}


def _rows_of(folder: Path, task: str) -> str:
    """The name of a task's file of predictions; empty where it has none."""
    name = f"predictions-{slug(task)}.jsonl"
    return name if (folder / name).is_file() else ""


def _drawn(folder: Path, found: Findings, ctx: Context, notes: list[str]) -> dict[str, str]:
    """Pictures of this model and of the step's models merge_answering, and the HTML report."""
    from lcx.evaluation.result import result_of
    from lcx.evaluation.show.png import draw_task, run_picture

    def pictures() -> Path:
        for task, scores in found.scores.items():
            draw_task(folder, task, {folder.name: result_of(task, scores)})
        return run_picture(folder.parent)

    def page() -> Path:
        from lcx.evaluation.show.page import write_report

        return write_report(folder.parent)

    made: dict[str, str] = {}
    steps: tuple[tuple[str, Callable[[], Path]], ...] = (("picture", pictures), ("report", page))
    for name, make in steps:
        try:
            made[name] = os.path.relpath(make(), folder)
        except Exception as bad:  # results are worth more than a drawing of them
            notes.append(f"no {name}: {type(bad).__name__}: {bad}")
            ctx.log(f"warning: {notes[-1]}")
    return made


# ---- what a step writes

COUNTED = (
    *("texts", "joined", "nulls", "refused", "skipped", "duplicates", "ambiguous", "dropped", "truncated"),
    *("unfinished", "errors", "empty", "unjudged", "thoughts", "unfinished_thoughts"),
)
"""Counts of a task that a step shows where they are not 0."""


def summary(
    name: str,
    tasks: Mapping[str, Mapping[str, Any]],
    settings: EvalSettings,
    *,
    weights: str,
    prompt: Mapping[str, Any],
    answering: Mapping[str, Any],
    skipped: Mapping[str, str],
) -> dict[str, Any]:
    """`scores.json`: every task, what the numbers depend on, and means over the tasks that have them.

    `name` is the model's, as its folder is called; `prompt` says which template was around probes' questions.
    """
    from lcx.evaluation.benchmarks.groups import FAMILIES, summarize
    from lcx.evaluation.scores import own_scale

    means: dict[str, float | None] = {}
    for key in ("average", "gap"):
        known = [
            score[key] for score in tasks.values() if score.get(key) is not None and not own_scale(score)
        ]
        means[key] = sum(known) / len(known) if known else None
    families = {family: summarize(tasks, family) for family in FAMILIES}
    judge = next((one["judge"] for one in tasks.values() if one.get("judge")), None)
    return {
        "lcx": __version__,
        "versions": versions(),
        "model": name,
        "asked": settings.model,
        "weights": weights,
        **prompt,
        **({"judge": judge, "judging": settings.judging} if judge else {}),
        "corpus": settings.corpus,
        "seed": settings.seed,
        "style": settings.style,
        "limit": settings.limit,
        "sample_seed": settings.sample_seed,
        "answering": dict(answering),
        "skipped": dict(skipped),
        "tasks": dict(tasks),
        "families": {family: found for family, found in families.items() if found["sets"]},
        **means,
    }


PARTS = ("right", "supported", "statements", "mean of sets")
"""Numbers of a judged task beside its groups that are worth a line."""


def judged_metrics(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The headlines of judged tasks, as {task: {mean, low, high, n, failed}}, and of their parts."""
    found: dict[str, Any] = {}
    for task, scores in tasks.items():
        if "failed" not in scores:
            continue
        found[task] = {name: scores[name] for name in ("mean", "low", "high", "n")}
        found[task]["failed"] = sum(scores["failed"].values())
        parts = {**scores.get("dimensions", {}), **scores.get("columns", {})}
        parts |= {name: scores[name] for name in PARTS if name in scores and scores[name]["n"]}
        found |= {f"{task} {name}": numbers for name, numbers in parts.items()}
        for name, shares in scores.get("shares", {}).items():
            found[f"{task} {name}"] = {one: _with_ends(numbers) for one, numbers in shares.items()}
        if "histogram" in scores:
            low, high = scores["scale"]
            found[f"{task} {low:g} to {high:g}"] = sparkline(scores["histogram"])
    return found


def _with_ends(found: Mapping[str, Any]) -> Any:
    if found["low"] is None:
        return found["mean"]
    return f"{found['mean']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def judged_notes(task: str, scores: Mapping[str, Any]) -> list[str]:
    """What to know of a judged task's numbers."""
    notes = []
    if not scores["n"]:
        notes.append(f"{task}: nothing could be scored; the counts say why")
    elif scores["low"] is None:
        notes.append(f"{task}: no interval: {scores.get('lacking') or 'too few contexts'}")
    elif str(scores["drawn"]).startswith("rows of"):
        notes.append(f"{task}: its intervals hold for these {scores['contexts']} contexts only")
    if scores.get("empty"):
        notes.append(f"{task}: answers that are empty: {scores['empty']}")
    return notes


def eval_notes(
    tasks: Mapping[str, Mapping[str, Any]], sets: int
) -> tuple[dict[str, int], dict[str, Any], list[str]]:
    """Counts, headline numbers and warnings of an eval step's results, by task. `sets` texts were asked for."""
    counts: dict[str, int] = {}
    metrics: dict[str, Any] = {}
    notes = []
    for task, found in tasks.items():
        read = "texts" in found
        counts[f"{task} {'tokens' if read else 'queries'}"] = found["n"]
        for what in COUNTED:
            if found.get(what):
                counts[f"{task} {what.replace('_', ' ')}"] = found[what]
        for reason, count in (found.get("set aside") or {}).items():
            counts[f"{task} set aside: {reason}"] = count
        if "failed" in found:
            notes += judged_notes(task, found)
            counts |= {f"{task} failed: {reason}": count for reason, count in found["failed"].items()}
        if found.get("worst"):
            metrics[f"{task} worst cell"] = found["worst"]
        for what in ("perplexity", "decoys"):
            if found.get(what) is not None:
                metrics[task if what == task else f"{task} {what}"] = found[what]
        if found.get("truncated"):
            how = "texts were cut at the end" if read else "contexts were cut in the middle"
            notes.append(f"{task}: {found['truncated']} {how} to fit the window")
        if found.get("errors"):
            failed = Counter((found.get("answering") or {}).get("failed") or {})
            why = f" ({failed.most_common(1)[0][0]})" if failed else ""
            notes.append(
                f"{task}: {found['errors']} of {found['errors'] + found['n']} questions got no answer{why} and count "
                "as nothing; --force asks these again, and takes the others' replies from calls.sqlite"
            )
        if found.get("unfinished_thoughts"):
            notes.append(
                f"{task}: {found['unfinished_thoughts']} of {found['n']} answers are thoughts that never end, "
                "and nothing is said: set max_new_tokens higher"
            )
        if found.get("empty", 0) > CUT_SHARE * found["n"] and "failed" not in found:
            notes.append(f"{task}: {found['empty']} of {found['n']} answers are empty, and count as wrong")
        if cut := (found.get("answering") or {}).get("cut"):
            notes.append(f"{task}: {cut['warning']}")
        if read and found["texts"] + found.get("dropped", 0) < sets:
            notes.append(
                f"{task}: the corpus gave {found['texts'] + found.get('dropped', 0)} texts, not {sets}"
            )
    return counts, metrics, notes
