"""The commands `synth`, `score` and `train`, and what every command that runs steps shares.

A command line becomes a `Request`, a request a `Job` with its recipe and run, its steps are resolved once, and each
runs in this process or in several; what came of it is printed as text or as JSON.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP, STATE
from lcx.errors import LcxError, UsageError, suggestion

if TYPE_CHECKING:
    from lcx.cli.shards import Share
    from lcx.context import Context
    from lcx.plugins import Plugins
    from lcx.recipe import Recipe, Step
    from lcx.run import Run
    from lcx.training.plan import LaunchOptions, LaunchPlan


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
    share: Share | None = None
    """How steps that ask models are shared out among processes, if they are."""

    def given(self) -> dict[str, Any]:
        """The flags that the user typed."""
        return {key: value for key, value in self.flags.items() if value is not None}

    def of_step(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """The flags for a step with these settings. The device is a setting of some steps, and every hook is told of
        it anyway.
        """
        takes_device = self.device != "auto" and "device" in known
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


def flags_of(job: Job, step_id: str) -> dict[str, Any]:
    """The request's flags for a step, as settings. Raises UsageError for a flag whose setting this step lacks."""
    from lcx.recipe import flag_of, schema_of

    known = schema_of(job.recipe.step(step_id), job.recipe, job.plugins).model_fields
    for key in job.request.given():
        if key not in known:
            raise UsageError(
                f"step '{step_id}' of recipe '{job.recipe.name}' takes no {flag_of(key)}. "
                f"{suggestion(key, known)}".rstrip(),
                why=f"its settings: {', '.join(known)}",
                hint=f"`lcx recipes show {job.recipe.name} --origin` lists them with their values.",
            )
    return job.request.of_step(known)


def run_here(job: RunJob, step: Step) -> dict[str, Any]:
    """Run one step in this process and return what --json prints about it."""
    from lcx.cli import show
    from lcx.steps import execute
    from lcx.training.launch import joined

    if job.ctx.world_size > 1 and step.stage != "train":
        raise UsageError(
            f"the stage {step.stage} runs in one process",
            why="A launcher started this one as one of several.",
            hint="Launch `lcx train` alone, or let lcx do it: lcx run ... --gpus N",
        )
    warn_of_idle_server(job, step)
    if asks_servers(step.values()):
        for note in step.notes:
            job.ctx.log(f"{step.id}: {note}")
    started = time.monotonic()
    # What libraries print is not a result
    with contextlib.redirect_stdout(sys.stderr), joined(job.ctx):
        result = execute(step, job.run, job.ctx, job.plugins)
    return show.done_report(step, job.run, result, started)


def plan_step(job: RunJob, step: Step) -> dict[str, Any]:
    """What --dry-run says about one step: its settings, where they come from, and what it would cost."""
    from lcx.steps import forecast

    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not a result
        cost = dict(forecast(step, job.run, job.ctx, job.plugins))
    return {
        "step": step.id,
        "stage": step.stage,
        "method": step.method,
        "state": job.run.state(job.run.key(step)),
        "folder": str(job.run.folder(step)),
        "settings": step.values(),
        "origins": step.origins,
        "forecast": cost,
        **({"withheld": list(step.notes)} if step.notes else {}),
    }


def leads_on(step: Step, files: Mapping[str, str]) -> bool:
    """Whether a step left the next one something to work on; steps that make data say where it is."""
    return step.stage not in ("synth", "score") or "data" in files


def next_command(
    job: Job, step: Step, steps: Sequence[Step], flags: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """The command that runs the next of the resolved `steps`, in the words of this one; empty after the last.

    It repeats what has to be the same: `--set` of the steps to come, the `flags` by step where one command runs them
    all, what a score step kept, and how a model was evaluated that the next one is held against.
    """
    from lcx.recipe import flag_of

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
    served = _server_words(job, after)
    repeated = {text.split("=", 1)[0] for text in job.request.sets}
    for key, value in ((flags or {}).get(after.id) or {}).items():
        if key not in ("device", *(("base_url", "judge") if served else ())):
            words += [flag_of(key), str(value)]
    if step.stage == "score" and after.stage == "train":
        kept = f"step:{step.id}"
        if after.values().get("input") != kept and f"{after.id}.input" not in repeated:
            words += ["--input", kept]
    for text in job.request.sets:
        if text.split(".", 1)[0] in {one.id for one in steps[position + 1 :]}:
            words += ["--set", text]
    if after.stage == "eval" and isinstance(job, RunJob):
        words += _as_evaluated(job.run, after, steps, {*repeated, *words})
    return shlex.join(words + served)


ASKED = (
    *("corpus", "encoding", "documents", "fields", "tasks", "data", "options", "input", "samples"),
    *("sets", "context_tokens", "lengths", "records", "depths", "span", "limit", "sample_seed", "seed"),
    *("style", "template", "chat", "max_new_tokens", "window", "too_long", "compat"),
)
"""Settings of an eval step that say what is asked, and not who answers or who judges."""


def _as_evaluated(run: Run, after: Step, steps: Sequence[Step], given: AbstractSet[str]) -> list[str]:
    """What the command line said when another model was asked the same in this run, in words for the next eval."""
    from lcx.recipe import flag_of
    from lcx.yamls import read_yaml_file, yaml_text

    alike = [one.id for one in steps if one.stage == "eval" and _asks(one) == _asks(after)]
    files = [file for name in alike for file in (run.path / name).glob("*/settings.yaml")]
    if not files:
        return []
    newest = max(files, key=lambda file: file.stat().st_mtime)
    settings: Any = {}
    with contextlib.suppress(OSError, LcxError):
        settings = read_yaml_file(newest).value
    words: list[str] = []
    for key, one in settings.items() if isinstance(settings, Mapping) else ():
        origin = str(one.get("from", "")) if isinstance(one, Mapping) else ""
        if not origin.startswith("--") or key not in ASKED or given & {flag_of(key), f"{after.id}.{key}"}:
            continue
        value = one.get("value")
        if origin == flag_of(key) and isinstance(value, str | int | float) and not isinstance(value, bool):
            words += [origin, str(value)]
        elif origin == flag_of(key) and isinstance(value, list):
            words += [origin, ",".join(map(str, value))]
        else:
            words += ["--set", f"{after.id}.{key}={yaml_text(value, line=True)}"]
    return words


def _asks(step: Step) -> Any:
    """What an eval step of a recipe asks: its tasks and the texts that they are made from."""
    values = step.values()
    return values.get("tasks"), values.get("corpus")


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


def _server_words(job: Job, step: Step) -> list[str]:
    """Where a step's server is, in the words of this request, if the step asks one or has none yet to judge."""
    given = job.request.given()
    served = given.get("base_url")
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
    if step.stage == "eval" and str(values.get("model")).startswith("step:") and not values.get("judge"):
        return  # `lcx run` hands the server of other steps to every step that could ask one
    if job.request.flags.get("base_url") and "base_url" in values and not asks_servers(values):
        names = [name for name in ("llm", "writer", "judge", "model") if name in values]
        asked = ", ".join(f"{name} {values[name]}" for name in names if values[name])
        job.ctx.log(f"{step.id}: --base-url is given, but no model here is openai:MODEL ({asked})")


# ---- in several processes


def plan_for(job: RunJob, step: Step, ask: LaunchOptions) -> LaunchPlan | None:
    """The plan of a train step, or None where it runs in this process. Raises UsageError, MissingError."""
    if not ask.given():
        return None
    from lcx.training.plan import plan_launch
    from lcx.training.settings import TrainSettings

    if not isinstance(step.settings, TrainSettings):
        raise UsageError(
            f"step '{step.id}' trains in one process",
            why=f"The method {step.method} brings a training of its own.",
            hint="Leave out --gpus, --strategy and their like.",
        )
    return plan_launch(ask, job.request.device, step.values(), step=step.id)


def run_step(job: RunJob, step: Step, flags: Mapping[str, Any], plan: LaunchPlan | None) -> dict[str, Any]:
    """Run a step, a train step by a plan, and return what --json prints about it; `flags` are its settings by flags."""
    from lcx.steps import fingerprint

    if job.request.share is not None and step.stage != "train":
        from lcx.cli.shards import share_step

        warn_of_idle_server(job, step)
        return share_step(
            job, step, job.request.share, worker_words(job.request, step, str(job.run.path), flags)
        )
    if plan is None:
        return run_here(job, step)
    # What lacks or differs is said before any process starts, and a step that is done needs none
    how = job.run.standing(step, fingerprint(step, job.run), force=job.request.force)
    if how == "done":
        return run_here(job, step)
    from lcx.training import launch

    job.ctx.log(f"{step.id}: {plan.describe()}")
    if plan.strategy == "ddp" and step.values().get("tuning") == "full" and not plan.cpu:
        job.ctx.log(
            "    ddp keeps all weights and optimizer states on every GPU; --strategy fsdp shares them"
        )
    began = time.monotonic()
    report = launch.run(plan, worker_words(job.request, step, str(job.run.path), flags))
    job.run.reload()
    return {**report, "seconds": round(time.monotonic() - began, 3)}


def worker_words(request: Request, step: Step, run: str, flags: Mapping[str, Any]) -> list[str]:
    """The command line of each process: the same step, without launch options, in the words of the request."""
    from lcx.recipe import flag_of

    found = [step.stage, "--recipe", request.recipe, "--step", step.id, "--run", run]
    for text in request.sets:
        found += ["--set", text]
    for key, value in flags.items():
        if value is False:  # its flag says no
            found.append(flag_of(key))
        else:
            found += [flag_of(key), ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    if request.device != "auto" and "device" not in flags:
        found += ["--device", request.device]
    found += ["--force"] if request.force else []
    found += ["--quiet"] if STATE.quiet else []
    return found + (["--verbose"] if STATE.verbose else [])


def planned_launch(
    plan: LaunchPlan | None,
    job: RunJob,
    step: Step,
    flags: Mapping[str, Any],
    ask: LaunchOptions | None = None,
) -> dict[str, Any]:
    """What --dry-run --json adds to a step: the processes, their config and command, and of several machines the
    command of each; empty for one process.
    """
    if plan is None:
        return {}
    words = ["lcx", *worker_words(job.request, step, str(job.run.path), flags)]
    asked = (ask.strategy, ask.offload) if ask is not None else (None, None)
    nodes = [shlex.join([*words, *more]) for more in plan.on_nodes(*asked)]
    return {
        "launch": {**plan.as_dict(), "command": shlex.join(words), **({"on_nodes": nodes} if nodes else {})}
    }


def described(planned: Mapping[str, Any], plan: LaunchPlan | None) -> str:
    """What --dry-run prints about a step, and about the processes that it would start."""
    from lcx.cli import show

    text = show.plan(planned)
    if plan is None:
        return text
    import yaml

    config = yaml.safe_dump(dict(plan.config), sort_keys=False).splitlines()
    lines = [
        text,
        f"  launch: {plan.describe()}, by this accelerate config",
        *(f"    {line}" for line in config),
    ]
    for rank, command in enumerate(planned.get("launch", {}).get("on_nodes", ())):
        lines.append(f"  on machine {rank}:\n    {command}")
    return "\n".join(lines)


# ---- one step of a recipe


def chosen_step(
    stage: str, step_id: str | None, request: Request
) -> tuple[RunJob, Step, list[Step], dict[str, Any]]:
    """The job of a request, the step of it that a stage's command means, all steps resolved, and the step's flags."""
    from lcx.recipe import check_names

    job = open_job(request)
    chosen = pick_step(job.recipe, stage, step_id)
    flags = flags_of(job, chosen)
    steps = resolve(job, {chosen: flags}, chosen)
    step = next(one for one in steps if one.id == chosen)
    check_names(step, job.plugins)
    return job, step, steps, flags


def run_stage(
    stage: str,
    step_id: str | None,
    request: Request,
    ask: LaunchOptions | None = None,
    after: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Run (or, with --dry-run, plan) the recipe's step of that stage and print what came of it.

    `ask` says in how many processes, where they may be several; `after` may add to the report of a finished step.
    """
    from lcx.cli import show
    from lcx.run import check_places

    job, step, steps, flags = chosen_step(stage, step_id, request)
    plan = plan_for(job, step, ask) if ask is not None else None
    if request.dry_run:
        check_places(step, job.run, job.plugins)
        planned = plan_step(job, step) | planned_launch(plan, job, step, flags, ask)
        if request.json:
            show.emit_json(
                {"dry_run": True, "recipe": job.recipe.name, "run": str(job.run.path), "steps": [planned]}
            )
        else:
            print(described(planned, plan))
        return
    report = run_step(job, step, flags, plan)
    from lcx.training import launch

    if launch.hand_over(report) or job.ctx.rank or (plan is not None and plan.rank):
        return  # the first process of all is the one that tells
    done = report["state"] == "done"
    if after is not None and done:
        after(report)
    report["next"] = next_command(job, step, steps) if done and leads_on(step, report["files"]) else ""
    if done and not report["next"] and stage == "eval":
        report["next"] = compare_command(Path(report["folder"]))
    if request.json:
        show.emit_json(report)
        return
    print(show.step_summary(report))
    if report["next"]:
        print(f"next: {report['next']}")


def try_stage(stage: str, step_id: str | None, request: Request, limit: int) -> None:
    """Make a few examples of a step in the run's trial folder, print them, and say what the whole would take.

    The run itself is left as it is; when its step is made, replies of the trial are not paid for again.
    """
    from lcx.cli import show, trial
    from lcx.run import TrialRun, check_places

    if request.share is not None:
        raise UsageError(
            "--limit makes a few examples in this process",
            hint="Leave out --engine, --shards, --shard and --workers.",
        )
    job, step, _, flags = chosen_step(stage, step_id, request)
    check_places(step, job.run, job.plugins)
    small = trial.small_step(step, limit)
    command = shlex.join(
        ["lcx", *worker_words(replace(request, force=False), step, str(job.run.path), flags)]
    )
    place = TrialRun(job.run)
    tried = replace(job, run=place)
    if request.dry_run:
        planned = plan_step(tried, small)
        if request.json:
            show.emit_json(
                {"dry_run": True, "recipe": job.recipe.name, "run": str(place.path), "steps": [planned]}
            )
        else:
            print(described(planned, None))
        return
    tried.ctx = replace(job.ctx, force=request.force or trial.starts_over(small, place))
    try:
        report = run_here(tried, small)
    except LcxError:  # a filter that keeps none of a few has made something to look at
        if not request.json:
            print("\n".join(trial.row_lines(trial.rows_of(place.folder(small)), place.folder(small))))
        raise
    made = trial.rows_of(place.folder(small))
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not a result
        whole = trial.whole_cost(step, small, (job.run, place), job.ctx, job.plugins, report)
    if request.json:
        show.emit_json({**report, "trial": trial.as_json(made), "whole": whole, "next": command})
        return
    print("\n".join(trial.row_lines(made, place.folder(small))))
    print(show.step_summary({**report, "step": f"trial of {step.id}"}))
    print("\n".join(trial.whole_lines(whole, command)))


def preview_stage(step_id: str | None, request: Request, count: int) -> None:
    """Print the first rows of a train step's data as training would see them; with --json a row a line."""
    from lcx.training.preview import preview_step, printed

    job, step, _, _ = chosen_step("train", step_id, request)
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not a result
        views = preview_step(step, job.run, job.ctx, count)
    lines = (json.dumps(view, ensure_ascii=False) for view in views)
    print("\n".join(lines) if request.json else printed(views))


def pick_step(recipe: Recipe, stage: str, step_id: str | None) -> str:
    """The id of the recipe's step of a stage. Raises UsageError where there is none, or several and no
    --step.
    """
    from lcx.errors import UsageError

    steps = ", ".join(f"{s.id} ({s.stage})" if s.id != s.stage else s.id for s in recipe.steps)
    mine = [s.id for s in recipe.steps if s.stage == stage]
    if step_id is not None:
        found = recipe.step(step_id)
        if found.stage != stage:
            raise UsageError(
                f"step '{step_id}' of recipe '{recipe.name}' belongs to the stage {found.stage}, not {stage}",
                hint=f"lcx {found.stage} --recipe {recipe.name} --step {step_id}",
            )
        return step_id
    if not mine:
        raise UsageError(
            f"recipe '{recipe.name}' has no step of the stage {stage}",
            why=f"its steps: {steps}",
            hint="`lcx run` runs all of them in order.",
        )
    if len(mine) > 1:
        raise UsageError(
            f"recipe '{recipe.name}' has {len(mine)} steps of the stage {stage}: {', '.join(mine)}",
            hint=f"Say which: --step {mine[0]}",
        )
    return mine[0]


# ---- the commands


def share_of(
    engine: str | None, shards: int | None, workers: int | None, shard: str | None, address: str | None
) -> Share | None:
    """How steps are shared out, where the command line says anything of it. Raises UsageError."""
    from lcx.cli.shards import Share, checked

    return checked(Share(engine, shards, workers, shard, address))


def stage_app(stage: str, help_text: str, *examples: str) -> typer.Typer:
    """The Typer app of a stage's command."""
    app = typer.Typer(**APP)

    def command(
        recipe: opt.Recipe,
        step: opt.StepId = None,
        run: opt.RunDir = None,
        sets: opt.Sets = None,
        model: opt.Model = None,
        corpus: opt.Corpus = None,
        llm: opt.Llm = None,
        judge: opt.Judge = None,
        base_url: opt.BaseUrl = None,
        concurrency: opt.Concurrency = None,
        max_calls: opt.MaxCalls = None,
        max_tokens: opt.MaxTokens = None,
        max_cost: opt.MaxCost = None,
        input: opt.Input = None,
        fields: opt.Fields = None,
        tokenizer: opt.Tokenizer = None,
        seed: opt.Seed = None,
        limit: opt.Limit = None,
        device: opt.Device = "auto",
        gpus: opt.LlmGpus = None,
        engine: opt.Engine = None,
        shards: opt.Shards = None,
        workers: opt.Workers = None,
        shard: opt.OneShard = None,
        address: opt.Address = None,
        force: opt.Force = False,
        dry_run: opt.DryRun = False,
        json: opt.Json = False,
        quiet: opt.Quiet = False,
        verbose: opt.Verbose = False,
    ) -> None:
        flags = {
            "model": model,
            "corpus": corpus,
            "llm": llm,
            "judge": judge,
            "base_url": base_url,
            "concurrency": concurrency,
            "max_calls": max_calls,
            "max_tokens": max_tokens,
            "max_cost": max_cost,
            "gpus": gpus,
            "input": input,
            "fields": fields,
            "tokenizer": tokenizer,
            "seed": seed,
        }
        share = share_of(engine, shards, workers, shard, address)
        request = Request(recipe, run, sets or (), flags, device, force, dry_run, json, share)
        if limit is None:
            run_stage(stage, step, request)
        else:
            try_stage(stage, step, request, limit)

    if stage != "synth":  # a step that takes data is tried on those of a trial
        taken = inspect.signature(command, eval_str=True)
        parts = [one for name, one in taken.parameters.items() if name != "limit"]
        command.__signature__ = taken.replace(parameters=parts)  # type: ignore[attr-defined]
    app.command(name=stage, help=help_text, epilog=opt.examples(*examples))(command)
    return app


synth_app = stage_app(
    "synth",
    "Make training data: long contexts with questions and answers, written into the run's folder.",
    "lcx synth --recipe in2-tiny",
    "lcx synth --recipe in2 --corpus docs/ --llm openai:MODEL --limit 4",
    "lcx synth --recipe in2 --corpus docs/ --llm local:PATH_OR_HUB_ID",
    "lcx synth --recipe in2 --llm openai:MODEL --base-url http://localhost:8000/v1 --max-calls 1000",
    "lcx synth --recipe in2 --set synth.seed=1 --run runs/second --dry-run",
    "lcx synth --recipe in2 --engine local --shards 16 --workers 4",
)

score_app = stage_app(
    "score",
    "Score, filter or pair the data of an earlier step, for recipes that have such a step.",
    "lcx score --recipe logo",
    "lcx score --recipe in2 --judge openai:MODEL --base-url http://localhost:8000/v1",
    "lcx score --recipe longreward --input rows.jsonl --judge openai:MODEL --base-url http://localhost:8000/v1",
    "lcx score --recipe logo --judge local:PATH_OR_HUB_ID --dry-run",
)

train_app = typer.Typer(**APP)


@train_app.command(
    name="train",
    epilog=opt.examples(
        "lcx train --recipe in2-tiny",
        "lcx train --recipe in2 --model PATH_OR_HUB_ID --set train.batch=64",
        "lcx train --recipe in2 --gpus 8 --strategy fsdp",
        "lcx train --recipe in2 --dry-run",
        "lcx train --recipe in2 --model PATH --input rows.jsonl --preview 3",
        after="Several GPUs and machines: docs/multi-gpu.md; `lcx presets` lists the strategies' files.",
    ),
)
def train(
    recipe: opt.Recipe,
    step: opt.StepId = None,
    run: opt.RunDir = None,
    sets: opt.Sets = None,
    model: opt.Model = None,
    corpus: opt.Corpus = None,
    llm: opt.Llm = None,
    input: opt.Input = None,
    fields: opt.Fields = None,
    tokenizer: opt.Tokenizer = None,
    seed: opt.Seed = None,
    device: opt.Device = "auto",
    attn: opt.Attn = None,
    gpus: opt.Gpus = None,
    strategy: opt.Strategy = None,
    offload: opt.Offload = None,
    nodes: opt.Nodes = None,
    rank: opt.Rank = None,
    main_address: opt.MainAddress = None,
    main_port: opt.MainPort = None,
    preview: opt.Preview = None,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train a model on the data of an earlier step; interrupted training resumes with the same command."""
    from lcx.training.plan import LaunchOptions

    flags = {
        "model": model,
        "corpus": corpus,
        "llm": llm,
        "input": input,
        "fields": fields,
        "tokenizer": tokenizer,
        "seed": seed,
        "attn": attn,
    }
    request = Request(recipe, run, sets or (), flags, device, force, dry_run, json)
    if preview is not None:
        preview_stage(step, request, preview)
        return
    run_stage(
        "train", step, request, LaunchOptions(gpus, strategy, offload, nodes, rank, main_address, main_port)
    )
