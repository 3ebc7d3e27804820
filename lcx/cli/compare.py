"""`lcx compare`: two results side by side, with paired tests and a verdict a group; `lcx report`: one page of a run.

No model, no torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

app = typer.Typer(**APP)


@app.command(
    name="compare",
    epilog=opt.examples(
        "lcx compare runs/in2-tiny",
        "lcx compare runs/mine/eval/base runs/mine/eval/train",
        "lcx compare runs/first:train runs/second:train --html comparison.html",
        "lcx compare runs/mine --models base,train --fail-on-regression --margin 1",
        after="How to read the numbers: docs/compare.md.",
    ),
)
def compare(
    a: Annotated[
        str,
        typer.Argument(metavar="RUN_A", help="A run, a model's folder in it, RUN:MODEL, or a scores.json."),
    ],
    b: Annotated[
        str | None, typer.Argument(metavar="RUN_B", help="The other one; left out: two models of RUN_A.")
    ] = None,
    models: Annotated[
        str | None, typer.Option("--models", metavar="A,B", help="Which models, where a run has several.")
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write an HTML page with both results, too.")
    ] = None,
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="Exit with 1 where a group is worse.")
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin", metavar="POINTS", min=0, help="A loss up to this is no regression (default: 0)."
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", metavar="P", help="Chance of a false verdict in a family.")
    ] = 0.05,
    level: Annotated[
        float, typer.Option("--level", metavar="SHARE", help="How often intervals hold the truth.")
    ] = 0.95,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of everything that is drawn.")] = 0,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Compare two results, item by item: better, worse or no evidence, by task, span and length."""
    from lcx.cli import show
    from lcx.errors import UsageError
    from lcx.evaluation.compare import Options, checked_comparison
    from lcx.evaluation.scores import as_written, find_sides

    for name, value in (("--alpha", alpha), ("--level", level)):
        if not 0 < value < 1:
            raise UsageError(f"{name} lies between 0 and 1, not at {value:g}", hint=f"{name} 0.05")
    names = [name.strip() for name in models.split(",") if name.strip()] if models is not None else []
    if models is not None and len(names) != 2:
        raise UsageError(f"--models takes two names, not {models!r}", hint="--models base,train")
    with as_written(*filter(None, (a, b))):
        sides = find_sides([a] if b is None else [a, b], names)
        found = checked_comparison(*sides, Options(alpha, level, margin, seed=seed))
        if html is not None:
            from lcx.evaluation.show.page import write_comparison

            write_comparison(Path(html).expanduser(), found.a, found.b, found.verdicts)
        if json:
            show.emit_json(found.as_dict())
        else:
            from lcx.evaluation.show.comparison import comparison_text
            from lcx.formatting import printable

            print(printable(comparison_text(found), sys.stdout.encoding))
            if html is not None:
                print(f"\nwrote {html}")
    if fail_on_regression and found.regressions:
        more = f" by more than {margin:g} points" if margin else ""
        groups = [one.task if one.kind == "task" else f"{one.task} {one.group}" for one in found.regressions]
        rest = f", and {len(groups) - 6} more" if len(groups) > 6 else ""
        typer.echo(f"B is worse{more}: {', '.join(groups[:6])}{rest}", err=True)
        raise typer.Exit(1)


report_app = typer.Typer(**APP)


@report_app.command(
    name="report",
    epilog=opt.examples(
        "lcx report runs/in2-tiny",
        "lcx report runs/in2-tiny --step eval --out results.html",
        after="What the page shows, and how to read it: docs/report.md.",
    ),
)
def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, the folder of an eval step, or of a model in it.")
    ],
    step: Annotated[
        str | None, typer.Option("--step", metavar="STEP", help="One eval step; all of the run by default.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write it (default: in RUN).")
    ] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write one HTML page of a run's evaluations: where each model loses information, and what training changed."""
    from lcx.cli import show
    from lcx.evaluation.scores import as_written
    from lcx.evaluation.show.page import write_report
    from lcx.paths import runs_folder

    folder = Path(run).expanduser()
    if not folder.exists() and (runs_folder() / run).is_dir():
        folder = runs_folder() / run
    with as_written(folder):
        path = write_report(folder, Path(out).expanduser() if out else None, step=step)
    if json:
        show.emit_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        print(path)
