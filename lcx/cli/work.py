"""What the commands that run steps share: from a command line to resolved steps, and from results to what
is printed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.cli.options import STATE
from lcx.errors import LcxError, UsageError, suggestion

if TYPE_CHECKING:
    from lcx.context import Context
    from lcx.plugins import Plugins
    from lcx.recipe import Recipe, Step
    from lcx.run import Run


@dataclass
class Request:
    """A command line that works on a recipe. `flags` holds the values of flags that are settings, by key."""

    recipe: str
    run: str | None = None
    sets: Sequence[str] = ()
    flags: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    force: bool = False
    dry_run: bool = False
    json: bool = False

    def given(self) -> dict[str, Any]:
        """The flags that the user typed."""
        return {key: value for key, value in self.flags.items() if value is not None}

    def of_step(self, step: Step) -> dict[str, Any]:
        """The flags for a step. The device is a setting of some steps, and every hook is told of it
        anyway.
        """
        takes_device = self.device != "auto" and "device" in type(step.settings).model_fields
        return {**self.given(), **({"device": self.device} if takes_device else {})}


@dataclass
class Job:
    """A request with its recipe read and its plugins loaded."""

    request: Request
    recipe: Recipe
    plugins: Plugins


@dataclass
class RunJob(Job):
    """A job with its run opened."""

    run: Run
    ctx: Context


def describe_job(request: Request) -> Job:
    """Read the recipe and load the plugins, for commands that only look."""
    from lcx import plugins, recipe

    loaded = plugins.loaded()
    return Job(request, recipe.load(request.recipe, loaded), loaded)


def open_job(request: Request) -> RunJob:
    """Find the recipe and the run. Nothing is written yet."""
    from lcx.context import Context, stderr_console
    from lcx.paths import runs_folder
    from lcx.process import launched
    from lcx.run import Run, slug

    job = describe_job(request)
    place = launched()
    name = job.recipe.name
    folder = Path(request.run).expanduser() if request.run else runs_folder() / slug(name)
    ctx = Context(
        console=stderr_console(STATE.quiet),
        dry_run=request.dry_run,
        force=request.force,
        json=request.json,
        device=request.device,
        rank=place.rank if place else 0,
        world_size=place.processes if place else 1,
        plugins=job.plugins,
    )
    stages = {step.id: step.stage for step in job.recipe.steps}
    run = Run(folder, name, request.recipe, stages)
    return RunJob(request, job.recipe, job.plugins, run, ctx)


def resolve(job: Job, flags: Mapping[str, Mapping[str, Any]], default: str | None) -> list[Step]:
    """All steps with the request's --set and the given flags; `default` is the step of a --set without
    one.
    """
    from lcx import recipe

    ids = [step.id for step in job.recipe.steps]
    sets = [recipe.parse_set(text, ids, default) for text in job.request.sets]
    return recipe.resolve(job.recipe, job.plugins, flags=flags, sets=sets)


def refuse_unknown_flags(step: Step, given: Mapping[str, Any]) -> None:
    """Raise UsageError for a flag whose setting this step does not have."""
    from lcx.recipe import flag_of

    known = type(step.settings).model_fields
    for key in given:
        if key not in known:
            raise UsageError(
                f"step '{step.id}' of recipe '{step.recipe}' takes no {flag_of(key)}. "
                f"{suggestion(key, known)}".rstrip(),
                why=f"its settings: {', '.join(known)}",
                hint=f"`lcx recipes show {step.recipe} --origin` lists them with their values.",
            )


def run_step(job: RunJob, step: Step) -> dict[str, Any]:
    """Run one step and return what --json prints about it."""
    from lcx.steps import execute
    from lcx.training.launch import joined

    if job.ctx.world_size > 1 and step.stage != "train":
        raise UsageError(
            f"the stage {step.stage} runs in one process",
            why="A launcher started this one as one of several.",
            hint="Launch `lcx train` alone, or let lcx do it: lcx run ... --gpus N",
        )
    warn_of_idle_server(job, step)
    started = time.monotonic()
    # What libraries print is not a result
    with contextlib.redirect_stdout(sys.stderr), joined(job.ctx):
        result = execute(step, job.run, job.ctx, job.plugins)
    return {
        "step": step.id,
        "stage": step.stage,
        "state": job.run.state(job.run.key(step)),
        "reused": result.reused,
        "run": str(job.run.path),
        "folder": str(job.run.folder(step)),
        "counts": result.counts,
        "metrics": result.metrics,
        "files": {name: os.path.normpath(job.run.folder(step) / path) for name, path in result.files.items()},
        "notes": result.notes,
        "seconds": round(time.monotonic() - started, 3),
    }


def plan_step(job: RunJob, step: Step) -> dict[str, Any]:
    """What --dry-run says about one step: its settings, where they come from, and what it would cost."""
    from lcx.steps import forecast

    return {
        "step": step.id,
        "stage": step.stage,
        "method": step.method,
        "state": job.run.state(job.run.key(step)),
        "folder": str(job.run.folder(step)),
        "settings": step.values(),
        "origins": step.origins,
        "forecast": dict(forecast(step, job.run, job.ctx, job.plugins)),
    }


def leads_on(step: Step, files: Mapping[str, str]) -> bool:
    """Whether a step left the next one something to work on; steps that make data say where it is."""
    return step.stage not in ("synth", "score") or "data" in files


def next_command(job: Job, step: Step) -> str:
    """The command that runs the recipe's next step, in the words of this one; empty after the last."""
    steps = job.recipe.steps
    position = [s.id for s in steps].index(step.id)
    if position + 1 == len(steps):
        return ""
    after = steps[position + 1]
    words = ["lcx", after.stage, "--recipe", job.request.recipe]
    if sum(s.stage == after.stage for s in steps) > 1:
        words += ["--step", after.id]
    if job.request.run:
        words += ["--run", job.request.run]
    if job.request.device != "auto":
        words += ["--device", job.request.device]
    return shlex.join(words + _server_words(job, step, after.id))


def compare_command(folder: Path) -> str:
    """The command that compares a model's results with those of the model before it; empty where there is none."""
    from lcx.evaluation.scores import find_results

    try:
        results = find_results(folder.parent)
    except LcxError:
        return ""
    if len(results) < 2:
        return ""
    places = [os.path.relpath(one.folder) for one in (results[0], results[-1])]
    return shlex.join(["lcx", "compare", *places])


def _server_words(job: Job, done: Step, step_id: str) -> list[str]:
    """Where a step's server is, in the words of this request, if the step asks one or has none yet to judge."""
    given = job.request.given()
    served = given.get("base_url")
    step = next(step for step in resolve(job, {}, done.id) if step.id == step_id)
    values = step.values()
    if not served or "base_url" not in values:
        return []
    if asks_servers(values):
        return ["--base-url", served]
    if values.get("judge") == "builtin" and asks_servers(given):  # rules would judge, unnoticed
        return ["--judge", "openai:MODEL", "--base-url", served]
    return []


def asks_servers(values: Mapping[str, Any]) -> bool:
    """Whether any of the values names a model at a server."""
    return any(isinstance(value, str) and value.startswith("openai:") for value in values.values())


def warn_of_idle_server(job: RunJob, step: Step) -> None:
    """Say that a server is named which no setting asks: rules or local models would do the work unnoticed."""
    values = step.values()
    if step.stage == "eval" and str(values.get("model")).startswith("step:") and "judge" not in values:
        return  # `lcx run` hands the server of other steps to every step that could ask one
    if job.request.flags.get("base_url") and "base_url" in values and not asks_servers(values):
        names = [name for name in ("llm", "writer", "judge", "model") if name in values]
        asked = ", ".join(f"{name} {values[name]}" for name in names if values[name])
        job.ctx.log(f"{step.id}: --base-url is given, but no model here is openai:MODEL ({asked})")
