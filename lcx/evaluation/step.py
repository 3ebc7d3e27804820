"""The eval step: which tasks can run, their questions, the model's answers, scores, pictures and the report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.context import Context, StepResult
from lcx.errors import LcxError, MissingError
from lcx.evaluation.planning import PlannedTask, left_out, plan_tasks, was_named
from lcx.evaluation.settings import EvalSettings
from lcx.recipe import Step
from lcx.storage import read_json, write_json

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
    spec = run.model(step)
    prepared = prepare_eval(settings, ctx.plugins, named=was_named(step))
    if not prepared.left:
        raise _nothing(step, prepared.found)
    for note in prepared.found.notes:
        ctx.log(f"warning: {note}")
    folder = run.folder(step)
    answer_eval(prepared, spec, folder, ctx)
    return finish(prepared.found, settings, folder, ctx)


def prepare_eval(settings: EvalSettings, plugins: Plugins, *, named: bool) -> Prepared:
    """Find the tasks and load the benchmarks' rows. `named`: the command line named the tasks, not a recipe.

    Raises UsageError for an unknown task, and MissingError for what a named one lacks.
    """
    planned = plan_tasks(settings, plugins)
    found = Findings()
    ready = _published(planned, settings, found, named)
    found.left_out = left_out(planned, found.skipped)
    return Prepared(settings, planned, ready, found)


def answer_eval(prepared: Prepared, spec: str, folder: Path, ctx: Context) -> Findings:
    """Ask the model `spec` everything; rows and the journal go into `folder`."""
    settings, ready, found = prepared.settings, dict(prepared.ready), prepared.found
    tested = _open_model(spec, settings, folder, ctx)
    try:
        for one in [one for one in prepared.left if one.name not in ready and one.task is not None]:
            ready[one.name] = _make_samples(one, tested, found)
        data = [ready[one.name] for one in prepared.left if one.name in ready]
        _answer(data, [one for one in prepared.left if one.task is None], tested, found, folder, ctx)
        _check_answered(found)
        found.weights = tested.weights
        found.prompt = tested.prompt(_template(settings))
    finally:
        tested.close()
    return found


def _answer(
    data: Sequence[TaskData],
    bridged: Sequence[PlannedTask],
    tested: ModelUnderTest,
    found: Findings,
    folder: Path,
    ctx: Context,
) -> None:
    from lcx.evaluation.runner import run_tasks

    if data:
        found.scores, found.answering = run_tasks(data, tested, folder, ctx)
    if bridged:
        from lcx.evaluation.bridge import run_bridge

        found.scores |= run_bridge(bridged, tested, folder, ctx)


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
    planned: Sequence[PlannedTask], settings: EvalSettings, found: Findings, named: bool
) -> dict[str, TaskData]:
    """The benchmarks' questions; those whose data is not there, and what a server cannot do, are left out by name."""
    from lcx.evaluation.samples import load_benchmark

    ready: dict[str, TaskData] = {}
    for one in planned:
        try:
            if one.task is not None and one.task.published:
                ready[one.name] = load_benchmark(one.name, one.task, one.settings, one.options)
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


def _open_model(spec: str, settings: EvalSettings, folder: Path, ctx: Context) -> ModelUnderTest:
    from lcx.evaluation.model import LocalModel, ServedModel

    if settings.served:
        return ServedModel(spec, settings, folder, ctx)
    return LocalModel(ctx.ready_model(spec), settings, ctx)


def _make_samples(one: PlannedTask, tested: ModelUnderTest, found: Findings) -> TaskData:
    from lcx.evaluation.samples import make_samples

    assert one.task is not None
    template = _template(one.settings)
    tested.ctx.log(f"{one.name}: making its questions from {one.settings.corpus}")
    made, rejects = make_samples(
        one.name, one.task, one.settings, one.options, template, tested.token_counter(template)
    )
    if sum(rejects.counts.values()) > sum(found.rejects.values()):
        found.rejects = rejects.counts
    return made


def finish(found: Findings, settings: EvalSettings, folder: Path, ctx: Context) -> StepResult:
    """Write `scores.json`, then pictures and the report: where these fail, the results are there all the same."""
    from lcx.evaluation.scores import check_notes, eval_notes, merge_answering, summary

    tasks = {**_kept(folder, found), **found.scores}
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
    write_json(folder / SCORES, total)
    counts, metrics, notes = eval_notes(found.scores, settings.sets)
    notes = [*found.notes, *notes, *check_notes(answering)]
    if any("average" in scores for scores in tasks.values()):
        metrics = {"average": total["average"], "gap": total["gap"], **metrics}
    files = {"scores": SCORES, **_drawn(folder, found, ctx, notes)}
    rejects = {f"set aside: {reason}": count for reason, count in found.rejects.items()}
    left_out = {"tasks left out": len(found.skipped)} if found.skipped else {}
    return StepResult(
        counts={**rejects, **left_out, **counts},
        metrics={**metrics, "tasks": tasks},
        files=files,
        notes=notes,
        extra={"prompt": found.prompt, "answering": answering, "skipped": total["skipped"]},
    )


def _kept(folder: Path, found: Findings) -> dict[str, dict[str, Any]]:
    """Scores of tasks that were asked before, with the same settings and weights, and are not now."""
    if not (folder / SCORES).is_file():
        return {}
    old = read_json(folder / SCORES)
    same = old.get("weights") == found.weights and isinstance(old.get("tasks"), Mapping)
    return {task: scores for task, scores in old["tasks"].items() if task not in found.scores} if same else {}


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
