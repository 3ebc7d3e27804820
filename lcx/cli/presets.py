"""`lcx presets`: the accelerate configs behind --strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

app = typer.Typer(
    **APP, no_args_is_help=True, epilog=opt.examples("lcx presets list", "lcx presets copy fsdp mine.yaml")
)

Name = Annotated[str, typer.Argument(metavar="PRESET", help="A preset's name.")]


@app.callback()
def presets() -> None:
    """List, show and copy the accelerate configs behind --strategy."""


@app.command(name="list", epilog=opt.examples("lcx presets list", "lcx presets list --json"))
def list_presets(json: opt.Json = False) -> None:
    """List the presets with what they do."""
    from lcx.cli import show
    from lcx.training import plan

    rows = [(name, plan.preset_summary(name)) for name in plan.preset_names()]
    if json:
        show.emit_json({"presets": [{"name": name, "summary": text} for name, text in rows]})
    else:
        print(show.table(rows, ("preset", "what it does")))


@app.command(epilog=opt.examples("lcx presets show zero3", "lcx presets show fsdp > mine.yaml"))
def show(name: Name) -> None:
    """Print a preset's file."""
    from lcx.training import plan

    print(plan.preset_text(name), end="")


@app.command(epilog=opt.examples("lcx presets copy fsdp mine.yaml", "lcx presets copy zero3 --force"))
def copy(
    name: Name,
    dest: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A file or folder (default: here).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite the file.")] = False,
) -> None:
    """Copy a preset's file, to change it and name it by its path: --strategy mine.yaml."""
    from lcx.errors import UsageError
    from lcx.storage import write_text
    from lcx.training import plan

    text = plan.preset_text(name)
    target = Path(dest).expanduser() if dest else Path(f"{name}.yaml")
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.suffix not in (".yaml", ".yml"):
        raise UsageError(f"a preset's file ends in .yaml, not '{target.name}'")
    if target.exists() and not force:
        raise UsageError(f"{target} exists", hint="--force overwrites it; or give another name.")
    write_text(target, text)
    print(f"wrote {target}\nnext: lcx train --recipe NAME --gpus N --strategy {target}")
