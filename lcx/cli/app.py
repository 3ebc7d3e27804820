"""The root command. Subcommands are a table of modules that are imported when they are called."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from lcx import __version__
from lcx.cli.options import APP, Quiet, Verbose, examples

COMMANDS = {
    "run": "Run all steps of a recipe, resuming what is done.",
    "synth": "Make training data: long contexts with questions and answers.",
    "score": "Score, filter or pair the data of an earlier step.",
    "train": "Train a model on the data of an earlier step.",
    "eval": "Evaluate a model, or score a file of predictions.",
    "merge": "Put the shards of a step together, after checking them.",
    "runs": "List the runs that there are.",
    "status": "How far a run is: steps, shards, rows, calls, cost, time left.",
    "compare": "Two results item by item: better, worse or no evidence.",
    "report": "One HTML page of a run's evaluations, before and after.",
    "forecast": "What training will take: memory, longest context, operations.",
    "demo": "The whole story on this CPU, in minutes.",
    "export": "A model or data in a form that other programs read.",
    "import": "Rows of any known format as rows of lcx.",
    "models": "Get real models by name; list and remove what is cached.",
    "recipes": "List, show, copy and validate recipes.",
    "presets": "List, show and copy the accelerate configs behind --strategy.",
    "plugins": "List, check, install and begin plugins.",
    "doctor": "What this machine has, what it lacks, and how to mend it.",
    "completion": "Print or install the completion of your shell.",
}
"""Name -> one-line help. The command `eval` is the Typer app `app` in the module `lcx.cli.eval`, unless PLACES says
where else it is."""
PLACES = {
    "synth": "stages:synth_app",
    "score": "stages:score_app",
    "train": "stages:train_app",
    "import": "export:import_app",
    "report": "compare:report_app",
    "merge": "shards:merge_app",
    "status": "shards:status_app",
    "demo": "run:demo_app",
    "runs": "run:runs_app",
    "presets": "recipes:presets_app",
}


class LazyGroup(TyperGroup):
    """A group whose commands are stubs until one of them is called, so that `lcx --help` imports none of
    them.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, help_line in COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=help_line)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = load_command(args[0])
        elif args:
            from lcx.plugins import loaded

            known = loaded().commands
            for name in known.names():  # for the suggestion where it is none of them
                self.commands.setdefault(name, TyperCommand(name))
            if args[0] in known:
                self.commands[args[0]] = plugin_command(args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        super().format_commands(ctx, formatter)
        from lcx.cli.names import plugin_commands

        rows = [(name, line) for name, line in plugin_commands().items() if name not in COMMANDS]
        if rows:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(rows)


def load_command(name: str) -> Any:
    """The full command behind a stub."""
    module, _, attribute = PLACES.get(name, f"{name}:app").partition(":")
    command = typer.main.get_command(getattr(importlib.import_module(f"lcx.cli.{module}"), attribute))
    command.name = name
    return command


def plugin_command(name: str) -> Any:
    """The command that a plugin registered by that name, imported now. Raises PluginError where it is none."""
    from lcx.errors import PluginError
    from lcx.plugins import load_function, loaded, unloadable

    known = loaded().commands
    target, owner = known.get(name).target, known.owner(name)
    try:
        made = load_function(target)
        if not isinstance(made, typer.Typer):
            function, made = made, typer.Typer(**APP)
            made.command(name)(function)
        made._add_completion = made.pretty_exceptions_enable = False  # lcx completes it, and shows its errors
        made.rich_markup_mode = None
        command = typer.main.get_command(made)
    except PluginError:
        raise
    except Exception as failure:  # a stranger's module may raise anything
        raise unloadable(f"the command '{name}'", owner, target, failure) from failure
    command.name = name
    return command


def _version(asked: bool) -> None:
    if asked:
        print(f"lcx {__version__}")
        raise typer.Exit


_root = typer.Typer(name="lcx", cls=LazyGroup, **APP)


@_root.callback(
    invoke_without_command=True,
    epilog=examples(
        "lcx demo",
        "lcx run --recipe in2-tiny",
        "lcx train --recipe in2 --model PATH --set train.batch=64",
        after="Variables: LCX_RUNS and LCX_CACHE (folders), LCX_PLUGINS (which plugins to load), NO_COLOR.",
    ),
)
def _main(
    ctx: typer.Context,
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_version, is_eager=True
    ),
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Long-context alignment from one command: make data, train, evaluate; papers are recipes."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def app() -> Any:
    """The root command, ready to be invoked."""
    return typer.main.get_command(_root)
