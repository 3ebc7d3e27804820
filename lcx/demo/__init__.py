"""The demos: a tiny model trained on the spot has a weakness, a recipe cures it, two evaluations show how far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.errors import UsageError, suggestion

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DEMOS", "run_demo", "story"]

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
    from lcx.demo.show import Show

    make: Callable[[Show], dict[str, Any]] = _module(recipe).run
    return make(Show(recipe, seed=seed, fresh=fresh, out=out, console=console))


def story(result: dict[str, Any]) -> str:
    """A demo's result for a terminal: what the probes found before and after, and what it means."""
    text: str = _module(result["demo"]).story(result)
    return text


def _module(recipe: str) -> Any:
    import importlib

    name = recipe.removesuffix("-tiny")
    if name not in DEMOS:
        raise UsageError(
            f"the recipe '{recipe}' has no demo. {suggestion(recipe, DEMOS)}".rstrip(),
            why=f"Demos: {', '.join(DEMOS)}.",
            hint="lcx demo --recipe logo",
        )
    return importlib.import_module(f"lcx.demo.{name}")
