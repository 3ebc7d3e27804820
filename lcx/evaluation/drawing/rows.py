"""Panels of accuracy by length, and of suites: a mean with its interval a task, a mark a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lcx.evaluation.drawing.plots import (
    COLOURS,
    FAINT,
    INK,
    MARKS,
    Draw,
    Scores,
    band,
    dress,
    line,
    shortened,
)
from lcx.evaluation.drawing.words import half_width
from lcx.formatting import length_name

__all__ = ["length_panels", "table_panels"]


def length_panels(panels: Mapping[str, Mapping[str, Scores]]) -> list[Draw]:
    """One panel for each title: the score at each length of the context, lengths at even distances."""
    return [partial(_lengths, curves=curves, title=title) for title, curves in panels.items()]


def _lengths(axes: Any, curves: Mapping[str, Scores], title: str) -> None:
    alone = len(curves) == 1
    lengths = sorted({length for scores in curves.values() for length in scores["lengths"]})
    for number, (label, scores) in enumerate(curves.items()):
        xs = [float(lengths.index(length)) for length in scores["lengths"]]
        half = half_width(scores)
        between = "" if half is None else f" ± {half:.3f}"
        mean = scores.get("average")
        words = "no answers" if mean is None else f"average {mean:.3f}{between}"
        line(
            axes,
            xs,
            scores.get("values") or [None] * len(xs),
            f"{shortened(label)}   {words}",
            number,
            alone=alone,
        )
        band(axes, xs, scores.get("intervals") or [], number, alone=alone)
    axes.set_xlim(-0.3, max(1, len(lengths)) - 0.7)
    axes.set_ylim(0, 1)
    axes.set_xticks(range(len(lengths)), [length_name(length) for length in lengths])
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    unit = next((scores.get("unit", "tokens") for scores in curves.values()), "tokens")
    dress(axes, title, f"length of the context ({unit})", "accuracy")


def table_panels(tasks: Mapping[str, Mapping[str, Scores]]) -> list[Draw]:
    """One panel of all suites: a row a task, the first at the top."""
    return [partial(_table, tasks=tasks)]


def _table(axes: Any, tasks: Mapping[str, Mapping[str, Scores]]) -> None:
    names = list(dict.fromkeys(name for models in tasks.values() for name in models))
    for number, name in enumerate(names):
        look = 1 if len(names) == 1 else number % len(COLOURS)
        shift = (number - (len(names) - 1) / 2) * 0.5 / len(names)
        shown = False
        for row, models in enumerate(tasks.values()):
            estimate = _estimate(models.get(name, {}))
            if estimate.get("mean") is None:
                continue
            if estimate.get("low") is not None and estimate.get("high") is not None:
                axes.plot(
                    [estimate["low"], estimate["high"]], [row + shift] * 2, color=COLOURS[look], linewidth=1.5
                )
            label = "" if shown else shortened(name)
            axes.plot(
                [estimate["mean"]], [row + shift], MARKS[look], color=COLOURS[look], markersize=5, label=label
            )
            shown = True
    axes.set_yticks(range(len(tasks)), list(tasks), fontsize=7 if len(tasks) > 12 else 9)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    dress(axes, "suites", "mean score, with its 95% interval", "")
    axes.tick_params(axis="y", labelsize=7 if len(tasks) > 12 else 9, colors=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.grid(axis="y", visible=False)


def _estimate(scores: Scores) -> dict[str, Any]:
    found = dict(scores.get("estimate") or {})
    return found if found.get("mean") is not None else {"mean": scores.get("average")}
