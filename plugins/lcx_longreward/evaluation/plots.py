"""Pictures of an eval step: how scores are distributed, a model over another, and wins, ties and losses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lcx.evaluation.show.png import COLOURS, INK, Draw, dress, rows_png
from lcx.formatting import cut_middle

__all__ = ["draw", "draw_rewards"]

Models = Mapping[str, Mapping[str, Any]]
TIES = "#C9C9C9"
UNITS = {"reward": "reward", "chat": "rating", "support": "share of statements supported"}


def draw(path: Path, tasks: Mapping[str, Models]) -> Path | None:
    """Histograms of every task that has them, then wins and losses; None where there is nothing to draw."""
    panels: list[Draw] = [
        partial(_histogram, models=models, title=task)
        for task, models in tasks.items()
        if any(scores.get("histogram") for scores in models.values())
    ]
    panels += [
        partial(_wins, scores=scores, title=f"{task}: {cut_middle(model)}")
        for task, models in tasks.items()
        for model, scores in models.items()
        if scores.get("shares")
    ]
    if not panels:
        return None
    # A row each: panels of one row would share a vertical axis
    return rows_png(path, [[panel] for panel in panels])


def draw_rewards(path: Path, models: Models) -> Path | None:
    """Before and after: the rewards of several results over one another, by their labels."""
    return draw(path, {"reward": models})


def _histogram(axes: Any, models: Models, title: str) -> None:
    """The share of answers in each part of the scale, an outline a model, and the mean with its interval on top."""
    low, high = next(iter(models.values()))["scale"]
    top = 0.0
    for number, (label, scores) in enumerate(models.items()):
        counts = scores["histogram"]
        total = sum(counts) or 1
        heights = [count / total for count in counts]
        width = (high - low) / len(counts)
        edges = [low + place * width for place in range(len(counts) + 1)]
        look = 1 if len(models) == 1 else number % len(COLOURS)
        mean = "none" if scores["mean"] is None else f"{scores['mean']:.3g}"
        axes.stairs(heights, edges, fill=True, alpha=0.25, color=COLOURS[look])
        axes.stairs(
            heights,
            edges,
            color=COLOURS[look],
            linewidth=2,
            linestyle="--" if len(models) > 1 and not number else "-",
            label=f"{cut_middle(label)}   mean {mean}{_interval(scores)}   n {scores['n']}",
        )
        top = max([top, *heights])
    for number, scores in enumerate(models.values()):
        look = 1 if len(models) == 1 else number % len(COLOURS)
        place = (top or 1) * (1.08 + 0.07 * number)
        if scores["mean"] is not None:
            axes.plot([scores["mean"]], [place], "o", color=COLOURS[look], markersize=6, clip_on=False)
        if scores["low"] is not None:
            axes.plot(
                [scores["low"], scores["high"]],
                [place, place],
                color=COLOURS[look],
                linewidth=2,
                clip_on=False,
            )
    axes.set_xlim(low, high)
    axes.set_ylim(0, (top or 1) * (1.12 + 0.07 * len(models)))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 1])
    dress(axes, title, UNITS.get(title, "score"), "share of answers")


def _interval(scores: Mapping[str, Any]) -> str:
    return "" if scores["low"] is None else f" ({scores['low']:.3g} to {scores['high']:.3g})"


def _wins(axes: Any, scores: Mapping[str, Any], title: str) -> None:
    """A bar a respect: wins, ties and losses as shares of the questions."""
    names = list(scores["shares"])
    for place, name in enumerate(reversed(names)):
        left = 0.0
        for share, colour in (("win", COLOURS[1]), ("tie", TIES), ("loss", COLOURS[0])):
            value = scores["shares"][name][share]["mean"] or 0.0
            axes.barh(place, value, left=left, color=colour, height=0.62, label=share if not place else None)
            if value >= 0.06:
                ink = INK if share == "tie" else "white"
                axes.text(
                    left + value / 2, place, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink
                )
            left += value
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlim(0, 1)
    dress(axes, title, f"share of {scores['n']} questions, against {cut_middle(str(scores['against']))}", "")
