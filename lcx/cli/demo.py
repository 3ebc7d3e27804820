"""`lcx demo`: the whole story on this machine."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

app = typer.Typer(**APP)


@app.command(
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
