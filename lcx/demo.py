"""The demo: a tiny model is bent on purpose, probed, cured with IN2, and probed again; the story in two curves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from lcx.context import Context, StepResult, stderr_console
from lcx.layering import resolve
from lcx.recipe import Step, load
from lcx.run import Run, runs_folder
from lcx.stages import tiny_base

RECIPE = "in2-tiny"
MAIN_PROBE = "val:database"
"""What the tiny model was taught; the other probes are reported beside it."""


def run_demo(
    *, seed: int = 0, fresh: bool = False, out: Path | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Run the demo; returns seconds, seed, `before` and `after` (spans, average, gap a probe) and the picture's path.

    The base model is cached by seed; `fresh` trains it again. An interrupted demo resumes where it stopped.
    """
    from lcx.plugins import loaded

    began = time.monotonic()
    ctx = Context(console=console or stderr_console())
    plugins = loaded()
    recipe = load(RECIPE, plugins)
    model = f"tiny:{seed}"
    flags: dict[str, dict[str, Any]] = {
        "synth": {"seed": seed},
        "train": {"seed": seed, "model": model},
        "eval": {"seed": seed},
    }
    synth, train, after = resolve(recipe, plugins, flags=flags, project={})
    before = resolve(recipe, plugins, flags={**flags, "eval": {"seed": seed, "model": model}}, project={})[-1]
    run = Run(out or runs_folder() / f"demo-{seed}", recipe.name)
    steps = (before, synth, train, after)
    ctx.force = fresh or all(run.state(run.key(step)) == "done" for step in steps)

    ctx.log(f"lcx demo, seed {seed}: no GPU, no download. Everything goes into {run.path}")
    ctx.log(
        "1/4 a tiny model learns to look up records, then a position bias is planted in it, as pre-training does"
    )
    tiny_base(seed, ctx, fresh=fresh)
    ctx.log("2/4 probing that model: what does it find at which place of its context?")
    scores = {"before": _run(before, run, ctx)}
    ctx.log("3/4 IN2: questions about single records hidden anywhere in the context, and training on them")
    for step in (synth, train):
        _run(step, run, ctx)
    ctx.log("4/4 the same probes again")
    scores["after"] = _run(after, run, ctx)
    picture = _picture(scores, run.path / "demo.png")
    return {
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
        "before": scores["before"].metrics["probes"],
        "after": scores["after"].metrics["probes"],
        "picture": str(picture),
        "run": str(run.path),
    }


def _run(step: Step, run: Run, ctx: Context) -> StepResult:
    from lcx.execute import execute
    from lcx.plugins import loaded

    return execute(step, run, ctx, loaded())


def _picture(scores: dict[str, StepResult], path: Path) -> Path:
    """The probe that the tiny model was taught, before and after; the others are in the run's eval folder."""
    from lcx.evaluation.plots import curve_png

    curves = {"before": scores["before"].metrics["probes"][MAIN_PROBE]}
    curves["after IN2"] = scores["after"].metrics["probes"][MAIN_PROBE]
    note = "a 2-layer model trained on the spot; its position bias is planted on purpose"
    return curve_png(path, curves, title="Records found, by their place in the context", note=note)


def story(result: dict[str, Any]) -> str:
    """The demo's result for a terminal: the curves of each probe before and after, and what they mean."""
    from lcx.evaluation.terminal import curve_text, score_table

    before, after = result["before"], result["after"]
    main = MAIN_PROBE
    lines = [
        curve_text(
            {"before": before[main], "after IN2": after[main]},
            title=f"{main}: records found, by place in the context",
        ),
        "",
    ]
    for task in before:
        if task != main:
            lines += [task, *score_table({"before": before[task], "after IN2": after[task]}), ""]
    lines += [
        f"The base model lost what stood in the middle (gap {before[main]['gap']:.2f}); it was made so on purpose. "
        f"After IN2 the gap is {after[main]['gap']:.2f}.",
        f"picture  {result['picture']}",
        f"data, model, predictions  {result['run']}",
        f"{result['seconds']:.0f} s in all",
        "",
        "next: lcx recipes show in2        the same recipe for a real model",
        "      lcx synth --recipe in2 --corpus DIR --llm local:PATH",
    ]
    return "\n".join(lines)
