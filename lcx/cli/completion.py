"""`lcx completion`: print a shell's completion script, or put it where the shell looks for it.

`python -m lcx.cli.completion` writes the table that `lcx.completion` answers from, and the scripts.
"""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

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
    from lcx.completion.scripts import detect, install_script

    for line in install_script(shell or detect()):
        print(line)


_HELP = {"names": ["-h", "--help"], "help": "Show the command's options.", "kind": "", "multiple": False}


def build() -> dict[str, Any]:
    """The whole command line: commands, options and arguments, each with the kind of its values."""
    from lcx.cli.app import COMMANDS, load_command
    from lcx.cli.app import app as root_app

    root = _node(root_app())
    root["commands"] = {name: {**_node(load_command(name)), "help": text} for name, text in COMMANDS.items()}
    return root


def _node(command: Any) -> dict[str, Any]:
    node: dict[str, Any] = {"help": _first_line(command.help), "options": [], "arguments": []}
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        kind = "" if getattr(parameter, "is_flag", False) else _kind(parameter)
        if parameter.param_type_name == "argument":
            node["arguments"].append({"kind": kind, "multiple": parameter.nargs == -1})
        else:
            node["options"].append(
                {
                    "names": sorted(parameter.opts, key=len),
                    "help": _first_line(parameter.help),
                    "kind": kind,
                    "multiple": bool(parameter.multiple),
                }
            )
    node["options"].append(_HELP)
    subcommands = getattr(command, "commands", None)
    if subcommands:
        node["commands"] = {name: _node(inner) for name, inner in subcommands.items()}
    return node


def _kind(parameter: Any) -> str:
    """`=a|b` for a choice, else the metavar, which names the kind of value."""
    choices = _choices(parameter.type_descriptor.annotation)
    return f"={'|'.join(choices)}" if choices else str(parameter.metavar or "TEXT")


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [str(choice) for choice in typing.get_args(annotation)]
    return [choice for inner in typing.get_args(annotation) for choice in _choices(inner)]


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0].replace("\n", " ").strip()


def rendered() -> dict[str, str]:
    """Every generated file by its path from the repository's root: `python -m lcx.cli.completion` writes them."""
    from lcx.completion.scripts import FILES, SCRIPTS

    files = {f"completions/{FILES[shell]}": text for shell, text in SCRIPTS.items()}
    files["lcx/completion/table.json"] = json.dumps(build(), indent=1, ensure_ascii=False) + "\n"
    return files


def generate() -> None:
    """Write every generated file."""
    root = Path(__file__).resolve().parents[2]
    for name, text in rendered().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    generate()
