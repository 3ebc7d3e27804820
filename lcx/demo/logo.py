"""LOGO's demo: a tiny model with a small window, before and after; the story in two heat maps and a number.

Two effects are shown. The window: records that stand far beyond it are found afterwards, though training never saw a
longer context than before. Misalignment: where a stale line has the name that is asked for, the base names the stale
value in nearly half of its answers, and hardly ever afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcx.demo import Show, closing

PROBE = "needle"
BEFORE, AFTER = "before", "after LOGO"
TITLE = "needle: records found, by length of the context and depth in it"


def run(show: Show) -> dict[str, Any]:
    """Run the demo; `before` and `after` are grids of clean contexts, `stale` has both of contexts with stale lines."""
    model, seed = f"tiny16:{show.seed}", {"seed": show.seed}
    flags: dict[str, dict[str, Any]] = {
        "before": {**seed, "model": model},
        "stale-before": {**seed, "model": model},
        "synth": {**seed, "llm": f"local:{model}"},
        "train": {**seed, "model": model},
        "eval": seed,
        "stale": seed,
    }
    steps = show.steps(flags)
    show.begin(*steps.values())
    show.say("1/4 a tiny model learns to look up records in contexts of 16: that is its window")
    show.base("tiny16")
    show.say(
        "2/4 probing that model in its window and up to 4 times beyond, and where stale lines mislead it"
    )
    grids = {BEFORE: _grid(show, steps["before"])}
    stale = {BEFORE: _grid(show, steps["stale-before"])}
    show.say(
        "3/4 LOGO: its own answers from the right lines against those from wrong ones, 16 lines spread over 64"
    )
    for name in ("synth", "train"):
        show.do(steps[name])
    show.say("4/4 the same probes again")
    grids[AFTER] = _grid(show, steps["eval"])
    stale[AFTER] = _grid(show, steps["stale"])
    return show.result(
        _picture(grids, show.run.path / "demo.png"),
        before=grids[BEFORE],
        after=grids[AFTER],
        stale={"before": stale[BEFORE], "after": stale[AFTER]},
        effects={
            "before": effects(grids[BEFORE], stale[BEFORE]),
            "after": effects(grids[AFTER], stale[AFTER]),
        },
    )


def _grid(show: Show, step: Any) -> dict[str, Any]:
    found: dict[str, Any] = show.do(step).metrics["tasks"][PROBE]
    return found


def effects(grid: Mapping[str, Any], stale: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that the demo is about, all of them shares of the questions asked.

    `window` is what is found in contexts of the shortest length, `beyond` of the longest, `earliest` in the first
    of its bands of depth; `decoys` are the answers with a stale value where there is one.
    """
    return {
        "window": grid["by_length"][0],
        "beyond": grid["by_length"][-1],
        "earliest": grid["cells"][-1][0],
        "decoys": stale["decoys"],
    }


def _picture(grids: Mapping[str, Any], path: Path) -> Path:
    """Both heat maps side by side."""
    from lcx.evaluation.result import results_of
    from lcx.evaluation.show.png import draw_tasks

    return draw_tasks(path, {PROBE: results_of(PROBE, grids)})


def story(result: Mapping[str, Any]) -> str:
    """The heat maps before and after, both effects in numbers, and what they mean."""
    from lcx.evaluation.result import results_of
    from lcx.evaluation.show.terminal import task_text

    grids = {BEFORE: result["before"], AFTER: result["after"]}
    before, after = result["effects"]["before"], result["effects"]["after"]
    lengths = result["before"]["lengths"]
    first, last = lengths[0], lengths[-1]
    rows = {
        f"found in contexts of {first} records, its window": "window",
        f"found in contexts of {last}": "beyond",
        f"the same, in the earliest {len(result['before']['depths'])}th of the context": "earliest",
        "answers that name a stale value, where there is one": "decoys",
    }
    wide = max(map(len, rows))
    lines = [
        task_text(PROBE, results_of(PROBE, grids)).replace(PROBE, TITLE, 1),
        "",
        f"  {'':{wide}}  {'before':>6}  {'after':>6}",
        *(f"  {text:<{wide}}  {before[key]:>6.2f}  {after[key]:>6.2f}" for text, key in rows.items()),
        "",
        f"Training saw {first} records at a time, at positions spread over {last}, and answers of the model itself: "
        "right ones from the right lines, wrong ones from stale or unrelated lines.",
        *closing(
            result,
            "lcx recipes show logo        the same recipe for a real model",
            "lcx run --recipe logo --corpus DIR --llm local:PATH --set train.model=PATH",
        ),
    ]
    return "\n".join(lines)
