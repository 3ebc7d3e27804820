"""`lcx run`: all steps of a recipe in order; `lcx runs`: what runs there are; `lcx demo`: the whole story."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

app = typer.Typer(**APP)


@app.command(
    name="run",
    epilog=opt.examples(
        "lcx run --recipe in2-tiny",
        "lcx run --recipe in2 --from train --set train.batch=64",
        "lcx run --recipe in2 --dry-run",
    ),
)
def run_recipe(
    recipe: opt.Recipe,
    first: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="The first step to run.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="STEP", help="The last step to run.")] = None,
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
    fields: opt.Fields = None,
    tokenizer: opt.Tokenizer = None,
    seed: opt.Seed = None,
    device: opt.Device = "auto",
    gpus: opt.RunGpus = None,
    strategy: opt.Strategy = None,
    offload: opt.Offload = None,
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
    """Run all steps of a recipe in order. Done steps are passed over, interrupted ones resume.

    A flag such as --seed goes to every step that has such a setting; --model to those that start from a
    model of their own, not from an earlier step's; --corpus to those that make data, and to evaluations where
    none does: what a model was trained on is no text to measure it by.
    """
    from lcx.cli import show, stages
    from lcx.errors import UsageError
    from lcx.recipe import check_names
    from lcx.run import check_places
    from lcx.training.plan import LaunchOptions

    ask = LaunchOptions(gpus, strategy, offload)
    flags: dict[str, Any] = {
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
        "fields": fields,
        "tokenizer": tokenizer,
        "seed": seed,
    }
    share = stages.share_of(engine, shards, workers, shard, address)
    request = stages.Request(recipe, run, sets or (), flags, device, force, dry_run, json, share)
    job = stages.open_job(request)
    chosen = between(job.recipe, first, last)
    given = spread(job, request.given(), chosen)
    every = stages.resolve(job, given, None)
    steps = [s for s in every if s.id in chosen]
    for step in steps:  # a name that is wrong in the last step is said before hours go into the first
        check_names(step, job.plugins)
        check_places(step, job.run, job.plugins)
    plans = {s.id: stages.plan_for(job, s, ask) for s in steps if s.stage == "train"}
    for_calls = not (strategy or offload) and any("gpus" in given.get(s.id, {}) for s in steps)
    if ask.given() and not plans and not for_calls:
        raise UsageError(
            "--gpus and --strategy are for train steps, --gpus for steps that ask models too",
            why=f"These are {', '.join(chosen)}.",
        )
    if dry_run:
        found = [
            stages.plan_step(job, step)
            | stages.planned_launch(plans.get(step.id), job, step, given.get(step.id, {}))
            for step in steps
        ]
        if json:
            show.emit_json(
                {"dry_run": True, "recipe": job.recipe.name, "run": str(job.run.path), "steps": found}
            )
        else:
            print("\n\n".join(stages.described(plan, plans.get(plan["step"])) for plan in found))
        return
    reports = []
    for step in steps:
        if shard is not None and step.stage == "train":
            break  # one process trains: not each of those that have a shard
        reports.append(stages.run_step(job, step, given.get(step.id, {}), plans.get(step.id)))
        if not json:
            print(show.step_summary(reports[-1]), flush=True)
        if reports[-1]["state"] != "done":
            break  # the other shards have to be done first
    done = len(reports) == len(steps) and reports[-1]["state"] == "done"
    after = stages.next_command(job, steps[-1], every, given) if done else ""
    if not done and reports and reports[-1]["state"] == "done":
        after = stages.next_command(job, steps[len(reports) - 1], every, given)
    if json:
        show.emit_json({"recipe": job.recipe.name, "run": str(job.run.path), "steps": reports, "next": after})
    elif after:
        print(f"next: {after}")


def between(recipe: Any, first: str | None, last: str | None) -> list[str]:
    """The ids of the steps from `first` to `last`, both included. Raises UsageError for an unknown or
    empty range.
    """
    from lcx.errors import UsageError

    ids = [step.id for step in recipe.steps]
    start = ids.index(recipe.step(first).id) if first else 0
    end = ids.index(recipe.step(last).id) if last else len(ids) - 1
    if start > end:
        raise UsageError(f"step '{last}' comes before step '{first}'", why=f"the order: {', '.join(ids)}")
    return ids[start : end + 1]


def spread(job: Any, given: dict[str, Any], chosen: Collection[str]) -> dict[str, dict[str, Any]]:
    """Flags by step: each goes to the steps that have the setting. Raises UsageError where none has it.

    Texts that one of the chosen steps makes data from are not asked about: an evaluation keeps the corpus of its
    recipe, or takes that of --set.
    """
    from lcx.cli import stages
    from lcx.errors import UsageError

    plain = stages.resolve(job, {}, None)
    flags: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        takers = [s for s in plain if key in type(s.settings).model_fields]
        if key == "model":
            takers = [s for s in takers if not str(s.values().get("model")).startswith("step:")]
        if key in ("corpus", "fields") and any(s.stage == "synth" and s.id in chosen for s in takers):
            takers = [s for s in takers if s.stage != "eval"]
        if not takers and key != "gpus":  # train steps take it as a launch option
            raise UsageError(f"no step of recipe '{job.recipe.name}' takes --{key.replace('_', '-')}")
        for step in takers:
            flags.setdefault(step.id, {})[key] = value
    if job.request.device != "auto":
        for step in plain:
            if "device" in type(step.settings).model_fields:
                flags.setdefault(step.id, {})["device"] = job.request.device
    return flags


# ---- lcx runs

runs_app = typer.Typer(**APP, no_args_is_help=True, epilog=opt.examples("lcx runs list", "lcx runs list DIR"))
MOST_SCORES = 3
"""Scores of an evaluation that stand in its run's row."""


@runs_app.callback()
def runs_callback() -> None:
    """List the runs that there are."""


@runs_app.command(name="list", epilog=opt.examples("lcx runs list", "lcx runs list experiments --json"))
def list_runs(
    folder: Annotated[
        str | None, typer.Argument(metavar="DIR", help="The folder of runs (default: LCX_RUNS, or runs).")
    ] = None,
    json: opt.Json = False,
) -> None:
    """List runs, the latest first: recipe, how far each is, its last evaluation, age and size."""
    from lcx.cli import show
    from lcx.errors import MissingError
    from lcx.paths import runs_folder
    from lcx.progress import duration

    place = Path(folder).expanduser() if folder else runs_folder()
    if folder and not place.is_dir():
        raise MissingError(f"no folder '{folder}'", hint="lcx runs list, for LCX_RUNS or runs")
    if (place / "manifest.json").is_file():
        raise MissingError(
            f"{place} is a run, not a folder of runs", hint=f"lcx status {shlex.quote(str(place))}"
        )
    rows = [row for one in sorted(place.iterdir()) if (row := _run_row(one))] if place.is_dir() else []
    rows.sort(key=lambda row: row["changed"], reverse=True)
    if json:
        show.emit_json({"folder": str(place), "runs": rows})
        return
    if not rows:
        print(f"no runs in {place}; next: lcx run --recipe in2-tiny")
        return
    now = time.time()
    cells = [
        (
            row["name"],
            row["recipe"],
            row["state"],
            duration(max(0.0, now - row["changed"])),
            f"{row['bytes'] / 1e6:,.1f} MB",
            ", ".join(f"{task} {value:.2f}" for task, value in list(row["scores"].items())[:MOST_SCORES]),
        )
        for row in rows
    ]
    print(show.table(cells, ("run", "recipe", "state", "age", "size", "last evaluation")))
    print(f"next: lcx status {shlex.quote(str(place / rows[0]['name']))}")


def _run_row(folder: Path) -> dict[str, Any] | None:
    """A run's row; None for a folder that is none. A manifest that cannot be read is a state."""
    from lcx.errors import LcxError
    from lcx.storage import read_json

    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return None
    row: dict[str, Any] = {"name": folder.name, "recipe": "", "state": "its manifest cannot be read"}
    row |= {"changed": manifest.stat().st_mtime, "bytes": _bytes_in(folder), "scores": {}, "steps": {}}
    try:
        held = read_json(manifest)
        steps = {str(key): dict(record) for key, record in held["steps"].items()}
    except (LcxError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return row
    states = {key: str(record.get("state")) for key, record in steps.items()}
    undone = [f"{key} {state}" for key, state in states.items() if state != "done"]
    done = f"{', '.join(key for key, state in states.items() if state == 'done')} done"
    row |= {"recipe": str(held.get("recipe")), "steps": states, "state": ", ".join(undone) or done}
    evaluated = [one for one in steps.values() if one.get("stage") == "eval" and one.get("state") == "done"]
    for one in sorted(evaluated, key=lambda one: str(one.get("finished")))[-1:]:
        tasks = (one.get("metrics") or {}).get("tasks") or {}
        means = {task: scores.get("average") for task, scores in tasks.items() if isinstance(scores, dict)}
        row["scores"] = {task: mean for task, mean in means.items() if isinstance(mean, int | float)}
    return row


def _bytes_in(folder: Path) -> int:
    """Bytes of the files below a folder; links are not followed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


demo_app = typer.Typer(**APP)


@demo_app.command(
    name="demo",
    epilog=opt.examples(
        "lcx demo", "lcx demo --recipe longreward", "lcx demo --seed 1 --fresh", "lcx demo --out demo --json"
    ),
)
def demo(
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", metavar="RECIPE", help="Which demo: in2, logo or longreward.")
    ] = "in2",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of everything that is drawn.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over what an earlier demo left.")] = False,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Where to write the results.")
    ] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Make data, train and evaluate on this machine's CPU: no network, no download, a few minutes."""
    from lcx.cli import show
    from lcx.context import stderr_console
    from lcx.demo import run_demo, story

    folder = Path(out).expanduser() if out else None
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not a result
        result = run_demo(recipe, seed=seed, fresh=fresh, out=folder, console=stderr_console(opt.STATE.quiet))
    if json:
        show.emit_json(result)
    else:
        print(story(result))
