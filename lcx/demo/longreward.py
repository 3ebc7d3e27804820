"""LongReward's demo: a tiny model that is right most of the time and never sure; the story in two histograms.

It answers questions about twice its window, ten times each. A judge that counts words rates the answers, the best and
the worst of a question become a pair, and training prefers the one to the other. Afterwards fresh samples name the
right value more often, and their rewards move up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lcx.demo import Show, closing
from lcx.storage import read_json

TASK = "reward"
BEFORE, AFTER = "before", "after LongReward"
TITLE = "Rewards of fresh answers, 0 to 10"
BINS = 5
"""Bars of the terminal's histograms."""


def run(show: Show) -> dict[str, Any]:
    """Run the demo; `before` and `after` are the rewards of fresh samples with their histogram and mean."""
    model, seed = f"tiny8:{show.seed}", {"seed": show.seed}
    steps = show.steps(
        {
            "sft-data": seed,
            "sft": {**seed, "model": model},
            "synth": seed,
            "score": seed,
            "dpo": seed,
            "before": seed,
            "eval": seed,
        }
    )
    show.begin(*steps.values())
    show.say("1/5 a tiny model learns to look up records in contexts of 8, and stops before it is sure")
    show.base("tiny8")
    show.say(
        "2/5 SFT: some supervised steps, as the method begins; then 4 fresh answers to each of 384 questions"
    )
    for name in ("sft-data", "sft"):
        show.do(steps[name])
    found = {BEFORE: rewards(show, steps["before"])}
    show.say(
        "3/5 synth and score: ten answers to each question about 16 records, rated; the best against the worst"
    )
    show.do(steps["synth"])
    pairs = show.do(steps["score"]).counts.get("pairs", 0)
    show.say(f"4/5 DPO with a tenth of the chosen answers' likelihood, on {pairs:,} pairs")
    show.do(steps["dpo"])
    show.say("5/5 fresh answers again")
    found[AFTER] = rewards(show, steps["eval"])
    return show.result(
        picture(found, show.run.path / "demo.png"),
        before=found[BEFORE],
        after=found[AFTER],
        pairs=pairs,
        effects={name: effects(found[label]) for name, label in (("before", BEFORE), ("after", AFTER))},
    )


def rewards(show: Show, step: Any) -> dict[str, Any]:
    """The rewards of fresh samples that an eval step found: histogram, mean, share of right values."""
    show.do(step)
    found: dict[str, Any] = read_json(show.run.folder(step) / "scores.json")["tasks"][TASK]
    return found


def effects(found: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that the demo is about: the share of samples that name the right value, and the mean reward."""
    return {"right": found["right"]["mean"], "reward": found["mean"]}


def picture(found: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Both histograms over one another."""
    from lcx.evaluation.show.png import rows_png

    note = (
        "a 2-layer model trained on the spot answers about twice its window; rules judge, by words in common"
    )
    return rows_png(path, [[partial(_draw, found=found)]], note=note)


def _draw(axes: Any, found: Mapping[str, Mapping[str, Any]]) -> None:
    from lcx.evaluation.show.png import COLOURS, dress

    low, high = found[BEFORE]["scale"]
    for number, (label, one) in enumerate(found.items()):
        shares = _shares(one["histogram"])
        edges = [low + (high - low) * place / len(shares) for place in range(len(shares) + 1)]
        axes.stairs(shares, edges, fill=True, alpha=0.25, color=COLOURS[number])
        text = f"{label}: mean {one['mean']:.2f}, right {one['right']['mean']:.0%}"
        axes.stairs(
            shares, edges, color=COLOURS[number], linewidth=2, linestyle=("--", "-")[number], label=text
        )
    axes.set_xlim(low, high)
    dress(axes, TITLE, "reward", "share of answers")


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def story(result: Mapping[str, Any]) -> str:
    """The histograms before and after, both effects in numbers, and what they mean."""
    from lcx.formatting import bar_lines

    lines = [TITLE, ""]
    for label, one in ((BEFORE, result["before"]), (AFTER, result["after"])):
        low, high = one["scale"]
        width = len(one["histogram"]) // BINS
        counts = [sum(one["histogram"][place * width : (place + 1) * width]) for place in range(BINS)]
        step = (high - low) / BINS
        names = [f"{low + place * step:g} to {low + (place + 1) * step:g}" for place in range(BINS)]
        lines += [label, *(f"  {line}" for line in bar_lines(names, counts)), ""]
    before, after = result["effects"]["before"], result["effects"]["after"]
    rows = {"answers that name the right value": "right", "mean reward": "reward"}
    wide = max(map(len, rows))
    lines += [
        f"  {'':{wide}}  {'before':>6}  {'after':>6}",
        *(f"  {text:<{wide}}  {before[key]:>6.2f}  {after[key]:>6.2f}" for text, key in rows.items()),
        "",
        f"Training saw {result['pairs']:,} pairs of the model's own answers, the best and the worst of ten.",
        *closing(
            result,
            "lcx recipes show longreward        the same recipe for a real model",
            "lcx train --recipe longreward --step sft --model PATH --input DATA",
        ),
    ]
    return "\n".join(lines)
