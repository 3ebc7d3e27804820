"""IN2's demo: a tiny model is bent on purpose, probed, cured, and probed again; the story in two curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcx.context import StepResult
from lcx.demo import Show, closing

MAIN_PROBE = "val:database"
"""The probe of what the tiny model was taught; the other probes are reported beside it."""


def run(show: Show) -> dict[str, Any]:
    """Run the demo; `before` and `after` have spans, average and gap of each probe."""
    model = f"tiny:{show.seed}"
    flags: dict[str, dict[str, Any]] = {
        "synth": {"seed": show.seed},
        "train": {"seed": show.seed, "model": model},
        "eval": {"seed": show.seed},
    }
    synth, train, after = (show.steps(flags)[name] for name in ("synth", "train", "eval"))
    before = show.steps({**flags, "eval": {"seed": show.seed, "model": model}})["eval"]
    show.begin(before, synth, train, after)
    show.say(
        "1/4 a tiny model learns to look up records, then a position bias is planted in it, as pre-training does"
    )
    show.base("tiny")
    show.say("2/4 probing that model: what does it find at which place of its context?")
    scores = {"before": show.do(before)}
    show.say("3/4 IN2: questions about single records hidden anywhere in the context, and training on them")
    for step in (synth, train):
        show.do(step)
    show.say("4/4 the same probes again")
    scores["after"] = show.do(after)
    return show.result(
        _picture(scores, show.run.path / "demo.png"),
        before=scores["before"].metrics["tasks"],
        after=scores["after"].metrics["tasks"],
    )


def _picture(scores: Mapping[str, StepResult], path: Path) -> Path:
    """The probe that the tiny model was taught, before and after; the others are in the run's eval folder."""
    from lcx.evaluation.result import results_of
    from lcx.evaluation.show.png import curve_png

    tasks = {"before": scores["before"].metrics["tasks"], "after IN2": scores["after"].metrics["tasks"]}
    curves = results_of(MAIN_PROBE, {name: of[MAIN_PROBE] for name, of in tasks.items()})
    note = "a 2-layer model trained on the spot; its position bias is planted on purpose"
    return curve_png(path, curves, title="Records found, by their place in the context", note=note)


def story(result: Mapping[str, Any]) -> str:
    """The curves of each probe before and after, and what they mean."""
    from lcx.evaluation.result import results_of
    from lcx.evaluation.show.terminal import curve_text, score_table

    before, after = result["before"], result["after"]
    main = MAIN_PROBE
    lines = [
        curve_text(
            results_of(main, {"before": before[main], "after IN2": after[main]}),
            title=f"{main}: records found, by place in the context",
        ),
        "",
    ]
    for task in before:
        if task != main:
            lines += [
                task,
                *score_table(results_of(task, {"before": before[task], "after IN2": after[task]})),
                "",
            ]
    lines += [
        f"The base model lost what stood in the middle (gap {before[main]['gap']:.2f}); it was made so on purpose. "
        f"After IN2 the gap is {after[main]['gap']:.2f}.",
        "The other two probes ask for what this model never learnt, before or after.",
        *closing(
            result,
            "lcx recipes show in2        the same recipe for a real model",
            "lcx synth --recipe in2 --corpus DIR --llm local:PATH",
        ),
    ]
    return "\n".join(lines)
