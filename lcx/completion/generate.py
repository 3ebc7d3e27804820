"""Write the completion table from the command line itself, and the scripts: `python -m
lcx.completion.generate`.
"""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

from lcx.cli.app import COMMANDS, app, load_command
from lcx.completion.scripts import FILES, SCRIPTS

TABLE = Path(__file__).with_name("table.json")
HELP = {"names": ["-h", "--help"], "help": "Show the command's options.", "kind": "", "multiple": False}


def build() -> dict[str, Any]:
    """The whole command line: commands, options and arguments, each with the kind of its values."""
    root = _node(app())
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
    node["options"].append(HELP)
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
    """Every generated file by its path from the repository's root."""
    files = {f"completions/{FILES[shell]}": text for shell, text in SCRIPTS.items()}
    files["lcx/completion/table.json"] = json.dumps(build(), indent=1, ensure_ascii=False) + "\n"
    return files


def main() -> None:
    """Write them all."""
    root = Path(__file__).resolve().parents[2]
    for name, text in rendered().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
