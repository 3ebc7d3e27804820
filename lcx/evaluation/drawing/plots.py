"""Pictures as PNG and SVG files: rows of panels, and curves of accuracy by position, one model or before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lcx.evaluation.drawing.words import half_width
from lcx.formatting import cut_middle as shortened
from lcx.work.files import atomic_path

__all__ = ["Draw", "curve_panels", "curve_png", "panels_png", "rows_png"]

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
    return rows_png(path, [curve_panels(panels)], note=note)


Draw = Callable[[Any], None]
"""Draws one panel on matplotlib's axes."""


def rows_png(
    path: str | Path,
    rows: Sequence[Sequence[Draw]],
    *,
    note: str = "",
    shared: bool = True,
    svg: bool = False,
) -> Path:
    """Rows of panels; those of one row share their vertical axis unless told otherwise. Written atomically.

    With `svg` the same drawing is written beside it, as `.svg`. Equal results give equal files.
    """
    # The object interface needs no pyplot: no display, no global state, nothing left open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    size = (6.4 if columns == 1 else 4.6 * columns, 4.4 * len(rows))
    figure = Figure(figsize=size, dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for number, row in enumerate(rows):
        first = None
        for place, draw in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, number * columns + place + 1, sharey=first)
            draw(axes)
            if first is None:
                first = axes if shared else None
            else:
                axes.tick_params(labelleft=False)
    if note:
        figure.text(0.5, 0.005, note, ha="center", va="bottom", fontsize=8, color="#666666")
    figure.tight_layout(rect=(0, 0.03 if note else 0, 1, 1), w_pad=2.5)
    # The creation date, the library's version and random ids would make equal curves give different files.
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    if svg:
        from matplotlib import rc_context

        with atomic_path(Path(path).with_suffix(".svg")) as temporary, rc_context({"svg.hashsalt": "lcx"}):
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    return Path(path)


def curve_panels(panels: Mapping[str, Mapping[str, Scores]]) -> list[Draw]:
    """One panel of curves for each title."""
    return [
        partial(_draw, curves=curves, title=title, first=number == 0)
        for number, (title, curves) in enumerate(panels.items())
    ]


def places(spans: Sequence[float | None]) -> list[float]:
    """The middle of each span, in percent of the context."""
    return [100 * (number + 0.5) / len(spans) for number in range(len(spans))]


def _draw(axes: Any, curves: Mapping[str, Scores], title: str, *, first: bool) -> None:
    alone = len(curves) == 1
    for number, (label, scores) in enumerate(curves.items()):
        spans = scores["spans"]
        line(axes, places(spans), spans, f"{shortened(label)}   {_numbers(scores)}", number, alone=alone)
        band(axes, places(spans), scores.get("intervals") or [], number, alone=alone)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 1)
    axes.set_xticks(range(0, 101, 20), [f"{tick}%" for tick in range(0, 101, 20)])
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    dress(axes, title, "position in the context", "accuracy" if first else "")


def line(
    axes: Any, xs: Sequence[float], ys: Sequence[float | None], label: str, number: int, *, alone: bool
) -> None:
    """A curve in the look of its number; a model alone is drawn solid. None leaves a gap."""
    look = 1 if alone else number % len(COLOURS)
    axes.plot(
        xs,
        [float("nan") if value is None else value for value in ys],
        STROKES[look],
        color=COLOURS[look],
        marker=MARKS[look],
        markersize=3 if len(xs) > 24 else 5.5,
        markerfacecolor="white" if STROKES[look] != "-" else COLOURS[look],
        linewidth=2,
        label=label,
        clip_on=False,
        zorder=3 + number,
    )


def band(
    axes: Any, xs: Sequence[float], ends: Sequence[Sequence[float] | None], number: int, *, alone: bool
) -> None:
    """The interval of each point as a light band in the curve's colour; points without one leave a gap."""
    if not any(ends) or len(ends) != len(xs):
        return
    low, high = ([float("nan") if pair is None else pair[side] for pair in ends] for side in (0, 1))
    look = 1 if alone else number % len(COLOURS)
    axes.fill_between(xs, low, high, color=COLOURS[look], alpha=0.16, linewidth=0, zorder=2)


def dress(axes: Any, title: str, below: str, beside: str) -> None:
    """Ticks, grid, names of the axes, title and a legend under the panel."""
    axes.tick_params(colors=INK, labelsize=9, length=0, pad=6)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#888888")
    axes.set_xlabel(below, fontsize=10, color=INK)
    if beside:
        axes.set_ylabel(beside, fontsize=10, color=INK)
    axes.set_title(title, fontsize=12, color=INK, loc="left", pad=12, fontweight="bold")
    if not axes.get_legend_handles_labels()[0]:
        return
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=3.2,
    )


def _numbers(scores: Scores) -> str:
    if scores["average"] is None:
        return "no answers"
    half = half_width(scores)
    between = "" if half is None else f" ± {half:.3f}"
    return f"average {scores['average']:.3f}{between}, gap {scores['gap']:.3f}"
