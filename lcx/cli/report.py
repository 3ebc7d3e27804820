"""`lcx report`: write the HTML page of results that are there; no model, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

app = typer.Typer(**APP)


@app.command(
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
    from lcx.evaluation.show.page import write_report
    from lcx.paths import runs_folder

    folder = Path(run).expanduser()
    if not folder.exists() and (runs_folder() / run).is_dir():
        folder = runs_folder() / run
    path = write_report(folder, Path(out).expanduser() if out else None, step=step)
    if json:
        show.emit_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        print(path)
