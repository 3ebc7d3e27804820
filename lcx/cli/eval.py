"""`lcx eval`: evaluate a model by a recipe's eval step or by tasks, or score files of predictions without any model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

app = typer.Typer(**APP)

PLAIN = "probe"
"""The recipe of an evaluation that names a model and tasks only."""


@app.command(
    name="eval",
    epilog=opt.examples(
        "lcx eval --recipe in2-tiny",
        "lcx eval --model PATH_OR_HUB_ID --task needle,ruler:multikey",
        "lcx eval --model PATH --task longbench --set eval.data.longbench=FOLDER --limit 200",
        "lcx eval --model openai:NAME --base-url URL --task val:database",
        "lcx eval --task longbench:qasper --predictions FILE.jsonl --compat film --json",
        after="Tasks: val:document, val:code, val:database, needle, ruler:..., multihop, stale, perplexity; longbench "
        "and its sets and categories, longbench_e, longbench_v2, csqa, gsm8k; lm-eval:TASK; a probe's YAML file.",
    ),
)
def evaluate(
    recipe: opt.MaybeRecipe = None,
    step: opt.StepId = None,
    run: opt.RunDir = None,
    sets: opt.Sets = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="`tiny`, step:ID, a path, a hub id, or openai:NAME."
        ),
    ] = None,
    corpus: opt.Corpus = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", "-t", metavar="TASK", help="What to run, or what --predictions answers. Repeatable."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="At most N items a task, spread evenly."),
    ] = None,
    sample_seed: Annotated[
        int | None, typer.Option("--sample-seed", metavar="N", help="Draw these items by a seed instead.")
    ] = None,
    no_prefix_reuse: Annotated[
        bool, typer.Option("--no-prefix-reuse", help="Compute the context anew for every question.")
    ] = False,
    export: Annotated[
        list[str] | None,
        typer.Option(
            "--export", metavar="KIND", help="Also write the results as lm-eval or markdown. Repeatable."
        ),
    ] = None,
    predictions: Annotated[
        str | None,
        typer.Option("--predictions", "-p", metavar="FILE", help="Score this JSON Lines file; no model."),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option("--references", metavar="FILE", help="Rows with what the predictions lack, by id."),
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="With --predictions: each row's score too.")] = False,
    compat: Annotated[
        Literal["film", "longbench", "longreward"] | None,
        typer.Option("--compat", metavar="COMPAT", help="`film`, `longbench`, `longreward`: as published."),
    ] = None,
    span: Annotated[
        int | None, typer.Option("--span", metavar="N", min=1, help="Positions a span (default: 50).")
    ] = None,
    llm: opt.Llm = None,
    judge: opt.Judge = None,
    base_url: opt.BaseUrl = None,
    concurrency: opt.Concurrency = None,
    max_calls: opt.MaxCalls = None,
    max_tokens: opt.MaxTokens = None,
    max_cost: opt.MaxCost = None,
    input: opt.Input = None,
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
    """Evaluate a model by a recipe's eval step or by --task; or score a file of --predictions."""
    from lcx.errors import UsageError

    tasks = [name.strip() for part in task or () for name in part.split(",") if name.strip()]
    flags: dict[str, Any] = {
        "model": model,
        "corpus": corpus,
        "tasks": tasks or None,
        "limit": limit,
        "sample_seed": sample_seed,
        "reuse": False if no_prefix_reuse else None,
        "compat": compat,
        "span": span,
        "llm": llm,
        "judge": judge,
        "base_url": base_url,
        "concurrency": concurrency,
        "max_calls": max_calls,
        "max_tokens": max_tokens,
        "max_cost": max_cost,
        "gpus": gpus,
        "input": input,
        "tokenizer": tokenizer,
        "seed": seed,
    }
    if predictions is not None:
        others = {"step": step, "run": run, "set": sets, "export": export, "force": force, "dry_run": dry_run}
        _refuse_flags_of_a_model({**flags, **{key: value or None for key, value in others.items()}})
        _score_saved(recipe, tasks, predictions, references, compat, span, rows, json)
        return
    if rows or references:
        raise UsageError("--rows and --references go with --predictions")
    if recipe is None and not tasks:
        raise UsageError(
            "eval needs a --recipe, or --task with --model or --predictions",
            hint="lcx eval --recipe in2-tiny; lcx eval --model PATH --task needle",
        )
    _check_exports(export or ())
    from lcx.cli.stages import run_stage
    from lcx.cli.work import Request

    request = Request(recipe or PLAIN, run, sets or (), flags, device, force, dry_run, json)
    run_stage("eval", step, request, after=lambda report: _export(report, export or ()))


def _refuse_flags_of_a_model(flags: Mapping[str, Any]) -> None:
    """Raises UsageError for a flag that scoring a file would pass over in silence."""
    from lcx.errors import UsageError
    from lcx.recipe import flag_of

    for key, value in flags.items():
        if key not in ("tasks", "compat", "span") and value is not None:
            raise UsageError(
                f"{flag_of(key)} does not go with --predictions",
                why="The file is scored as it is; no model runs.",
                hint="--references, --compat, --span, --rows and --json do.",
            )


def _score_saved(
    recipe: str | None,
    tasks: list[str],
    predictions: str,
    references: str | None,
    compat: str | None,
    span: int | None,
    rows: bool,
    as_json: bool,
) -> None:
    from lcx.cli.saved import score_file
    from lcx.errors import UsageError

    if recipe is not None:
        raise UsageError("--predictions scores a file by itself: leave --recipe out")
    if len(tasks) != 1:
        raise UsageError(
            "--predictions needs one --task",
            hint="--task val:document, val:code, val:database, needle, longbench:SET, longbench (a folder), csqa, ...",
        )
    if compat == "longreward":
        raise UsageError("--compat longreward is for judged tasks", hint="--compat film, or leave it out")
    score_file(
        tasks[0],
        Path(predictions).expanduser(),
        compat,
        span,
        rows=rows,
        as_json=as_json,
        references=None if references is None else Path(references).expanduser(),
    )


def _check_exports(kinds: list[str] | tuple[()]) -> None:
    """Raises UsageError for an unknown kind before anything is run."""
    from lcx.errors import UsageError, suggestion
    from lcx.evaluation.export import KINDS

    for kind in kinds:
        if kind not in KINDS:
            near = suggestion(kind, KINDS)
            raise UsageError(f"--export knows no '{kind}'. {near}".rstrip(), hint=f"--export {KINDS[0]}")


def _export(report: dict[str, Any], kinds: list[str] | tuple[()]) -> None:
    """Write the exports of a finished step, and name them among its files."""
    if not kinds:
        return
    from lcx.evaluation.export import export

    made = export(Path(report["folder"]), kinds)
    report["files"] = {**report["files"], **{kind: str(path) for kind, path in made.items()}}
