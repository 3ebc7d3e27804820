"""`lcx eval`: evaluate a model by a recipe's eval step or by tasks, or score files of predictions without any model.

Offline scoring takes one file of a task, or a folder of LongBench's sets; it needs no model and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

if TYPE_CHECKING:
    from lcx.cli.stages import Request

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
            "--model",
            "-m",
            metavar="MODEL",
            help="`tiny`, step:ID, a folder, GGUF file or hub id, a name of `lcx models`, or openai:NAME.",
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
    fields: opt.Fields = None,
    tokenizer: opt.Tokenizer = None,
    seed: opt.Seed = None,
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
    """Evaluate a model by a recipe's eval step or by --task; or score a file of --predictions."""
    from lcx.errors import MissingError, UsageError

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
        "fields": fields,
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
    from lcx.cli.stages import Request, run_stage, share_of

    share = share_of(engine, shards, workers, shard, address)
    request = Request(recipe or PLAIN, run, sets or (), flags, device, force, dry_run, json, share)
    try:
        run_stage("eval", step, request, after=lambda report: _export(report, export or ()))
    except MissingError:
        _check_tasks(step, request)
        raise


def _check_tasks(step_id: str | None, request: Request) -> None:
    """Raises UsageError for a task that there is not: it is said before a model or data that is not there yet."""
    from lcx.cli.stages import chosen_step
    from lcx.evaluation.planning import plan_tasks
    from lcx.evaluation.settings import EvalSettings

    job, step, _, _ = chosen_step("eval", step_id, request)
    if isinstance(step.settings, EvalSettings):
        plan_tasks(step.settings, job.plugins)


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
    from lcx.errors import UsageError

    if recipe is not None:
        raise UsageError("--predictions scores a file by itself: leave --recipe out")
    if len(tasks) > 1:
        raise UsageError(
            "--predictions takes one --task, or none where names and rows tell it",
            hint="--task val:document, val:code, val:database, needle, longbench:SET, longbench (a folder), csqa, ...",
        )
    score_file(
        tasks[0] if tasks else None,
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


# ---- offline scoring

COUNTS = {
    "nulls": "had no prediction",
    "skipped": "left out: ambiguous, or nothing to score by",
    "refused": "begin as a refusal (scored as any other)",
    "truncated": "cut off at their length limit",
    "duplicates": "share their key with another row",
    "errors": "got no reply: they count as nothing",
    "empty": "say nothing: scored as any other",
    "thoughts": "have a thought, which is no part of the answer",
    "unfinished_thoughts": "are a thought that never ends: nothing was said",
}
"""What is always said about the rows of a file."""


def score_file(
    task: str | None,
    path: Path,
    compat: str | None = None,
    span: int | None = None,
    *,
    rows: bool = False,
    references: Path | None = None,
    as_json: bool = False,
) -> None:
    """Score a saved file of predictions, or a folder of them, and print the numbers.

    Without a `task`, or with a group, files' names and rows tell whose they are. `rows` adds each row's score,
    `references` names the published rows that the predictions answer. Raises UsageError for an unknown task or a broken
    file.
    """
    from lcx.cli import show
    from lcx.errors import UsageError
    from lcx.evaluation.benchmarks.groups import groups
    from lcx.evaluation.offline import score_rows
    from lcx.evaluation.planning import BRIDGE, find_task
    from lcx.evaluation.saved import collect
    from lcx.plugins import loaded

    if task is not None and task.startswith(BRIDGE):
        raise UsageError(
            f"{task} is scored by lm-eval while it runs, not from a file",
            hint=f"lcx eval --model PATH_OR_HUB_ID --task {task}, or --predictions samples_TASK_TIME.jsonl alone",
        )
    places: dict[str, Any] = {} if span is None else {"span": span}
    given: Any = path
    aside: dict[str, str] = {}
    if task in groups() or task is None:
        if task is not None and (rows or references):
            flag = "--rows" if rows else "--references"
            raise UsageError(f"{flag} is for one task", hint=f"--task {groups()[task][0]} {flag} ...")
        if task is not None and not path.is_dir() and not path.is_file():
            raise UsageError(
                f"--task {task} takes a folder of SET.jsonl files, and '{path}' is none",
                hint=f"One file: --task {groups()[task][0]} --predictions FILE",
            )
        if not path.is_dir():
            _is_file(path, task or "a task")
        plugins = loaded()
        only = groups()[task] if task else ()
        saved, aside = collect(path, lambda name: find_task(name, plugins), plugins.probes.names(), only)
        (one, *more), files = list(saved.values()), [file for of in saved.values() for file in of.values()]
        if more or len(one) > 1 or task is not None:
            if rows or references:
                raise UsageError(
                    f"{'--rows' if rows else '--references'} is for one task", hint="Name one file."
                )
            _score_all(task, saved, aside, compat, places, as_json=as_json)
            return
        found, given, path = files[0].task, files[0].rows, files[0].path
        task = found.name
    else:
        found = find_task(task, loaded())  # an unknown one ends here, with a suggestion
        _is_file(path, task)
    if references is not None:
        places["references_name"] = str(references)
    scores, values = score_rows(found, given, compat, references=_references(references), **places)
    if as_json:
        show.emit_json(
            {**scores, **({"rows": values} if rows else {}), **({"left_out": aside} if aside else {})}
        )
        return
    print(_result_text(task, path, scores, rows))
    if aside:
        print(f"\n{_left_out_text(aside)}")
    if rows:
        print("\n" + show.table([(str(n), show.number(v)) for n, v in enumerate(values)], ("row", "score")))


def _is_file(path: Path, task: str) -> None:
    from lcx.errors import UsageError

    if path.is_dir():
        raise UsageError(
            f"'{path}' is a folder, and {task} is scored from one file",
            hint=f"--predictions {path}/FILE.jsonl, or --task longbench for a folder of SET.jsonl files",
        )
    if not path.is_file():
        raise UsageError(
            f"no predictions file '{path}'", hint="--predictions FILE takes JSON Lines, one row a question."
        )


def _references(path: Path | None) -> list[dict[str, Any]] | None:
    """The published rows that predictions are matched to. Raises UsageError for a broken file."""
    if path is None:
        return None
    from lcx.errors import MissingError
    from lcx.evaluation.benchmarks.loading import read_published

    if not path.is_file():
        raise MissingError(
            f"no references at '{path}'", hint="--references FILE takes the published rows of the set."
        )
    return read_published(path)


def _score_all(
    group: str | None,
    saved: Mapping[str, Mapping[str, Any]],
    aside: Mapping[str, str],
    compat: str | None,
    places: Mapping[str, Any],
    *,
    as_json: bool,
) -> None:
    """The tasks of a file or folder, by model where there are several; of a group with the means by category."""
    from lcx.cli import show
    from lcx.errors import UsageError

    left = dict(aside)
    totals = {model: _total(group, of, compat, places, left, model) for model, of in saved.items()}
    if len(totals) > 1:
        totals = {model: total for model, total in totals.items() if total["tasks"]}
    if not any(total["tasks"] for total in totals.values()):
        raise UsageError(
            f"no file of {len(left)} could be scored: {next(iter(left.values()))}",
            why="; ".join(f"{name}: {why}" for name, why in list(left.items())[:4]),
            hint="lcx eval --task TASK --predictions FILE says what a file of a task needs",
        )
    if as_json:
        more = {"left_out": left} if left else {}
        show.emit_json(
            {**next(iter(totals.values())), **more} if len(totals) == 1 else {"models": totals, **more}
        )
        return
    texts = [_table(model if len(totals) > 1 else group or "", total) for model, total in totals.items()]
    if left:
        texts.append(_left_out_text(left))
    print("\n\n".join(texts))


MOST_LEFT_OUT = 12


def _left_out_text(left: Mapping[str, str]) -> str:
    said = [f"Left out: {name}: {why}." for name, why in list(left.items())[:MOST_LEFT_OUT]]
    if len(left) > MOST_LEFT_OUT:
        said.append(f"Left out: {len(left) - MOST_LEFT_OUT:,} more files (--json names all).")
    return "\n".join(line for one in said for line in _wrapped(one, ""))


def _total(
    group: str | None,
    of: Mapping[str, Any],
    compat: str | None,
    places: Mapping[str, Any],
    left: dict[str, str],
    model: str,
) -> dict[str, Any]:
    """One model's scores; a published arithmetic holds for the tasks that have it.

    A file that cannot be scored goes into `left` with the reason.
    """
    from lcx.errors import UsageError
    from lcx.evaluation.benchmarks.groups import groups, summarize
    from lcx.evaluation.offline import score_rows

    scores = {}
    order = {name: place for place, name in enumerate(groups().get(group or "", ()))}
    for name, one in sorted(of.items(), key=lambda pair: order.get(pair[0], 0)):
        mode = compat if group is not None or compat in one.task.compat else None
        try:
            scores[name] = score_rows(one.task, one.rows, mode, **({} if one.task.published else places))[0]
        except UsageError as bad:
            left[f"{model}/{one.path.name}".removeprefix("./")] = bad.what
    families = [group.partition(":")[0]] if group else ["longbench", "longbench_e"]
    family = next(
        (one for one in families if any(name.startswith(f"{one}:") for name in scores)), families[0]
    )
    means = summarize(scores, family) if group or any(name.startswith(family) for name in scores) else {}
    absent = [task for task in groups().get(group or "", ()) if task not in scores]
    return {"task": group, "compat": compat, "tasks": scores, "absent": absent, **means}


def _result_text(task: str, path: Path, scores: Mapping[str, Any], rows: bool) -> str:
    """One task's result for a person: the mean with its interval, the groups, and what was counted."""
    from lcx.cli import show

    lines = []
    if scores.get("view") == "table":
        lines += [f"{task}  {path.name}", "", *_mean_lines(scores)]
    else:
        from lcx.evaluation.result import result_of
        from lcx.evaluation.show.terminal import task_text

        lines += [task_text(task, {path.stem: result_of(task, scores)}), ""]
        if "spans" in scores:
            spans = " ".join("none" if span is None else f"{span:.3f}" for span in scores["spans"])
            lines += [*_wrapped(spans, "  spans     "), ""]
        ends = _ends(scores.get("estimate") or {})
        lines.append(f"  score     {show.number(scores['score'])}{f'  ({ends})' if ends else ''}")
    counted = [(name, scores[name], words) for name, words in COUNTS.items() if scores.get(name) is not None]
    if scores.get("compat"):
        words = {"thoughts": "have a thought, which published arithmetic counts with the answer"}
        counted = [(name, count, words.get(name, said)) for name, count, said in counted]
    wide = max((len(name) for name, _, _ in counted), default=10)
    lines += [
        f"  {name.replace('_', ' '):<{max(10, wide)}}{count:>6}  {said}" for name, count, said in counted
    ]
    for name in ("compat", "decoys", "matched", "reordered", "similarity"):
        if scores.get(name) is not None:
            lines.append(f"  {name:<10} {show.number(scores[name]):>5}")
    for said in _advice(scores, rows):
        lines += ["", *_wrapped(said, "")]
    return "\n".join(lines)


def _mean_lines(scores: Mapping[str, Any]) -> list[str]:
    """The mean and those of the groups, in percent, with 95% intervals and the number of rows."""
    rows = [("all", scores["estimate"], scores["score"])]
    for field, groups in (scores.get("by") or {}).items():
        for name, found in groups.items():
            mean = None if found["mean"] is None else 100 * found["mean"]
            rows.append((f"{field} {name}", found, mean))
    width = min(36, max(len(name) for name, _, _ in rows))
    lines = [f"  {'':{width}}   score   95% interval      n"]
    for name, found, mean in rows:
        score = "-" if mean is None else f"{mean:.2f}"
        ends = _ends(found) or "-"
        lines.append(f"  {name[:width]:<{width}}  {score:>6}  {ends:>13}  {found['n']:>5}")
    return [*lines, ""]


def _ends(found: Mapping[str, Any]) -> str:
    """The interval in percent, or what there was where that is too little for one; empty where nothing is known."""
    if found.get("low") is None:
        return f"none: {found['lacking']}" if found.get("lacking") else ""
    return f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"


def _advice(scores: Mapping[str, Any], rows: bool) -> list[str]:
    """What to look at next, where something in the numbers asks for it."""
    from lcx.evaluation.result import CUT_SHARE

    found = []
    published = scores.get("published_rows")
    again = scores["duplicates"] if scores.get("view") == "table" else 0
    answered = scores["n"] + scores["skipped"] + (scores["nulls"] if scores.get("compat") == "film" else 0)
    if again:
        found.append(
            f"{again:,} rows answer a question that the file has answered before (was it appended to?): the first "
            "of each was scored."
        )
    if published and answered < published:
        found.append(f"The published set has {published:,} rows: this is not a score of all of it.")
    elif published and answered > published:
        found.append(
            f"The published set has {published:,} rows, {answered - published:,} fewer than are here."
        )
    if scores.get("missing"):
        found.append(
            f"{scores['missing']} places have no row, the first is {scores['first_missing']}: is the file whole?"
        )
    if scores["truncated"] > CUT_SHARE * scores["n"]:
        found.append(
            f"{scores['truncated']:,} answers were cut at their length limit: ask with a larger max_new_tokens."
        )
    if scores["nulls"] and scores.get("compat") != "film":
        leave = (
            "" if scores["task"] == "longbench_v2" else "; --compat film leaves them out"
        )  # it has no such mode
        found.append(f"Rows without a prediction score 0{leave}.")
    if not rows and (scores["nulls"] or scores["skipped"] or scores["refused"]):
        found.append("--rows --json says which rows scored what.")
    return found


def _table(head: str, total: Mapping[str, Any]) -> str:
    """The tasks of a file or folder with their scores and counts, and a benchmark's means by category."""
    from lcx.evaluation.result import result_of

    title = head + (f"  (compat {total['compat']})" if total["compat"] else "")
    line = f"  {'set':<22} {'score':>6}  {'95% interval':>13}  {'n':>5} {'nulls':>6} {'refused':>8}"
    lines = [*([title, ""] if title else []), line]
    for task, scores in total["tasks"].items():
        found = scores["estimate"]
        ends = _ends(found) or "-"
        score = "-" if scores["score"] is None else f"{scores['score']:.2f}"
        name = task.partition(":")[2] if total["task"] else task
        lines.append(
            f"  {name[:22]:<22} {score:>6}  {ends:>13}  {scores['n']:>5} {scores['nulls']:>6} {scores['refused']:>8}"
        )
        lines += [f"    ! {said}" for said in result_of(task, scores).beside]
    if total.get("categories"):
        lines += ["", f"  {'category':<22} {'score':>6}  sets"]
    for name, found in total.get("categories", {}).items():
        lines.append(f"  {name:<22} {found['score']:>6.2f}  {found['sets']} of {found['of']}")
    for name, words in (("average", "mean of sets"), ("category_average", "mean of categories")):
        if total.get(name) is not None:
            lines.append(f"  {words:<22} {total[name]:>6.2f}")
    for task, scores in total["tasks"].items():
        said = _advice(scores, rows=True)
        lines += ["", *_wrapped(f"{task.partition(':')[2]}: {' '.join(said)}")] if said else []
    if total["absent"]:
        names = ", ".join(task.partition(":")[2] for task in total["absent"])
        lines += ["", *_wrapped(f"No file: {names}. Means are over the sets that are there.")]
    return "\n".join(lines)


def _wrapped(text: str, first: str = "  ") -> list[str]:
    """The text in lines of 80 columns, those after the first one indented as far as `first`."""
    import textwrap

    return textwrap.wrap(text, 80, initial_indent=first, subsequent_indent=" " * len(first))
