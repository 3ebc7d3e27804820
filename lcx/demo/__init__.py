"""The demos: a tiny model trained on the spot has a weakness, a recipe cures it, two evaluations show how far.

Here is what they share: one run of a tiny recipe, told step by step. Each demo is a module of its recipe's name.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from lcx.context import Context, StepResult, stderr_console
from lcx.errors import MissingError, UsageError, suggestion
from lcx.recipe import Step, load, resolve
from lcx.run import Run, runs_folder
from lcx.steps import train_tiny

DEMOS = ("in2", "logo", "longreward")
"""The recipes that have a demo. Each has a module of its name with `run(show)` and `story(result)`."""


def run_demo(
    recipe: str = "in2",
    *,
    seed: int = 0,
    fresh: bool = False,
    out: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run a demo; returns its name, seconds, seed, the run's folder, the picture's path, and scores before and after.

    The base model is cached by seed; `fresh` trains it again. An interrupted demo resumes where it stopped.
    Raises UsageError for a recipe that has no demo.
    """
    make: Callable[[Show], dict[str, Any]] = _module(recipe).run
    return make(Show(recipe, seed=seed, fresh=fresh, out=out, console=console))


def story(result: dict[str, Any]) -> str:
    """A demo's result for a terminal: what the probes found before and after, and what it means."""
    text: str = _module(result["demo"]).story(result)
    return text


def _module(recipe: str) -> Any:
    name = recipe.removesuffix("-tiny")
    if name not in DEMOS:
        raise UsageError(
            f"the recipe '{recipe}' has no demo. {suggestion(recipe, DEMOS)}".rstrip(),
            why=f"Demos: {', '.join(DEMOS)}.",
            hint="lcx demo --recipe logo",
        )
    return importlib.import_module(f"lcx.demo.{name}")


Flags = Mapping[str, Mapping[str, Any]]


class Show:
    """A demo's run folder, its steps, and what is said meanwhile."""

    def __init__(
        self,
        name: str,
        *,
        seed: int = 0,
        fresh: bool = False,
        out: Path | None = None,
        console: Console | None = None,
    ) -> None:
        self.name, self.seed, self.fresh = name.removesuffix("-tiny"), seed, fresh
        self.began = time.monotonic()
        self.ctx = Context(console=console or stderr_console())
        folder = f"demo-{seed}" if self.name == "in2" else f"demo-{self.name}-{seed}"
        self.run = Run(out or runs_folder() / folder, self.recipe)

    @property
    def recipe(self) -> str:
        return f"{self.name}-tiny"

    def steps(self, flags: Flags) -> dict[str, Step]:
        """The recipe's steps by id, as its file and `flags` say; a project's lcx.toml has no say in a demo."""
        from lcx.plugins import loaded

        recipe = load(self.recipe, loaded())
        return {step.id: step for step in resolve(recipe, loaded(), flags=flags, project={})}

    def begin(self, *steps: Step) -> None:
        """Say what is to come. Where all of it was done before, or `fresh` is set, it is done again."""
        self.ctx.force = self.fresh or all(self.run.state(self.run.key(step)) == "done" for step in steps)
        self.say(f"lcx demo, seed {self.seed}: no GPU, no download. Everything goes into {self.run.path}")

    def say(self, text: str) -> None:
        self.ctx.log(text)

    def base(self, name: str) -> Path:
        """The tiny model that the demo starts from."""
        return train_tiny(self.seed, self.ctx, name=name, fresh=self.fresh)

    def do(self, step: Step) -> StepResult:
        from lcx.plugins import loaded
        from lcx.steps import execute

        return execute(step, self.run, self.ctx, loaded())

    def result(self, picture: Path, **more: Any) -> dict[str, Any]:
        """The dictionary that a demo returns: name, seconds, seed, what `more` adds, and where its files are."""
        return {
            "demo": self.name,
            "seconds": round(time.monotonic() - self.began, 1),
            "seed": self.seed,
            **more,
            "picture": str(picture),
            "report": self._report(),
            "run": str(self.run.path),
        }

    def _report(self) -> str | None:
        """The HTML page of the run's evaluations; None where there are none."""
        from lcx.evaluation.show.page import write_report

        with suppress(MissingError):
            return str(write_report(self.run.path))
        return None


def closing(result: Mapping[str, Any], *commands: str) -> list[str]:
    """The last lines of a story: where everything is, how long it took, and what to run next."""
    return [
        *([f"report  {result['report']}  (open it in a browser)"] if result.get("report") else []),
        f"picture  {result['picture']}",
        f"data, model, predictions  {result['run']}",
        f"{result['seconds']:.0f} s in all",
        "",
        f"next: {commands[0]}",
        *(f"      {command}" for command in commands[1:]),
    ]
