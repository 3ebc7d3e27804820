"""Curves of accuracy by position as PNG files: one model alone, or before and after in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.work.files import atomic_path

__all__ = ["curve_png", "panels_png"]

Scores = Mapping[str, Any]
"""What `score_predictions` returns; `spans`, `average` and `gap` are used."""

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette: colour-blind readers can tell them apart. Marks and strokes differ as well."""
MARKS = ("o", "s", "^", "D", "v", "P")
STROKES = ("--", "-", "-.", ":", "--", "-")
INK, FAINT = "#222222", "#D9D9D9"


def curve_png(path: str | Path, curves: Mapping[str, Scores], *, title: str = "", note: str = "") -> Path:
    """Draw labelled curves over one another (0 to 1, by position in percent). Written atomically."""
    return panels_png(path, {title: curves}, note=note)


def panels_png(path: str | Path, panels: Mapping[str, Mapping[str, Scores]], *, note: str = "") -> Path:
    """One panel for each title, side by side, each with its own curves. Written atomically."""
    # The object interface needs no pyplot: no display, no global state, nothing left open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 if len(panels) == 1 else 4.6 * len(panels), 4.4), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for number, (axes, (title, curves)) in enumerate(zip(grid, panels.items(), strict=True)):
        _draw(axes, curves, title, first=number == 0)
    if note:
        figure.text(0.5, 0.005, note, ha="center", va="bottom", fontsize=8, color="#666666")
    figure.tight_layout(rect=(0, 0.03 if note else 0, 1, 1), w_pad=2.5)
    with atomic_path(path) as temporary:
        # The creation date and library version would make equal curves give different files.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)


def places(spans: Sequence[float | None]) -> list[float]:
    """The middle of each span, in percent of the context."""
    return [100 * (number + 0.5) / len(spans) for number in range(len(spans))]


def _draw(axes: Any, curves: Mapping[str, Scores], title: str, *, first: bool) -> None:
    alone = len(curves) == 1
    for number, (label, scores) in enumerate(curves.items()):
        spans = scores["spans"]
        heights = [float("nan") if value is None else value for value in spans]
        look = 1 if alone else number % len(COLOURS)
        crowded = len(spans) > 24
        axes.plot(
            places(spans),
            heights,
            STROKES[look],
            color=COLOURS[look],
            marker=MARKS[look],
            markersize=3 if crowded else 5.5,
            markerfacecolor="white" if STROKES[look] != "-" else COLOURS[look],
            linewidth=2,
            label=f"{_shortened(label)}   {_numbers(scores)}",
            clip_on=False,
            zorder=3 + number,
        )
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 1)
    axes.set_xticks(range(0, 101, 20), [f"{tick}%" for tick in range(0, 101, 20)])
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.tick_params(colors=INK, labelsize=9, length=0, pad=6)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#888888")
    axes.set_xlabel("position in the context", fontsize=10, color=INK)
    if first:
        axes.set_ylabel("accuracy", fontsize=10, color=INK)
    axes.set_title(title, fontsize=12, color=INK, loc="left", pad=12, fontweight="bold")
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=3.2,
    )


def _shortened(label: str, most: int = 32) -> str:
    """A long label (a path, say) with its middle left out."""
    return label if len(label) <= most else f"{label[: most // 3]}…{label[-(most - most // 3 - 1) :]}"


def _numbers(scores: Scores) -> str:
    if scores["average"] is None:
        return "no answers"
    return f"average {scores['average']:.3f}, gap {scores['gap']:.3f}"
