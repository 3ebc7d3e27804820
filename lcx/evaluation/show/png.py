"""Results as PNG and SVG files: rows of panels with curves, heat maps, accuracy by length, perplexity and suites."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import exp
from pathlib import Path
from typing import Any

from lcx.evaluation.scores import overlay
from lcx.evaluation.show.panels import VIEWS, half_width, view_of
from lcx.formatting import cut_middle, length_name
from lcx.paths import slug
from lcx.storage import atomic_path

__all__ = [
    "Draw",
    "curve_panels",
    "curve_png",
    "draw_task",
    "draw_tasks",
    "dress",
    "panels_png",
    "places",
    "rows_png",
    "run_picture",
]

Scores = Mapping[str, Any]
"""A task's scores as `scores.json` has them."""


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
        line(axes, places(spans), spans, f"{cut_middle(label)}   {_numbers(scores)}", number, alone=alone)
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


SHADES = "cividis"
"""Made for readers with and without colour blindness alike: it goes from dark to light without a turn."""
DARK = 0.55
"""Cells below this are dark: their numbers are white."""
EMPTY = "#E8E8E8"


def grid_panels(title: str, models: Mapping[str, Scores]) -> list[Draw]:
    """A heat map a model: length of the context to the right, depth in it downwards, its score in each cell."""
    return [
        partial(_heat, scores=scores, title=f"{title}: {cut_middle(model)}", first=number == 0)
        for number, (model, scores) in enumerate(models.items())
    ]


def _heat(axes: Any, scores: Scores, title: str, first: bool) -> None:
    import numpy as np
    from matplotlib import colormaps

    lengths, depths, cells = scores["lengths"], scores["depths"], scores["cells"]
    values = np.array([[np.nan if cell is None else cell for cell in row] for row in cells], dtype=float).T
    shades = colormaps[SHADES].with_extremes(bad=EMPTY)
    axes.imshow(np.ma.masked_invalid(values), cmap=shades, vmin=0, vmax=1, aspect="auto")
    small = 9 if len(lengths) <= 6 and len(depths) <= 12 else 6
    for column, row in enumerate(cells):
        for place, cell in enumerate(row):
            ink = INK if cell is None or cell >= DARK else "white"
            text = "–" if cell is None else f"{cell:.2f}"
            axes.text(column, place, text, ha="center", va="center", fontsize=small, color=ink)
    axes.set_xticks(range(len(lengths)), [length_name(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.tick_params(colors=INK, labelsize=9, length=0, pad=6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(f"length of the context ({scores.get('unit', 'tokens')})", fontsize=10, color=INK)
    if first:
        axes.set_ylabel("depth in the context", fontsize=10, color=INK)
    average = scores["average"]
    note = (
        "no answers"
        if average is None
        else f"average {average:.3f}, worst cell {scores['worst']['score']:.2f}"
    )
    axes.set_title(title, fontsize=12, color=INK, loc="left", pad=22, fontweight="bold")
    axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=9, color=INK, va="bottom")


def perplexity_panels(panels: Mapping[str, Mapping[str, Scores]]) -> list[Draw]:
    """One panel for each title: perplexity of the tokens in each bucket of positions, a curve a model."""
    return [partial(_reading, curves=curves, title=title) for title, curves in panels.items()]


def _reading(axes: Any, curves: Mapping[str, Scores], title: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    for number, (label, scores) in enumerate(curves.items()):
        edges = scores.get("edges") or [0]
        middles = [(start + end) / 2 for start, end in itertools.pairwise(edges)]
        heights = [None if nll is None else exp(min(nll, 700.0)) for nll in scores.get("curve") or []]
        whole = scores["perplexity"]
        words = "nothing read" if whole is None else f"perplexity {whole:.4g}"
        line(axes, middles, heights, f"{cut_middle(label)}   {words}", number, alone=len(curves) == 1)
    longest = max((scores["edges"][-1] for scores in curves.values() if scores.get("edges")), default=0)
    ticks = sorted({round(longest * part / 4) for part in range(5)})
    axes.set_xlim(0, max(1, longest))
    axes.set_xticks(ticks, [length_name(tick) for tick in ticks])
    plain = FuncFormatter(lambda value, _: f"{value:.4g}")
    axes.yaxis.set_major_formatter(plain)
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_formatter(plain if high / max(low, 1e-300) < 10 else NullFormatter())
    axes.tick_params(which="minor", colors=INK, labelsize=8, length=0)
    dress(axes, title, "position in the text (tokens)", "perplexity")


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
            f"{cut_middle(label)}   {words}",
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
    return [partial(_suites, tasks=tasks)]


def _suites(axes: Any, tasks: Mapping[str, Mapping[str, Scores]]) -> None:
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
            label = "" if shown else cut_middle(name)
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


MOST_PANELS = 4
"""Panels in a row of a picture."""
MOST_NOTES = 4
"""Lines at the foot of a picture."""
FILES = {"grid": "heatmap"}
"""First word of a picture's file name, where it is not `curve`."""


def draw_task(folder: Path, task: str, models: Mapping[str, Scores]) -> Path | None:
    """Draw one task's results, one model or several, into `folder`, as PNG and SVG.

    Nothing for tables, which have one picture together, nor where the view is a plugin's own.
    """
    view = view_of(models)
    if view not in VIEWS or view == "table":
        return None
    name = f"{FILES.get(view, 'curve')}-{slug(task)}.png"
    return draw_tasks(folder / name, {task: models})


def draw_tasks(path: Path, tasks: Mapping[str, Mapping[str, Scores]], *, note: str = "") -> Path:
    """Draw several tasks as PNG, and as SVG beside it: curves and accuracy by length side by side, then a row of
    heat maps (a model each) a grid, then perplexity, then suites.
    """
    of = {view: {t: m for t, m in tasks.items() if view_of(m) == view} for view in VIEWS}
    rows: list[list[Draw]] = [
        row[start : start + MOST_PANELS]
        for row in (curve_panels(of["curve"]), length_panels(of["lengths"]))
        for start in range(0, len(row), MOST_PANELS)
    ]
    rows += [grid_panels(task, models) for task, models in of["grid"].items()]
    rows += [perplexity_panels(of["perplexity"])] if of["perplexity"] else []
    rows += [table_panels(of["table"])] if of["table"] else []
    return rows_png(path, rows or [curve_panels({"no results": {}})], svg=True, note=note)


PICTURE = "curves.png"


def run_picture(folder: Path) -> Path:
    """Draw the models of an eval step's folder together: curves over one another, heat maps side by side.

    Results of other questions are left out, and what else differs is said at the foot: see `scores.comparable`.
    """
    tasks, notes = overlay(folder)
    return draw_tasks(folder / PICTURE, tasks, note="\n".join(notes[:MOST_NOTES]))
