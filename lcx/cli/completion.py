"""`lcx completion`: print a shell's completion script, or put it where the shell looks for it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

Shell = Literal["bash", "zsh", "fish"]

app = typer.Typer(
    **APP, no_args_is_help=True, epilog=opt.examples("lcx completion install", "lcx completion show zsh")
)


@app.callback()
def completion() -> None:
    """Print or install the completion of your shell."""


@app.command(epilog=opt.examples("lcx completion show bash", 'eval "$(lcx completion show bash)"'))
def show(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print a shell's completion script."""
    from lcx.completion.scripts import SCRIPTS

    print(SCRIPTS[shell], end="")


@app.command(epilog=opt.examples("lcx completion install", "lcx completion install fish"))
def install(
    shell: Annotated[
        Shell | None, typer.Argument(metavar="SHELL", help="bash, zsh or fish (default: the one you use).")
    ] = None,
) -> None:
    """Write the completion script to the place where your shell looks for it."""
    from lcx.completion.install import detect, install_script

    for line in install_script(shell or detect()):
        print(line)
