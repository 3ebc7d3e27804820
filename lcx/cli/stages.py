"""The commands `synth`, `score`, `train` and `eval`: one step of a recipe each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

if TYPE_CHECKING:
    from lcx.cli.work import Request
    from lcx.recipe import Recipe
    from lcx.training.plan import LaunchOptions


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
        device: opt.Device = "auto",
        gpus: opt.LlmGpus = None,
        force: opt.Force = False,
        dry_run: opt.DryRun = False,
        json: opt.Json = False,
        quiet: opt.Quiet = False,
        verbose: opt.Verbose = False,
    ) -> None:
        from lcx.cli.work import Request

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
        run_stage(stage, step, Request(recipe, run, sets or (), flags, device, force, dry_run, json))

    app.command(name=stage, help=help_text, epilog=opt.examples(*examples))(command)
    return app


def preview_stage(step_id: str | None, request: Request, count: int) -> None:
    """Print the first rows of a train step's data as training would see them; with --json a row a line."""
    import json

    from lcx.cli import work
    from lcx.training.preview import preview_step, printed

    job = work.open_job(request)
    chosen = pick_step(job.recipe, "train", step_id)
    plain = {s.id: s for s in work.resolve(job, {}, chosen)}[chosen]
    work.refuse_unknown_flags(plain, request.given())
    step = {s.id: s for s in work.resolve(job, {chosen: request.of_step(plain)}, chosen)}[chosen]
    views = preview_step(step, job.run, job.ctx, count)
    print(
        "\n".join(json.dumps(view, ensure_ascii=False) for view in views) if request.json else printed(views)
    )


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
    from lcx.cli import launched, show, work
    from lcx.training import launch

    job = work.open_job(request)
    chosen = pick_step(job.recipe, stage, step_id)
    plain = {s.id: s for s in work.resolve(job, {}, chosen)}[chosen]
    work.refuse_unknown_flags(plain, request.given())
    flags = request.of_step(plain)
    step = {s.id: s for s in work.resolve(job, {chosen: flags}, chosen)}[chosen]
    plan = launched.plan_for(job, step, ask) if ask is not None else None
    if request.dry_run:
        planned = work.plan_step(job, step) | launched.planned(plan, job, step, flags)
        if request.json:
            show.emit_json(
                {"dry_run": True, "recipe": job.recipe.name, "run": str(job.run.path), "steps": [planned]}
            )
        else:
            print(launched.described(planned, plan))
        return
    report = launched.run_step(job, step, flags, plan)
    if launch.hand_over(report) or job.ctx.rank or (plan is not None and plan.rank):
        return  # the first process of all is the one that tells
    if after is not None:
        after(report)
    report["next"] = work.next_command(job, step) if work.leads_on(step, report["files"]) else ""
    if not report["next"] and stage == "eval":
        report["next"] = work.compare_command(Path(report["folder"]))
    if request.json:
        show.emit_json(report)
        return
    print(show.step_summary(report))
    if report["next"]:
        print(f"next: {report['next']}")


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
